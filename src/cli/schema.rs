//! `hookmoat schema`

use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    println!("{}", crate::config::schema_text());
    ExitCode::SUCCESS
}
