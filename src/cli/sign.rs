//! `hookmoat sign`

use super::signing::{What, Whose};
use super::{FAULT, fail};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
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
    let signed = arguments.whose.signer().and_then(|signer| arguments.what.signed(&signer, 0));
    let (request, signing) = match signed {
        Ok(signed) => signed,
        Err(why) => return fail(&why, FAULT),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if arguments.json {
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| [name.clone(), text(value)]).collect();
        let value = serde_json::json!({
            "method": request.method,
            "url": request.url,
            "headers": headers,
            "body": text(&request.body),
            "secret": signing.secret,
            "filled": signing.filled,
        });
        println!("{value:#}");
        return ExitCode::SUCCESS;
    }
    let mut command = format!("curl -i -X {} {}", request.method, quoted(&request.url));
    for (name, value) in &request.headers {
        command += &format!(" \\\n  -H {}", quoted(&format!("{name}: {}", text(value))));
    }
    command += &format!(" \\\n  --data-binary {}", quoted(&text(&request.body)));
    println!("{command}");
    ExitCode::SUCCESS
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
