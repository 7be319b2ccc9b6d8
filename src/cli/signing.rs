//! What `sign`, `send` and `verify` share: whose signature, with which secret, over which request.

use super::ConfigFile;
use crate::check::duplicate::EventId;
use crate::check::path::{Matcher, PathPattern};
use crate::check::signature::keys::PrivateKey;
use crate::check::signature::{
    Credentials, FixedClaim, PublicKeys, SignOptions, SignatureCheck, Signing, UnsignedRequest,
};
use crate::check::source::Source;
use crate::diagnose::Subject;
use crate::policy::{Authentication, Policy, Route};
use crate::request::Now;
use crate::secret::Secret;
use crate::{config, provider};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whose signature: a route of the configuration, or a preset with a secret.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Whose signature")]
pub(super) struct Whose {
    /// Route of the configuration
    #[arg(value_name = "ROUTE", required_unless_present = "provider")]
    pub(super) route: Option<String>,
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Preset instead of a route; `hookmoat providers` lists them
    #[arg(short, long, value_name = "ID", conflicts_with = "route")]
    pub(super) provider: Option<String>,
    /// Environment variable with the preset's secret
    #[arg(long, value_name = "NAME", requires = "provider")]
    secret_env: Option<String>,
    /// File with the preset's secret; one final line end is dropped
    #[arg(long, value_name = "FILE", requires = "provider", conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,
    /// File with the sender's public key, for presets that sign with a private one
    #[arg(long, value_name = "FILE", requires = "provider")]
    public_key_file: Option<PathBuf>,
    /// What a claim of the token must hold, for presets that need it
    #[arg(long = "claim", value_name = "NAME=TEXT", requires = "provider")]
    claims: Vec<String>,
    /// What else the sender signs and only the receiver knows, for presets that need it
    #[arg(long = "setting", value_name = "NAME=TEXT", requires = "provider")]
    settings: Vec<String>,
    /// URL as the sender knows it, for presets that sign the URL
    #[arg(long, value_name = "URL", requires = "provider")]
    public_url: Option<String>,
}

/// The request to sign.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What is signed")]
pub(super) struct What {
    /// URL to send to; by default the route's path on the first listener
    #[arg(short, long, value_name = "URL")]
    url: Option<String>,
    /// Method
    #[arg(short = 'X', long, default_value = "POST")]
    method: String,
    /// Header, as `Name: value`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Body as text; JSON gets its Content-Type, unless a header says another
    #[arg(short, long, value_name = "TEXT", conflicts_with = "data_file")]
    data: Option<String>,
    /// Body from a file, `-` for standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Event ID; by default a fresh one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Time that is signed: seconds since 1970 or RFC 3339; by default now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Now>,
    /// Form of the signature, for presets with several
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// File with the sender's private key (PEM), where requests are verified with its public one
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// What the sender calls that key
    #[arg(long, value_name = "NAME", requires = "private_key")]
    key_id: Option<String>,
}

/// A policy's route or a preset, ready to sign and verify.
pub(super) enum Signer {
    Route { policy: Box<Policy>, route: Arc<Route>, path: String },
    Preset { check: Box<SignatureCheck>, event_id: Vec<Source> },
}

/// What is diagnosed.
pub(super) struct Diagnosed {
    /// The route with its policy. `None`: a preset.
    pub(super) route: Option<(Box<Policy>, Arc<Route>)>,
    /// `None`: the route verifies nothing, or has no secret.
    pub(super) subject: Option<Subject>,
    /// Secrets of other routes.
    pub(super) others: Vec<(String, Secret)>,
}

/// Reads a time of the command line.
pub(super) fn time(text: &str) -> Result<Now, String> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
            .ok_or("expected seconds since 1970 or a time like 2026-01-31T12:00:00Z")?,
    };
    Ok(Now::at_unix(seconds))
}

impl Whose {
    pub(super) fn signer(&self) -> Result<Signer, String> {
        if let Some(id) = &self.provider {
            return self.preset(id);
        }
        let policy = config::load(&self.file.config).map_err(|problems| problems.to_string())?.policy;
        let (matcher, route) = self.route_of(&policy)?;
        let path = path_of(matcher).to_owned();
        let route = route.clone();
        Ok(Signer::Route { policy: Box::new(policy), route, path })
    }

    /// What a diagnosis needs: the route with its policy, or a preset alone; and the secrets of other routes.
    pub(super) fn diagnosed(&self) -> Result<Diagnosed, String> {
        if let Some(id) = &self.provider {
            let preset = provider::find(id).ok_or_else(|| unknown_preset(id))?;
            let Credentials { secrets, public_keys, claims, settings, .. } = self.credentials(preset)?;
            let subject = Subject {
                provider: Some(preset.id),
                scheme: preset.signature.clone(),
                variants: None,
                secrets,
                public_keys,
                claims,
                settings,
                public_url: self.public_url.clone(),
            };
            return Ok(Diagnosed { route: None, subject: Some(subject), others: Vec::new() });
        }
        let policy = config::load_for_diagnoses(&self.file.config).map_err(|problems| problems.to_string())?.policy;
        let route = self.route_of(&policy)?.1.clone();
        let others = policy.routes.iter().filter(|(_, other)| other.name != route.name);
        let others = others.flat_map(|(_, other)| {
            let secrets = other.subject.iter().flat_map(|subject| &subject.secrets);
            secrets.map(|secret| (other.name.to_string(), secret.clone()))
        });
        let others = others.collect();
        let subject = route.subject.as_deref().cloned();
        Ok(Diagnosed { route: Some((Box::new(policy), route)), subject, others })
    }

