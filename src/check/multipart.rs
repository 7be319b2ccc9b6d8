//! Fields of a `multipart/form-data` body (RFC 7578), read in one way only.
//!
//! What two readers could take apart differently is refused: a boundary that is not where the head says, a part without
//! a name, a field that stands twice or is a file. Nothing is copied.

use crate::request::Head;
use http::header::CONTENT_TYPE;
use memchr::memmem;
use std::ops::Range;

/// Parts of one body that are looked at, as many as there may be fields in a form of the other kind.
const MAX_PARTS: usize = super::source::MAX_FIELDS;
/// The longest head of a part, in bytes.
const MAX_PART_HEAD: usize = 4096;

/// The boundary, where the body is a multipart form. Both the head and the body must say so: the head alone is not
/// signed, and a body that begins with two dashes is no form of the other kind that anybody sends.
pub(crate) fn boundary<'a>(head: &Head<'a>, body: &[u8]) -> Option<&'a [u8]> {
    let kind = head.headers.one(&CONTENT_TYPE).ok().flatten()?;
    let mut parts = std::str::from_utf8(kind).ok()?.split(';');
    if !parts.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let is_boundary = |part: &str| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').len())
    };
    // Found again by its length in the header's own bytes, which outlive the text.
    let length = parts.find_map(is_boundary).filter(|length| (1..=70).contains(length))?;
    let text = std::str::from_utf8(kind).ok()?;
    let at = text.to_ascii_lowercase().find("boundary")?;
    let value = text.get(at..)?.split_once('=')?.1.trim_start().trim_start_matches('"');
    let boundary = value.as_bytes().get(..length)?;
    body.strip_prefix(b"--").is_some_and(|rest| rest.starts_with(boundary)).then_some(boundary)
}

/// Where the value of a field stands in the body. `None`: there is no such field. The error says what is wrong with the
/// form.
pub(crate) fn field(body: &[u8], boundary: &[u8], name: &str) -> Result<Option<Range<usize>>, &'static str> {
    let delimiter = [b"\r\n--", boundary].concat();
    let finder = memmem::Finder::new(&delimiter);
    let mut at = 2 + boundary.len();
    let mut found = None;
    // Once more than there may be parts, for the end behind the last.
    for _ in 0..=MAX_PARTS {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(found);
        }
        let part = rest.strip_prefix(b"\r\n").ok_or("the form has a boundary with something behind it")?;
        let head = part.get(..part.len().min(MAX_PART_HEAD)).unwrap_or_default();
        let head_end = memmem::find(head, b"\r\n\r\n").ok_or("the form has a part without the end of its head")?;
        let value_at = at + 2 + head_end + 4;
        let value = body.get(value_at..).unwrap_or_default();
        // The line end before the next boundary may be the one that ends an empty head's value.
        let length = finder.find(value).ok_or("the form does not end")?;
        let named = disposition(head.get(..head_end).unwrap_or_default())?;
        if named.name == name {
            if found.is_some() {
                return Err("the field stands more than once");
            }
            if named.is_file {
                return Err("the field is a file");
            }
            found = Some(value_at..value_at + length);
        }
        at = value_at + length + delimiter.len();
    }
    Err("the form has too many parts")
}

struct Named<'p> {
    name: &'p str,
    is_file: bool,
}

