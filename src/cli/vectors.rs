//! `hookmoat vectors`

use super::{FAULT, NO, signing::read};
use crate::provider;
use crate::vectors::{Expect, parse_each, run_named};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat vectors captured.yaml
  hookmoat vectors config/providers/*.yaml

A file is a list of records, or has one under `vectors`:
  - provider: github
    secrets: [\"It's a Secret to Everybody\"]
    request:
      method: POST
      headers: { X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17 }
      body: Hello, World!
    expect: accept
A record without `provider` belongs to the preset that the file is named after, or brings a scheme of its own under
`signature`, written as in a route. Without `at` (seconds since 1970) it is
judged at the time that it claims itself.

Exit code 0: all passed. 1: at least one failed. 2: a file cannot be read.")]
pub(super) struct Arguments {
    /// Vector files: lists of recorded requests with `provider`, `secrets`, `request` and `expect`
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object a vector instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (mut passed, mut failed, mut unreadable) = (0u64, 0u64, false);
    for path in &arguments.files {
        let read = read(path).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
            parse_each(&text).map_err(|why| format!("{}: {why}", path.display()))
        });
        let vectors = match read {
            Ok(vectors) => vectors,
            Err(why) => {
                eprintln!("error: {why}");
                unreadable = true;
                continue;
            }
        };
        let named_after = path.file_stem().and_then(|stem| provider::find(stem.to_str()?));
        for (index, read) in vectors.into_iter().enumerate() {
            let (vector, result) = match read {
                Ok(mut vector) => {
                    vector.provider = vector.provider.or_else(|| named_after.map(|preset| preset.id.to_owned()));
                    let result = run_named(&vector);
                    (Some(vector), result)
                }
                Err(why) => (None, Err(why)),
            };
            *(if result.is_ok() { &mut passed } else { &mut failed }) += 1;
            let provider = vector.as_ref().and_then(|vector| vector.provider.as_deref()).unwrap_or("-");
            let expect = vector.as_ref().map_or("-", |vector| match vector.expect {
                Expect::Accept => "accept",
                Expect::Reject => "reject",
                Expect::Handshake => "handshake",
                Expect::Other => "other",
            });
            if arguments.json {
                let value = serde_json::json!({
                    "file": path.display().to_string(),
                    "index": index,
                    "provider": provider,
                    "expect": expect,
                    "passed": result.is_ok(),
                    "problem": result.err(),
                });
                println!("{value}");
                continue;
            }
            let mut line = format!("{provider} [{index}] {expect}");
            if let Some(note) =
                vector.as_ref().and_then(|vector| vector.note.as_deref()).filter(|note| !note.is_empty())
            {
                line += &format!("  {}", note.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            match result {
                Ok(()) => println!("ok    {line}"),
                Err(why) => println!("FAIL  {line}: {why}"),
            }
        }
    }
    // With --json, standard output is for the machine alone.
    if arguments.json {
        eprintln!("{passed} passed, {failed} failed")
    } else {
        println!("{passed} passed, {failed} failed")
    }
    match (unreadable, failed) {
        (true, _) => ExitCode::from(FAULT),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(NO),
    }
}
