//! `hookmoat drain`: tells a running process that its pod leaves, for images without a shell and without `kill`.

use super::{FAULT, NO, fail};
use rustix::process::{Pid, Signal, kill_process};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat drain               the first process of the container
  hookmoat drain --pid 4711    another one

For the preStop hook of a sidecar: Kubernetes runs it when the pod begins to leave, and sends SIGTERM only when the \
application has ended. From then on /readyz says no and every answer ends its connection, so that senders that keep one \
open go to another pod; requests are served as before. The same is done on SIGUSR1.

Exit code 0: told. 1: there is no such process, or it belongs to somebody else. 2: no number of a process.")]
pub(super) struct Arguments {
    /// The process
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pid: i32,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Some(pid) = Pid::from_raw(arguments.pid).filter(|_| arguments.pid > 0) else {
        return fail("a process has a number above 0", FAULT);
    };
    match kill_process(pid, Signal::USR1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("process {} cannot be told: {error}", arguments.pid), NO),
    }
}
