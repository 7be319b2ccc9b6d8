//! Strictness over the raw bytes of an HTTP/1 head, for what the parser below is lenient about: pingora 0.9.1 accepts
//! bare line feeds and drops a Content-Length that stands beside a Transfer-Encoding. Both can make two parties see two
//! different messages, so both are refused before anything else is looked at.

/// Checks the raw head. The error says what is wrong, for the log.
pub(crate) fn strict(raw: &[u8]) -> Result<(), &'static str> {
    let mut lengths = 0;
    let mut encodings = 0;
    let mut first = true;
    let mut rest = raw;
    while !rest.is_empty() {
        let Some(end) = memchr::memchr(b'\n', rest) else { return Err("head does not end with a line end") };
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        let Some(line) = line.strip_suffix(b"\r\n") else { return Err("bare LF in the head") };
        if memchr::memchr2(b'\r', 0, line).is_some() {
            return Err("bare CR or NUL in the head");
        }
        if first {
            first = false;
            if !line.is_ascii() {
                return Err("request line is not ASCII");
            }
            continue;
        }
        match line.first() {
            None => break,
            Some(b' ' | b'\t') => return Err("folded header line"),
            Some(_) => {}
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Err("header line without a colon") };
        let name = &line[..colon];
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
        }
    }
    match (lengths, encodings) {
        (0 | 1, 0) | (0, 1) => Ok(()),
        (_, 0) => Err("several Content-Length lines"),
        (0, _) => Err("several Transfer-Encoding lines"),
        _ => Err("Content-Length beside Transfer-Encoding"),
    }
}

#[cfg(test)]
mod tests {
    use super::strict;
    use proptest::prelude::*;

    #[test]
    fn heads_with_two_readings_are_refused() {
        for (head, fine) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nHost: a\nContent-Length: 1\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ] {
            assert_eq!(strict(head.as_bytes()).is_ok(), fine, "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = strict(&bytes);
        }
    }
}
