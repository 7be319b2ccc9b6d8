//! Files of TLS towards backends.

use super::compile::Compiler;
use super::place::Place;
use super::raw;
use crate::policy::PairFiles;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Certificates and keys are shorter than this.
const MAX_PEM: usize = 4 << 20;

impl Compiler<'_> {
    /// The roots, the pair to show, and a digest of what the files hold.
    pub(super) fn upstream_files(
        &mut self,
        raw: &raw::UpstreamTls,
        at: &Place,
    ) -> (Option<PathBuf>, Option<PairFiles>, [u8; 32]) {
        let mut digest = Sha256::new();
        let mut file = |path: &Option<String>, key: &str, help: &str| {
            let path = self.world.resolve(path.as_deref()?);
            match self.world.read(&path, MAX_PEM) {
                Ok(bytes) => {
                    digest.update((bytes.len() as u64).to_be_bytes());
                    digest.update(bytes);
                }
                Err(_) if !self.world.is_file(&path) => {
                    let what = self.world.no_file(&path);
                    self.wrong(&at.key(key), what, help);
                }
                Err(error) => self.wrong(&at.key(key), format!("cannot be read ({error})"), help),
            }
            Some(path)
        };
        let ca = file(&raw.ca, "ca", "put the PEM file of the roots there");
        let certificate = file(&raw.client_certificate, "client_certificate", "put the PEM file there");
        let private_key = file(&raw.client_key, "client_key", "put the PEM file there");
        let client = match (certificate, private_key) {
            (Some(certificate), Some(private_key)) => {
                if self.world.is_readable_by_all(&private_key) {
                    self.warn(
                        &at.key("client_key"),
                        "every user of this machine may read the private key",
                        "chmod 600",
                    );
                }
                Some(PairFiles { certificate, private_key })
            }
            (None, None) => None,
            _ => {
                self.wrong(at, "half a pair", "write both of client_certificate and client_key");
                None
            }
        };
        (ca, client, digest.finalize().into())
    }
}
