//! `hookmoat schema`

use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    print!("{}", crate::config::schema_text());
    ExitCode::SUCCESS
}
