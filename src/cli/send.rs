//! `hookmoat send`

use super::signing::{Signer, What, Whose};
use super::{FAULT, NO, fail};
use crate::check::signature::UnsignedRequest;
use crate::policy::{Upstream, UpstreamAddress, UpstreamTls};
use crate::proxy::upstream::{Client, ExchangeError, Timer};
use http::HeaderValue;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "hookmoat send [OPTIONS] <ROUTE | --provider ID>",
    after_help = "Examples:
  hookmoat send github                       a fresh event, signed as GitHub signs
  hookmoat send github --id evt-1            twice: the second is a duplicate
  hookmoat send github --tamper              forged
  hookmoat send github -n 20                 fast
  hookmoat send github -u https://127.0.0.1:8443/webhooks/github
  hookmoat send -p slack --secret-env SLACK_SECRET -u https://hooks.example.com/slack --data-file event.json

Exit code 0: every answer was a 2xx. 1: at least one was not. 2: nothing could be sent."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    what: What,
    /// Send so many requests, one after the other, each with an ID of its own unless --id says one
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Change the body after it was signed, as a forger would
    #[arg(long)]
    tamper: bool,
    /// Trust these certificates (PEM) instead of the machine's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Do not verify the server's certificate
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Longest wait for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Print one JSON object for each answer
    #[arg(long)]
    json: bool,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let signer = match arguments.whose.signer() {
        Ok(signer) => signer,
        Err(why) => return fail(&why, FAULT),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), FAULT),
    };
    let mut client = None;
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for round in 0..arguments.count {
        let mut request = match arguments.what.signed(&signer, round) {
            Ok((request, _)) => request,
            Err(why) => return fail(&why, FAULT),
        };
        if arguments.tamper {
            request.body.push(b' ');
        }
        let sent = runtime.block_on(async {
            let client = match &client {
                Some(client) => Arc::clone(client),
                None => client.insert(connector(arguments, &signer, &request)?).clone(),
            };
            exchange(&client, &request, Duration::from_secs(arguments.timeout)).await
        });
        match sent {
            Ok(answer) => {
                *statuses.entry(answer.status).or_default() += 1;
                print(arguments, &request, &answer, round);
            }
            Err(why) => return fail(&why, FAULT),
        }
    }
    if arguments.count > 1 && !arguments.json {
        let counted: Vec<String> =
            statuses.iter().map(|(status, count)| format!("{count} × {}", named(*status))).collect();
        println!("{} sent: {}", arguments.count, counted.join(", "));
    }
    if statuses.keys().all(|status| (200..300).contains(status)) { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

/// `429 Too Many Requests`.
fn named(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    format!("{status} {}", reason.unwrap_or_default()).trim_end().to_owned()
}

fn print(arguments: &Arguments, request: &UnsignedRequest, answer: &Answer, round: u64) {
    let text = String::from_utf8_lossy(&answer.body);
    if arguments.json {
        let headers: Vec<_> = answer.headers.iter().map(|(name, value)| [name, value]).collect();
        println!(
            "{}",
            serde_json::json!({ "url": request.url, "status": answer.status, "headers": headers, "body": text })
        );
        return;
    }
    let mut line = named(answer.status);
    for name in ["hookmoat-duplicate", "retry-after", "location", "allow"] {
        if let Some((_, value)) = answer.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            line += &format!("  {name}: {value}");
        }
    }
    if arguments.count > 1 {
        // One line each; the same answer twenty times would hide when it changes.
        println!("{:>4}  {line}", round + 1);
        return;
    }
    println!("{} {} → {line}", request.method, request.url);
    // From a stranger's server: nothing that a terminal would take for a command.
    let body: String = text.trim_end().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    for line in body.lines() {
        println!("  {line}");
    }
}

fn connector(arguments: &Arguments, signer: &Signer, request: &UnsignedRequest) -> Result<Arc<Client>, String> {
    let uri: http::Uri = request.url.parse().map_err(|_| format!("`{}` is not a url", request.url))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("`{}` is neither http nor https", request.url)),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let ca = arguments.ca.clone().or_else(|| signer.own_certificate().map(PathBuf::from));
    let timeout = Duration::from_secs(arguments.timeout);
    let upstream = Upstream {
        name: format!("{host}:{port}").into(),
        address: match host.parse::<std::net::IpAddr>() {
            Ok(address) => UpstreamAddress::Socket((address, port).into()),
            Err(_) => UpstreamAddress::Name(host.clone().into(), port),
        },
        authority: HeaderValue::from_static(""),
        tls: tls.then(|| UpstreamTls { server_name: host.into(), ca, verify: !arguments.insecure }),
        connect_timeout: timeout,
        read_timeout: timeout,
        timeout,
        idle_timeout: timeout,
        max_idle: 1,
        concurrency: 1,
    };
    Client::new(Arc::new(upstream)).map(Arc::new)
}

async fn exchange(client: &Arc<Client>, request: &UnsignedRequest, timeout: Duration) -> Result<Answer, String> {
    let uri: http::Uri = request.url.parse().map_err(|_| format!("`{}` is not a url", request.url))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let given = |name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method).into_bytes();
    if !given("host") {
        head.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
    }
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    if !given("content-length") {
        head.extend_from_slice(format!("Content-Length: {}\r\n", request.body.len()).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let deadline = Instant::now() + timeout;
    let is_head = request.method == "HEAD";
    let mut timer = Timer::default();
    let answered = client.exchange(&head, &request.body, is_head, false, &mut timer, deadline).await;
    let mut response = answered.map_err(|error| explained(&error))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk(&mut timer).await.map_err(|error| error.to_string())? {
        body.extend_from_slice(chunk);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = response.fields().map(|(name, value)| (name.to_owned(), text(value))).collect();
    Ok(Answer { status: response.head.status.as_u16(), headers, body })
}

/// Why there is no answer, and what to do about it.
fn explained(error: &ExchangeError) -> String {
    let (peer, why) = match error {
        ExchangeError::Unreachable(peer, why) => (peer, why.clone()),
        ExchangeError::Broken(peer, why) => return format!("{peer} gave no valid answer: {why}"),
        ExchangeError::Timeout(peer, what) => {
            return format!("{peer} sent no {what} in time (--timeout SECONDS waits longer)");
        }
    };
    let help = if why.contains("refused") {
        "\n  help: does Hookmoat run there? Start it with `hookmoat run`, or name another URL with --url"
    } else if why.contains("certificate") {
        "\n  help: trust its certificate with --ca FILE, or look away with --insecure"
    } else {
        ""
    };
    format!("cannot connect to {peer}: {why}{help}")
}
