//! `hookmoat verify`

use super::captured::{captured, without_line_end};
use super::signing::{Whose, time};
use super::{FAULT, NO, fail};
use crate::check::signature::Step;
use crate::request::Now;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "hookmoat verify [OPTIONS] <ROUTE | --provider ID>",
    after_help = "Examples:
  hookmoat verify github --request captured.http
  nc -l 9000 | hookmoat verify -p stripe --secret-env STRIPE_SECRET
  curl --trace trace.txt …; hookmoat verify github --request trace.txt
  hookmoat verify -p slack --secret-file secret --request captured.http --at 2026-01-31T12:00:00Z

The request is what came over the wire: request line, headers, an empty line, the body's exact bytes. Lines of the head
may end in LF or CRLF, and a chunked body may be chunked still. The output of `curl --trace FILE` is understood too.
No secret and no expected signature is ever shown. Why it does not verify: `hookmoat explain`.

Exit code 0: it verifies. 1: it does not. 2: it cannot be judged."
)]
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
    let request = captured(&arguments.file, arguments.trim)?;
    let now = arguments.at.unwrap_or_else(Now::read);
    let body = request.body.as_deref().unwrap_or_default();
    let steps = request.with_head(|head| check.explain(head, body, true, now));
    let holds = |steps: &[Step]| steps.last().is_some_and(|step| step.ok);
    if !holds(&steps) && body.ends_with(b"\n") {
        let without = without_line_end(body);
        if holds(&request.with_head(|head| check.explain(head, without, true, now))) {
            eprintln!("note: without the line end at the end of the body it verifies; --trim drops it");
        }
    }
    Ok(steps)
}
