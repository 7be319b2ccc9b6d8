//! `hookmoat health`: asks a running process how it is, for images without a shell and without curl.

use super::{ConfigFile, FAULT, NO, fail};
use crate::config;
use crate::proxy::upstream::AnyCertificate;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::CertificateDer;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
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
    let tls = policy.admin_access.tls.is_some();
    match ask(address, tls, if arguments.live { "/healthz" } else { "/readyz" }) {
        Ok((true, said)) => {
            println!("{}", said.trim_end());
            ExitCode::SUCCESS
        }
        Ok((false, said)) => fail(&said, NO),
        Err(error) => fail(&format!("no answer from {address}: {error}"), NO),
    }
}

/// Is the status 200, and what does the body say? A certificate is not looked at: nothing is told, and whoever could
/// answer in the place of this process is on this machine.
fn ask(address: SocketAddr, tls: bool, path: &str) -> io::Result<(bool, String)> {
    let socket = connected(address)?;
    let asked = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = if tls { talk(over_tls(socket)?, &asked)? } else { talk(socket, &asked)? };
    let said = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((answer.starts_with("HTTP/1.1 200 "), said))
}

fn connected(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The certificate of whoever answers there; that its key is there too was verified.
pub(super) fn certificate_at(address: SocketAddr) -> io::Result<Option<CertificateDer<'static>>> {
    let mut stream = over_tls(connected(address)?)?;
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream.conn.peer_certificates().and_then(|chain| chain.first()).cloned())
}

fn talk(mut stream: impl Read + Write, asked: &str) -> io::Result<String> {
    stream.write_all(asked.as_bytes())?;
    let mut answer = Vec::new();
    match stream.take(LONGEST).read_to_end(&mut answer) {
        // The end of the connection is not always announced.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn over_tls(socket: TcpStream) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = "localhost".try_into().map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, socket))
}
