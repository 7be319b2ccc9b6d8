//! A backend to play with: prints what reaches it and answers 200.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Longest body that is read; the rest of a connection is dropped with it.
const MAX_BODY: usize = 32 << 20;

/// Characters of a body that are shown.
const SHOWN: usize = 160;

/// Listens in a thread of its own.
pub(super) fn start(address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = serve(&stream);
            });
        }
    });
    Ok(())
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut field = String::new();
            reader.read_line(&mut field)?;
            let field = field.trim_end();
            if field.is_empty() {
                break;
            }
            headers.push(field.to_owned());
        }
        let length = headers.iter().find_map(|field| {
            let (name, value) = field.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0).min(MAX_BODY)];
        reader.read_exact(&mut body)?;
        // A log line and this in one go, so that requests side by side do not mix their lines.
        let _ = std::io::stdout().write_all(shown(line.trim_end(), &headers, &body).as_bytes());
        // In one write: of two, the second would wait for the peer's delayed acknowledgement.
        let answer = "{\"ok\":true}\n";
        let length = answer.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}");
        stream.write_all(answer.as_bytes())?;
    }
}

/// The request line, what Hookmoat says about the request, what else is not everyday, and the body.
fn shown(request: &str, headers: &[String], body: &[u8]) -> String {
    let terminal = std::io::stdout().is_terminal();
    let (on, off) = if terminal { ("\x1b[35m", "\x1b[0m") } else { ("", "") };
    let prefix = format!("{on}backend  │{off}");
    let request = request.strip_suffix(" HTTP/1.1").unwrap_or(request);
    let mut text = format!("{prefix} {request}, {} bytes\n", body.len());
    let begins = |field: &str, starts: &[&str]| {
        let field = field.to_ascii_lowercase();
        starts.iter().any(|start| field.starts_with(start))
    };
    let (ours, others): (Vec<&String>, Vec<&String>) = headers
        .iter()
        .filter(|field| begins(field, &["hookmoat-", "x-"]))
        .partition(|field| begins(field, &["hookmoat-"]));
    let (everyday, others): (Vec<&String>, Vec<&String>) =
        others.into_iter().partition(|field| begins(field, &["x-forwarded-", "x-request-id"]));
    for group in [ours, everyday, others] {
        if !group.is_empty() {
            let group: Vec<&str> = group.into_iter().map(String::as_str).collect();
            let _ = writeln!(text, "{prefix}   {}", printable(&group.join("  "), usize::MAX));
        }
    }
    if !body.is_empty() {
        let _ = writeln!(text, "{prefix}   {}", printable(&String::from_utf8_lossy(body), SHOWN));
    }
    text
}

/// Without anything that a terminal would take for a command.
fn printable(text: &str, most: usize) -> String {
    let mut start: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
