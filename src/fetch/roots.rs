//! The certificates that fetched things are judged by: the machine's, or those that the configuration names.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;

/// The roots as rustls wants them. None at all is an error: nothing could ever be fetched.
pub(crate) fn store(ca: Option<&Path>) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca)?);
    match roots.is_empty() {
        false => Ok(roots),
        true => Err("no root certificate to trust: install the machine's (ca-certificates) or set `fetch.ca`".into()),
    }
}

fn certificates(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("cannot read {}: {error}", path.display())),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}
