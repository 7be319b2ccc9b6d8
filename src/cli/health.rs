//! `hookmoat health`: asks a running process how it is, for images without a shell and without curl.

use super::{ConfigFile, FAULT, NO, fail};
use crate::config;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// For everything: a process that does not answer by then is not well.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const LONGEST: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat health -c /etc/hookmoat/hookmoat.yaml             is it ready for requests?
  hookmoat health -c /etc/hookmoat/hookmoat.yaml --live      is it running?

In a Dockerfile: HEALTHCHECK CMD [\"/hookmoat\", \"health\", \"-c\", \"/etc/hookmoat/hookmoat.yaml\"]

Exit code 0: yes. 1: no, and why. 2: the configuration cannot be read, or has no admin listener.")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask whether it runs, not whether it is ready
    #[arg(long)]
    live: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let policy = match config::load(&arguments.file.config) {
        Ok(loaded) => loaded.policy,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(FAULT);
        }
    };
    let Some(mut address) = policy.admin else {
        return fail("the configuration says `admin: off`, so nobody can be asked", FAULT);
    };
    match address {
        SocketAddr::V4(any) if any.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(any) if any.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    match ask(address, if arguments.live { "/healthz" } else { "/readyz" }) {
        Ok((true, said)) => {
            println!("{}", said.trim_end());
            ExitCode::SUCCESS
        }
        Ok((false, said)) => fail(&said, NO),
        Err(error) => fail(&format!("no answer from {address}: {error}"), NO),
    }
}

/// Is the status 200, and what does the body say?
fn ask(address: SocketAddr, path: &str) -> std::io::Result<(bool, String)> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.take(LONGEST).read_to_string(&mut answer)?;
    let said = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((answer.starts_with("HTTP/1.1 200 "), said))
}
