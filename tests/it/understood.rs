//! What we forward means one thing: nginx, Node and a strict parser are given the very bytes that a backend got from us
//! for odd but accepted requests, and understand the same method, target, framing, headers and body.

use crate::differential::{CASES, Random, SECRET, config, made};
use crate::support::backend::read_request;
use crate::support::{Backend, Connection, PATIENCE, Proxy, request, sign};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a server made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Understood {
    method: String,
    target: String,
    /// Names in lower case, in order; of nginx those that `NAMES` lists.
    headers: Vec<(String, String)>,
    body: String,
}

/// The headers that nginx is asked for.
const NAMES: &[&str] = &["host", "content-length", "content-type", "x-a", "x-hub-signature-256", "transfer-encoding"];

/// Keeps what is read.
struct Tap<R>(R, Vec<u8>);

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// A backend that answers 200 and keeps each request's bytes.
fn tapped() -> (Backend, Arc<Mutex<Vec<Vec<u8>>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let backend = Backend::raw(move |stream, connection| {
        let mut writer = stream.try_clone().expect("a second handle");
        let mut reader = BufReader::new(Tap(stream, Vec::new()));
        while read_request(&mut reader, connection).is_some() {
            keep.lock().expect("no panic under the lock").push(std::mem::take(&mut reader.get_mut().1));
            if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    });
    (backend, kept)
}

/// Odd, and right: what the generator does not come to.
fn chosen() -> Vec<Vec<u8>> {
    let signature = sign::github(SECRET, b"{}");
    let signed = |head: &str, body: &str| {
        format!("{head}Host: localhost\r\nX-Hub-Signature-256: {signature}\r\n{body}").into_bytes()
    };
    let by_length = "Content-Length: 2\r\n\r\n{}";
    let mut all: Vec<Vec<u8>> = [
        "/hook?a=%2f..%2f",
        "/hook?a=b?c=d",
        "/hook?%00",
        "/hook?a=%0d%0aX-A:%201",
        "/hook?&&==",
        "/hook?a=http://else.where/",
        "/hook?'\"<>",
        "http://localhost/hook?a",
        "HTTP://LOCALHOST/hook",
    ]
    .iter()
    .map(|target| signed(&format!("POST {target} HTTP/1.1\r\n"), by_length))
    .collect();
    all.push(signed("POST /hook HTTP/1.0\r\n", by_length));
    for lines in [
        "X-A: a\r\nX-A: b\r\n",
        "X-A:\r\n",
        "X-A: \"a\\\" b\"\r\n",
        "x-a: =?utf-8?q?=0d=0a?=\r\n",
        "Connection: X-A, keep-alive\r\nX-A: 1\r\n",
        "TE: trailers\r\nConnection: TE\r\n",
        "Content-Type: application/json; charset=\"utf-8\"\r\n",
        "Expect: 100-continue\r\n",
        "X-Forwarded-Host: evil\r\nForwarded: for=1.2.3.4\r\n",
        "Trailer: X-A\r\n",
    ] {
        all.push(signed("POST /hook HTTP/1.1\r\n", &format!("{lines}{by_length}")));
    }
    for body in [
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0000002\r\n{}\r\n0\r\n\r\n",
    ] {
        all.push(signed("POST /hook HTTP/1.1\r\n", body));
    }
    // Bodies that look like requests or chunks.
    for body in ["POST /open/x HTTP/1.1\r\nHost: a\r\n\r\n", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "\r\n\r\n", " "] {
        all.push(request("POST", "/open/a", &[("Content-Type", "text/plain")], body.as_bytes()));
    }
    for target in ["/open/a%20b", "/open/%7euser/", "/open/a;b=c/d", "/open/a:b@c", "/open/%E2%82%AC", "/open/a+b"] {
        all.push(request("GET", target, &[], b""));
        all.push(request("HEAD", target, &[], b""));
        all.push(request("POST", target, &[], b"x=1"));
    }
    all
}

/// A character for each byte.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// httparse on the whole, one Content-Length of digits alone, no Transfer-Encoding, nothing behind the body.
fn strict(bytes: &[u8]) -> Understood {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes).expect("a request") else { panic!("cut off") };
    assert_eq!(head.version, Some(1));
    let headers: Vec<_> =
        head.headers.iter().map(|field| (field.name.to_ascii_lowercase(), latin(field.value))).collect();
    let lengths: Vec<_> = headers.iter().filter(|(name, _)| name == "content-length").collect();
    let body = &bytes[length..];
    assert!(lengths.len() == 1 && lengths[0].1 == body.len().to_string(), "{:?}", latin(bytes));
    assert!(headers.iter().all(|(name, _)| !["transfer-encoding", "trailer", "upgrade", "te"].contains(&&**name)));
    assert_eq!(headers.iter().filter(|(name, _)| name == "host").count(), 1);
    let (method, target) = (head.method.expect("a method"), head.path.expect("a target"));
    Understood { method: method.into(), target: target.into(), headers, body: latin(body) }
}

/// Sends the requests on one connection, waits for so many answers.
fn replay(address: SocketAddr, all: &[Vec<u8>]) {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect(address) {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut connection = Connection::open(address);
    for bytes in all {
        let method = if bytes.starts_with(b"HEAD") { "HEAD" } else { "POST" };
        let status = connection.send(bytes).answer_to(method).status;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(bytes));
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

const NODE: &str = r#"
const server = require("http").createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part)).on("end", () => {
    const { method, url, rawHeaders } = request;
    console.log(JSON.stringify({ method, url, headers: rawHeaders, body: Buffer.concat(parts).toString("latin1") }));
    response.end("ok");
  });
});
server.keepAliveTimeout = server.requestTimeout = 0;
server.on("clientError", (error) => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); });
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"#;

