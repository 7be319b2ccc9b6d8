//! `hookmoat check`

use super::{ConfigFile, FAULT};
use crate::config;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat check -c config/minimal.yaml
  hookmoat check -c hookmoat.yaml --json

Exit code 0: it can be run, maybe with warnings. 2: it cannot, and every problem was listed.")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let path = &arguments.file.config;
    let loaded = config::load(path).map(|loaded| loaded.policy);
    if arguments.json {
        let value = match &loaded {
            Ok(policy) => serde_json::json!({ "ok": true, "problems": [], "warnings": policy.warnings }),
            Err(problems) => serde_json::json!({ "ok": false, "problems": problems.to_json(), "warnings": [] }),
        };
        println!("{value:#}");
        return if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAULT) };
    }
    match loaded {
        Ok(policy) => {
            for warning in &policy.warnings {
                println!("warning: {warning}");
            }
            let routes = policy.routes.iter().count();
            println!("{}: ok, {routes} route{}", path.display(), if routes == 1 { "" } else { "s" });
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print!("{problems}");
            ExitCode::from(FAULT)
        }
    }
}
