//! The admin listener, and who may read there.

use super::compile::{ADMIN, Compiler};
use super::listeners::overlap;
use super::place::Place;
use super::raw;
use super::secrets::Origin;
use crate::policy::{AdminAccess, Listener, TlsFiles};
use crate::secret::SecretBytes;
use std::net::SocketAddr;

/// A shorter token could be guessed.
const MIN_TOKEN: usize = 16;

impl Compiler<'_> {
    pub(super) fn admin(
        &mut self,
        admin: Option<&raw::Admin>,
        listeners: &[(Place, Listener)],
    ) -> (Option<SocketAddr>, AdminAccess) {
        let root = Place::default().key("admin");
        let mut access = AdminAccess::default();
        let (address, at, public) = match admin {
            None => (Some(ADMIN), root, false),
            Some(raw::Admin::Off) => return (None, access),
            Some(raw::Admin::Address(text)) => (self.address(text, &root), root, false),
            Some(raw::Admin::Full(full)) => {
                access.token = full.token.as_ref().and_then(|token| self.token(token, &root.key("token")));
                access.tls = full.tls.as_ref().map(|tls| self.admin_tls(tls, &root.key("tls")));
                let at = root.key("address");
                (self.address(&full.address, &at), at, full.allow_public || full.token.is_some())
            }
        };
        let Some(address) = address else { return (None, access) };
        if !address.ip().to_canonical().is_loopback() {
            if !public {
                let help = format!(
                    "use {}, ask for a token, or say that others may read the metrics: admin: {{address: \"{address}\", allow_public: true}}",
                    SocketAddr::new(ADMIN.ip(), address.port())
                );
                self.wrong(&at, "not a loopback address", help);
            } else if access.token.is_some() && access.tls.is_none() {
                let help = "give the admin listener `tls`, or make sure that nobody reads along on the way to it";
                self.warn(&at, "the token is sent in plain text", help);
            }
        }
        if let Some((place, other)) = listeners.iter().find(|(_, other)| overlap(other.address, address)) {
            if admin.is_some() {
                let what = format!("overlaps with {place}, {}", other.address);
                self.wrong(&at, what, "give the admin listener a port of its own");
            } else {
                let what = format!("overlaps with the admin listener, {address} by default");
                self.wrong(place, what, "use another port, or set `admin` to another address");
            }
        }
        (Some(address), access)
    }

    /// A token that is not there is no mistake in the file: nobody is let in until it is.
    fn token(&mut self, raw: &super::state::Password, at: &Place) -> Option<Result<SecretBytes, Box<str>>> {
        let origin = Origin { env: raw.env.as_deref(), file: raw.file.as_deref(), literal: None };
        match self.find(origin, at)? {
            Ok((bytes, _)) => {
                if bytes.len() < MIN_TOKEN || !bytes.iter().all(u8::is_ascii_graphic) {
                    let help = format!(
                        "use at least {MIN_TOKEN} visible ASCII characters, for instance of `openssl rand -hex 32`"
                    );
                    self.told(at, "not a token that is safe to use", help);
                }
                Some(Ok(SecretBytes::new(bytes)))
            }
            Err(what) => {
                self.warn(at, &what, "nobody may read the metrics until the token is there");
                Some(Err(what.into()))
            }
        }
    }

    fn admin_tls(&mut self, raw: &raw::CertificatePair, at: &Place) -> TlsFiles {
        let pairs = vec![self.pair(&raw.certificate, &raw.private_key, false, at)];
        TlsFiles { pairs, self_signed_if_missing: false, only_tls13: false, clients: None }
    }
}
