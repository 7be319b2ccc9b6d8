//! The PROXY protocol, versions 1 and 2: a load balancer that passes connections on says first whose they are.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>
//!
//! Read strictly: what is not exactly a header of one of the two versions is none. What it says is believed only from
//! peers that the listener names; see `door`.

use super::http1::Broken;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, its line end included (section 2.1).
const MAX_V1: usize = 107;
/// Longest header of version 2 that is read. Addresses take 36 bytes at most; the rest are extensions, of which load
/// balancers send some hundred bytes.
pub(crate) const MAX_HEADER: usize = 4096;
/// What version 2 begins with (section 2.2).
const V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_HEAD: usize = 16;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The beginning of a header.
    More,
    /// A whole one.
    Whole {
        /// Its bytes. What follows is the client's.
        length: usize,
        /// Whose connection it is. `None`: the peer's own, for instance a health check (`LOCAL`, `UNKNOWN`).
        client: Option<SocketAddr>,
    },
}

/// Reads the header at the beginning of a connection.
pub(crate) fn read(bytes: &[u8]) -> Result<Read, Broken> {
    match bytes.first() {
        None => Ok(Read::More),
        Some(b'P') => version_1(bytes),
        Some(_) => version_2(bytes),
    }
}

fn version_1(bytes: &[u8]) -> Result<Read, Broken> {
    const START: &[u8] = b"PROXY ";
    if !bytes.iter().zip(START).all(|(byte, expected)| byte == expected) {
        return Err(Broken("not a PROXY protocol header"));
    }
    let line = bytes.get(..bytes.len().min(MAX_V1)).unwrap_or_default();
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        // A line feed or a carriage return of its own is never part of one.
        let early = line.iter().enumerate().any(|(at, byte)| *byte == b'\n' || (*byte == b'\r' && at + 1 < line.len()));
        return if early || line.len() == MAX_V1 { Err(Broken("no end of the PROXY line")) } else { Ok(Read::More) };
    };
    let whole = |client| Ok(Read::Whole { length: end + 2, client });
    let line = line.get(START.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let line = line.filter(|line| line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    let line = line.ok_or(Broken("PROXY line with odd characters"))?;
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return whole(None);
    }
    let mut word = || words.next().ok_or(Broken("PROXY line with too few words"));
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(Broken("PROXY line with too many words"));
    }
    let address = |text: &str| -> Result<IpAddr, Broken> {
        let address = match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => return Err(Broken("PROXY line of an unknown family")),
        };
        address.ok_or(Broken("PROXY line with a bad address"))
    };
    address(destination)?;
    port(destination_port)?;
    whole(Some(SocketAddr::new(address(source)?, port(source_port)?)))
}

/// Decimal, without a sign or leading zeros.
fn port(text: &str) -> Result<u16, Broken> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits).ok_or(Broken("PROXY line with a bad port"))
}

fn version_2(bytes: &[u8]) -> Result<Read, Broken> {
    if !bytes.iter().zip(&V2).all(|(byte, expected)| byte == expected) {
        return Err(Broken("not a PROXY protocol header"));
    }
    let Some(head) = bytes.first_chunk::<V2_HEAD>() else { return Ok(Read::More) };
    let [.., command, family, high, low] = *head;
    let length = V2_HEAD + usize::from(u16::from_be_bytes([high, low]));
    // Told before any of it is waited for.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Broken("PROXY header of an unknown version or command")),
    };
    if length > MAX_HEADER {
        return Err(Broken("PROXY header is too long"));
    }
    let addresses = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ if is_local => 0,
        _ => return Err(Broken("PROXY header of another family than TCP")),
    };
    if length < V2_HEAD + addresses && !is_local {
        return Err(Broken("PROXY header is too short for its addresses"));
    }
    let Some(rest) = bytes.get(V2_HEAD..length) else { return Ok(Read::More) };
    let client = match family {
        _ if is_local => None,
        0x11 => rest.first_chunk::<12>().map(|[a, b, c, d, _, _, _, _, high, low, ..]| {
            SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), u16::from_be_bytes([*high, *low]))
        }),
        0x21 => rest.first_chunk::<36>().and_then(|rest| {
            let (source, port) = (rest.first_chunk::<16>()?, rest.get(32..34)?);
            Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([*port.first()?, *port.get(1)?])))
        }),
        _ => None,
    };
    // What stands where there are no addresses is to be ignored (section 2.2: AF_UNSPEC).
    if !is_local && family != 0 {
        extensions(rest.get(addresses..).unwrap_or_default())?;
    }
    Ok(Read::Whole { length, client })
}

/// Type, length, value, until the end (section 2.2.7). None of them is used.
fn extensions(mut bytes: &[u8]) -> Result<(), Broken> {
    while let Some(([_, high, low], rest)) = bytes.split_first_chunk::<3>() {
        bytes = rest
            .get(usize::from(u16::from_be_bytes([*high, *low]))..)
            .ok_or(Broken("PROXY header with a broken extension"))?;
    }
    if bytes.is_empty() { Ok(()) } else { Err(Broken("PROXY header with a broken extension")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2[..], &[command, family], &length, rest].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc0, 0x01, 0x01, 0xbb];

    fn client(bytes: &[u8]) -> Option<SocketAddr> {
        match read(bytes) {
            Ok(Read::Whole { length, client }) => {
                assert_eq!(length, bytes.len());
                client
            }
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn whole_headers_name_the_client() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0x1f, 0x90, 0, 80]].concat();
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 49153 443\r\n".to_vec(), Some("192.0.2.7:49153")),
            (b"PROXY TCP6 2001:db8::9 ::1 8080 80\r\n".to_vec(), Some("[2001:db8::9]:8080")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (v2(0x21, 0x11, &TCP4), Some("192.0.2.7:49153")),
            (v2(0x21, 0x11, &[&TCP4[..], &[0x04, 0, 2, 1, 2]].concat()), Some("192.0.2.7:49153")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::9]:8080")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &TCP4), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x00, &TCP4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            assert_eq!(client(&bytes), expected.map(|text| text.parse().unwrap()), "{}", bytes.escape_ascii());
            // Every beginning is one, and what follows is left alone.
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(Read::More), "{end} of {}", bytes.escape_ascii());
            }
            let longer = [&bytes[..], b"POST / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&longer), read(&bytes));
        }
    }

    #[test]
    fn anything_else_is_broken() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"PROXY\r\n",
            b"PROXY \r\n",
            b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n",
            b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7\0 10.0.0.1 1 2\r\n",
            b"PROXY UNKNOWN \r x\r\n",
            long.as_bytes(),
            b"\r\n\r\n\0\r\nQUIT\r",
            &v2(0x11, 0x11, &TCP4),
            &v2(0x22, 0x11, &TCP4),
            &v2(0x21, 0x12, &TCP4),
            &v2(0x21, 0x41, &TCP4),
            &v2(0x21, 0x11, &TCP4[..11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[&TCP4[..], &[4, 0, 9, 1]].concat()),
            &v2(0x21, 0x11, &[&TCP4[..], &[4, 0]].concat()),
            &v2(0x21, 0x11, &[&TCP4[..], &[0; 4100]].concat()),
        ] {
            assert!(read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
