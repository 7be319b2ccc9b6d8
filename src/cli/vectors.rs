//! `hookmoat vectors`

use super::{FAULT, NO, signing::read};
use crate::vectors::{parse, run_named};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Vector files: lists of recorded requests with `provider`, `secrets`, `request` and `expect`
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object a vector instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (mut passed, mut failed, mut unreadable) = (0, 0, false);
    for path in &arguments.files {
        let text = read(path).and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned()));
        let vectors = match text.and_then(|text| parse(&text)) {
            Ok(vectors) => vectors,
            Err(why) => {
                eprintln!("error: {}: {why}", path.display());
                unreadable = true;
                continue;
            }
        };
        for (index, vector) in vectors.iter().enumerate() {
            let result = run_named(vector);
            let provider = vector.provider.as_deref().unwrap_or("-");
            if result.is_ok() { passed += 1 } else { failed += 1 }
            if arguments.json {
                let value = serde_json::json!({
                    "file": path.display().to_string(),
                    "index": index,
                    "provider": provider,
                    "expect": vector.expect,
                    "passed": result.is_ok(),
                    "problem": result.err(),
                });
                println!("{value}");
                continue;
            }
            let note = vector.note.as_deref().unwrap_or_default();
            match result {
                Ok(()) => println!("ok    {provider} [{index}] {note}"),
                Err(why) => println!("FAIL  {provider} [{index}] {note}: {why}"),
            }
        }
    }
    // With --json, standard output is for the machine alone.
    if arguments.json { eprintln!("{passed} passed, {failed} failed") } else { println!("{passed} passed, {failed} failed") }
    match (unreadable, failed) {
        (true, _) => ExitCode::from(FAULT),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(NO),
    }
}
