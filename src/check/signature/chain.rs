//! Chains of certificates: do they lead to an authority that counts, and are they for this use?
//!
//! Computes with nothing secret and fetches nothing: what a chain needs comes with it.

use super::keys::{KeySet, PublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::time::Duration;
use x509_parser::prelude::FromDer;

/// What chains may be signed with.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
];

/// Certificates that a message may bring.
pub(crate) const MAX_BROUGHT: usize = 4;
/// The longest of them, in bytes.
pub(crate) const MAX_CERTIFICATE: usize = 8 << 10;

/// Which chains of a message count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainRule {
    /// The authorities, which stand in the scheme: never those of the machine, which vouch for names and not for uses.
    roots: Box<[TrustAnchor<'static>]>,
    /// Extensions (dotted numbers) that the sender's certificate must have.
    leaf_marks: Box<[Box<str>]>,
    /// Extensions that its issuer must have.
    issuer_marks: Box<[Box<str>]>,
}

impl ChainRule {
    /// Reads the authorities from PEM. The error says what is wrong with them.
    pub(crate) fn new(roots: &str, leaf_marks: &[String], issuer_marks: &[String]) -> Result<Self, String> {
        let unfit = |_| "`roots` holds something that is no certificate in PEM".to_owned();
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(roots.as_bytes()).collect::<Result<_, _>>().map_err(unfit)?;
        if certificates.is_empty() {
            return Err("`roots` holds no certificate: no chain would count".into());
        }
        let anchor = |certificate| webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
        let roots = certificates.iter().map(anchor).collect::<Result<_, _>>();
        let roots = roots.map_err(|error| format!("`roots` holds a certificate that cannot be read: {error}"))?;
        let marks = |marks: &[String]| marks.iter().map(|mark| mark.as_str().into()).collect();
        Ok(Self { roots, leaf_marks: marks(leaf_marks), issuer_marks: marks(issuer_marks) })
    }

    /// The key of the first certificate, if the chain held at this moment. The error follows `the certificate`.
    pub(crate) fn key(&self, chain: &[Vec<u8>], at: Duration) -> Result<KeySet, String> {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let Some((leaf, between)) = chain.split_first() else { return Err("is missing".into()) };
        leads_to(leaf, between, &self.roots, at)?;
        let lacks = |certificate: &CertificateDer<'_>, marks: &[Box<str>]| {
            let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(certificate) else { return true };
            let has = |mark: &str| parsed.extensions().iter().any(|extension| extension.oid.to_id_string() == mark);
            marks.iter().any(|mark| !has(mark))
        };
        if lacks(leaf, &self.leaf_marks) {
            return Err("is not made for this".into());
        }
        if !self.issuer_marks.is_empty() && between.first().is_none_or(|issuer| lacks(issuer, &self.issuer_marks)) {
            return Err("has an issuer that is not made for this".into());
        }
        // The issuer with the marks must be the one that the chain went through.
        if !self.issuer_marks.is_empty() {
            leads_to(leaf, between.get(..1).unwrap_or_default(), &self.roots, at)?;
        }
        KeySet::new(vec![PublicKey::from_certificate(leaf)?])
    }
}

/// Does a certificate lead to one of these authorities at this moment, by way of those between? The error follows `the
/// certificate`.
pub(crate) fn leads_to(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &[TrustAnchor<'_>],
    at: Duration,
) -> Result<(), String> {
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| format!("cannot be read: {error}"))?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs()));
    leaf.verify_for_usage(ALGORITHMS, roots, between, time, webpki::KeyUsage::server_auth(), None, None)
        .map(drop)
        .map_err(|error| format!("leads to no root that is trusted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair};

    const NOW: Duration = Duration::from_secs(1_790_000_000);
    const LEAF: &[u64] = &[1, 2, 840, 113_635, 100, 6, 11, 1];
    const ISSUER: &[u64] = &[1, 2, 840, 113_635, 100, 6, 2, 1];

    fn params(name: &str, ca: bool, mark: Option<&[u64]>) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let null = |oid: &[u64]| CustomExtension::from_oid_content(oid, vec![5, 0]);
        params.custom_extensions = mark.map(null).into_iter().collect();
        params
    }

    fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(params(name, true, None), KeyPair::generate().unwrap()).unwrap()
    }

    fn rule(root: &CertifiedIssuer<'static, KeyPair>) -> ChainRule {
        let marks = |oid: &[u64]| vec![oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".")];
        ChainRule::new(&root.pem(), &marks(LEAF), &marks(ISSUER)).unwrap()
    }

    #[test]
    fn a_chain_counts_only_with_its_root_its_marks_and_its_time() {
        let (ours, theirs) = (root("Root"), root("Root"));
        let between = |root: &CertifiedIssuer<'static, KeyPair>, mark: Option<&[u64]>| {
            CertifiedIssuer::signed_by(params("Between", true, mark), KeyPair::generate().unwrap(), root).unwrap()
        };
        let leaf = |issuer: &CertifiedIssuer<'static, KeyPair>, ca: bool, mark: Option<&[u64]>| {
            let key = KeyPair::generate().unwrap();
            params("Leaf", ca, mark).signed_by(&key, issuer).unwrap().der().to_vec()
        };
        let good = between(&ours, Some(ISSUER));
        let (plain, foreign) = (between(&ours, None), between(&theirs, Some(ISSUER)));
        let der = |issuer: &CertifiedIssuer<'static, KeyPair>| issuer.der().to_vec();
        let signer = leaf(&good, false, Some(LEAF));
        let rule = rule(&ours);
        assert!(rule.key(&[signer.clone(), der(&good), der(&ours)], NOW).is_ok());
        assert!(rule.key(&[signer.clone(), der(&good)], NOW).is_ok());
        for (what, chain) in [
            ("nothing", vec![]),
            ("alone", vec![signer.clone()]),
            ("without the mark", vec![leaf(&good, false, None), der(&good)]),
            ("issued without the mark", vec![leaf(&plain, false, Some(LEAF)), der(&plain)]),
            ("a marked issuer that did not issue it", vec![leaf(&plain, false, Some(LEAF)), der(&good), der(&plain)]),
            ("another's root of the same name", vec![leaf(&foreign, false, Some(LEAF)), der(&foreign), der(&theirs)]),
            ("issued by the root itself", vec![leaf(&ours, false, Some(LEAF)), der(&ours)]),
            ("an authority", vec![leaf(&good, true, Some(LEAF)), der(&good)]),
            ("garbage", vec![b"x".to_vec(), der(&good)]),
        ] {
            assert!(rule.key(&chain, NOW).is_err(), "{what}");
        }
        let old = Duration::from_secs(100);
        assert!(rule.key(&[signer, der(&good)], old).unwrap_err().contains("no root"));
    }

    #[test]
    fn authorities_that_cannot_be_read_are_refused() {
        for roots in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(ChainRule::new(roots, &[], &[]).is_err(), "{roots}");
        }
    }
}
