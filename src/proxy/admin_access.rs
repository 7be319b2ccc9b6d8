//! Who may read what the admin listener has to say.

use crate::check::signature::primitives::same_bytes;
use crate::policy::AdminAccess;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::borrow::Cow;

/// Nobody, for now or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// No token, or another.
    Unauthorized,
    /// Nothing could be compared: the token itself is missing here.
    Unavailable,
}

/// Does the request show the token, as `Bearer` or as the password of Basic?
pub(super) fn check(access: &AdminAccess, headers: &HeaderMap) -> Result<(), Denied> {
    let token = match &access.token {
        None => return Ok(()),
        Some(Err(_)) => return Err(Denied::Unavailable),
        Some(Ok(token)) => token,
    };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Denied::Unauthorized) };
    let shown = shown(value.as_bytes()).ok_or(Denied::Unauthorized)?;
    if same_bytes(token.expose(), &shown) { Ok(()) } else { Err(Denied::Unauthorized) }
}

fn shown(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (value.get(..space)?, value.get(space + 1..)?.trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.into());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.get(colon + 1..)?.to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretBytes;

    #[test]
    fn only_the_token_opens_and_a_missing_one_nothing() {
        let access = |token| AdminAccess { token, tls: None };
        let asks = |access: &AdminAccess, values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(AUTHORIZATION, value.parse().unwrap()));
            check(access, &headers)
        };
        assert_eq!(asks(&access(None), &[]), Ok(()));
        let missing = access(Some(Err("not set".into())));
        assert_eq!(asks(&missing, &["Bearer not set"]), Err(Denied::Unavailable));
        let token = access(Some(Ok(SecretBytes::new(b"0123456789abcdef".to_vec()))));
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for good in [
            "Bearer 0123456789abcdef",
            "bearer  0123456789abcdef",
            &basic("any:0123456789abcdef"),
            &basic(":0123456789abcdef"),
        ] {
            assert_eq!(asks(&token, &[good]), Ok(()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "0123456789abcdef",
            "Token 0123456789abcdef",
            "Basic 0123456789abcdef",
            "Basic !",
            &basic("0123456789abcdef"),
            &basic("0123456789abcdef:"),
            &basic("a:b:0123456789abcdef"),
        ] {
            assert_eq!(asks(&token, &[bad]), Err(Denied::Unauthorized), "{bad}");
        }
        assert_eq!(asks(&token, &[]), Err(Denied::Unauthorized));
        assert_eq!(asks(&token, &["Bearer 0123456789abcdef", "Bearer x"]), Err(Denied::Unauthorized));
    }
}
