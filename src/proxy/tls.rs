//! Certificates of the listeners.

use crate::policy::TlsFiles;
use crate::request::Now;
use arc_swap::ArcSwap;
use pingora::listeners::tls::TlsSettings;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// A certificate that can be exchanged without touching the listener.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: Arc<ArcSwap<CertifiedKey>>,
    /// End of validity of the one that was loaded first, seconds since 1970.
    pub(super) not_after: i64,
}

#[derive(Debug)]
struct Resolver(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificate {
    /// Loads a pair, or makes a self-signed one where the configuration asks for that and there is none.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, String> {
        if files.self_signed_if_missing && !files.certificate.exists() && !files.private_key.exists() {
            make_self_signed(files)?;
        }
        let (key, not_after) = read(&files.certificate, &files.private_key)?;
        Ok(Self { files: files.clone(), current: Arc::new(ArcSwap::from_pointee(key)), not_after })
    }

    /// Reads the files again and exchanges the pair if it is another one; connections that are open keep the old one.
    /// The end of validity of a new pair, in seconds since 1970. An error changes nothing.
    pub(super) fn renew(&self, now: Now) -> Result<Option<i64>, String> {
        let (key, not_after) = read(&self.files.certificate, &self.files.private_key)?;
        if key.cert == self.current.load().cert {
            return Ok(None);
        }
        if not_after <= now.unix_seconds() {
            return Err(format!("certificate {} has expired", self.files.certificate.display()));
        }
        self.current.store(Arc::new(key));
        Ok(Some(not_after))
    }

    /// Settings of a listener: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    pub(super) fn settings(&self) -> Result<TlsSettings, String> {
        // The paths are not looked at once a resolver is set.
        let mut settings = TlsSettings::intermediate("", "").map_err(|error| error.to_string())?;
        settings.set_cert_resolver(Arc::new(Resolver(self.current.clone())));
        settings.enable_h2();
        Ok(settings)
    }
}

fn read(certificate: &Path, private_key: &Path) -> Result<(CertifiedKey, i64), String> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("cannot read certificate {}: {error}", certificate.display()))?;
    let Some(leaf) = chain.first() else {
        return Err(format!("{} holds no certificate", certificate.display()));
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| format!("cannot read certificate {}: {error}", certificate.display()))?;
    let not_after = parsed.validity().not_after.timestamp();
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| format!("cannot read private key {}: {error}", private_key.display()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("cannot use private key {}: {error}", private_key.display()))?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|_| {
        format!("private key {} does not belong to certificate {}", private_key.display(), certificate.display())
    })?;
    Ok((pair, not_after))
}

/// For local play: a pair for localhost, the key readable by its owner only.
fn make_self_signed(files: &TlsFiles) -> Result<(), String> {
    let names = ["localhost".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    write_file(&files.certificate, made.cert.pem().as_bytes(), 0o644)?;
    write_file(&files.private_key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    tracing::info!(target: "hookmoat", certificate = %files.certificate.display(), "made a self-signed certificate for localhost");
    Ok(())
}

fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}
