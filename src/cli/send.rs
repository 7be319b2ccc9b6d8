//! `hookmoat send`

use super::signing::{Signer, What, Whose};
use super::{FAULT, NO, fail};
use crate::check::signature::UnsignedRequest;
use crate::policy::{Upstream, UpstreamAddress, UpstreamTls};
use crate::proxy::upstream::Client;
use http::HeaderValue;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    what: What,
    /// Send so many requests, one after the other
    #[arg(short = 'n', long, default_value_t = 1)]
    count: usize,
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
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// Print one JSON object for each answer
    #[arg(long)]
    json: bool,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
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
    let mut all_fine = true;
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
                all_fine &= (200..300).contains(&answer.status);
                print(arguments, &request, &answer);
            }
            Err(why) => return fail(&why, FAULT),
        }
    }
    if all_fine { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

fn print(arguments: &Arguments, request: &UnsignedRequest, answer: &Answer) {
    let text = String::from_utf8_lossy(&answer.body);
    let reason = http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let shown = ["hookmoat-duplicate", "retry-after", "location", "allow"];
    let notable: Vec<(&str, &str)> = shown
        .into_iter()
        .filter_map(|name| Some((name, answer.headers.get(name)?.to_str().ok()?)))
        .collect();
    if arguments.json {
        let headers: Vec<_> = answer
            .headers
            .iter()
            .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
            .collect();
        println!("{}", serde_json::json!({ "url": request.url, "status": answer.status, "headers": headers, "body": text }));
        return;
    }
    let mut line = format!("{} {} → {} {}", request.method, request.url, answer.status, reason.unwrap_or_default());
    for (name, value) in notable {
        line += &format!("  {name}: {value}");
    }
    let body = text.trim_end();
    if !body.is_empty() {
        line += &format!("\n  {body}");
    }
    println!("{line}");
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
    };
    Client::new(Arc::new(upstream)).map(Arc::new)
}

async fn exchange(client: &Arc<Client>, request: &UnsignedRequest, timeout: Duration) -> Result<Answer, String> {
    let uri: http::Uri = request.url.parse().map_err(|_| format!("`{}` is not a url", request.url))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", request.method).into_bytes();
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(format!("Content-Length: {}\r\n\r\n", request.body.len()).as_bytes());
    let deadline = Instant::now() + timeout;
    let is_head = request.method == "HEAD";
    let mut response =
        client.exchange(&head, &request.body, is_head, false, deadline).await.map_err(|error| error.to_string())?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.head.status.as_u16(), headers: std::mem::take(&mut response.head.headers), body })
}
