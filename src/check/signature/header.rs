//! What stands in the place of a signature: one value, or a list of named values.
//!
//! One grammar covers the lists of all known senders: items parted by one character, each a name and a value parted by
//! the first occurrence of another. `t=1,v1=ab,v1=cd` (Stripe) has `,` and `=`; `ts=1;h1=ab` (Paddle) has `;` and `=`;
//! `v1,<base64> v1,<base64>` (Standard Webhooks) has a space and `,`.

use super::keys::MAX_SIGNATURE;
use super::mac::{MAX_TAG, Tag};
use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use base64::engine::general_purpose::{self, GeneralPurpose, STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use base64::{Engine as _, alphabet};

/// Signatures of one request that are looked at; the rest is ignored, so that a long list costs nothing.
pub const MAX_SIGNATURES: usize = 16;
/// The same for public-key signatures, each of which costs much more to look at.
pub(crate) const MAX_PUBLIC_SIGNATURES: usize = 4;

/// How bytes are written as text. One spelling each, but for the case of hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Both cases.
    Hex,
    /// RFC 4648 section 4, padded, unused bits zero.
    Base64,
    /// RFC 4648 section 5 without padding.
    Base64Url,
    /// RFC 4648 section 5 with padding.
    Base64UrlPadded,
    /// As it stands. For shared tokens only.
    Text,
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url | Self::Base64UrlPadded => "base64url",
            Self::Text => "text",
        })
    }
}

/// Some senders choose the letters of a key without care for the bits behind its last byte. Never for what is received.
const LOOSE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, general_purpose::NO_PAD.with_decode_allow_trailing_bits(true));
const LOOSE_URL_SAFE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, general_purpose::NO_PAD.with_decode_allow_trailing_bits(true));

impl Encoding {
    /// Decodes into `out` and returns the length. `None`: not in the one accepted spelling, or too long.
    fn decode(self, text: &[u8], out: &mut [u8]) -> Option<usize> {
        let engine = match self {
            Self::Hex => return decode_hex(text, out),
            Self::Text => {
                out.get_mut(..text.len())?.copy_from_slice(text);
                return Some(text.len());
            }
            Self::Base64 => &STANDARD,
            Self::Base64Url => &URL_SAFE_NO_PAD,
            Self::Base64UrlPadded => &URL_SAFE,
        };
        engine.decode_slice(text, out).ok()
    }

    /// Decodes a value of any length.
    pub(crate) fn decode_all(self, text: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; text.len() + 4];
        let len = self.decode(text, &mut out)?;
        out.truncate(len);
        Some(out)
    }

    /// Decodes a configured key, with or without padding.
    pub(crate) fn decode_key(self, text: &[u8]) -> Option<Vec<u8>> {
        let unpadded = || text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
        match self {
            Self::Hex | Self::Text => self.decode_all(text),
            Self::Base64 => LOOSE.decode(unpadded()).ok(),
            Self::Base64Url | Self::Base64UrlPadded => LOOSE_URL_SAFE.decode(unpadded()).ok(),
        }
    }

    /// The accepted spelling.
    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => hex::encode(bytes),
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Base64UrlPadded => URL_SAFE.encode(bytes),
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

/// Without a branch for each digit, which nobody can foresee.
fn decode_hex(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let mut all = 0;
    for (byte, pair) in out.get_mut(..pairs.len())?.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| HEX.get(usize::from(digit)).copied().unwrap_or(NO_DIGIT));
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    (all < NO_DIGIT).then_some(pairs.len())
}

const NO_DIGIT: u8 = 16;

static HEX: [u8; 256] = {
    let (mut table, mut digit) = ([NO_DIGIT; 256], 0);
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// A list of named values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Between two items.
    pub pairs: u8,
    /// A space follows it.
    pub spaced: bool,
    /// Items at the beginning that have no names in the value: what each of them is.
    pub first: Box<[Box<str>]>,
    /// Between name and value of an item. `None`: items have no names, each is a signature.
    pub assign: Option<u8>,
    /// The name that signatures have. Others are fields, or signatures of other versions, which never count.
    pub key: Box<str>,
    /// Names are those of keys, and every item is a signature.
    pub any_key: bool,
}

