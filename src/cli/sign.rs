//! `hookmoat sign`

use super::signing::{Signer, What, Whose};
use super::{FAULT, fail, quoted};
use crate::check::signature::UnsignedRequest;
use base64::Engine as _;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// A longer argument is more than Linux takes (128 KiB); such a body goes through a pipe.
const MAX_ARGUMENT: usize = 100_000;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "hookmoat sign [OPTIONS] <ROUTE | --provider ID>",
    after_help = "Examples:
  hookmoat sign github                                      as a route of hookmoat.yaml
  hookmoat sign github -d '{\"hello\":\"world\"}' | sh      and send it
  hookmoat sign -p stripe --secret-env STRIPE_SECRET -u https://hooks.example.com/stripe --data-file event.json
  hookmoat sign github --at 2026-01-31T12:00:00Z --json     for a test of your own"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    what: What,
    /// Print one JSON object instead of a curl command
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let signed = arguments.whose.signer().and_then(|signer| {
        let (request, signing) = arguments.what.signed(&signer, 0)?;
        Ok((request, signing, signer))
    });
    let (request, signing, signer) = match signed {
        Ok(signed) => signed,
        Err(why) => return fail(&why, FAULT),
    };
    if !arguments.json {
        println!("{}", curl(&request, &signer));
        return ExitCode::SUCCESS;
    }
    let headers: Vec<_> = request.headers.iter().map(|(name, value)| [name.clone(), lossy(value)]).collect();
    let mut value = serde_json::json!({
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "secret": signing.secret,
        "filled": signing.filled,
    });
    match std::str::from_utf8(&request.body) {
        Ok(text) => value["body"] = text.into(),
        Err(_) => value["body_base64"] = base64::engine::general_purpose::STANDARD.encode(&request.body).into(),
    }
    println!("{value:#}");
    ExitCode::SUCCESS
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command for any POSIX shell that sends exactly this request.
fn curl(request: &UnsignedRequest, signer: &Signer) -> String {
    let mut command = String::new();
    let piped = pipe(&request.body);
    if let Some(pipe) = &piped {
        command = format!("{pipe} |\n");
    }
    // `-X HEAD` would wait for a body that never comes.
    command += &match request.method.as_str() {
        "HEAD" => "curl --head".to_owned(),
        // Implied by the data; curl would say so.
        "POST" => "curl -i".to_owned(),
        method => format!("curl -i -X {}", quoted(method)),
    };
    if request.url.starts_with("https:")
        && let Some(certificate) = signer.own_certificate().filter(|file| file.exists())
    {
        let _ = write!(command, " --cacert {}", quoted(&short(certificate)));
    }
    if request.url.contains(['[', ']', '{', '}']) {
        command += " --globoff";
    }
    let _ = write!(command, " {}", quoted(&request.url));
    for (name, value) in &request.headers {
        // `Name:` would leave the header out; `Name;` sends it empty.
        let field = if value.is_empty() { format!("{name};") } else { format!("{name}: {}", lossy(value)) };
        let _ = write!(command, " \\\n  -H {}", quoted(&field));
    }
    if request.body.is_empty() && matches!(request.method.as_str(), "GET" | "HEAD" | "DELETE") {
        return command;
    }
    // Without one, curl would add a type of its own.
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        command += " \\\n  -H 'Content-Type:'";
    }
    match piped {
        Some(_) => command += " \\\n  --data-binary @-",
        // `--data-binary` would take a text that begins with `@` for the name of a file.
        None => {
            let _ = write!(command, " \\\n  --data-raw '{}'", lossy(&request.body).replace('\'', "'\\''"));
        }
    }
    command
}

/// A command that prints a body which cannot be an argument: too long, or not text. Only octal escapes are portable.
fn pipe(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok().filter(|text| !text.contains(['\0', '\r']));
    if text.is_some() && body.len() <= MAX_ARGUMENT {
        return None;
    }
    let mut command = String::from("printf '");
    for byte in body {
        match byte {
            b'\'' | b'\\' | b'%' | b'-' | 0..=31 | 127.. => {
                let _ = write!(command, "\\{byte:03o}");
            }
            byte => command.push(char::from(*byte)),
        }
    }
    command.push('\'');
    Some(command)
}

/// `config/../data/x` as `data/x`, where that is the same file.
fn short(path: &Path) -> String {
    let mut parts: Vec<std::path::Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (std::path::Component::ParentDir, Some(std::path::Component::Normal(_))) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let plain: std::path::PathBuf = parts.iter().collect();
    let same = plain.canonicalize().ok().is_some_and(|plain| path.canonicalize().ok() == Some(plain));
    if same { plain } else { path.to_owned() }.display().to_string()
}
