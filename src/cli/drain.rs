//! `hookmoat drain`: tells a running process that its pod leaves, for images without a shell and without `kill`.

use super::{FAULT, NO, fail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::ExitCode;

/// The system cuts the short name of a process behind so many bytes.
const SHORT: usize = 15;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat drain               the first process of the container
  hookmoat drain --pid 4711    another one

For the preStop hook of a sidecar: Kubernetes runs it when the pod begins to leave, and sends SIGTERM only when the \
application has ended. From then on /readyz says no and every answer ends its connection, so that senders that keep one \
open go to another pod; requests are served as before. The same is done on SIGUSR1.

Nothing is sent to a process that is no hookmoat: the signal would end it.

Exit code 0: told. 1: there is no such process, it is no hookmoat, or it belongs to somebody else. 2: no number of a \
process.")]
pub(super) struct Arguments {
    /// The process
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pid: i32,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let number = arguments.pid;
    let Some(pid) = Pid::from_raw(number).filter(|_| number > 0) else {
        return fail("a process has a number above 0", FAULT);
    };
    let own = std::env::current_exe().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    match program_of(number) {
        Some(program) if is_hookmoat(&program, own.as_deref()) => {}
        Some(program) => {
            let program = program.escape_debug();
            let why = format!("process {number} is {program}, no hookmoat; nothing was sent\n  help: {}", help(number));
            return fail(&why, NO);
        }
        None => {
            let why = format!("process {number} cannot be told: there is no such process, or it cannot be looked at");
            return fail(&format!("{why}; nothing was sent\n  help: {}", help(number)), NO);
        }
    }
    match kill_process(pid, Signal::USR1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("process {number} cannot be told: {error}"), NO),
    }
}

fn help(number: i32) -> &'static str {
    if number == 1 {
        "name hookmoat's process with --pid NUMBER; in a pod with `shareProcessNamespace: true` process 1 is `pause`"
    } else {
        "name hookmoat's process with --pid NUMBER"
    }
}

/// The file that runs as this process; of a process that lets nobody look, as hookmoat itself does not, its short name.
fn program_of(number: i32) -> Option<String> {
    let about = Path::new("/proc").join(number.to_string());
    if let Ok(file) = std::fs::read_link(about.join("exe")) {
        return Some(file.to_string_lossy().into_owned());
    }
    let name = std::fs::read(about.join("comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// `own` is the name of this program's file, whatever people call it.
fn is_hookmoat(program: &str, own: Option<&str>) -> bool {
    // What an update replaced still runs.
    let file = program.strip_suffix(" (deleted)").unwrap_or(program);
    let name = file.rsplit('/').next().unwrap_or(file);
    let is_own = |own: &str| own == name || (name.len() == SHORT && own.starts_with(name));
    name.starts_with("hookmoat") || own.is_some_and(is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hookmoat_is_hookmoat() {
        for (program, is) in [
            ("/usr/bin/hookmoat", true),
            ("/usr/bin/hookmoat (deleted)", true),
            ("hookmoat", true),
            ("/opt/hookmoat-0.1", true),
            ("/opt/the-name-of-my-own-proxy", true),
            ("the-name-of-my-", true),
            ("the-name", false),
            ("/usr/bin/sleep", false),
            ("/opt/hookmoat/bin/sleep", false),
            ("pause", false),
            ("", false),
        ] {
            assert_eq!(is_hookmoat(program, Some("the-name-of-my-own-proxy")), is, "{program}");
        }
        assert!(!is_hookmoat("", None));
    }
}