/// The name of a part, by its one `Content-Disposition`.
fn disposition(head: &[u8]) -> Result<Named<'_>, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "the form has a part whose head is no text")?;
    let mut dispositions = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-disposition" => Some(Ok(value.trim())),
            // Bytes that are not the value itself.
            "content-transfer-encoding" if !matches!(value.trim(), "7bit" | "8bit" | "binary") => {
                Some(Err("the form has a part in another encoding"))
            }
            _ => None,
        }
    });
    let (Some(first), None) = (dispositions.next(), dispositions.next()) else {
        return Err("the form has a part without exactly one Content-Disposition");
    };
    let mut rest = first?.strip_prefix("form-data").ok_or("the form has a part that is no field")?;
    let mut named = Named { name: "", is_file: false };
    while let Some(parameter) = rest.trim_start().strip_prefix(';') {
        let (key, value) = parameter.split_once('=').ok_or("the form has a part with a broken head")?;
        let value = value.strip_prefix('"').ok_or("the form has a part whose name is not quoted")?;
        // A quote within a name is escaped in several ways, none of which the senders here need.
        let (value, after) = value.split_once('"').ok_or("the form has a part with a broken head")?;
        if value.contains('\\') {
            return Err("the form has a part with a broken head");
        }
        match key.trim() {
            "name" if named.name.is_empty() && !value.is_empty() => named.name = value,
            "filename" => named.is_file = true,
            _ => return Err("the form has a part with a broken head"),
        }
        rest = after;
    }
    match rest.trim().is_empty() && !named.name.is_empty() {
        true => Ok(named),
        false => Err("the form has a part without a name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;
    use proptest::prelude::*;

    fn read(kind: &str, body: &[u8], name: &str) -> Option<Result<Option<String>, &'static str>> {
        let headers: &[(&str, &[u8])] = &[("content-type", kind.as_bytes())];
        let head = Head { method: "POST", path: "/", query: None, host: "h", headers: Headers::List(headers) };
        let text = |range: Range<usize>| String::from_utf8_lossy(&body[range]).into_owned();
        boundary(&head, body).map(|boundary| field(body, boundary, name).map(|found| found.map(text)))
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(head, value): &(&str, &str)| format!("--X\r\n{head}\r\n\r\n{value}\r\n");
        parts.iter().map(part).collect::<String>() + "--X--\r\n"
    }

    const KIND: &str = "multipart/form-data; boundary=X";
    const JSON: &str = "Content-Disposition: form-data; name=\"json\"";

    #[test]
    fn a_field_is_found_by_its_name() {
        let body = form(&[("Content-Disposition: form-data; name=\"a\"", "1\r\n2"), (JSON, "{\"b\": 1}")]);
        for kind in [KIND, "Multipart/Form-Data; charset=utf-8; BOUNDARY=\"X\"", "multipart/form-data;boundary=X"] {
            assert_eq!(read(kind, body.as_bytes(), "json"), Some(Ok(Some("{\"b\": 1}".into()))), "{kind}");
        }
        assert_eq!(read(KIND, body.as_bytes(), "a"), Some(Ok(Some("1\r\n2".into()))));
        assert_eq!(read(KIND, body.as_bytes(), "b"), Some(Ok(None)));
        for encoding in ["7bit", "8bit", " binary"] {
            let plain = form(&[(&format!("{JSON}\r\nContent-Transfer-Encoding: {encoding}"), "1")]);
            assert_eq!(read(KIND, plain.as_bytes(), "json"), Some(Ok(Some("1".into()))), "{encoding}");
        }
        let file = "Content-Disposition: form-data; name=\"b\"; filename=\"x\"";
        let beside = form(&[(file, "2"), (JSON, "1")]);
        assert_eq!(read(KIND, beside.as_bytes(), "json"), Some(Ok(Some("1".into()))));
        let typed = form(&[(&format!("{JSON}\r\nContent-Type: application/json"), "")]);
        assert_eq!(read(KIND, typed.as_bytes(), "json"), Some(Ok(Some(String::new()))));
    }

    #[test]
    fn what_is_no_multipart_form_is_left_to_others() {
        let body = form(&[(JSON, "1")]);
        for kind in ["application/x-www-form-urlencoded", "multipart/mixed; boundary=X", "multipart/form-data", "", "x"]
        {
            assert_eq!(read(kind, body.as_bytes(), "json"), None, "{kind}");
        }
        assert_eq!(read("multipart/form-data; boundary=Y", body.as_bytes(), "json"), None);
        assert_eq!(read(KIND, b"json=1", "json"), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for body in [
            form(&[(JSON, "1"), (JSON, "2")]),
            form(&[("Content-Disposition: form-data; name=\"json\"; filename=\"x\"", "1")]),
            form(&[("Content-Disposition: form-data; name=json", "1")]),
            form(&[("Content-Disposition: form-data; name=\"js\\\"on\"", "1")]),
            form(&[("Content-Disposition: form-data; name=\"a\"; name=\"json\"", "1")]),
            form(&[("Content-Disposition: form-data", "1")]),
            form(&[("Content-Disposition: attachment; name=\"json\"", "1")]),
            form(&[("Content-Type: text/plain", "1")]),
            form(&[(&format!("{JSON}\r\nContent-Disposition: form-data; name=\"a\""), "1")]),
            form(&[(&format!("{JSON}\r\nContent-Transfer-Encoding: base64"), "1")]),
            form(&[(JSON, "1")]).replace("--X--", ""),
            format!("--X\r\n{JSON}\r\n1"),
            format!("--X {}", form(&[(JSON, "1")]).trim_start_matches("--X")),
            format!("--X\r\n{}{JSON}\r\n\r\n1\r\n--X--", "A: b\r\n".repeat(1000)),
            form(&vec![("Content-Disposition: form-data; name=\"a\"", ""); 1001]),
        ] {
            let read = read(KIND, body.as_bytes(), "json");
            assert!(matches!(read, Some(Err(_))), "{read:?} of {}", &body[..body.len().min(300)]);
        }
    }

    #[test]
    fn parts_are_looked_at_up_to_a_bound() {
        const OTHER: &str = "Content-Disposition: form-data; name=\"a\"";
        let parts = |count: usize| form(&[vec![(OTHER, ""); count - 1], vec![(JSON, "1")]].concat());
        assert_eq!(read(KIND, parts(MAX_PARTS).as_bytes(), "json"), Some(Ok(Some("1".into()))));
        let more = Some(Err("the form has too many parts"));
        assert_eq!(read(KIND, parts(MAX_PARTS + 1).as_bytes(), "json"), more);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_without_panic(body in prop::collection::vec(any::<u8>(), 0..200), kind in "\\PC{0,40}") {
            let _ = read(&kind, &body, "a");
            let _ = read(KIND, &[b"--X", &body[..]].concat(), "a");
        }

        #[test]
        fn form_like_text_never_panics(body in "(--X|\r\n|\r\n\r\n|Content-Disposition: form-data; |name=|\"|;|a|--){0,30}") {
            let _ = read(KIND, format!("--X{body}").as_bytes(), "a");
        }
    }
}
