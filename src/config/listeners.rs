//! What is listened on, and whether requests can come over HTTPS there.

use super::compile::Compiler;
use super::place::Place;
use super::raw;
use crate::policy::{ClientCertificates, Listener, PairFiles, TlsFiles};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Compiler<'_> {
    pub(super) fn listeners(&mut self, listen: &[raw::Listen]) -> Vec<(Place, Listener)> {
        let root = Place::default().key("listen");
        let mut listeners: Vec<(Place, Listener)> = Vec::new();
        if listen.is_empty() && !self.document.has_damage(&root) {
            self.wrong(&root, "no listener", "add one, for instance `listen: [{address: 0.0.0.0:8080}]`");
        }
        for (i, one) in listen.iter().enumerate() {
            let at = root.index(i);
            let tls = one.tls.as_ref().map(|tls| self.listen_tls(tls, &at.key("tls")));
            let proxied = one.proxy_protocol.as_ref();
            let proxy_protocol = proxied.map(|proxied| self.proxy_protocol(proxied, &at.key("proxy_protocol")));
            let at = at.key("address");
            let Some(address) = self.address(&one.address, &at) else { continue };
            let other = listeners.iter().find(|(_, other)| overlap(other.address, address));
            if let Some((place, other)) = other {
                let what = format!("overlaps with {place}, {}", other.address);
                self.wrong(&at, what, "give each listener an address or port of its own");
            }
            listeners.push((at, Listener { address, tls, proxy_protocol }));
        }
        listeners
    }

    fn listen_tls(&mut self, tls: &raw::ListenTls, at: &Place) -> TlsFiles {
        let mut pairs = vec![self.pair(&tls.certificate, &tls.private_key, tls.self_signed_if_missing, at)];
        for (i, pair) in tls.others.iter().enumerate() {
            pairs.push(self.pair(&pair.certificate, &pair.private_key, false, &at.key("others").index(i)));
        }
        let clients = tls.client_ca.as_ref().map(|ca| {
            let ca = self.world.resolve(ca);
            if !self.world.is_file(&ca) {
                let what = self.world.no_file(&ca);
                self.wrong(&at.key("client_ca"), what, "put the PEM file of the issuing roots there");
            }
            ClientCertificates { ca, required: tls.client_certificate != Some(raw::ClientCertificateMode::Optional) }
        });
        let only_tls13 = tls.min_version == Some(raw::TlsVersion::V13);
        TlsFiles { pairs, self_signed_if_missing: tls.self_signed_if_missing, only_tls13, clients }
    }

    pub(super) fn pair(&mut self, certificate: &str, private_key: &str, may_be_made: bool, at: &Place) -> PairFiles {
        let files =
            PairFiles { certificate: self.world.resolve(certificate), private_key: self.world.resolve(private_key) };
        let have = (self.world.is_file(&files.certificate), self.world.is_file(&files.private_key));
        // A pair is made only where there is nothing: half a pair is somebody's file.
        if !(may_be_made && have == (false, false)) {
            let help = if may_be_made {
                "one of the two files is there: add the other, or remove both to have a pair made"
            } else {
                "put the file there; for local play set `self_signed_if_missing: true`"
            };
            for (key, there, path) in
                [("certificate", have.0, &files.certificate), ("private_key", have.1, &files.private_key)]
            {
                if !there {
                    let what = self.world.no_file(path);
                    self.wrong(&at.key(key), what, help);
                }
            }
        }
        if have.1 && self.world.is_readable_by_all(&files.private_key) {
            self.warn(&at.key("private_key"), "every user of this machine may read the private key", "chmod 600");
        }
        files
    }

    pub(super) fn address(&mut self, text: &str, at: &Place) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                self.wrong(at, "port 0 is no fixed port", "name a port from 1 to 65535");
                None
            }
            Ok(address) => Some(address),
            Err(_) => {
                let help = match (text.strip_prefix(':'), text.split_once(':')) {
                    (Some(port), _) => format!("write 0.0.0.0:{port} for all addresses of this machine"),
                    (_, Some(("localhost", port))) => format!("write 127.0.0.1:{port}"),
                    (_, None) => "write an IP address and a port, for instance 0.0.0.0:8080".to_owned(),
                    _ => "write an IP address and a port, for instance 0.0.0.0:8080 or [::]:8080".to_owned(),
                };
                self.wrong(at, "not an IP address with a port", help);
                None
            }
        }
    }

    /// Plain HTTP, where nothing can ever count as https.
    pub(super) fn https(&mut self, config: &raw::Config, listeners: &[(Place, Listener)], trusted: &[IpNet]) {
        let root = Place::default();
        let unsure = ["listen", "trusted_proxies", "https"].iter().any(|key| self.document.has_damage(&root.key(*key)));
        if unsure || listeners.is_empty() || listeners.iter().any(|(_, listener)| listener.tls.is_some()) {
            return;
        }
        let global_place = if config.https.is_some() { root.key("https") } else { root.key("listen") };
        let mut told = BTreeSet::new();
        for (i, route) in config.routes.iter().enumerate() {
            let (https, place) = match route.https {
                Some(https) => (https, root.key("routes").index(i).key("https")),
                None => (config.https.unwrap_or(raw::Https::Reject), global_place.clone()),
            };
            if route.observe.contains(&raw::Observe::Https) || !told.insert(place.clone()) {
                continue;
            }
            match https {
                raw::Https::Reject if trusted.is_empty() => {
                    let what =
                        "every request would be refused: no listener has TLS, and no proxy is trusted to have ended it";
                    let help =
                        "give a listener `tls`; or list the proxy in front in `trusted_proxies`; or set `https: allow`";
                    self.wrong(&place, what, help);
                }
                raw::Https::Redirect => {
                    let what = "redirects to https, but no listener here has TLS";
                    self.warn(&place, what, "make sure that something in front of it answers https");
                }
                _ => {}
            }
        }
    }
}

/// Can both be bound at once? Not where one of them takes every address of the port.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
