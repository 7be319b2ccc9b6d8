//! `hookmoat send`

use super::ask::{Answer, Trust, connector, exchange};
use super::signing::{What, Whose};
use super::{FAULT, NO, fail};
use crate::check::signature::UnsignedRequest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

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
        let timeout = Duration::from_secs(arguments.timeout);
        let sent = runtime.block_on(async {
            let client = match &client {
                Some(client) => Arc::clone(client),
                None => {
                    let ca = arguments.ca.clone().or_else(|| signer.own_certificate().map(PathBuf::from));
                    let trust = Trust { ca, verify: !arguments.insecure };
                    client.insert(connector(&request.url, trust, timeout)?).clone()
                }
            };
            exchange(&client, &request, timeout, "--url").await
        });
        match sent {
            Ok(answer) => {
                *statuses.entry(answer.status).or_default() += 1;
                print(arguments, &request, &answer, round);
            }
            Err(why) => {
                let help = if why.ends_with("in time") { " (--timeout SECONDS waits longer)" } else { "" };
                return fail(&format!("{why}{help}"), FAULT);
            }
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
