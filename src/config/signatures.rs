//! How a route verifies: its scheme, bound to secrets, keys, claims and URLs.

use super::compile::Compiler;
use super::place::Place;
use super::problem::{nearest, one_of};
use super::raw;
use super::scheme::RawScheme;
use super::secrets::{Found, Origin};
use crate::check::signature::{Credentials, FixedClaim, PublicKeys, Scheme, SignatureCheck};
use crate::diagnose::Subject;
use crate::policy::Authentication;
use crate::provider::Provider;
use crate::secret::{Secret, SecretBytes};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PUBLIC_URL_HELP: &str =
    "write the URL exactly as the sender was given it, for instance https://hooks.example.com/webhooks/crm";

impl Compiler<'_> {
    /// How the route's requests prove themselves. The scheme comes a second time, for what the event IDs need to know
    /// of it even where the secrets are missing.
    pub(super) fn authentication(
        &mut self,
        raw: &raw::Route,
        provider: Option<&'static Provider>,
        at: &Place,
    ) -> (Option<Authentication>, Option<Scheme>, Vec<Secret>) {
        if raw.provider.is_some() && raw.signature.is_some() {
            let help = "a preset brings its own scheme: keep one of the two";
            self.wrong(&at.key("signature"), "both a provider and a signature", help);
        }
        let public_url = raw.public_url.as_deref().filter(|url| self.public_url(url, &at.key("public_url")));
        let scheme = match (provider, &raw.signature) {
            (_, Some(raw::Signature::None)) => {
                if raw.secrets.is_some() || raw.secret.is_some() {
                    let key = if raw.secrets.is_some() { "secrets" } else { "secret" };
                    let help = "remove the secrets, or say how they are used with `provider` or `signature`";
                    self.wrong(&at.key(key), "secrets without a signature to verify", help);
                }
                let help = "anybody who can reach this route is believed; allow only the networks of the sender";
                self.warn(&at.key("signature"), "nothing is verified", help);
                return (Some(Authentication::None), None, Vec::new());
            }
            (_, Some(raw::Signature::Own(scheme))) => self.own_scheme(scheme, &at.key("signature")),
            (Some(provider), None) => Some(provider.scheme.clone()),
            (None, None) => {
                let gone = raw.provider.is_some()
                    || ["provider", "signature"].iter().any(|key| self.document.is_damaged(&at.key(*key)));
                if !gone {
                    let help = "add `provider: …` (`hookmoat providers` lists them), a `signature`, or in words `signature: none`";
                    self.wrong(&at.key("provider"), "missing: nothing says how requests are verified", help);
                }
                None
            }
        };
        let scheme = scheme.and_then(|scheme| self.variants(raw.variants.as_deref(), scheme, &at.key("variants")));
        let Some(scheme) = scheme else {
            match raw.public_keys {
                Some(_) => drop(self.public_keys(raw, None, at)),
                None => drop(self.secrets(raw, at)),
            }
            return (None, None, Vec::new());
        };
        let secrets = match scheme.needs_secrets() || raw.secrets.is_some() || raw.secret.is_some() {
            true => self.secrets(raw, at),
            false => Some(Ok(Vec::new())),
        };
        let public_keys = match scheme.needs_public_keys() || raw.public_keys.is_some() {
            true => self.public_keys(raw, Some(&scheme), at),
            false => Some(Ok(Vec::new())),
        };
        if raw.public_keys.is_some() && !scheme.takes_public_keys() {
            let help = "this sender signs with a shared secret: remove them";
            self.warn(&at.key("public_keys"), "nothing is verified with public keys here", help);
        }
        let claims = self.claims(raw, &scheme, at);
        let settings = self.settings(raw, &scheme, at);
        if scheme.needs_public_url() && raw.public_url.is_none() {
            let help = "add `public_url: https://…`, the URL exactly as the sender was given it";
            self.wrong(&at.key("public_url"), "missing: this sender signs the URL", help);
            return (None, Some(scheme), Vec::new());
        }
        if raw.public_url.is_some() != public_url.is_some() {
            return (None, Some(scheme), Vec::new());
        }
        let kept = match &secrets {
            Some(Ok(secrets)) => secrets.clone(),
            _ => Vec::new(),
        };
        let authentication = match (secrets, public_keys, claims) {
            (Some(Ok(secrets)), Some(Ok(public_keys)), Some(claims)) if settings.is_some() => {
                let credentials =
                    Credentials { secrets, public_keys, public_url, claims, settings: settings.unwrap_or_default() };
                self.subject = self.subject_of(raw, provider, &credentials);
                self.bind(scheme.clone(), credentials, raw, at)
            }
            (Some(Err(missing)), Some(_), Some(_)) | (Some(_), Some(Err(missing)), Some(_)) => {
                Some(Authentication::NoSecret(missing.into()))
            }
            _ => None,
        };
        (authentication, Some(scheme), kept)
    }

    /// Secrets are kept a second time only where somebody asked for it.
    fn subject_of(
        &self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        credentials: &Credentials<'_>,
    ) -> Option<Box<Subject>> {
        if !raw.diagnose && !self.world.diagnoses() {
            return None;
        }
        let scheme = match (&raw.signature, provider) {
            (Some(raw::Signature::Own(scheme)), _) => (**scheme).clone(),
            (_, provider) => provider?.signature.clone(),
        };
        Some(Box::new(Subject {
            provider: provider.map(|provider| provider.id),
            scheme,
            variants: raw.variants.clone(),
            secrets: credentials.secrets.clone(),
            public_keys: credentials.public_keys.clone(),
            claims: credentials.claims.clone(),
            settings: credentials.settings.clone(),
            public_url: raw.public_url.clone(),
        }))
    }

    fn own_scheme(&mut self, scheme: &RawScheme, at: &Place) -> Option<Scheme> {
        match scheme.compile(&at.to_string()) {
            Ok(scheme) => Some(scheme),
            Err(problems) => {
                for problem in problems {
                    let place = Place::default().path(&problem.path);
                    self.told(&place, problem.message, "see `signature` in the configuration reference");
                }
                None
            }
        }
    }

    /// What a sender still offers for the sake of old receivers need not be accepted here.
    fn variants(&mut self, written: Option<&[String]>, scheme: Scheme, at: &Place) -> Option<Scheme> {
        let Some(written) = written else { return Some(scheme.without_choices()) };
        let known: Vec<_> = scheme.variants().map(str::to_owned).collect();
        if written.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no variant would be accepted", "name one, or leave the key out for all");
            return None;
        }
        let mut whole = true;
        for (i, name) in written.iter().enumerate().filter(|(_, name)| !known.contains(name)) {
            let help = match (nearest(name, &known), known.is_empty()) {
                (Some(meant), _) => format!("did you mean `{meant}`?"),
                (None, true) => "this scheme has only one: remove `variants`".into(),
                (None, false) => format!("write {}", one_of(&known)),
            };
            self.wrong(&at.index(i), "no variant has this name", help);
            whole = false;
        }
        let names: Vec<_> = written.iter().map(String::as_str).collect();
        scheme.only(&names).ok().filter(|_| whole)
    }

    fn bind(
        &mut self,
        scheme: Scheme,
        credentials: Credentials<'_>,
        raw: &raw::Route,
        at: &Place,
    ) -> Option<Authentication> {
        let secrets_at = at.key(if raw.secrets.is_some() { "secrets" } else { "secret" });
        match SignatureCheck::bind(scheme, credentials) {
            Ok(check) => {
                for warning in check.warnings() {
                    self.warn(&secrets_at, warning, "take the secret exactly as the sender shows it");
                }
                Some(Authentication::Signature(Box::new(check)))
            }
            Err(problems) => {
                for what in problems {
                    if what.starts_with("public_url") {
                        self.told(&at.key("public_url"), what, PUBLIC_URL_HELP);
                    } else {
                        self.told(&secrets_at, what, "take the secret exactly as the sender shows it");
                    }
                }
                None
            }
        }
    }

    /// The usable public keys of a route; as with [`Self::secrets`]. Without a scheme they are only looked through.
    fn public_keys(
        &mut self,
        raw: &raw::Route,
        scheme: Option<&Scheme>,
        at: &Place,
    ) -> Option<Result<Vec<PublicKeys>, String>> {
        let at = at.key("public_keys");
        let sources = raw.public_keys.as_deref().unwrap_or_default();
        if sources.is_empty() {
            if !self.document.has_damage(&at) {
                let help = match scheme.and_then(Scheme::key_question) {
                    Some(question) => {
                        let names = question.credentials().iter().map(|name| format!("{name}: …")).collect::<Vec<_>>();
                        format!("add `public_keys: [{{ask: {{{}}}}}]`, or the sender's public key", names.join(", "))
                    }
                    None => "add `public_keys: [{file: key.pem}]`, the sender's public key".into(),
                };
                self.wrong(&at, "missing: there is nothing to verify with", help);
            }
            return None;
        }
        let (mut keys, mut missing, mut whole) = (Vec::new(), Vec::new(), true);
        for (i, source) in sources.iter().enumerate() {
            let at = at.index(i);
            let (from, until) = self.window(source.from.as_deref(), source.until.as_deref(), "key", &at);
            if source.jwks.is_some() || source.openid.is_some() {
                match self.published_keys(source, &at) {
                    Some(published) => keys.push(PublicKeys { from, until, ..published }),
                    None => whole = false,
                }
                continue;
            }
            if source.ask.is_some() || source.host.is_some() {
                match self.asked_keys(source, scheme, &at) {
                    Some(Ok(asked)) => keys.push(PublicKeys { from, until, ..asked }),
                    Some(Err(what)) => missing.push((at, what)),
                    None => whole = false,
                }
                continue;
            }
            let found = match (&source.value, &source.env, &source.file) {
                (Some(text), None, None) => Some(Ok((text.clone().into_bytes(), "value".to_owned()))),
                (Some(_), ..) => {
                    self.wrong(&at, "says twice where the key is", "keep one of env, file and value");
                    None
                }
                (None, env, file) => {
                    let origin = Origin { env: env.as_deref(), file: file.as_deref(), literal: None };
                    self.find_public(origin, &at)
                }
            };
            match found {
                Some(Ok((bytes, origin))) => match PublicKeys::parse(&bytes, &origin) {
                    Ok(mut public) => {
                        if let Some(id) = &source.id {
                            public = public.named(id);
                        }
                        keys.push(PublicKeys { from, until, ..public });
                    }
                    Err(what) => {
                        let help =
                            "write PEM, a JWK, a JWKS, the base64 of a DER key, or the hex or base64 of an Ed25519 key";
                        self.wrong(&at, format!("the key from {origin} {what}"), help);
                        whole = false;
                    }
                },
                Some(Err(what)) => missing.push((at, what)),
                None => whole = false,
            }
        }
        let usable = self.usable(keys, missing, "the other keys are used");
        whole.then_some(usable)
    }

    /// What the route says of a token's claims; a scheme may need some of them.
    fn claims(&mut self, raw: &raw::Route, scheme: &Scheme, at: &Place) -> Option<Vec<FixedClaim>> {
        let at = at.key("claims");
        let mut whole = true;
        if !raw.claims.is_empty() && !scheme.has_token() {
            self.wrong(&at, "the sender sends no token that could hold claims", "remove it");
            whole = false;
        }
        for (name, texts) in &raw.claims {
            if texts.items.iter().all(String::is_empty) {
                self.wrong(&at.key(name), "is empty", "write what the claim must hold");
                whole = false;
            }
        }
        for name in scheme.configured_claims().iter().filter(|name| !raw.claims.contains_key(**name)) {
            let help = format!("add `claims: {{ {name}: … }}`, what the sender writes there for you");
            self.wrong(&at.key(*name), "missing: anybody's token would do", help);
            whole = false;
        }
        let boxed = |texts: &raw::OneOrMany<String>| texts.items.iter().map(|text| text.as_str().into()).collect();
        let fixed = |(name, texts): (&String, _)| FixedClaim { name: name.as_str().into(), texts: boxed(texts) };
        whole.then(|| raw.claims.iter().map(fixed).collect())
    }

    /// From when until when a secret or key counts, in seconds since 1970.
    fn window(
        &mut self,
        from: Option<&str>,
        until: Option<&str>,
        what: &str,
        at: &Place,
    ) -> (Option<i64>, Option<i64>) {
        let from = from.and_then(|text| self.moment(text, &at.key("from")));
        let until = until.and_then(|text| self.moment(text, &at.key("until")));
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            let help = format!("the {what} would never be valid: correct one of the two");
            self.wrong(&at.key("until"), "not after `from`", help);
        }
        let now = self.world.unix();
        if until.is_some_and(|until| until <= now) {
            let help =
                format!("remove it, or give the {what} a later end; with no other that counts the route answers 503");
            self.warn(&at.key("until"), format!("the {what} does not count any more"), help);
        } else if from.is_some_and(|from| from > now) {
            let help = "where no other counts until then the route answers 503 and the process is not ready";
            self.warn(&at.key("from"), format!("the {what} does not count yet"), help);
        }
        (from, until)
    }

    /// What was found, if anything was; else what is missing. Each of that is told.
    fn usable<T>(&mut self, found: Vec<T>, missing: Vec<(Place, String)>, others: &str) -> Result<Vec<T>, String> {
        let nothing = "the route answers 503 and the process is not ready until a restart or reload finds it";
        for (at, what) in &missing {
            self.warn(at, what, if found.is_empty() { nothing } else { others });
        }
        if found.is_empty() {
            return Err(missing.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; "));
        }
        Ok(found)
    }

    /// The usable secrets of a route; `Err`: there should be some, but nothing usable was found; `None`: a problem.
    fn secrets(&mut self, raw: &raw::Route, at: &Place) -> Option<Result<Vec<Secret>, String>> {
        let mut sources: Vec<(Place, &raw::SecretSource)> = Vec::new();
        sources.extend(raw.secret.iter().map(|source| (at.key("secret"), source)));
        let list = raw.secrets.iter().flatten().enumerate();
        sources.extend(list.map(|(i, source)| (at.key("secrets").index(i), source)));
        if raw.secret.is_some() && raw.secrets.is_some() {
            self.wrong(&at.key("secret"), "both `secret` and `secrets`", "put all of them into `secrets`");
        }
        if sources.is_empty() {
            let gone = ["secret", "secrets", "signature"].iter().any(|key| self.document.has_damage(&at.key(*key)));
            if !gone {
                let help = "add `secrets: [{env: NAME}]` or `secrets: [{file: PATH}]`";
                self.wrong(&at.key("secrets"), "missing: there is nothing to verify with", help);
            }
            return None;
        }
        let (mut secrets, mut missing, mut whole) = (Vec::new(), Vec::new(), true);
        for (at, source) in sources {
            let (from, until) = self.window(source.from.as_deref(), source.until.as_deref(), "secret", &at);
            let literal = source.insecure_literal.as_ref().map(|literal| literal.0.as_str());
            let origin = Origin { env: source.env.as_deref(), file: source.file.as_deref(), literal };
            match self.find(origin, &at) {
                Some(Ok((bytes, origin))) => {
                    secrets.push(Secret { bytes: SecretBytes::new(bytes), from, until, origin: origin.into() });
                }
                Some(Err(what)) => missing.push((at, what)),
                None => whole = false,
            }
        }
        let usable = self.usable(secrets, missing, "the other secrets are used");
        whole.then_some(usable)
    }

    /// The bytes and their origin, or what is missing; `None`: a problem, told.
    pub(super) fn find(&mut self, origin: Origin<'_>, at: &Place) -> Option<Result<(Vec<u8>, String), String>> {
        self.look_for(origin, at, true)
    }

    /// The same for what may be read by everybody.
    fn find_public(&mut self, origin: Origin<'_>, at: &Place) -> Option<Result<(Vec<u8>, String), String>> {
        self.look_for(origin, at, false)
    }

    fn look_for(&mut self, origin: Origin<'_>, at: &Place, secret: bool) -> Option<Result<(Vec<u8>, String), String>> {
        match origin.find(self.world) {
            Ok(Found::Bytes(bytes, origin, warnings)) => {
                for (key, what, help) in warnings.into_iter().filter(|_| secret) {
                    self.warn(&at.key(key), what, help);
                }
                Some(Ok((bytes, origin)))
            }
            Ok(Found::Missing(what)) => Some(Err(what)),
            Err((key, what, help)) => {
                let gone = key.is_empty() && self.document.has_damage(at);
                if !gone {
                    self.wrong(&at.path(key), what, help);
                }
                None
            }
        }
    }

    fn moment(&mut self, text: &str, at: &Place) -> Option<i64> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(moment) => Some(moment.unix_timestamp()),
            Err(_) => {
                self.wrong(at, "not a moment in RFC 3339", "write for instance 2026-12-31T00:00:00Z");
                None
            }
        }
    }

    fn public_url(&mut self, url: &str, at: &Place) -> bool {
        let what = match url.parse::<http::Uri>() {
            Ok(uri) if !matches!(uri.scheme_str(), Some("https" | "http")) => "neither http nor https",
            // User and password may stand there: Twilio signs them with the rest.
            Ok(uri) if uri.host().is_none_or(str::is_empty) => "a URL without a host",
            Ok(_) if url.contains('#') => "a URL with a fragment",
            Ok(_) => return true,
            Err(_) => "not a URL",
        };
        self.wrong(at, what, PUBLIC_URL_HELP);
        false
    }
}