    fn route_of<'p>(&self, policy: &'p Policy) -> Result<&'p (Matcher, Arc<Route>), String> {
        let name = self.route.as_deref().unwrap_or_default();
        policy.routes.iter().find(|(_, route)| &*route.name == name).ok_or_else(|| {
            let known: Vec<&str> = policy.routes.iter().map(|(_, route)| &*route.name).collect();
            let file = self.file.config.display();
            let help = match provider::find(name) {
                Some(preset) => format!("\n  help: for the preset {} write `--provider {}`", preset.id, preset.id),
                None => String::new(),
            };
            format!("no route `{name}` in {file}; it has: {}{help}", known.join(", "))
        })
    }

    fn preset(&self, id: &str) -> Result<Signer, String> {
        let preset = provider::find(id).ok_or_else(|| unknown_preset(id))?;
        let check = SignatureCheck::bind(preset.scheme.clone(), self.credentials(preset)?)
            .map_err(|errors| unbound(&errors))?;
        Ok(Signer::Preset { check: Box::new(check), event_id: preset.event_id.clone() })
    }

    /// What the command line says of a preset's sender.
    fn credentials(&self, preset: &provider::Provider) -> Result<Credentials<'_>, String> {
        let secrets = self.preset_secrets(preset.scheme.needs_secrets())?;
        let public_keys = match &self.public_key_file {
            Some(path) => {
                let origin = format!("file {}", path.display());
                let keys = PublicKeys::parse(&read(path)?, &origin);
                vec![keys.map_err(|what| format!("the public key from {origin} {what}"))?]
            }
            // Nothing is fetched from here.
            None if preset.scheme.takes_public_keys() && !preset.scheme.needs_secrets() => {
                return Err("this preset needs the sender's public key: --public-key-file FILE".into());
            }
            None => Vec::new(),
        };
        let claim = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| format!("--claim `{text}` is not NAME=TEXT"))?;
            Ok(FixedClaim { name: name.into(), texts: [value.into()].into() })
        };
        let claims = self.claims.iter().map(claim).collect::<Result<_, String>>()?;
        let setting = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| format!("--setting `{text}` is not NAME=TEXT"))?;
            Ok((name.into(), value.into()))
        };
        let settings = self.settings.iter().map(setting).collect::<Result<_, String>>()?;
        Ok(Credentials { secrets, public_keys, public_url: self.public_url.as_deref(), claims, settings })
    }

    fn preset_secrets(&self, needed: bool) -> Result<Vec<Secret>, String> {
        Ok(vec![match (&self.secret_env, &self.secret_file) {
            (Some(name), _) => {
                let value = std::env::var(name)
                    .map_err(|_| format!("environment variable {name} is not set; put the preset's secret into it"))?;
                if value.is_empty() {
                    return Err(format!("environment variable {name} is empty; put the preset's secret into it"));
                }
                Secret::always(value.into_bytes(), &format!("env {name}"))
            }
            (_, Some(path)) => {
                let mut bytes =
                    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                    if bytes.last() == Some(&b'\r') {
                        bytes.pop();
                    }
                }
                if bytes.is_empty() {
                    return Err(format!("{} is empty; the secret has to stand in it", path.display()));
                }
                Secret::always(bytes, &format!("file {}", path.display()))
            }
            (None, None) if needed => {
                return Err("a preset needs its secret: --secret-env NAME or --secret-file FILE".into());
            }
            (None, None) => return Ok(Vec::new()),
        }])
    }
}

impl Signer {
    /// The check of the route or preset.
    pub(super) fn check(&self) -> Result<&SignatureCheck, String> {
        match self {
            Self::Preset { check, .. } => Ok(check),
            Self::Route { route, .. } => match &route.authentication {
                Authentication::Signature(check) => Ok(check),
                Authentication::NoSecret(what) => Err(format!("route {} has no usable secret: {what}", route.name)),
                Authentication::None => Err(format!("route {} has no signature (`signature: none`)", route.name)),
            },
        }
    }

    fn event_id(&self) -> &[Source] {
        match self {
            Self::Preset { event_id, .. } => event_id,
            Self::Route { route, .. } => match route.duplicates.as_ref().map(|duplicates| &duplicates.id) {
                Some(EventId::Sources(sources)) => sources,
                _ => &[],
            },
        }
    }

    /// The certificate that a listener of the configuration made for itself.
    pub(super) fn own_certificate(&self) -> Option<&Path> {
        let Self::Route { policy, .. } = self else { return None };
        let tls = policy.listeners.iter().find_map(|listener| listener.tls.as_ref())?;
        let own = tls.pairs.first().filter(|_| tls.self_signed_if_missing)?;
        Some(own.certificate.as_path())
    }

