//! A backend to play with: prints what reaches it and answers 200.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Longest body that is read; the rest of a connection is dropped with it.
const MAX_BODY: usize = 32 << 20;

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

fn serve(stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut shown = format!("backend  │ {}\n", line.trim_end());
        let mut length = 0;
        loop {
            let mut field = String::new();
            reader.read_line(&mut field)?;
            let field = field.trim_end();
            if field.is_empty() {
                break;
            }
            let (name, value) = field.split_once(": ").unwrap_or((field, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap_or(0);
            }
            let lower = name.to_ascii_lowercase();
            if lower.starts_with("hookmoat") || lower.starts_with("x-") {
                let _ = writeln!(shown, "backend  │   {name}: {value}");
            }
        }
        let mut body = vec![0; length.min(MAX_BODY)];
        reader.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body);
        let mut start: String = text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if start.len() < text.len() {
            start.push('…');
        }
        let _ = writeln!(shown, "backend  │   {start}");
        print!("{shown}");
        let answer = "{\"ok\":true}\n";
        write!(
            &mut &*stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}
