//! Is a certificate that a message names its sender's?

use super::target::fits;
use crate::check::signature::chain;
use crate::check::signature::fetched::CertificateRule;
use crate::check::signature::keys::{KeySet, PublicKey};
use crate::request::Now;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::ops::RangeInclusive;

/// Certificates of one text, the sender's first.
const MAX_CHAIN: usize = 8;

/// Whom signers' certificates have to lead to.
#[derive(Clone, Copy)]
pub(super) struct Signers<'a> {
    pub(super) roots: &'a [TrustAnchor<'static>],
    /// Also those whose sender publishes them without a chain.
    pub(super) all: bool,
}

/// The key of the first certificate of a PEM text, and the time in which it counts. The error follows `the certificate`.
pub(super) fn judge(
    pem: &[u8],
    rule: &CertificateRule,
    signers: Signers<'_>,
    now: Now,
) -> Result<(KeySet, RangeInclusive<i64>), String> {
    let brought: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(MAX_CHAIN + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| "is no PEM text")?;
    let Some((leaf, between)) = brought.split_first() else { return Err("is no PEM text".into()) };
    if brought.len() > MAX_CHAIN {
        return Err(format!("comes with more than {MAX_CHAIN} others"));
    }
    let (rest, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| "cannot be read")?;
    if !rest.is_empty() {
        return Err("has something behind it".into());
    }
    let validity = parsed.validity();
    let valid = validity.not_before.timestamp()..=validity.not_after.timestamp();
    if !valid.contains(&now.unix_seconds()) {
        return Err("is not valid now".into());
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_theirs = |name: &String| rule.names.iter().any(|pattern| fits(pattern, name, letter));
    if !names(&parsed).iter().any(is_theirs) {
        return Err(format!("is not made out to {}", rule.names.join(" or ")));
    }
    if rule.chain || signers.all {
        chain::leads_to(leaf, between, signers.roots, now.unix)?;
    }
    let key = PublicKey::from_certificate(leaf)?;
    Ok((KeySet::new(vec![key])?, valid))
}

/// The names that it is made out to. The common name counts only where no other stands.
fn names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    if let Some(alternative) = alternative {
        let dns = alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        return dns.collect();
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.map(str::to_ascii_lowercase).collect()
}
