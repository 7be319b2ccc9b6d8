//! HTTP/2 by hand.

/// An HTTP/2 connection as bytes, frame after frame as they are told: nothing is checked or put in order.
#[derive(Clone)]
pub struct Frames(pub Vec<u8>);

impl Frames {
    /// The preface, and a SETTINGS frame.
    pub fn new(settings: &[u8]) -> Self {
        let mut bytes = Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
        bytes.frame(4, 0, 0, settings);
        bytes
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.0.extend_from_slice(&length[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    /// A HEADERS frame of stream 1.
    pub fn head(&mut self, flags: u8, fields: &[(&[u8], &[u8])]) -> &mut Self {
        self.head_of(1, flags, fields)
    }

    /// The same of another stream.
    pub fn head_of(&mut self, stream: u32, flags: u8, fields: &[(&[u8], &[u8])]) -> &mut Self {
        self.frame(1, flags, stream, &block(fields))
    }
}

/// Fields as literals without indexing (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (section 5.1).
            let mut left = text.len();
            if left < 127 {
                block.push(left as u8);
            } else {
                block.push(127);
                left -= 127;
                while left >= 128 {
                    block.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                block.push(left as u8);
            }
            block.extend_from_slice(text);
        }
    }
    block
}

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