impl List {
    fn items<'v>(&self, value: &'v [u8]) -> impl Iterator<Item = Option<(&'v [u8], &'v [u8])>> + use<'v> {
        let assign = self.assign;
        let (pairs, spaced, first) = (self.pairs, self.spaced, self.first.len());
        value.split(move |byte| *byte == pairs).enumerate().skip(first).map(move |(at, item)| {
            let item = if spaced && at > 0 { item.strip_prefix(b" ").unwrap_or(item) } else { item };
            let Some(assign) = assign else { return Some((&item[..0], item)) };
            let at = memchr::memchr(assign, item)?;
            Some((&item[..at], &item[at + 1..]))
        })
    }

    /// The value of a field that must stand exactly once. The error says what is wrong with it.
    pub fn field<'v>(&self, value: &'v [u8], name: &str) -> Result<&'v [u8], String> {
        if let Some(at) = self.first.iter().position(|first| **first == *name) {
            let mut items = value.split(|byte| *byte == self.pairs);
            return items.nth(at).ok_or_else(|| format!("the signature has no item for {name}"));
        }
        let mut found = None;
        for (key, value) in self.items(value).flatten() {
            if key == name.as_bytes() && found.replace(value).is_some() {
                return Err(format!("{name}{} stands more than once in the signature", self.sign()));
            }
        }
        found.ok_or_else(|| format!("the signature has no {name}{} item", self.sign()))
    }

    /// The list of these fields and one signature, as a sender writes it.
    pub(crate) fn write(&self, fields: &[(&str, String)], signature: &[u8]) -> Vec<u8> {
        let mut items: Vec<Vec<u8>> = Vec::new();
        for name in &self.first {
            let value = fields.iter().find(|(known, _)| **known == **name).map(|(_, value)| value.as_bytes().to_vec());
            items.push(value.unwrap_or_default());
        }
        for (name, value) in fields.iter().filter(|(name, _)| !self.first.iter().any(|first| **first == **name)) {
            items.push(format!("{name}{}{value}", self.sign()).into_bytes());
        }
        items.push([self.key.as_bytes(), self.sign().as_bytes(), signature].concat());
        // Who parts them with a space begins with the signature and ends with the time.
        if self.spaced {
            items.reverse();
        }
        let separator = [self.pairs, b' '];
        items.join(&separator[..if self.spaced { 2 } else { 1 }])
    }

    /// Is an item of this name a signature?
    fn counts(&self, key: &[u8]) -> bool {
        self.any_key || *key == *self.key.as_bytes()
    }

    /// What stands between name and value, as text.
    pub(crate) fn sign(&self) -> String {
        self.assign.map(|byte| char::from(byte).to_string()).unwrap_or_default()
    }
}

/// Where signatures stand and how they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The value that holds them.
    pub source: Source,
    /// What the value starts with (`sha256=`), or each signature of a list.
    pub prefix: Box<[u8]>,
    /// The prefix is an HTTP authentication scheme (`Basic `), whose case does not count.
    pub any_case: bool,
    /// How each is written.
    pub encoding: Encoding,
    /// A list of named values instead of a single one.
    pub list: Option<List>,
}

/// The signatures of a request, decoded: one, as a rule, and never more than [`MAX_SIGNATURES`].
#[derive(Clone, Debug)]
pub(crate) struct Signatures(Vec<Tag>);

impl Signatures {
    /// Adds those of another place, up to the limit.
    pub(crate) fn extend(&mut self, other: &Self) {
        let room = MAX_SIGNATURES.saturating_sub(self.0.len());
        self.0.extend(other.0.iter().take(room));
    }

    pub(crate) fn as_slice(&self) -> &[Tag] {
        &self.0
    }
}

