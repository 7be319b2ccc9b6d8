//! An answer that a sender gets from us instead of from the backend.

use bytes::Bytes;
use std::borrow::Cow;

/// Status, fields and body. Framing, `X-Request-Id` and connection fields are the carrier's to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// Names in lower case. Values are ours or have been checked: no line end, no control byte.
    pub fields: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Sent with its length; left out for HEAD, 204 and 304.
    pub body: Bytes,
}

impl Answer {
    /// An answer without fields or body.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Bytes::new() }
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }
}
