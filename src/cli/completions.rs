//! `hookmoat completions`

use clap::CommandFactory as _;
use clap_complete::Shell;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat completions bash > /etc/bash_completion.d/hookmoat
  hookmoat completions zsh > \"${fpath[1]}/_hookmoat\"
  hookmoat completions fish > ~/.config/fish/completions/hookmoat.fish")]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "hookmoat", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