fn by_node(all: &[Vec<u8>]) -> Vec<Understood> {
    let mut child = Killed(Command::new("node").args(["-e", NODE]).stdout(Stdio::piped()).spawn().expect("node"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    let port: u16 = lines.next().expect("a line").parse().expect("a port");
    let sending = all.to_vec();
    let sender = std::thread::spawn(move || replay(SocketAddr::from(([127, 0, 0, 1], port)), &sending));
    let seen = lines.take(all.len()).map(|line| {
        let seen: Value = serde_json::from_str(&line).expect("JSON");
        let fields = seen["headers"].as_array().unwrap_or_else(|| panic!("{seen}"));
        let header = |pair: &[Value]| {
            (pair[0].as_str().expect("text").to_ascii_lowercase(), pair[1].as_str().expect("text").to_owned())
        };
        Understood {
            method: text(&seen, "method").into(),
            target: text(&seen, "url").into(),
            headers: fields.chunks(2).map(header).collect(),
            body: text(&seen, "body").into(),
        }
    });
    let seen = seen.collect();
    sender.join().expect("every request was answered");
    seen
}

/// nginx says in its log what it understood; the body it says once it has passed it on, to itself.
fn by_nginx(all: &[Vec<u8>]) -> Vec<Understood> {
    let folder = tempfile::tempdir().expect("a folder");
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
    let (front, back) = (free(), free());
    let fields: String = NAMES.iter().fold(String::new(), |all, name| {
        all + &format!(
            ",\"{name}\":\"${}\"",
            if *name == "content-length" {
                "content_length".into()
            } else {
                format!("http_{}", name.replace('-', "_"))
            }
        )
    });
    let path = folder.path().display();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; events {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; \
         scgi_temp_path {path}/scgi;\n  client_body_buffer_size 1m; client_body_in_single_buffer on; keepalive_requests 100000; underscores_in_headers on;\n  \
         log_format seen escape=json '{{\"method\":\"$request_method\",\"target\":\"$request_uri\",\"path\":\"$uri\",\"body\":\"$request_body\"{fields}}}';\n  \
         server {{ listen {front}; access_log {path}/seen.log seen; location / {{ proxy_pass http://{back}; }} }}\n  \
         server {{ listen {back}; location / {{ return 200 ok; }} }}\n}}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), config).expect("a file");
    let log = |name: &str| latin(&std::fs::read(folder.path().join(name)).unwrap_or_default());
    let mut nginx = Killed(
        Command::new("nginx")
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .args(["-p", &path.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is there: tests/setup.sh test installs it"),
    );
    replay(front, all);
    let quit = Command::new("kill").args(["-QUIT", &nginx.0.id().to_string()]).status().expect("kill");
    assert!(quit.success() && nginx.0.wait().is_ok(), "{}", log("error.log"));
    let seen = log("seen.log");
    let seen = seen.lines().map(|line| {
        let seen: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let headers = NAMES.iter().map(|name| ((*name).to_owned(), text(&seen, name).to_owned()));
        let target = text(&seen, "target").to_owned();
        // What it routes by is the path that we routed by: nothing in it was taken away or put together.
        let path = target.split('?').next().expect("one");
        let plain: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        assert_eq!(text(&seen, "path"), latin(&plain), "{target}");
        Understood {
            method: text(&seen, "method").into(),
            target,
            headers: headers.collect(),
            body: text(&seen, "body").into(),
        }
    });
    seen.collect()
}

#[test]
fn nginx_node_and_a_strict_parser_understand_the_same() {
    let mut forwarded = Vec::new();
    for way in ["auto", "off"] {
        let (backend, kept) = tapped();
        let proxy = Proxy::start(backend.address, &config(way));
        let mut random = Random(20_260_202);
        let all = chosen().into_iter().chain(std::iter::repeat_with(|| made(&mut random)).take(CASES));
        for bytes in all {
            let mut connection = Connection::open(proxy.http);
            connection.send(&bytes).end();
            while connection.try_answer().is_some() {}
        }
        forwarded.append(&mut kept.lock().expect("no panic under the lock"));
    }
    assert!(forwarded.len() > 200, "{}", forwarded.len());
    let right: Vec<_> = forwarded.iter().map(|bytes| strict(bytes)).collect();
    let node = by_node(&forwarded);
    let nginx = by_nginx(&forwarded);
    assert_eq!((node.len(), nginx.len()), (right.len(), right.len()));
    for (((right, node), nginx), bytes) in right.iter().zip(&node).zip(&nginx).zip(&forwarded) {
        let bytes = String::from_utf8_lossy(bytes);
        assert_eq!(node, right, "{bytes}");
        // Of a line that is repeated nginx names the first value until 1.22, all since.
        let named = |separator: &str| {
            let values = |name: &&str| {
                let all = right.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
                let all: Vec<_> = if separator.is_empty() { all.take(1).collect() } else { all.collect() };
                ((*name).to_owned(), all.join(separator))
            };
            Understood { headers: NAMES.iter().map(values).collect(), ..right.clone() }
        };
        assert!(*nginx == named("") || *nginx == named(", "), "{nginx:?}\n{bytes}");
    }
}
