//! Did the sender show a client certificate that this route accepts?
//!
//! That it was issued by one of the listener's `client_ca` roots was proved in the TLS handshake; which sender it
//! belongs to is decided here. A proxy in front that ends TLS ends this proof too: nothing that it writes into a header
//! counts.

use crate::reject::{Reason, Reject};
use std::fmt;

/// Who a verified client certificate belongs to. Made once for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subject, `CN=hooks.example.com, O=Example`, with what separates escaped in values as in RFC 4514 section 2.4.
    pub subject: Box<str>,
    /// Subject alternative names: DNS names in lower case, URIs, mail addresses and IP addresses.
    pub names: Box<[Box<str>]>,
    /// SHA-256 over the DER of the public key (SubjectPublicKeyInfo), as in RFC 7469 section 2.4.
    pub spki_sha256: [u8; 32],
}

/// What a certificate must have. One of a route's rules has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This subject, the whole of it.
    Subject(Box<str>),
    /// This among its alternative names. Wildcards in a certificate stand for themselves only.
    Name(Box<str>),
    /// This key, whoever issued the certificate.
    Key([u8; 32]),
}

/// The rules of a route; none: not asked.
pub fn check(rules: &[Rule], identity: Option<&Identity>) -> Result<(), Reject> {
    if rules.is_empty() {
        return Ok(());
    }
    let Some(identity) = identity else {
        return Err(Reason::ClientCertificate.because("no client certificate"));
    };
    if rules.iter().any(|rule| rule.holds(identity)) {
        return Ok(());
    }
    Err(Reason::ClientCertificate.because(format!("{identity}")))
}

impl Rule {
    fn holds(&self, identity: &Identity) -> bool {
        match self {
            Self::Subject(subject) => identity.subject == *subject,
            Self::Name(name) => identity.names.contains(name),
            Self::Key(key) => identity.spki_sha256 == *key,
        }
    }
}

/// For the log: what an operator would write into a rule. A peer's text, so shortened and without control characters.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |text: &str| text.chars().take(128).filter(|c| !c.is_control()).collect::<String>();
        write!(f, "subject {}", plain(&self.subject))?;
        for name in self.names.iter().take(4) {
            write!(f, ", name {}", plain(name))?;
        }
        write!(f, ", spki_sha256 {}", hex::encode(self.spki_sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            subject: "CN=hooks, O=Example".into(),
            names: ["hooks.example.com".into(), "spiffe://example.com/hooks".into()].into(),
            spki_sha256: [7; 32],
        }
    }

    #[test]
    fn one_rule_has_to_hold_as_a_whole() {
        let subject = |text: &str| Rule::Subject(text.into());
        let name = |text: &str| Rule::Name(text.into());
        for (rule, holds) in [
            (subject("CN=hooks, O=Example"), true),
            (subject("CN=hooks"), false),
            (subject("O=Example"), false),
            (name("hooks.example.com"), true),
            (name("spiffe://example.com/hooks"), true),
            (name("example.com"), false),
            (name("CN=hooks, O=Example"), false),
            (Rule::Key([7; 32]), true),
            (Rule::Key([8; 32]), false),
        ] {
            assert_eq!(check(std::slice::from_ref(&rule), Some(&identity())).is_ok(), holds, "{rule:?}");
            assert!(check(&[rule, name("hooks.example.com")], Some(&identity())).is_ok());
        }
    }

    #[test]
    fn without_a_certificate_only_a_route_without_rules_passes() {
        assert!(check(&[], None).is_ok());
        let refused = check(&[Rule::Key([0; 32])], None).unwrap_err();
        assert_eq!(refused.reason, Reason::ClientCertificate);
    }

    #[test]
    fn what_is_logged_has_no_control_characters() {
        let shown = format!(
            "subject CN=hooks, O=Example, name hooks.example.com, name spiffe://example.com/hooks, spki_sha256 {}",
            "07".repeat(32)
        );
        assert_eq!(identity().to_string(), shown);
        let identity = Identity { subject: "CN=a\r\n\x1b[31m".into(), ..identity() };
        assert!(!identity.to_string().chars().any(char::is_control));
    }
}