    fn default_url(&self) -> Result<String, String> {
        let Self::Route { policy, path, .. } = self else {
            return Err("a preset needs --url URL, since no route says where to send".into());
        };
        let listener = policy.listeners.first().ok_or("the configuration has no listener")?;
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        let host = match listener.address.ip() {
            ip if ip.is_unspecified() || ip.is_loopback() => "localhost".to_owned(),
            ip if ip.is_ipv6() => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        Ok(format!("{scheme}://{host}:{}{path}", listener.address.port()))
    }
}

impl What {
    /// The request, signed. `round` tells requests of one command apart.
    pub(super) fn signed(&self, signer: &Signer, round: u64) -> Result<(UnsignedRequest, Signing), String> {
        let now = self.at.unwrap_or_else(Now::read);
        let mut request = self.request(signer, now, round)?;
        let id = self.id.clone().unwrap_or_else(|| fresh_id(now, round));
        let sources = signer.event_id();
        let has_id = sources.iter().any(|source| matches!(request.read(source), Ok(Some(_))));
        if !has_id && let Some(source) = sources.first() {
            request.put(source, id.as_bytes()).map_err(|error| error.to_string())?;
        }
        let private_key = match &self.private_key {
            None => None,
            Some(path) => {
                let key = PrivateKey::parse(&read(path)?);
                Some(Arc::new(key.map_err(|what| format!("the private key of {} {what}", path.display()))?))
            }
        };
        let options =
            SignOptions { variant: self.variant.clone(), id: Some(id), private_key, key_id: self.key_id.clone() };
        let signing = signer.check()?.sign(&mut request, now, &options).map_err(|error| {
            let help = if error.0.starts_with("only the sender") { " (give it with --private-key FILE)" } else { "" };
            format!("{error}{help}")
        })?;
        Ok((request, signing))
    }

    fn request(&self, signer: &Signer, now: Now, round: u64) -> Result<UnsignedRequest, String> {
        let url = self.url.clone().map_or_else(|| signer.default_url(), Ok)?;
        let parsed = url.parse::<http::Uri>().ok().filter(|url| url.host().is_some_and(|host| !host.is_empty()));
        if !matches!(parsed.as_ref().and_then(http::Uri::scheme_str), Some("http" | "https")) {
            return Err(format!("`{url}` is not a URL like http://127.0.0.1:8080/webhooks/x"));
        }
        if http::Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(format!("`{}` is not a method like POST", self.method.escape_debug()));
        }
        let mut headers = Vec::new();
        for header in &self.headers {
            let (name, value) =
                header.split_once(':').ok_or_else(|| format!("header `{header}` is not of the form `Name: value`"))?;
            let (name, value) = (name.trim(), value.trim());
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
                return Err(format!("header `{}` has characters that no header may have", header.escape_debug()));
            }
            headers.push((name.to_owned(), value.as_bytes().to_vec()));
        }
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let given = match (&self.data, &self.data_file) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(path)) => Some(read(path)?),
            (None, None) => None,
        };
        let body = match given {
            Some(body) => {
                // As every sender of JSON does. Of anything else nobody knows what it is.
                if !typed && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() {
                    headers.push(("Content-Type".into(), "application/json".into()));
                }
                body
            }
            None => {
                let in_body = |source: &&Source| matches!(source, Source::Form(_) | Source::Json(_));
                let form = matches!(signer.event_id().iter().find(in_body), Some(Source::Form(_)));
                let sample = if form {
                    format!("sample=webhook&round={round}")
                } else {
                    format!("{{\"sample\":\"webhook\",\"sent_at\":{},\"round\":{round}}}", now.unix.as_millis())
                };
                if !typed {
                    let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
                    headers.push(("Content-Type".into(), kind.into()));
                }
                sample.into_bytes()
            }
        };
        Ok(UnsignedRequest { method: self.method.to_ascii_uppercase(), url, headers, body })
    }
}

/// Why a preset cannot be used like this, and what to write.
pub(super) fn unbound(errors: &[String]) -> String {
    let why = errors.join("; ");
    let help = match (why.contains("public_url"), why.contains("claim `")) {
        (true, _) => " (give it with --public-url URL)",
        (_, true) => " (give it with --claim NAME=TEXT)",
        _ => "",
    };
    format!("{why}{help}")
}

/// Says which preset may have been meant.
pub(super) fn unknown_preset(id: &str) -> String {
    let known: Vec<&str> = provider::all().iter().map(|provider| provider.id).collect();
    match config::nearest(id, &known) {
        Some(near) => format!("no preset `{id}`; did you mean `{near}`? `hookmoat providers` lists them"),
        None => format!("no preset `{id}`; `hookmoat providers` lists them"),
    }
}

/// A path that a route answers to.
pub(super) fn path_of(matcher: &Matcher) -> &str {
    match &matcher.path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => path,
    }
}

fn fresh_id(now: Now, round: u64) -> String {
    let random = getrandom::u64().unwrap_or_default();
    format!("{:x}-{random:016x}-{round}", now.unix.as_secs())
}

/// A file's bytes; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    result.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(bytes)
}
