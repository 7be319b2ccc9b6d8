//! Where a value stands in a request: a header, a query parameter, a form field, a JSON member.
//!
//! Used by the signature schemes (signatures, timestamps, parts of the signed text) and for event IDs.

use crate::request::{Head, HeaderName};
use std::borrow::Cow;

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value of a header that may stand once.
    Header(HeaderName),
    /// A query parameter, percent-decoded.
    Query(Box<str>),
    /// A field of an `application/x-www-form-urlencoded` body, decoded.
    Form(Box<str>),
    /// A string, number or boolean of a JSON body, by JSON Pointer (RFC 6901).
    Json(Box<str>),
}

/// The value is there, but not readable as one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl Source {
    /// Can the value only be read once the body is whole?
    pub fn needs_body(&self) -> bool {
        matches!(self, Self::Form(_) | Self::Json(_))
    }

    /// Reads the value. `Ok(None)`: it does not stand there. An error: repeated, malformed, or not a plain value.
    pub fn read<'a>(&self, head: &Head<'a>, body: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, SourceError> {
        let _ = (head, body);
        unimplemented!()
    }
}