impl Place {
    /// The text behind the prefix.
    pub(crate) fn strip<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let (start, rest) = value.split_at_checked(self.prefix.len())?;
        let same = if self.any_case { start.eq_ignore_ascii_case(&self.prefix) } else { *start == *self.prefix };
        same.then_some(rest)
    }

    /// Decodes what counts as a signature of exactly `len` bytes.
    pub(crate) fn signatures(&self, value: &[u8], len: usize) -> Result<Signatures, Reject> {
        let Some(list) = &self.list else {
            let tag = self.decode(value, len).ok_or_else(|| self.malformed(len))?;
            return Ok(Signatures(vec![tag]));
        };
        let mut found = Vec::new();
        let mut seen = 0_usize;
        for item in list.items(value) {
            let Some((key, text)) = item else {
                let detail = format!("{} is not a list of items with `{}`", self.source, list.sign());
                return Err(Reason::SignatureMalformed.because(detail));
            };
            if !list.counts(key) {
                continue;
            }
            seen += 1;
            if seen > MAX_SIGNATURES {
                break;
            }
            // One good signature is enough: during a rotation senders add the new one beside the old.
            if let Some(tag) = self.decode(text, len) {
                found.push(tag);
            }
        }
        match (seen, found.len()) {
            (0, _) => Err(Reason::SignatureMalformed.because(format!("{} has no {} item", self.source, list.key))),
            (_, 0) => Err(self.malformed(len)),
            _ => Ok(Signatures(found)),
        }
    }

    /// Decodes what counts as a public-key signature, of any length.
    pub(crate) fn public_signatures(&self, value: &[u8]) -> Result<Vec<Vec<u8>>, Reject> {
        let malformed = || {
            let detail = format!("{} is not the {} of a signature", self.source, self.encoding);
            Reason::SignatureMalformed.because(detail)
        };
        let decode = |text: &[u8]| {
            let text = self.strip(text).filter(|text| text.len() <= 2 * MAX_SIGNATURE)?;
            self.encoding.decode_all(text).filter(|bytes| !bytes.is_empty())
        };
        let found: Vec<_> = match &self.list {
            None => decode(value).into_iter().collect(),
            Some(list) => {
                let own = list.items(value).flatten().filter(|(key, _)| list.counts(key));
                own.take(MAX_PUBLIC_SIGNATURES).filter_map(|(_, text)| decode(text)).collect()
            }
        };
        if found.is_empty() { Err(malformed()) } else { Ok(found) }
    }

    fn decode(&self, value: &[u8], len: usize) -> Option<Tag> {
        let text = self.strip(value)?;
        let mut out = [0; MAX_TAG + 4];
        // Four spare bytes: base64 decodes in groups of three and a too long one must be told from an exact one.
        let written = self.encoding.decode(text, &mut out)?;
        (written == len).then(|| Tag::new(&out[..len]))
    }

    fn malformed(&self, len: usize) -> Reject {
        let prefix = String::from_utf8_lossy(&self.prefix);
        let form = match self.encoding {
            Encoding::Hex => format!("{} hex digits", len * 2),
            Encoding::Base64 => format!("padded base64 of {len} bytes"),
            Encoding::Base64Url => format!("unpadded base64url of {len} bytes"),
            Encoding::Base64UrlPadded => format!("padded base64url of {len} bytes"),
            Encoding::Text => "text".to_owned(),
        };
        let behind = if prefix.is_empty() { String::new() } else { format!(" behind `{}`", prefix.escape_debug()) };
        Reason::SignatureMalformed.because(format!("{} is not {form}{behind}", self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(prefix: &str, encoding: Encoding, list: Option<(u8, u8, &str)>) -> Place {
        Place {
            source: Source::header("X-Signature").unwrap(),
            prefix: prefix.as_bytes().into(),
            any_case: false,
            encoding,
            list: list.map(|(pairs, assign, key)| list_of(pairs, assign, key)),
        }
    }

    fn list_of(pairs: u8, assign: u8, key: &str) -> List {
        List { pairs, spaced: false, first: Box::default(), assign: Some(assign), key: key.into(), any_key: false }
    }

    fn count(place: &Place, value: &str, len: usize) -> Option<usize> {
        place.signatures(value.as_bytes(), len).ok().map(|found| found.as_slice().len())
    }

    #[test]
    fn hex_is_accepted_in_both_cases_at_the_exact_length_only() {
        let place = place("sha256=", Encoding::Hex, None);
        let good = "aB".repeat(32);
        assert_eq!(count(&place, &format!("sha256={good}"), 32), Some(1));
        for bad in [
            "".to_owned(),
            "sha256=".to_owned(),
            good.clone(),
            format!("SHA256={good}"),
            format!("sha1={good}"),
            format!("sha256= {good}"),
            format!("sha256={good} "),
            format!("sha256={good}0"),
            format!("sha256={good}00"),
            format!("sha256={}", &good[1..]),
            format!("sha256={}", &good[2..]),
            format!("sha256={}", "ab".repeat(200)),
            format!("sha256={}g", &good[1..]),
            format!("sha256={}0g", &good[2..]),
            format!("sha256={}g0", &good[2..]),
            format!("sha256={}gg", &good[2..]),
            format!("sha256={}0g", "00".repeat(31)),
            format!("sha256=gg{}", "00".repeat(31)),
            format!("sha256={}", "g".repeat(64)),
            format!("sha256={}é", &good[2..]),
            format!("sha256={good},sha256={good}"),
        ] {
            assert_eq!(count(&place, &bad, 32), None, "{bad}");
        }
    }

    #[test]
    fn base64_is_accepted_in_its_one_canonical_spelling_only() {
        // 32 bytes of 0xfb: holds both `+` and `/`, and one `=` of padding.
        let good = STANDARD.encode([0xfb_u8; 32]);
        let standard = place("", Encoding::Base64, None);
        assert_eq!(count(&standard, &good, 32), Some(1));
        let url = good.replace('+', "-").replace('/', "_");
        let loose = format!("{}v=", &good[..42]);
        for bad in [
            good.trim_end_matches('=').to_owned(),
            format!("{good}="),
            url.clone(),
            loose,
            format!("{good}\n"),
            STANDARD.encode([1; 33]),
        ] {
            assert_eq!(count(&standard, &bad, 32), None, "{bad}");
        }
        assert_eq!(count(&place("", Encoding::Base64Url, None), url.trim_end_matches('='), 32), Some(1));
        assert_eq!(count(&place("", Encoding::Base64Url, None), &url, 32), None);
        assert_eq!(count(&place("", Encoding::Base64UrlPadded, None), &url, 32), Some(1));
        assert_eq!(count(&place("", Encoding::Base64UrlPadded, None), url.trim_end_matches('='), 32), None);
    }

    #[test]
    fn lists_of_all_known_shapes_are_read_and_other_versions_ignored() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let stripe = place("", Encoding::Hex, Some((b',', b'=', "v1")));
        assert_eq!(count(&stripe, &format!("t=1,v1={a}"), 32), Some(1));
        assert_eq!(count(&stripe, &format!("t=1,v1={a},v1={b},v0={b}"), 32), Some(2));
        assert_eq!(count(&stripe, &format!("t=1,v0={a}"), 32), None);
        assert_eq!(count(&stripe, &format!("t=1,v1={a},"), 32), None);
        assert_eq!(count(&stripe, &format!("t=1,V1={a}"), 32), None);
        assert_eq!(count(&stripe, &format!("t=1,v1=,v1={a}"), 32), Some(1));
        for (value, what) in [("t=1", "has no v1 item"), ("t=1,v1=x", "is not 64 hex digits"), ("t", "is not a list")] {
            let reject = stripe.signatures(value.as_bytes(), 32).unwrap_err();
            assert!(reject.detail.contains(what), "{value}: {reject}");
        }
        let standard = place("", Encoding::Base64, Some((b' ', b',', "v1")));
        let c = STANDARD.encode([7; 32]);
        assert_eq!(count(&standard, &format!("v1,{c} v1a,{c} v2,{c} v1,{c}"), 32), Some(2));
        assert_eq!(count(&standard, &c, 32), None);
    }

    #[test]
    fn at_most_16_signatures_are_looked_at() {
        let stripe = place("", Encoding::Hex, Some((b',', b'=', "v1")));
        let many = vec![format!("v1={}", "aa".repeat(32)); 1000].join(",");
        assert_eq!(count(&stripe, &many, 32), Some(16));
        let late = format!("{}v1={}", "v1=x,".repeat(16), "aa".repeat(32));
        assert_eq!(count(&stripe, &late, 32), None);
    }

    #[test]
    fn public_key_signatures_are_bounded_in_length_and_number() {
        let one = place("", Encoding::Hex, None);
        for (length, fine) in [(1, true), (MAX_SIGNATURE, true), (MAX_SIGNATURE + 1, false)] {
            assert_eq!(one.public_signatures("ab".repeat(length).as_bytes()).is_ok(), fine, "{length}");
        }
        for bad in ["", "abc", "zz"] {
            assert!(one.public_signatures(bad.as_bytes()).is_err(), "{bad}");
        }
        let list = place("", Encoding::Hex, Some((b',', b'=', "v1")));
        let many = ["v1=ab"; MAX_PUBLIC_SIGNATURES + 1].join(",");
        assert_eq!(list.public_signatures(many.as_bytes()).unwrap().len(), MAX_PUBLIC_SIGNATURES);
        assert_eq!(list.public_signatures(b"v0=ab,v1=cd,v1=x").unwrap(), [b"\xcd"]);
        assert!(list.public_signatures(b"v0=ab").is_err());
    }

    #[test]
    fn a_field_stands_exactly_once() {
        let list = list_of(b',', b'=', "v1");
        assert_eq!(list.field(b"t=12,v1=x", "t"), Ok(&b"12"[..]));
        assert!(list.field(b"t=12,v1=x,t=12", "t").is_err());
        assert!(list.field(b"v1=x", "t").is_err());
        assert_eq!(list.field(b"t=1=2", "t"), Ok(&b"1=2"[..]));
    }

    #[test]
    fn items_may_be_told_by_their_place_and_parted_by_a_space_more() {
        let hex = "aa".repeat(32);
        let mut place = place("", Encoding::Hex, None);
        let list = List {
            pairs: b',',
            spaced: false,
            first: ["t".into()].into(),
            assign: None,
            key: "".into(),
            any_key: false,
        };
        place.list = Some(list.clone());
        assert_eq!(count(&place, &format!("17,{hex},{hex}"), 32), Some(2));
        assert_eq!(list.field(format!("17,{hex}").as_bytes(), "t"), Ok(&b"17"[..]));
        assert_eq!(count(&place, "17", 32), None);
        assert_eq!(list.write(&[("t", "17".into())], b"ab"), b"17,ab");
        let spaced = List { spaced: true, ..list_of(b',', b'=', "sign") };
        place.list = Some(spaced.clone());
        let value = format!("sign={hex}, env=main, t=17");
        assert_eq!(count(&place, &value, 32), Some(1));
        assert_eq!(spaced.field(value.as_bytes(), "t"), Ok(&b"17"[..]));
        assert_eq!(spaced.write(&[("t", "17".into())], b"ab"), b"sign=ab, t=17");
        // Only what parts two items is more than the character.
        for bad in [format!(" {value}"), value.replace(", ", ",  "), value.replace(", ", " ,")] {
            assert!(spaced.field(bad.as_bytes(), "env").is_err() || count(&place, &bad, 32).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(value in proptest::collection::vec(any::<u8>(), 0..300), len in 0_usize..=64) {
            for encoding in [Encoding::Hex, Encoding::Base64, Encoding::Base64Url, Encoding::Base64UrlPadded, Encoding::Text] {
                let _ = place("", encoding, None).signatures(&value, len);
                let _ = place("", encoding, Some((b',', b'=', "v1"))).signatures(&value, len);
                let _ = encoding.decode_all(&value);
            }
        }

        #[test]
        fn list_like_text_is_read_without_panic(value in "[tv1=, ;a-f0-9]{0,200}") {
            let _ = place("", Encoding::Hex, Some((b',', b'=', "v1"))).signatures(value.as_bytes(), 4);
            let _ = list_of(b',', b'=', "v1").field(value.as_bytes(), "t");
        }

        #[test]
        fn what_is_encoded_decodes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for encoding in [Encoding::Hex, Encoding::Base64, Encoding::Base64Url, Encoding::Base64UrlPadded] {
                prop_assert_eq!(encoding.decode_all(encoding.encode(&bytes).as_bytes()), Some(bytes.clone()));
            }
        }
    }
}
