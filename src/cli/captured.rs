//! Captured requests: raw HTTP, or what `curl --trace` writes.

use super::signing::read;
use crate::diagnose::Captured;
use crate::request::Headers;
use bytes::Bytes;
use std::path::Path;

/// Header fields of a captured request.
const MAX_HEADERS: usize = 256;

/// Reads a captured request from a file, `-` being standard input.
pub(super) fn captured(file: &Path, trim: bool) -> Result<Captured, String> {
    request(read(file)?, trim)
}

/// A request line, headers, an empty line, the body's exact bytes.
pub(super) fn request(bytes: Vec<u8>, trim: bool) -> Result<Captured, String> {
    let bytes = if is_trace(&bytes) { sent_in_trace(&bytes)? } else { bytes };
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(&bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.is_empty() => return Err("the request is empty".into()),
        Ok(httparse::Status::Partial) => {
            return Err("the request ends within its head: an empty line has to stand between headers and body".into());
        }
        Err(error) => {
            let help =
                "it begins with a line like `POST /webhooks/x HTTP/1.1`, then a header a line, then an empty line";
            return Err(format!("the head of the request cannot be read ({error}); {help}"));
        }
    };
    let mut body = &bytes[length..];
    if trim {
        body = without_line_end(body);
    }
    let headers: Vec<(&str, &[u8])> = request.headers.iter().map(|field| (field.name, field.value)).collect();
    let headers = Headers::List(&headers);
    let coding = headers.one(&http::header::TRANSFER_ENCODING).ok().flatten();
    let joined;
    if coding.is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && let Some(decoded) = unchunked(body)
    {
        joined = decoded;
        body = &joined;
    }
    let declared = headers.one(&http::header::CONTENT_LENGTH).ok().flatten();
    if let Some(declared) = declared.and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok())
        && declared != body.len()
    {
        eprintln!("note: Content-Length says {declared} bytes, the body here has {}", body.len());
    }
    let target = request.path.unwrap_or("/");
    // As a proxy is asked: `POST http://host/path HTTP/1.1`.
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let host = headers.one(&http::header::HOST).ok().flatten().and_then(|host| std::str::from_utf8(host).ok());
    Ok(Captured {
        method: request.method.unwrap_or("GET").to_owned(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        host: host.unwrap_or_default().to_owned(),
        headers: headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
        body: Some(Bytes::copy_from_slice(body)),
    })
}

pub(super) fn without_line_end(body: &[u8]) -> &[u8] {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body.strip_suffix(b"\r").unwrap_or(body)
}

/// Is this what `curl --trace` writes?
fn is_trace(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // With --trace-time there is a time in front.
    let line = String::from_utf8_lossy(line);
    ["== Info:", "=> Send header"].iter().any(|mark| line.find(mark).is_some_and(|at| at < 20))
}

/// What curl sent first, by its trace: sections like `=> Send header, 64 bytes (0x40)` with lines like `0000: 50 4f …`.
fn sent_in_trace(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = String::from_utf8_lossy(bytes);
    let (mut sent, mut wanted, mut answered) = (Vec::new(), false, false);
    for line in text.lines() {
        let section = line.find("=> Send ").or_else(|| line.find("<= Recv ")).filter(|at| *at < 20);
        if let Some(at) = section {
            let section = &line[at..];
            wanted = section.starts_with("=> Send header") || section.starts_with("=> Send data");
            answered |= section.starts_with("<= Recv header");
            // The next request on the same connection.
            if answered && section.starts_with("=> Send header") {
                break;
            }
        } else if line.contains("== Info") {
            wanted = false;
        } else if wanted {
            let hex = line.split_once(": ").map(|(_, rest)| rest.get(..48).unwrap_or(rest));
            let pairs = hex
                .unwrap_or_default()
                .split(' ')
                .filter(|pair| !pair.is_empty())
                .map(|pair| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten());
            match pairs.collect::<Option<Vec<u8>>>() {
                Some(bytes) => sent.extend_from_slice(&bytes),
                None => {
                    return Err(
                        "this trace has no bytes in it: take `curl --trace FILE`, not --trace-ascii or -v".into()
                    );
                }
            }
        }
    }
    if sent.is_empty() {
        Err("no request in this trace: take `curl --trace FILE`, not --trace-ascii or -v".into())
    } else {
        Ok(sent)
    }
}

/// The body inside the chunked coding. `None`: it is not in that coding (any more).
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
