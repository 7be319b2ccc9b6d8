//! Hostile cases as rows: bytes that somebody might send, and what may come of them. After each, the backend has heard
//! nothing, and a genuine request gets through. The rows of `threats.rs` go by the acceptance table and look at counters
//! as well; these are many, and short.

use super::support::frames::{END_HEADERS, END_STREAM, Frames, block};
use super::support::{Connection, LEAN, Moat, post, request, sign};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &str = "a-secret-of-some-length";

const CONFIG: &str = r#"
timeouts: { handshake: 2s, header: 1s, body: 1s, idle: 2s, total: 3s }
limits: { headers: 50, header_bytes: 8KiB, uri_bytes: 2KiB, max_body: 64KiB }
routes:
  - name: hook
    path: /hook
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    to: app
  - name: once
    path: /once
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    to: app
  - name: timed
    path: /timed
    provider: stripe
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    to: app
  - name: listed
    path: /listed
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    allow: [203.0.113.0/24]
    to: app
"#;

/// Behind a load balancer.
const PROXIED: &str = r#"
listen:
  - address: {http}
    proxy_protocol: { from: [127.0.0.1] }
"#;

/// A name, and the case itself.
type Row = (&'static str, &'static str);

/// What stands between the signature over `{}` and the end of the connection. 400, or nothing.
const FRAMING: &[Row] = &[
    ("length and chunks", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("two lengths that agree", "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    ("two lengths that differ", "Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}"),
    ("a list of lengths", "Content-Length: 2, 2\r\n\r\n{}"),
    ("a length with a plus", "Content-Length: +2\r\n\r\n{}"),
    ("a length with a minus", "Content-Length: -2\r\n\r\n{}"),
    ("a hexadecimal length", "Content-Length: 0x2\r\n\r\n{}"),
    ("a length with a fraction", "Content-Length: 2.0\r\n\r\n{}"),
    ("a length with an exponent", "Content-Length: 2e0\r\n\r\n{}"),
    ("a length with a letter", "Content-Length: 2a\r\n\r\n{}"),
    ("a length in quotes", "Content-Length: \"2\"\r\n\r\n{}"),
    ("an empty length", "Content-Length: \r\n\r\n{}"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551618\r\n\r\n{}"),
    ("a length behind a tab and a space in its name", "Content-Length\t : 2\r\n\r\n{}"),
    ("a length that is folded", "Content-Length:\r\n 2\r\n\r\n{}"),
    ("a twin of the length with an underscore", "Content-Length: 2\r\nContent_Length: 40\r\n\r\n{}"),
    ("gzip, then chunked", "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked, then identity", "Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked with a parameter", "Transfer-Encoding: chunked;a=b\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked behind a vertical tab", "Transfer-Encoding: \u{b}chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked behind a line feed", "X: y\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("chunked behind a carriage return", "X: y\rTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("a space before the colon of Transfer-Encoding", "Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("an unknown coding", "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("identity", "Transfer-Encoding: identity\r\n\r\n{}"),
    ("an empty coding", "Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}"),
    ("a chunk size with a sign", "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size behind a space", "Transfer-Encoding: chunked\r\n\r\n 2\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size with a prefix", "Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size that is no number", "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size beyond 64 bits", "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size of minus one", "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    ("a chunk size that ends with a line feed", "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n"),
    ("a chunk longer than its size", "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n"),
    ("a chunk shorter than its size", "Transfer-Encoding: chunked\r\n\r\n3\r\n{}\r\n0\r\n\r\n"),
    ("chunks without an end", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
    ("a last chunk without an end", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"),
    ("a chunk without a size", "Transfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n"),
    ("an extension without a size", "Transfer-Encoding: chunked\r\n\r\n;x\r\n{}\r\n0\r\n\r\n"),
    ("a line feed in a chunk's extension", "Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n"),
    ("a trailer that is a request line", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
    ("a trailer", "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
    ("NUL in a chunk size", "Transfer-Encoding: chunked\r\n\r\n2\0\r\n{}\r\n0\r\n\r\n"),
    ("a body shorter than its length", "Content-Length: 3000\r\n\r\n{}"),
    ("a field that is folded", "X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}"),
    ("a field without a colon", "Content-Length: 2\r\nno colon\r\n\r\n{}"),
    ("a field without a name", "Content-Length: 2\r\n: x\r\n\r\n{}"),
    ("a space in a field's name", "Content-Length: 2\r\nX Y: x\r\n\r\n{}"),
    ("NUL in a field", "Content-Length: 2\r\nX: a\0b\r\n\r\n{}"),
    ("an escape in a field", "Content-Length: 2\r\nX: a\u{1b}[2Jb\r\n\r\n{}"),
    ("DEL in a field", "Content-Length: 2\r\nX: a\u{7f}b\r\n\r\n{}"),
    ("a second Host", "Content-Length: 2\r\nHost: localhost\r\n\r\n{}"),
    ("Connection names the signature", "Content-Length: 2\r\nConnection: X-Hub-Signature-256\r\n\r\n{}"),
    ("an unknown expectation", "Content-Length: 2\r\nExpect: 200-ok\r\n\r\n{}"),
];

/// Whole request lines and heads. 400, 404, 405, 414, 501, 505, or nothing.
const REQUEST_LINES: &[Row] = &[
    ("no version", "POST /hook\r\n\r\n"),
    ("HTTP/0.9", "POST /hook HTTP/0.9\r\nHost: a\r\n\r\n"),
    ("HTTP/1.2", "POST /hook HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HTTP/2.0 in words", "POST /hook HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("HTTP/11", "POST /hook HTTP/11\r\nHost: a\r\n\r\n"),
    ("a version in lower case", "POST /hook http/1.1\r\nHost: a\r\n\r\n"),
    ("words behind the version", "POST /hook HTTP/1.1 x\r\nHost: a\r\n\r\n"),
    ("a tab for a space", "POST\t/hook\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space before the method", " POST /hook HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an odd method", "PO(ST /hook HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a method without an end",
        "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP",
    ),
    ("CONNECT", "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n"),
    ("TRACE", "TRACE /hook HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no Host", "POST /hook HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    ("an empty Host", "POST /hook HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n"),
    ("a Host with a user", "POST /hook HTTP/1.1\r\nHost: a@b\r\nContent-Length: 0\r\n\r\n"),
    ("a Host with a path", "POST /hook HTTP/1.1\r\nHost: a/b\r\nContent-Length: 0\r\n\r\n"),
    ("a Host with a bad port", "POST /hook HTTP/1.1\r\nHost: a:x\r\nContent-Length: 0\r\n\r\n"),
    ("another Host than the target's", "POST http://a/hook HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"),
    ("a user in the target", "POST http://u@a/hook HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
    ("line feeds for line ends", "POST /hook HTTP/1.1\nHost: a\nContent-Length: 0\n\n"),
    ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"),
    ("a greeting of SSH", "SSH-2.0-OpenSSH_9.6\r\n"),
    ("a greeting of SMTP", "EHLO localhost\r\n"),
    ("a command of Redis", "*1\r\n$4\r\nPING\r\n"),
    (
        "a PROXY header where none is wanted",
        "PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\nGET /hook HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("only line ends", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"),
    ("only zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
];

/// The signature's line, whatever follows it, and the body. 400 or 401.
const SIGNATURES: &[Row] = &[
    ("no signature", "X: y\r\n\r\n{}"),
    ("an empty signature", "X-Hub-Signature-256:\r\n\r\n{}"),
    ("only the prefix", "X-Hub-Signature-256: sha256=\r\n\r\n{}"),
    ("no prefix", "X-Hub-Signature-256: {HEX}\r\n\r\n{}"),
    ("another prefix", "X-Hub-Signature-256: sha512={HEX}\r\n\r\n{}"),
    ("the prefix twice", "X-Hub-Signature-256: sha256=sha256={HEX}\r\n\r\n{}"),
    ("the prefix in capitals", "X-Hub-Signature-256: SHA256={HEX}\r\n\r\n{}"),
    ("a byte too few", "X-Hub-Signature-256: sha256={SHORT}\r\n\r\n{}"),
    ("a byte too many", "X-Hub-Signature-256: sha256={HEX}00\r\n\r\n{}"),
    ("half a byte", "X-Hub-Signature-256: sha256={HEX}0\r\n\r\n{}"),
    ("not hexadecimal", "X-Hub-Signature-256: sha256=zz{SHORT}\r\n\r\n{}"),
    ("words behind it", "X-Hub-Signature-256: sha256={HEX} x\r\n\r\n{}"),
    ("a list", "X-Hub-Signature-256: sha256={HEX},sha256={HEX}\r\n\r\n{}"),
    ("in quotes", "X-Hub-Signature-256: \"sha256={HEX}\"\r\n\r\n{}"),
    ("twice, good and bad", "X-Hub-Signature-256: sha256={HEX}\r\nX-Hub-Signature-256: sha256=00\r\n\r\n{}"),
    ("twice, bad and good", "X-Hub-Signature-256: sha256=00\r\nX-Hub-Signature-256: sha256={HEX}\r\n\r\n{}"),
    ("twice, both good", "X-Hub-Signature-256: sha256={HEX}\r\nx-hub-signature-256: sha256={HEX}\r\n\r\n{}"),
    ("all zeros", "X-Hub-Signature-256: sha256={ZEROS}\r\n\r\n{}"),
    ("under the old header", "X-Hub-Signature: sha256={HEX}\r\n\r\n{}"),
    ("under another name", "X-Signature-256: sha256={HEX}\r\n\r\n{}"),
    ("with an underscore in the name", "X_Hub_Signature_256: sha256={HEX}\r\n\r\n{}"),
    ("in a cookie", "Cookie: X-Hub-Signature-256=sha256={HEX}\r\n\r\n{}"),
    ("in Authorization", "Authorization: sha256={HEX}\r\n\r\n{}"),
    ("over another body", "X-Hub-Signature-256: sha256={HEX}\r\n\r\n[]"),
    ("over the body and a line end", "X-Hub-Signature-256: sha256={HEX}\r\n\r\n{}\n"),
    ("over the body behind a mark of byte order", "X-Hub-Signature-256: sha256={HEX}\r\n\r\n\u{feff}{}"),
    ("over the body with a space", "X-Hub-Signature-256: sha256={HEX}\r\n\r\n{ }"),
    ("over nothing", "X-Hub-Signature-256: sha256={HEX}\r\n\r\n"),
];

/// Values of `Stripe-Signature`: `{t}` is now, `{v}` the right signature at that time. 400 or 401.
const TIMES: &[Row] = &[
    ("no time", "v1={v}"),
    ("an empty time", "t=,v1={v}"),
    ("two times", "t={t},t={t},v1={v}"),
    ("a time with a sign", "t=+{t},v1={v}"),
    ("a time with a fraction", "t={t}.0,v1={v}"),
    ("a time in milliseconds", "t={t}000,v1={v}"),
    ("a hexadecimal time", "t=0x{t},v1={v}"),
    ("a time beyond 64 bits", "t=99999999999999999999,v1={v}"),
    ("a time before 1970", "t=-1,v1={v}"),
    ("an old time", "t={old},v1={vold}"),
    ("a time to come", "t={new},v1={vnew}"),
    ("a time that was not signed", "t={other},v1={v}"),
    ("only an old scheme", "t={t},v0={v}"),
    ("no signature beside the time", "t={t}"),
    ("colons", "t:{t},v1:{v}"),
];

/// Fields that claim to come from a listed address. 403.
const SPOOFED: &[Row] = &[
    ("X-Forwarded-For", "X-Forwarded-For: 203.0.113.7"),
    ("a list in X-Forwarded-For", "X-Forwarded-For: 203.0.113.7, 127.0.0.1"),
    ("two X-Forwarded-For", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 203.0.113.8"),
    ("Forwarded", "Forwarded: for=203.0.113.7"),
    ("Forwarded with everything", "Forwarded: for=203.0.113.7;by=127.0.0.1;proto=https;host=a"),
    ("X-Real-IP", "X-Real-IP: 203.0.113.7"),
    ("X-Client-IP", "X-Client-IP: 203.0.113.7"),
    ("True-Client-IP", "True-Client-IP: 203.0.113.7"),
    ("CF-Connecting-IP", "CF-Connecting-IP: 203.0.113.7"),
    ("Fastly-Client-IP", "Fastly-Client-IP: 203.0.113.7"),
    ("X-Cluster-Client-IP", "X-Cluster-Client-IP: 203.0.113.7"),
    ("X-Envoy-External-Address", "X-Envoy-External-Address: 203.0.113.7"),
    ("X-Original-Forwarded-For", "X-Original-Forwarded-For: 203.0.113.7"),
    ("X-Forwarded", "X-Forwarded: 203.0.113.7"),
    ("Via", "Via: 1.1 203.0.113.7"),
    ("Client-IP", "Client-IP: 203.0.113.7"),
];

/// Spellings of `/hook`. 400 or 404.
const PATHS: &[Row] = &[
    ("two slashes", "//hook"),
    ("a slash behind", "/hook/"),
    ("a dot", "/./hook"),
    ("two dots", "/x/../hook"),
    ("above the root", "/../hook"),
    ("an encoded dot", "/%2e/hook"),
    ("encoded dots", "/x/%2e%2e/hook"),
    ("an encoded slash", "/x%2f..%2fhook"),
    ("an encoded letter", "/%68ook"),
    ("encoded twice", "/%2568ook"),
    ("a backslash", "\\hook"),
    ("an encoded backslash", "/%5chook"),
    ("a parameter", "/hook;a=b"),
    ("an encoded NUL", "/hook%00"),
    ("an encoded line end", "/hook%0d%0aX:1"),
    ("an encoded space", "/hook%20"),
    ("an encoded question mark", "/hook%3fa"),
    ("an encoded hash", "/hook%23"),
    ("a broken escape", "/hook%"),
    ("an escape of IIS", "/%u0068ook"),
    ("an overlong slash", "/x/..%c0%afhook"),
    ("a wide slash", "/x/..%ef%bc%8fhook"),
    ("capitals", "/HOOK"),
    ("an extension", "/hook.json"),
    ("no slash", "hook"),
    ("the admin pages", "/metrics"),
    ("the process's readiness", "/readyz"),
];

/// What makes a delivered event look like another. Answered as a duplicate, or refused.
const REPLAYS: &[Row] = &[
    ("the same bytes", "X-GitHub-Delivery: 1"),
    ("a fresh unsigned ID", "X-GitHub-Delivery: 2"),
    ("no ID", "X: y"),
    ("an empty ID", "X-GitHub-Delivery:"),
    ("two IDs", "X-GitHub-Delivery: 3\r\nX-GitHub-Delivery: 4"),
    ("another event type", "X-GitHub-Delivery: 5\r\nX-GitHub-Event: push"),
    ("another media type", "X-GitHub-Delivery: 6\r\nContent-Type: text/plain"),
    ("another agent", "X-GitHub-Delivery: 7\r\nUser-Agent: curl"),
    ("an ID of a kilobyte", "X-GitHub-Delivery: {LONG}"),
    ("an ID with odd characters", "X-GitHub-Delivery: ../../etc/passwd\"'*?[a]"),
];

/// Bytes on the TLS listener. An alert, or nothing.
const TLS: &[(&str, &[u8])] = &[
    ("plain HTTP", b"POST /hook HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80"),
    (
        "SSL 3",
        b"\x16\x03\x00\x00\x2d\x01\x00\x00\x29\x03\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x02\x00\x05\x01\x00",
    ),
    (
        "TLS 1.0",
        b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x02\x00\x2f\x01\x00",
    ),
    (
        "TLS 1.1",
        b"\x16\x03\x02\x00\x2d\x01\x00\x00\x29\x03\x02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x02\x00\x2f\x01\x00",
    ),
    (
        "no cipher",
        b"\x16\x03\x03\x00\x2d\x01\x00\x00\x29\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x02\x00\x00\x01\x00",
    ),
    ("an alert first", b"\x15\x03\x03\x00\x02\x02\x28"),
    ("application data first", b"\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa"),
    ("a heartbeat", b"\x18\x03\x03\x00\x03\x01\x40\x00"),
    ("a change of cipher first", b"\x14\x03\x03\x00\x01\x01"),
    ("a record of 64 KiB", b"\x16\x03\x03\xff\xff\x01\x00\xff\xfb\x03\x03"),
    ("an empty record", b"\x16\x03\x03\x00\x00"),
    ("a hello of 16 MiB", b"\x16\x03\x03\x00\x04\x01\xff\xff\xff"),
    ("an unknown record", b"\xff\x03\x03\x00\x01x"),
    ("half a hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("a PROXY header where none is wanted", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n\x16\x03\x01"),
];

/// Bytes before a genuine request, on a listener that wants a PROXY header. Nothing.
const PROXY_HEADERS: &[(&str, &[u8])] = &[
    ("none", b""),
    ("lower case", b"proxy TCP4 203.0.113.7 10.0.0.1 1 2\r\n"),
    ("a line feed", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\n"),
    ("two spaces", b"PROXY  TCP4 203.0.113.7 10.0.0.1 1 2\r\n"),
    ("a tab", b"PROXY\tTCP4 203.0.113.7 10.0.0.1 1 2\r\n"),
    ("no ports", b"PROXY TCP4 203.0.113.7 10.0.0.1\r\n"),
    ("three ports", b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2 3\r\n"),
    ("an octal address", b"PROXY TCP4 0313.0.0161.07 10.0.0.1 1 2\r\n"),
    ("an address with zeros", b"PROXY TCP4 203.000.113.007 10.0.0.1 1 2\r\n"),
    ("a name", b"PROXY TCP4 localhost 10.0.0.1 1 2\r\n"),
    ("families mixed", b"PROXY TCP6 203.0.113.7 ::1 1 2\r\n"),
    ("a port too large", b"PROXY TCP4 203.0.113.7 10.0.0.1 70000 2\r\n"),
    ("datagrams", b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n"),
    ("108 bytes", &[b'P'; 108]),
    ("version 2 with another version", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0caaaabbbbccdd"),
    ("version 2 with another command", b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\x0caaaabbbbccdd"),
    ("version 2 with datagrams", b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0caaaabbbbccdd"),
    ("version 2 with another family", b"\r\n\r\n\0\r\nQUIT\n\x21\xf1\0\x0caaaabbbbccdd"),
    ("version 2 that is too short", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04aaaa"),
    ("version 2 that is too long", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xffaaaabbbbccdd"),
    ("version 2 with a broken extension", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0faaaabbbbccdd\x04\xff\xff"),
    ("version 2 with a broken signature", b"\r\n\r\n\0\r\nQUIZ\n\x21\x11\0\x0caaaabbbbccdd"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
];

/// What a slow client begins with, and what it sends now and then. The connection ends.
const SLOW: &[(&str, bool, &[u8], &[u8])] = &[
    ("nothing at all", false, b"", b""),
    ("a line end now and then", false, b"", b"\r\n"),
    ("a request line", false, b"POST /ho", b"o"),
    ("a field's name", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nX", b"x"),
    ("a field's value", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nX: ", b"x"),
    ("field after field", false, b"POST /hook HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
    (
        "a body",
        false,
        b"POST /hook HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 900\r\n\r\n",
        b"x",
    ),
    ("no body", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n", b""),
    ("chunks", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ("a chunk's size", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ("a chunk's extension", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;", b"x"),
    ("trailers", false, b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    (
        "100 Continue and then nothing",
        false,
        b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        b"",
    ),
    ("no TLS hello", true, b"", b""),
    ("a TLS hello", true, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"x"),
    ("TLS alerts", true, b"", b"\x15\x03\x03\x00\x02\x01\x00"),
];

fn genuine() -> Vec<u8> {
    post("/hook", &[("X-Hub-Signature-256", &sign::github(SECRET, b"{}"))], b"{}")
}

/// The statuses of everything that came back.
fn statuses(said: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(said);
    text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().expect("a status")).collect()
}

/// Sends the bytes and the end; nothing else than these statuses may come back, and nothing of it reach the backend.
fn refuses(moat: &Moat, case: &str, mut connection: Connection, bytes: &[u8], allowed: &[u16]) -> Vec<u8> {
    let before = (moat.backend.connections(), moat.backend.requests().len());
    let said = connection.send(bytes).end().read_raw(1 << 20);
    assert!(connection.is_closed(), "{case}: still open");
    let got = statuses(&said);
    assert!(got.iter().all(|status| allowed.contains(status)), "{case}: {got:?}\n{}", said.escape_ascii());
    assert_eq!((moat.backend.connections(), moat.backend.requests().len()), before, "{case}: the backend heard of it");
    said
}

/// A genuine request gets through, and is the only one that does.
fn works(moat: &Moat, case: &str, header: &[u8]) {
    let before = moat.backend.requests().len();
    let answer = Connection::open(moat.proxy.http).send(&[header, &genuine()].concat()).answer();
    assert_eq!(answer.status, 200, "after {case}: {answer:?}");
    let requests = moat.backend.requests();
    assert_eq!((requests.len(), &*requests[before].body), (before + 1, &b"{}"[..]), "after {case}");
}

/// A table of texts over plain HTTP.
fn table(rows: &[Row], allowed: &[u16], bytes: impl Fn(&str) -> Vec<u8>) {
    let moat = Moat::new(CONFIG);
    for (case, text) in rows {
        refuses(&moat, case, Connection::open(moat.proxy.http), &bytes(text), allowed);
        works(&moat, case, b"");
    }
}

#[test]
fn framing() {
    let head =
        format!("POST /hook HTTP/1.1\r\nHost: localhost\r\nX-Hub-Signature-256: {}\r\n", sign::github(SECRET, b"{}"));
    // What a second reader might take for a request of its own.
    table(FRAMING, &[400, 413, 417], |text| {
        let behind = if text.ends_with("0\r\n") { Vec::new() } else { genuine() };
        [head.as_bytes(), text.as_bytes(), &behind].concat()
    });
}

#[test]
fn request_lines() {
    table(REQUEST_LINES, &[400, 404, 405], |text| text.as_bytes().to_vec());
}

#[test]
fn signatures() {
    let signature = sign::github(SECRET, b"{}");
    let hex = signature.trim_start_matches("sha256=");
    table(SIGNATURES, &[400, 401], |text| {
        let text = text.replace("{HEX}", hex).replace("{SHORT}", &hex[2..]).replace("{ZEROS}", &"0".repeat(64));
        let (lines, body) = text.split_once("\r\n\r\n").expect("a head");
        let length = body.len();
        format!("POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{lines}\r\n\r\n{body}").into_bytes()
    });
}

#[test]
fn times() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let signed = |time: u64| sign::hex_sha256(SECRET, &[time.to_string().as_bytes(), b".", b"{}"]);
    table(TIMES, &[400, 401], |text| {
        let value = text
            .replace("{t}", &now.to_string())
            .replace("{v}", &signed(now))
            .replace("{old}", &(now - 4000).to_string())
            .replace("{vold}", &signed(now - 4000))
            .replace("{new}", &(now + 4000).to_string())
            .replace("{vnew}", &signed(now + 4000))
            .replace("{other}", &(now - 1).to_string());
        post("/timed", &[("Stripe-Signature", &value)], b"{}")
    });
    let moat = Moat::new(CONFIG);
    let good = format!("t={now},v1={}", signed(now));
    assert_eq!(moat.proxy.send(&post("/timed", &[("Stripe-Signature", &good)], b"{}")).status, 200);
}

#[test]
fn spoofed_addresses() {
    let signature = sign::github(SECRET, b"{}");
    table(SPOOFED, &[403], |text| {
        format!("POST /listed HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Hub-Signature-256: {signature}\r\n{text}\r\n\r\n{{}}")
            .into_bytes()
    });
}

#[test]
fn paths() {
    table(PATHS, &[400, 404], |text| {
        request("POST", text, &[("X-Hub-Signature-256", &sign::github(SECRET, b"{}"))], b"{}")
    });
}

#[test]
fn replays() {
    let moat = Moat::new(CONFIG);
    let signature = sign::github(SECRET, b"{\"n\":1}");
    let bytes = |lines: &str| {
        format!("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nX-Hub-Signature-256: {signature}\r\n{lines}\r\n\r\n{{\"n\":1}}")
            .into_bytes()
    };
    assert_eq!(moat.proxy.send(&bytes("X-GitHub-Delivery: 1")).status, 200);
    for (case, lines) in REPLAYS {
        let lines = lines.replace("{LONG}", &"a".repeat(1025));
        let said = refuses(&moat, case, Connection::open(moat.proxy.http), &bytes(&lines), &[200, 400]);
        let text = String::from_utf8_lossy(&said).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 400") || text.contains("hookmoat-duplicate: true"), "{case}: {text}");
        works(&moat, case, b"");
    }
}

#[test]
fn tls() {
    if !LEAN {
        return;
    }
    let moat = Moat::new(CONFIG);
    for (case, bytes) in TLS {
        let said = refuses(&moat, case, Connection::open(moat.proxy.https), bytes, &[]);
        assert!(said.len() < 100 && said.first().is_none_or(|kind| *kind == 21), "{case}: {}", said.escape_ascii());
        works(&moat, case, b"");
    }
}

#[test]
fn proxy_headers() {
    let moat = Moat::new(&format!("{PROXIED}{CONFIG}"));
    for (case, header) in PROXY_HEADERS {
        let bytes = [header, &*genuine()].concat();
        assert!(refuses(&moat, case, Connection::open(moat.proxy.http), &bytes, &[]).is_empty(), "{case}");
        works(&moat, case, b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n");
    }
}

#[test]
fn slow_clients() {
    let moat = Moat::new(CONFIG);
    std::thread::scope(|scope| {
        for (case, tls, first, drip) in SLOW {
            let moat = &moat;
            scope.spawn(move || {
                let mut connection = Connection::open(if *tls { moat.proxy.https } else { moat.proxy.http });
                connection.send(first);
                // What cannot be written any more was closed.
                let closed = (0..200).any(|_| {
                    std::thread::sleep(Duration::from_millis(100));
                    connection.is_shut(drip)
                });
                assert!(closed, "{case}: still open");
                let got = statuses(&connection.read_raw(1 << 20));
                assert!(got.iter().all(|status| matches!(status, 100 | 400 | 401 | 408 | 431)), "{case}: {got:?}");
            });
        }
        // Meanwhile others are served.
        for _ in 0..10 {
            works(&moat, "slow clients", b"");
        }
    });
    assert!(moat.backend.requests().iter().all(|request| request.body == b"{}"));
}

/// Requests that are too much of something, and what they get.
fn exhausting() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let head = |lines: String| format!("POST /hook HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    let signature = format!("X-Hub-Signature-256: {}\r\n", sign::github(SECRET, b"{}"));
    let chunks = |count: usize| {
        [head("Transfer-Encoding: chunked\r\n".into()), b"1\r\nx\r\n".repeat(count), b"0\r\n\r\n".to_vec()].concat()
    };
    vec![
        ("sixty fields", head("X: y\r\n".repeat(60)), &[400, 431]),
        ("a thousand fields", head("X: y\r\n".repeat(1000)), &[400, 431]),
        ("a field of 9 KiB", head(format!("X: {}\r\n", "y".repeat(9 << 10))), &[431]),
        ("a field of 2 MiB", head(format!("X: {}\r\n", "y".repeat(2 << 20))), &[400, 431]),
        ("a name of 9 KiB", head(format!("{}: x\r\n", "y".repeat(9 << 10))), &[400, 431]),
        ("a path of 3 KiB", post(&format!("/hook/{}", "a".repeat(3 << 10)), &[], b""), &[414]),
        ("a query of 3 KiB", post(&format!("/hook?{}", "a".repeat(3 << 10)), &[], b""), &[414]),
        ("a path without an end", format!("POST /{}", "a".repeat(1 << 20)).into_bytes(), &[400, 414, 431]),
        ("a declared body of 64 KiB and a byte", head(format!("{signature}Content-Length: 65537\r\n")), &[413]),
        ("a declared body of 9 EB", head(format!("{signature}Content-Length: 9000000000000000000\r\n")), &[400, 413]),
        (
            "a body over the limit",
            [head(format!("{signature}Content-Length: 70000\r\n")), vec![b'x'; 70_000]].concat(),
            &[413],
        ),
        ("chunks over the limit", chunks(70_000), &[401, 413]),
        (
            "a chunk extension of 1 MiB",
            [
                head("Transfer-Encoding: chunked\r\n".into()),
                format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(1 << 20)).into_bytes(),
            ]
            .concat(),
            &[400, 401, 413],
        ),
        (
            "a trailer of 1 MiB",
            [
                head("Transfer-Encoding: chunked\r\n".into()),
                format!("2\r\n{{}}\r\n0\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(),
            ]
            .concat(),
            &[400, 401, 413, 431],
        ),
        ("a thousand requests without a signature", post("/hook", &[], b"{}").repeat(1000), &[401]),
        ("a thousand requests for nothing", request("GET", "/nowhere", &[], b"").repeat(1000), &[404]),
    ]
}

#[test]
fn exhaustion() {
    let moat = Moat::new(CONFIG);
    for (case, bytes, allowed) in exhausting() {
        refuses(&moat, case, Connection::open(moat.proxy.http), &bytes, allowed);
        works(&moat, case, b"");
    }
}

const PLAIN: &[(&[u8], &[u8])] =
    &[(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/hook"), (b":authority", b"localhost")];
const WHOLE: u8 = END_HEADERS | END_STREAM;

fn h2() -> Frames {
    Frames::new(&[])
}

/// A request without a signature, which is answered with 401.
fn asked() -> Frames {
    h2().head(WHOLE, PLAIN).clone()
}

fn without(name: &[u8]) -> Vec<(&'static [u8], &'static [u8])> {
    PLAIN.iter().filter(|(known, _)| *known != name).copied().collect()
}

fn with(fields: &[(&'static [u8], &'static [u8])]) -> Frames {
    h2().head(WHOLE, &[PLAIN, fields].concat()).clone()
}

fn instead(name: &'static [u8], value: &'static [u8]) -> Frames {
    h2().head(WHOLE, &[&[(name, value)], &*without(name)].concat()).clone()
}

/// A request that would be delivered but for this.
fn signed_instead(name: &'static [u8], value: &'static [u8]) -> Frames {
    let signature = sign::github(SECRET, b"{}");
    let signed = [(&b"x-hub-signature-256"[..], signature.as_bytes())];
    let fields = [&[(name, value)], &*without(name), &signed].concat();
    h2().head(END_HEADERS, &fields).frame(0, END_STREAM, 1, b"{}").clone()
}

fn many(begin: Frames, count: u32, each: impl Fn(&mut Frames, u32)) -> Frames {
    let mut frames = begin;
    (0..count).for_each(|number| each(&mut frames, number));
    frames
}

/// HTTP/2 by hand; `true`: the connection has to end by itself.
fn http2_cases() -> Vec<(&'static str, Frames, bool)> {
    let open = || h2().head(END_HEADERS, PLAIN).clone();
    let signature = sign::github(SECRET, b"{}");
    let signed = [PLAIN, &[(b"x-hub-signature-256", signature.as_bytes())]].concat();
    let signed_with = |value: &'static [u8]| {
        h2().head(END_HEADERS, &[&*signed, &[(b"x-a", value)]].concat()).frame(0, END_STREAM, 1, b"{}").clone()
    };
    let unended = || h2().head(END_HEADERS, &signed).frame(0, 0, 1, b"{}").clone();
    vec![
        ("HTTP/1.1 after the choice of HTTP/2", Frames(genuine()), true),
        ("a broken preface", Frames(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()), true),
        ("half a preface", Frames(b"PRI * HT".to_vec()), true),
        (
            "a request before the settings",
            Frames([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &asked().0[33..]].concat()),
            true,
        ),
        ("settings on a stream", h2().frame(4, 0, 1, &[]).clone(), true),
        ("settings of five bytes", h2().frame(4, 0, 0, &[0; 5]).clone(), true),
        ("an acknowledgement with settings", h2().frame(4, 1, 0, &[0; 6]).clone(), true),
        ("a frame size of one", Frames::new(&[0, 5, 0, 0, 0, 1]), true),
        ("a window of 4 GiB", Frames::new(&[0, 4, 255, 255, 255, 255]), true),
        ("push neither on nor off", Frames::new(&[0, 2, 0, 0, 0, 2]), true),
        ("a ping on a stream", h2().frame(6, 0, 1, &[0; 8]).clone(), true),
        ("a ping of seven bytes", h2().frame(6, 0, 0, &[0; 7]).clone(), true),
        ("a request on stream 0", h2().head_of(0, WHOLE, PLAIN).clone(), true),
        ("a request on an even stream", h2().head_of(2, WHOLE, PLAIN).clone(), true),
        ("a request on an older stream", h2().head_of(5, WHOLE, PLAIN).head_of(3, WHOLE, PLAIN).clone(), true),
        ("data on an idle stream", h2().frame(0, 0, 1, b"{}").clone(), true),
        ("data on stream 0", h2().frame(0, 0, 0, b"{}").clone(), true),
        ("data behind the end", asked().frame(0, 0, 1, b"{}").clone(), false),
        ("a reset of an idle stream", h2().frame(3, 0, 1, &[0; 4]).clone(), true),
        ("a reset of stream 0", h2().frame(3, 0, 0, &[0; 4]).clone(), true),
        ("a reset of three bytes", open().frame(3, 0, 1, &[0; 3]).clone(), true),
        ("a stream that depends on itself", h2().frame(2, 0, 1, &[0, 0, 0, 1, 0]).clone(), false),
        ("a priority of four bytes", h2().frame(2, 0, 1, &[0; 4]).clone(), false),
        ("a window update by nothing", h2().frame(8, 0, 0, &[0; 4]).clone(), true),
        ("a window update by nothing on a stream", open().frame(8, 0, 1, &[0; 4]).clone(), false),
        ("a window beyond its bound", h2().frame(8, 0, 0, &[127, 255, 255, 255]).clone(), true),
        ("a stream's window beyond its bound", open().frame(8, 0, 1, &[127, 255, 255, 255]).clone(), false),
        ("a window update of three bytes", h2().frame(8, 0, 0, &[0; 3]).clone(), true),
        ("a continuation of nothing", h2().frame(9, END_HEADERS, 1, &[]).clone(), true),
        ("a ping within a head", h2().head(0, PLAIN).frame(6, 0, 0, &[0; 8]).clone(), true),
        ("a continuation of another stream", h2().head(0, PLAIN).frame(9, END_HEADERS, 3, &[]).clone(), true),
        ("a promise from a client", h2().frame(5, END_HEADERS, 1, &[0, 0, 0, 2]).clone(), true),
        ("a farewell on a stream", h2().frame(7, 0, 1, &[0; 8]).clone(), true),
        ("a frame beyond its bound", h2().frame(0, 0, 1, &[0; 17_000]).clone(), true),
        ("padding longer than the head", h2().frame(1, WHOLE | 8, 1, &[200, 0x82]).clone(), true),
        ("padding longer than the data", open().frame(0, 8, 1, &[200, 0]).clone(), true),
        ("index 0", h2().frame(1, WHOLE, 1, &[0x80]).clone(), true),
        ("an index beyond the table", h2().frame(1, WHOLE, 1, &[0xff, 0x80, 0x01]).clone(), true),
        ("a table of 16 MiB", h2().frame(1, WHOLE, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x07]).clone(), true),
        ("a text without an end", h2().frame(1, WHOLE, 1, &[0, 20, b'x']).clone(), true),
        ("a number without an end", h2().frame(1, WHOLE, 1, &[0xff; 40]).clone(), true),
        ("a broken Huffman code", h2().frame(1, WHOLE, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x']).clone(), true),
        ("capitals in a name", with(&[(b"X-Upper", b"y")]), false),
        ("an empty name", with(&[(b"", b"y")]), false),
        ("a colon in a name", with(&[(b"x:y", b"z")]), false),
        ("a line end in a value", with(&[(b"x", b"y\r\nz: a")]), false),
        ("NUL in a value", with(&[(b"x", b"y\0z")]), false),
        ("connection", with(&[(b"connection", b"close")]), false),
        ("transfer-encoding", with(&[(b"transfer-encoding", b"chunked")]), false),
        ("te: gzip", with(&[(b"te", b"gzip")]), false),
        ("upgrade", with(&[(b"upgrade", b"websocket")]), false),
        ("two hosts", with(&[(b"host", b"other")]), false),
        ("a length that is not the body's", with(&[(b"content-length", b"7")]), false),
        ("a field that belongs to answers", with(&[(b":status", b"200")]), false),
        ("an unknown field of the request line", with(&[(b":x", b"y")]), false),
        ("two paths", with(&[(b":path", b"/hook")]), false),
        ("no path", h2().head(WHOLE, &without(b":path")).clone(), false),
        ("no method", h2().head(WHOLE, &without(b":method")).clone(), false),
        ("no scheme", h2().head(WHOLE, &without(b":scheme")).clone(), false),
        ("no authority", h2().head(WHOLE, &without(b":authority")).clone(), false),
        ("an empty path", instead(b":path", b""), false),
        ("a path with a space", instead(b":path", b"/hook x"), false),
        ("a path with a host", instead(b":path", b"https://localhost/hook"), false),
        ("an authority with a user", instead(b":authority", b"a@b"), false),
        ("CONNECT by frames", instead(b":method", b"CONNECT"), false),
        ("TRACE by frames", instead(b":method", b"TRACE"), false),
        ("a method with a space", instead(b":method", b"PO ST"), false),
        (
            "the path behind other fields",
            h2().head(WHOLE, &[&*without(b":path"), &[(b"x", b"y"), (b":path", b"/hook")]].concat()).clone(),
            false,
        ),
        ("a scheme that is not HTTP's", signed_instead(b":scheme", b"ftp"), false),
        ("a scheme of a browser's", signed_instead(b":scheme", b"javascript"), false),
        ("a value with a blank in front", signed_with(b" 1"), false),
        ("a value with a tab at its end", signed_with(b"1\t"), false),
        ("an empty scheme", signed_instead(b":scheme", b""), false),
        ("trailers with a path", open().head(WHOLE, &[(b":path", b"/hook")]).clone(), false),
        ("trailers", unended().head(WHOLE, &[(b"x", b"y")]).clone(), false),
        (
            "trailers in two frames",
            unended().frame(1, END_STREAM, 1, &block(&[(b"x", b"y")])).frame(9, END_HEADERS, 1, &[]).clone(),
            false,
        ),
        ("trailers of nothing", unended().frame(1, WHOLE, 1, &[]).clone(), false),
        ("trailers without an end", open().head(END_HEADERS, &[(b"x", b"y")]).clone(), false),
        ("a header list of 300 KiB", with_large(), false),
        (
            "continuations without an end",
            many(h2().head(0, PLAIN).clone(), 2000, |frames, _| _ = frames.frame(9, 0, 1, &[])),
            true,
        ),
        (
            "large continuations without an end",
            many(h2().head(0, PLAIN).clone(), 100, |frames, _| {
                _ = frames.frame(9, 0, 1, &block(&[(b"x", &[b'y'; 10_000])]))
            }),
            true,
        ),
        ("a head without an end", h2().head(0, PLAIN).clone(), true),
        ("a flood of pings", many(h2(), 5000, |frames, _| _ = frames.frame(6, 0, 0, &[0; 8])), true),
        ("a flood of settings", many(h2(), 5000, |frames, _| _ = frames.frame(4, 0, 0, &[0, 3, 0, 0, 0, 9])), true),
        ("a flood of acknowledgements", many(h2(), 5000, |frames, _| _ = frames.frame(4, 1, 0, &[])), true),
        (
            "a flood of priorities",
            many(h2(), 5000, |frames, number| _ = frames.frame(2, 0, number * 2 + 1, &[0, 0, 0, 0, 9])),
            true,
        ),
        ("a flood of window updates", many(h2(), 5000, |frames, _| _ = frames.frame(8, 0, 0, &[0, 0, 0, 1])), true),
        ("a flood of unknown frames", many(h2(), 5000, |frames, _| _ = frames.frame(0xbe, 0, 0, b"x")), true),
        ("a flood of empty data", many(open(), 5000, |frames, _| _ = frames.frame(0, 0, 1, &[])), true),
        (
            "requests cancelled at once",
            many(h2(), 2000, |frames, number| {
                _ = frames.head_of(number * 2 + 1, END_HEADERS, PLAIN).frame(3, 0, number * 2 + 1, &[0, 0, 0, 8])
            }),
            true,
        ),
        (
            "requests that make us cancel them",
            many(h2(), 2000, |frames, number| {
                _ = frames.head_of(number * 2 + 1, END_HEADERS, PLAIN).frame(8, 0, number * 2 + 1, &[0; 4])
            }),
            true,
        ),
        (
            "two thousand streams at once",
            many(h2(), 2000, |frames, number| _ = frames.head_of(number * 2 + 1, END_HEADERS, PLAIN)),
            false,
        ),
        ("a window of nothing for the answer", Frames::new(&[0, 4, 0, 0, 0, 0]).head(WHOLE, PLAIN).clone(), true),
    ]
}

fn with_large() -> Frames {
    let fields: Vec<(&[u8], &[u8])> = vec![(b"x", &[b'y'; 3000]); 100];
    let (mut frames, whole) = (h2(), block(&[PLAIN, &fields].concat()));
    let parts: Vec<&[u8]> = whole.chunks(16_000).collect();
    for (number, part) in parts.iter().enumerate() {
        let last = if number + 1 == parts.len() { END_HEADERS } else { 0 };
        frames.frame(if number == 0 { 1 } else { 9 }, if number == 0 { END_STREAM | last } else { last }, 1, part);
    }
    frames
}

/// Is there an answer 200 among the frames?
fn has_success(mut said: &[u8]) -> bool {
    while let Some(([a, b, c, kind, ..], rest)) = said.split_first_chunk::<9>() {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        // An indexed `:status: 200`.
        if *kind == 1 && rest.first() == Some(&0x88) {
            return true;
        }
        said = rest.get(length..).unwrap_or_default();
    }
    false
}

/// Connections that were closed for this reason.
fn closed(moat: &Moat, reason: &str) -> f64 {
    moat.proxy.metric(&format!("hookmoat_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn http2_frames() {
    if !LEAN {
        return;
    }
    let moat = Moat::new(CONFIG);
    let signature = sign::github(SECRET, b"{}");
    let signed: Vec<_> = PLAIN.iter().copied().chain([(&b"x-hub-signature-256"[..], signature.as_bytes())]).collect();
    let good = h2().head(END_HEADERS, &signed).frame(0, END_STREAM, 1, b"{}").clone();
    let ask = |frames: &Frames, ends: bool| {
        let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
        connection.send(&frames.0);
        if !ends {
            connection.end();
        }
        let said = connection.read_raw(8 << 20);
        (has_success(&said), connection.is_closed())
    };
    let mut delivered = 0;
    for (case, frames, ends) in http2_cases() {
        let before = moat.backend.connections();
        assert_eq!(ask(&frames, ends), (false, true), "{case}: (accepted, closed)\n{}", moat.proxy.log());
        assert_eq!(moat.backend.connections(), before, "{case}: the backend heard of it");
        let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
        connection.send(&good.0);
        delivered += 1;
        moat.backend.wait_for(delivered);
        assert!(moat.backend.requests().iter().all(|request| request.body == b"{}"), "{case}");
    }
    // Some requests that a client gives up cost it neither the others nor the connection.
    let (signed, rest) = (h2().head(END_HEADERS, &signed).clone(), h2().0.len());
    let given_up = many(h2(), 60, |frames, number| {
        _ = frames.head_of(number * 2 + 3, END_HEADERS, PLAIN).frame(3, 0, number * 2 + 3, &[0, 0, 0, 8])
    });
    let last = h2().frame(0, END_STREAM, 1, b"{}").clone();
    let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
    connection.send(&[&*signed.0, &given_up.0[rest..], &last.0[rest..]].concat());
    moat.backend.wait_for(delivered + 1);
    let closed = |reason: &str| closed(&moat, reason);
    assert!(closed("http2_flood") >= 10.0 && closed("http2_error") >= 10.0, "{}", moat.proxy.log());
}

/// What the library below ends a connection for is counted like what we end it for.
#[test]
fn http2_floods_are_counted_whoever_notices() {
    let moat = Moat::new(CONFIG);
    let closed = |reason: &str| closed(&moat, reason);
    let names = ["requests cancelled at once", "requests that make us cancel them", "a flood of pings", "index 0"];
    for (case, frames, _) in http2_cases().into_iter().filter(|case| names.contains(&case.0)) {
        let before = closed("http2_flood") + closed("http2_error");
        let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
        connection.send(&frames.0);
        connection.read_raw(8 << 20);
        moat.wait_until(case, || closed("http2_flood") + closed("http2_error") == before + 1.0);
    }
    assert_eq!((closed("http2_flood"), closed("http2_error")), (2.0, 2.0), "{}", moat.proxy.log());
    // Who reads is told: GOAWAY with ENHANCE_YOUR_CALM.
    let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
    connection.send(&many(asked(), 520, |frames, _| _ = frames.frame(6, 0, 0, &[0; 8])).0);
    let said = connection.read_raw(8 << 20);
    let farewell = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11];
    assert!(said.windows(17).any(|part| part == farewell), "{}", said.escape_ascii());
}

#[test]
fn there_are_enough_of_them_and_no_two_have_one_name() {
    let tables: [(&str, Vec<&str>); 12] = [
        ("framing", FRAMING.iter().map(|row| row.0).collect()),
        ("request line", REQUEST_LINES.iter().map(|row| row.0).collect()),
        ("signature", SIGNATURES.iter().map(|row| row.0).collect()),
        ("time", TIMES.iter().map(|row| row.0).collect()),
        ("spoofed address", SPOOFED.iter().map(|row| row.0).collect()),
        ("path", PATHS.iter().map(|row| row.0).collect()),
        ("replay", REPLAYS.iter().map(|row| row.0).collect()),
        ("TLS", TLS.iter().map(|row| row.0).collect()),
        ("PROXY header", PROXY_HEADERS.iter().map(|row| row.0).collect()),
        ("slow client", SLOW.iter().map(|row| row.0).collect()),
        ("exhaustion", exhausting().iter().map(|row| row.0).collect()),
        ("HTTP/2", http2_cases().iter().map(|row| row.0).collect()),
    ];
    let mut names = BTreeSet::new();
    for (table, rows) in &tables {
        for row in rows {
            assert!(names.insert(format!("{table}: {row}")), "{table}: {row} stands twice");
        }
    }
    assert!(names.len() >= 200, "{}", names.len());
}
