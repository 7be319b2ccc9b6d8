//! `hookmoat verify`

use super::signing::{Whose, read, time};
use super::{FAULT, NO, fail};
use crate::check::signature::Step;
use crate::request::{Head, Headers, Now};
use std::path::PathBuf;
use std::process::ExitCode;

/// Header fields of a captured request.
const MAX_HEADERS: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "The request is what came over the wire: request line, headers, an empty line, the body's exact \
bytes. Lines of the head may end in LF or CRLF; a chunked body must be given decoded.")]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    /// Captured request; standard input by default
    #[arg(long = "request", value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Judge at this time (seconds since 1970 or RFC 3339) instead of now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Now>,
    /// Drop one line end at the end of the body, as editors add it
    #[arg(long)]
    trim: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let steps = match steps(arguments) {
        Ok(steps) => steps,
        Err(why) => return fail(&why, FAULT),
    };
    let verified = steps.last().is_some_and(|step| step.ok);
    if arguments.json {
        println!("{:#}", serde_json::json!({ "verified": verified, "steps": steps }));
    } else {
        for step in &steps {
            println!("{} {:<10} {}", if step.ok { "✓" } else { "✗" }, step.name, step.detail);
        }
    }
    if verified { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

fn steps(arguments: &Arguments) -> Result<Vec<Step>, String> {
    let signer = arguments.whose.signer()?;
    let check = signer.check()?;
    let bytes = read(&arguments.file)?;
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(&bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err("the request has no empty line after its headers".into()),
        Err(error) => return Err(format!("the request's head cannot be read: {error}")),
    };
    let mut body = &bytes[length..];
    if arguments.trim {
        body = body.strip_suffix(b"\n").unwrap_or(body);
        body = body.strip_suffix(b"\r").unwrap_or(body);
    }
    let headers: Vec<(&str, &[u8])> = request.headers.iter().map(|field| (field.name, field.value)).collect();
    let headers = Headers::List(&headers);
    let declared = headers.one(&http::header::CONTENT_LENGTH).ok().flatten();
    if let Some(declared) = declared.and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok())
        && declared != body.len()
    {
        eprintln!("note: Content-Length says {declared} bytes, the body here has {}", body.len());
    }
    let target = request.path.unwrap_or("/");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let host = headers.one(&http::header::HOST).ok().flatten().and_then(|host| std::str::from_utf8(host).ok());
    let head =
        Head { method: request.method.unwrap_or("GET"), path, query, host: host.unwrap_or_default(), headers };
    Ok(check.explain(&head, body, true, arguments.at.unwrap_or_else(Now::read)))
}
