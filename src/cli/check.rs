//! `hookmoat check`

use super::{ConfigFile, FAULT};
use super::{NO, fail};
use crate::config::{
    self, Loaded, Problems,
    diff::{Change, Effect, diff},
};
use crate::proxy;
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
    /// Print one JSON object instead of text: `ok`, `file`, `problems`, and `warnings` or `changes`
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if let Some([old, new]) = arguments.diff.as_deref() {
        return compare(old, new, arguments.json);
    }
    let path = &arguments.file.config;
    let (problems, warnings, routes) = match config::load(path) {
        Ok(Loaded { policy, .. }) => {
            let (problems, doubts) = proxy::look_at_certificates(&policy);
            let routes = policy.routes.iter().count();
            (Problems { file: path.display().to_string(), problems }, [policy.warnings, doubts].concat(), routes)
        }
        Err(problems) => (problems, Vec::new(), 0),
    };
    let runs = problems.problems.is_empty();
    if arguments.json {
        let (file, problems) = (problems.file, problems.problems);
        let value = serde_json::json!({ "ok": runs, "file": file, "problems": problems, "warnings": warnings });
        println!("{value:#}");
    } else {
        warnings.iter().for_each(|warning| println!("warning: {warning}"));
        print!("{problems}");
        if runs {
            println!("{}: ok, {routes} route{}", path.display(), if routes == 1 { "" } else { "s" });
        }
    }
    if runs { ExitCode::SUCCESS } else { ExitCode::from(FAULT) }
}

/// What `new` changes. Both have to be configurations: half of a comparison would look like a whole one.
fn compare(old: &Path, new: &Path, json: bool) -> ExitCode {
    // Read once: of a pipe (`<(…)`) there is no second time.
    let (old, new) = match config::load(old).and_then(|old| Ok((old, config::load(new)?))) {
        Ok(both) => both,
        Err(problems) => {
            if json {
                let (file, problems) = (problems.file, problems.problems);
                let value = serde_json::json!({ "ok": false, "file": file, "problems": problems, "changes": [] });
                println!("{value:#}");
            } else {
                print!("{problems}");
            }
            return ExitCode::from(FAULT);
        }
    };
    let changes = match diff(&old.text, &new.text) {
        Ok(changes) => changes,
        Err(error) => return fail(&error.to_string(), FAULT),
    };
    let weaker = changes.iter().any(|change| change.effect == Effect::Weaker);
    if json {
        let file = new.path.display().to_string();
        println!("{:#}", serde_json::json!({ "ok": !weaker, "file": file, "problems": [], "changes": changes }));
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
