//! TLS of the listeners: certificates that can be exchanged without touching the listener, chosen by the name that a
//! sender asks for, and senders' own certificates.

use crate::check::client_certificate::Identity;
use crate::policy::{PairFiles, TlsFiles};
use crate::request::Now;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::tls::TlsRef;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

/// The TLS of one listener.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: Arc<Current>,
    /// End of validity of the pair that ends first, as loaded at the start; seconds since 1970.
    pub(super) not_after: i64,
}

#[derive(Debug)]
struct Current {
    pairs: ArcSwap<Vec<Pair>>,
    /// Who issues client certificates.
    clients: Option<ArcSwap<Issuers>>,
    clients_required: bool,
    only_tls13: bool,
}

/// A chain with its key, and the names that it stands for.
#[derive(Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    /// Lower case; `*.` begins a wildcard for one label.
    names: Vec<Box<str>>,
    not_before: i64,
    not_after: i64,
}

impl Pair {
    /// Why nobody who verifies takes it now.
    fn out_of_time(&self, now: Now) -> Option<&'static str> {
        match now.unix_seconds() {
            now if self.not_after <= now => Some("has expired"),
            now if self.not_before > now => Some("is not valid yet"),
            _ => None,
        }
    }
}

/// Seconds before its end from which a certificate is told of: two weeks, as the alert's rule has it.
const ENDS_SOON: i64 = 14 * 24 * 3600;

/// The roots of client certificates. The digest tells whether the file says something new.
#[derive(Debug)]
struct Issuers {
    verifier: Arc<dyn ClientCertVerifier>,
    digest: [u8; 32],
}

impl Certificate {
    /// Loads all pairs and roots, or makes a self-signed pair where the configuration asks for that and there is none.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, String> {
        if let Some(first) = files.pairs.first()
            && files.self_signed_if_missing
            && !first.certificate.exists()
            && !first.private_key.exists()
        {
            make_self_signed(first)?;
        }
        let pairs = files.pairs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let clients = files.clients.as_ref().map(|clients| issuers(&clients.ca)).transpose()?;
        let not_after = first_end(&pairs);
        let current = Arc::new(Current {
            pairs: ArcSwap::from_pointee(pairs),
            clients: clients.map(ArcSwap::from_pointee),
            clients_required: files.clients.as_ref().is_some_and(|clients| clients.required),
            only_tls13: files.only_tls13,
        });
        Ok(Self { files: files.clone(), current, not_after })
    }

    /// What a start or a reload with these files would fail for, and what senders that verify would not like. Makes
    /// nothing.
    pub(super) fn look(files: &TlsFiles, now: Now) -> Result<Vec<String>, String> {
        let mut doubts = Vec::new();
        for pair in &files.pairs {
            if files.self_signed_if_missing && !pair.certificate.exists() && !pair.private_key.exists() {
                continue;
            }
            let why = read(pair)?.out_of_time(now);
            doubts.extend(why.map(|why| format!("certificate {} {why}", pair.certificate.display())));
        }
        files.clients.as_ref().map(|clients| issuers(&clients.ca)).transpose()?;
        Ok(doubts)
    }

    /// What those who are served with these pairs do not take, or soon will not: the file, and what it is.
    pub(super) fn doubts(&self, now: Now) -> Vec<(PathBuf, &'static str)> {
        let pairs = self.current.pairs.load();
        let doubt = |pair: &Pair| {
            let soon = || (pair.not_after - now.unix_seconds() < ENDS_SOON).then_some("ends within two weeks");
            pair.out_of_time(now).or_else(soon)
        };
        let doubts = pairs.iter().zip(&self.files.pairs);
        doubts.filter_map(|(pair, files)| Some((files.certificate.clone(), doubt(pair)?))).collect()
    }

    /// Reads the files again and exchanges what is another one; connections that are open keep what they have. The end
    /// of validity of the pair that now ends first, in seconds since 1970, if anything was exchanged. An error changes
    /// nothing.
    pub(super) fn renew(&self, now: Now) -> Result<Option<i64>, String> {
        let pairs = self.files.pairs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let clients = self.files.clients.as_ref().map(|clients| issuers(&clients.ca)).transpose()?;
        let before = self.current.pairs.load();
        let fresh: Vec<bool> = pairs.iter().zip(before.iter()).map(|(new, old)| new.key.cert != old.key.cert).collect();
        for ((pair, files), _) in pairs.iter().zip(&self.files.pairs).zip(&fresh).filter(|(_, fresh)| **fresh) {
            if let Some(why) = pair.out_of_time(now) {
                return Err(format!("certificate {} {why}", files.certificate.display()));
            }
        }
        let mut exchanged = fresh.contains(&true);
        if let (Some(current), Some(new)) = (&self.current.clients, clients)
            && current.load().digest != new.digest
        {
            current.store(Arc::new(new));
            exchanged = true;
        }
        let not_after = first_end(&pairs);
        if fresh.contains(&true) {
            self.current.pairs.store(Arc::new(pairs));
        }
        Ok(exchanged.then_some(not_after))
    }

    /// For a listener of our own.
    pub(super) fn acceptor(&self, http2: bool) -> Result<Acceptor, String> {
        let mut config = self.config()?;
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let config = Arc::new(config);
        if self.current.clients.is_none() {
            return Ok(Acceptor::from_server_config(config));
        }
        // Pingora calls back after handshakes only where it has built the rest as well, which is exchanged for ours.
        let settings = TlsSettings::with_callbacks(Box::new(AfterHandshake));
        let mut settings = settings.map_err(|error| error.to_string())?;
        settings.set_cert_resolver(self.current.clone());
        let mut acceptor = settings.build();
        acceptor.acceptor = config.into();
        Ok(acceptor)
    }

    /// TLS 1.2 and 1.3, unless only the newer one is wanted.
    fn config(&self) -> Result<ServerConfig, String> {
        let versions = if self.current.only_tls13 { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        if self.current.clients.is_none() {
            return Ok(builder.with_no_client_auth().with_cert_resolver(self.current.clone()));
        }
        let builder = builder.with_client_cert_verifier(self.current.clone());
        let mut config = builder.with_cert_resolver(self.current.clone());
        // A session that is resumed brings the certificate of its first handshake, which nobody verifies again: not whether
        // its issuer still counts, and not whether it has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pairs = self.pairs.load();
        let wanted = hello.server_name().map(str::to_ascii_lowercase);
        let named = wanted.and_then(|name| pairs.iter().find(|pair| pair.stands_for(&name)));
        named.or(pairs.first()).map(|pair| pair.key.clone())
    }
}

