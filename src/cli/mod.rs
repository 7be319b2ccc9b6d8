//! The command line. The only room that prints.
//!
//! Exit codes: 0 all is well; 1 the answer is no (a signature does not verify, a vector fails, a request was refused);
//! 2 the command, the configuration or the machine is at fault.
//!
//! The macros below stand in for the standard library's, which panic when nobody reads any more (`| head`).

/// As the standard library's, but a reader who went away ends the command quietly.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::out(format_args!($($text)*)) };
}

/// As the standard library's, but a reader who went away ends the command quietly.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// As the standard library's, but nobody has to listen.
macro_rules! eprint {
    ($($text:tt)*) => { $crate::cli::note(format_args!($($text)*)) };
}

/// As the standard library's, but nobody has to listen.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::note(format_args!("{}\n", format_args!($($text)*))) };
}

mod ask;
mod captured;
mod check;
mod completions;
mod demo;
mod drain;
mod explain;
mod health;
mod providers;
mod queue;
mod run;
mod schema;
mod send;
mod sign;
mod signing;
mod vectors;
mod verify;

use clap::{Parser, Subcommand};
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// The answer is no.
const NO: u8 = 1;
/// The command, configuration or machine is at fault.
const FAULT: u8 = 2;

/// A moat around your webhook endpoints: verifies, limits and deduplicates before your backend hears of a request.
#[derive(Debug, Parser)]
#[command(
    name = "hookmoat",
    version,
    max_term_width = 100,
    after_help = "Begin here:
  hookmoat providers --search shop         is my sender known?
  hookmoat providers shopify               where its secret is, and a route to copy
  hookmoat check -c hookmoat.yaml          is the configuration right?
  hookmoat run -c hookmoat.yaml            serve
  hookmoat send ROUTE                      a signed request, as the sender would send it
  hookmoat explain ROUTE --request FILE    why was it refused?

`hookmoat COMMAND --help` has examples of each.

Exit codes: 0 all is well; 1 the answer is no \
(a signature does not verify, a vector fails, a request was refused); 2 the command, the configuration or the machine \
is at fault."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: stand in front of the backend
    Run(run::Arguments),
    /// Check a configuration and list every problem with its place and remedy
    Check(check::Arguments),
    /// Sign a request as its sender would, send it, and print the answer
    Send(send::Arguments),
    /// Sign a request as its sender would, and print it as a curl command
    Sign(sign::Arguments),
    /// Judge a captured request, every step shown
    Verify(verify::Arguments),
    /// Say why a request was refused, and what would have made it pass
    Explain(explain::Arguments),
    /// Judge files of recorded requests by the presets that they name
    Vectors(vectors::Arguments),
    /// List the senders that are known, search them, or show one with a route to copy
    Providers(providers::Arguments),
    /// Look into a queue: what waits, what was given up; give it another chance, or forget it
    Queue(queue::Arguments),
    /// Ask a running process whether it is ready, where there is no curl
    Health(health::Arguments),
    /// Tell a running process that its pod leaves: serve on, but keep no connection
    Drain(drain::Arguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print completions for a shell
    Completions(completions::Arguments),
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
struct ConfigFile {
    /// Configuration file
    #[arg(short, long, env = "HOOKMOAT_CONFIG", default_value = "hookmoat.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Send(arguments) => send::run(&arguments),
        Command::Sign(arguments) => sign::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Vectors(arguments) => vectors::run(&arguments),
        Command::Providers(arguments) => providers::run(&arguments),
        Command::Queue(arguments) => queue::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Schema => schema::run(),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}

/// The exit code of a command that SIGPIPE ends, as a shell tells it. The signal itself is ignored from the start on, and
/// only unsafe code could change that.
const BROKEN_PIPE: i32 = 128 + 13;

/// Writes to standard output.
fn out(text: fmt::Arguments<'_>) {
    written(io::stdout().write_fmt(text));
}

/// Writes to standard output, whatever it is.
fn out_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

fn written(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        Err(error) => {
            note(format_args!("error: cannot write to standard output: {error}\n"));
            std::process::exit(FAULT.into());
        }
    }
}

/// Writes to standard error.
fn note(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// For a POSIX shell; as it stands where nothing in it needs quotes.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    eprintln!("error: {}", why.trim_end());
    ExitCode::from(code)
}
