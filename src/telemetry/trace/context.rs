//! W3C Trace Context: the `traceparent` that says which trace a request belongs to.
//!
//! Only what is exactly in form counts (<https://www.w3.org/TR/trace-context/>, sections 2.2 and 4.3); anything else is
//! as good as none. The value goes on in the form of version 00.

use crate::request::Headers;
use http::HeaderName;

/// The field's name.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add. Goes on as it came, where its `traceparent` does.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of version 00.
const LENGTH: usize = 55;

/// Names a trace. Never all zeros.
pub(crate) type TraceId = [u8; 16];
/// Names a span in its trace. Never all zeros.
pub(crate) type SpanId = [u8; 8];

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: TraceId,
    /// The span that caused the request.
    pub(crate) span: SpanId,
    /// Does whoever sent it record the trace?
    pub(crate) sampled: bool,
}

impl Context {
    /// Of a request, where it has exactly one `traceparent` that can be read.
    pub(crate) fn of(headers: &Headers<'_>) -> Option<Self> {
        Self::parse(headers.one(&TRACEPARENT).ok()??)
    }

    /// Reads the field's value.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let mut version = [0; 1];
        let (mut trace, mut span, mut flags) = ([0; 16], [0; 8], [0; 1]);
        lower_hex(known.get(..2)?, &mut version)?;
        lower_hex(known.get(3..35)?, &mut trace)?;
        lower_hex(known.get(36..52)?, &mut span)?;
        lower_hex(known.get(53..55)?, &mut flags)?;
        let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        // Later versions may add parts; the ones before them keep their meaning.
        let ends = match version {
            [0xff] => false,
            [0] => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let valid = dashes && ends && trace != [0; 16] && span != [0; 8];
        valid.then_some(Self { trace, span, sampled: flags[0] & 1 == 1 })
    }

    /// The field's value.
    pub(crate) fn text(&self) -> String {
        format!("00-{}-{}-{:02x}", hex::encode(self.trace), hex::encode(self.span), u8::from(self.sampled))
    }
}

fn lower_hex(text: &[u8], into: &mut [u8]) -> Option<()> {
    if text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    hex::decode_to_slice(text, into).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_value_in_form_is_read_and_written_as_it_was() {
        let context = Context::parse(VALUE.as_bytes()).unwrap();
        assert_eq!(hex::encode(context.trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((hex::encode(context.span).as_str(), context.sampled), ("b7ad6b7169203331", true));
        assert_eq!(context.text(), VALUE);
        for (value, sampled) in [(VALUE.replace("-01", "-00"), false), (VALUE.replace("-01", "-03"), true)] {
            assert_eq!(Context::parse(value.as_bytes()).unwrap().sampled, sampled, "{value}");
        }
        // A version of later times, with more behind it.
        for later in [VALUE.replacen("00", "cc", 1), format!("{}-what-else", VALUE.replacen("00", "cc", 1))] {
            assert_eq!(Context::parse(later.as_bytes()).unwrap().text(), VALUE, "{later}");
        }
    }

    #[test]
    fn anything_else_is_as_good_as_none() {
        let zeros = |length: usize| "0".repeat(length);
        for value in [
            String::new(),
            VALUE[..54].into(),
            format!("{VALUE}-more"),
            format!("{VALUE}0"),
            VALUE.to_uppercase(),
            VALUE.replacen("00", "ff", 1),
            VALUE.replacen("00", "0", 1),
            VALUE.replacen("00", "cc", 1) + ".more",
            VALUE.replace("0af7651916cd43dd8448eb211c80319c", &zeros(32)),
            VALUE.replace("b7ad6b7169203331", &zeros(16)),
            VALUE.replace('-', "_"),
            VALUE.replace("-01", "-0g"),
            format!(" {VALUE}"),
        ] {
            assert_eq!(Context::parse(value.as_bytes()), None, "{value}");
        }
        let twice = [("traceparent", VALUE.as_bytes()), ("Traceparent", VALUE.as_bytes())];
        assert_eq!(Context::of(&Headers::List(&twice)), None);
        assert!(Context::of(&Headers::List(&twice[..1])).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Context::parse(&bytes);
        }
    }
}
