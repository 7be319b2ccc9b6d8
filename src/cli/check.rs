//! `hookmoat check`

use super::{ConfigFile, FAULT};
use super::{NO, fail};
use crate::config::{
    self,
    diff::{Change, Effect, diff},
};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat check -c config/minimal.yaml
  hookmoat check -c hookmoat.yaml --json
  hookmoat check --diff hookmoat.yaml hookmoat.new.yaml

Exit code 0: it can be run, maybe with warnings. 1: with --diff, a check becomes weaker. 2: it cannot be run, and every
problem was listed.")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Say in words what NEW changes, and which checks become weaker
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    diff: Option<Vec<PathBuf>>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if let Some([old, new]) = arguments.diff.as_deref() {
        return compare(old, new, arguments.json);
    }
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

/// What `new` changes. Both have to be configurations: half of a comparison would look like a whole one.
fn compare(old: &Path, new: &Path, json: bool) -> ExitCode {
    for path in [old, new] {
        if let Err(problems) = config::load(path) {
            if json {
                println!("{:#}", serde_json::json!({ "ok": false, "problems": problems.to_json(), "changes": [] }));
            } else {
                print!("{problems}");
            }
            return ExitCode::from(FAULT);
        }
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let changes = read(old).and_then(|old| Ok((old, read(new)?)));
    let changes = changes.and_then(|(old, new)| diff(&old, &new).map_err(|error| error.to_string()));
    let changes = match changes {
        Ok(changes) => changes,
        Err(why) => return fail(&why, FAULT),
    };
    let weaker = changes.iter().any(|change| change.effect == Effect::Weaker);
    if json {
        println!("{:#}", serde_json::json!({ "ok": !weaker, "problems": [], "changes": changes }));
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        changes.iter().for_each(|change| println!("{}", line(change, colours)));
        if changes.is_empty() {
            println!("no difference");
        }
    }
    if weaker { ExitCode::from(NO) } else { ExitCode::SUCCESS }
}

fn line(change: &Change, colours: bool) -> String {
    let (word, colour) = match change.effect {
        Effect::Weaker => ("weaker  ", "\x1b[31m"),
        Effect::Stronger => ("stronger", "\x1b[32m"),
        Effect::Other => ("changed ", ""),
    };
    if colours && !colour.is_empty() { format!("{colour}{word}  {change}\x1b[0m") } else { format!("{word}  {change}") }
}
