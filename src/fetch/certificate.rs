//! Is a certificate that a message names its sender's?

use super::target::fits;
use crate::check::signature::fetched::CertificateRule;
use crate::check::signature::keys::{KeySet, PublicKey};
use crate::request::Now;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Certificates of one text, the sender's first.
const MAX_CHAIN: usize = 8;

/// What a chain may be signed with.
const ALGORITHMS: &[&dyn rustls_pki_types::SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
];

/// The key of the first certificate of a PEM text, and the time in which it counts. The error follows `the certificate`.
pub(super) fn judge(
    pem: &[u8],
    rule: &CertificateRule,
    roots: &[TrustAnchor<'static>],
    now: Now,
) -> Result<(KeySet, RangeInclusive<i64>), String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(MAX_CHAIN + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| "is no PEM text")?;
    let Some((leaf, between)) = chain.split_first() else { return Err("is no PEM text".into()) };
    if chain.len() > MAX_CHAIN {
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
    if rule.chain {
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| format!("cannot be read: {error}"))?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unix.as_secs()));
        leaf.verify_for_usage(ALGORITHMS, roots, between, time, webpki::KeyUsage::server_auth(), None, None)
            .map_err(|error| format!("leads to no root that is trusted: {error}"))?;
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