impl Pair {
    fn stands_for(&self, name: &str) -> bool {
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(rest) => name.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent == rest),
            None => **own == *name,
        })
    }
}

/// Asks whoever is the verifier of the roots in force.
impl ClientCertVerifier for Current {
    fn client_auth_mandatory(&self) -> bool {
        self.clients_required
    }

    /// Names of issuers would have to outlive an exchange of the roots; a sender has one certificate to show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.clients {
            Some(issuers) => issuers.load().verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(rustls::Error::General("no client certificates here".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &default_provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a handshake left, once for each connection.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// Whose certificate the sender showed.
    pub(super) identity: Option<Arc<Identity>>,
}

struct AfterHandshake;

#[async_trait]
impl TlsAccept for AfterHandshake {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let identity = tls.peer_certificate_der().and_then(identity).map(Arc::new);
        Some(Arc::new(Handshake { identity }))
    }
}

/// `None` for a certificate that cannot be read, which then counts as none.
fn identity(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let spki_sha256 = Sha256::digest(certificate.public_key().raw).into();
    let names = general_names(&certificate).into_iter().map(Into::into).collect();
    Some(Identity { subject: distinguished_name(certificate.subject()).into(), names, spki_sha256 })
}

/// A name as RFC 4514 writes it, but in the certificate's order and with spaces behind the separators. What separates is
/// escaped within a value: two names never have one text.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let attribute = |attribute: &AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
        match attribute.as_str() {
            Ok(value) => format!("{kind}={}", escaped(value)),
            Err(_) => format!("{kind}=#{}", hex::encode(attribute.as_slice())),
        }
    };
    let one = |part: &RelativeDistinguishedName<'_>| part.iter().map(attribute).collect::<Vec<_>>().join(" + ");
    name.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// RFC 4514 section 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '\0' => text.push_str("\\00"),
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', letter]),
            ' ' | '#' if at == 0 => text.extend(['\\', letter]),
            ' ' if at == last => text.push_str("\\ "),
            _ => text.push(letter),
        }
    }
    text
}

/// DNS names in lower case, URIs, mail addresses and IP addresses. Rules name them without their kind, so that a name which
/// looks like one of another kind is left out: whoever issues certificates may prove the one and not the other.
fn general_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let is_address = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() else { continue };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(name) if !name.contains([':', '@']) && !is_address(name) => {
                    names.push(name.to_ascii_lowercase());
                }
                GeneralName::URI(name) if name.contains(':') && !is_address(name) => names.push((*name).to_owned()),
                GeneralName::RFC822Name(name) if name.contains('@') && !name.contains(':') => {
                    names.push((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
                    let v6 = <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
                    names.extend(v4.or(v6));
                }
                _ => {}
            }
        }
    }
    names
}

fn first_end(pairs: &[Pair]) -> i64 {
    pairs.iter().map(|pair| pair.not_after).min().unwrap_or_default()
}

fn issuers(path: &Path) -> Result<Issuers, String> {
    let bad = |error: &dyn std::fmt::Display| format!("cannot use client CA {}: {error}", path.display());
    let text = std::fs::read(path).map_err(|error| bad(&error))?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&text) {
        roots.add(root.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"it holds no certificate"));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let verifier = builder.build().map_err(|error| bad(&error))?;
    Ok(Issuers { verifier, digest: Sha256::digest(&text).into() })
}

fn read(files: &PairFiles) -> Result<Pair, String> {
    let (certificate, private_key) = (&files.certificate, &files.private_key);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("cannot read certificate {}: {error}", certificate.display()))?;
    let Some(leaf) = chain.first() else {
        return Err(format!("{} holds no certificate", certificate.display()));
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| format!("cannot read certificate {}: {error}", certificate.display()))?;
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let names = general_names(&parsed).into_iter().map(Into::into).collect();
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| format!("cannot read private key {}: {error}", private_key.display()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("cannot use private key {}: {error}", private_key.display()))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|_| {
        format!("private key {} does not belong to certificate {}", private_key.display(), certificate.display())
    })?;
    Ok(Pair { key: Arc::new(key), names, not_before, not_after })
}

/// For local play: a pair for localhost, the key readable by its owner only.
fn make_self_signed(files: &PairFiles) -> Result<(), String> {
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
