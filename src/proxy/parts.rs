//! What a request costs in parts, callable from outside: for `tests/bench/counts.rs`.

use super::http1::body::{BodyDecoder, Framing, Step};
use super::http1::framing;
use super::upstream::response;
use crate::policy::Limits;
use crate::request::{Field, Head};

/// Finds and takes apart a request's head, and shows it.
pub fn request_head(wire: &[u8], limits: &Limits, fields: &mut Vec<Field>, show: impl FnOnce(&Head<'_>)) -> bool {
    let Ok(Some(end)) = framing::end_of_head(wire, &mut 0, limits) else { return false };
    let Some(bytes) = wire.get(..end) else { return false };
    match framing::parse(bytes, limits, fields) {
        Ok(head) => {
            show(&head.view(wire, fields));
            head.framing.is_ok()
        }
        Err(_) => false,
    }
}

/// Bytes of a chunked body.
pub fn chunked_body(wire: &[u8]) -> usize {
    let (mut decoder, mut at, mut length) = (BodyDecoder::of_request(Framing::Chunked), 0, 0);
    while let Ok(Step::Data(part)) = decoder.step(wire, &mut at) {
        length += part.len();
    }
    length
}

/// The status of an answer's head.
pub fn response_head(wire: &[u8], fields: &mut Vec<Field>) -> u16 {
    match response::take_head(wire, &mut 0, false, fields) {
        Ok(Some(head)) => head.status.as_u16(),
        _ => 0,
    }
}
