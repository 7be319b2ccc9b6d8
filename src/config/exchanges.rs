//! Handshakes that a route answers by itself.

use super::compile::Compiler;
use super::place::Place;
use super::raw;
use super::secrets::Origin;
use crate::check::handshake::{Exchange, Handshakes, Setting, Settings};
use crate::provider::Provider;
use crate::secret::{Secret, SecretBytes};

impl Compiler<'_> {
    /// The questions of the sender that the route answers here.
    pub(super) fn exchanges(&mut self, raw: &raw::Route, provider: Option<&Provider>, at: &Place) -> Vec<Exchange> {
        let written = match &raw.handshake {
            None | Some(raw::Handshake::Off) => return Vec::new(),
            Some(raw::Handshake::On) => None,
            Some(raw::Handshake::With(map)) => map.exchanges.as_deref(),
        };
        let mut exchanges = Vec::new();
        if let Some(written) = written {
            let mut problems = Vec::new();
            for (i, one) in written.iter().enumerate() {
                let path = at.key("exchanges").index(i).to_string();
                exchanges.extend(one.compile(&path, &mut problems));
            }
            for problem in problems {
                let place = Place::default().path(&problem.path);
                self.told(&place, problem.message, "see `handshakes` in the presets for examples");
            }
        }
        let known = provider.map(|provider| provider.handshakes.as_slice()).unwrap_or_default();
        exchanges.extend(known.iter().cloned());
        if exchanges.is_empty() && written.is_none_or(<[_]>::is_empty) && !self.document.has_damage(at) {
            let help = match provider {
                Some(provider) => format!("{} has no handshake that needs an answer: remove the key", provider.name),
                None => "describe it under `exchanges`, or remove the key".into(),
            };
            self.wrong(at, "nothing to answer", help);
        }
        exchanges
    }

    pub(super) fn handshakes(
        &mut self,
        exchanges: Vec<Exchange>,
        raw: &raw::Route,
        secrets: Vec<Secret>,
        missing: &mut Option<String>,
        at: &Place,
    ) -> Option<Box<Handshakes>> {
        let none = raw::HandshakeMap::default();
        let map = match &raw.handshake {
            Some(raw::Handshake::With(map)) => map,
            _ => &none,
        };
        let mut settings = Settings::default();
        let secret = |source: Option<&raw::SecretSource>| {
            source.map(|source| {
                (
                    source.env.clone(),
                    source.file.clone(),
                    source.insecure_literal.as_ref().map(|it| it.0.clone()),
                    source.from.is_some() || source.until.is_some(),
                )
            })
        };
        let plain = |source: &Option<raw::HeaderSource>| {
            source.as_ref().map(|source| {
                (source.env.clone(), source.file.clone(), source.value.as_ref().map(|it| it.0.clone()), false)
            })
        };
        let written = [
            (Setting::EncryptionKey, secret(map.encryption_key.as_ref())),
            (Setting::AppId, plain(&map.app_id)),
            (Setting::PublicKey, plain(&map.public_key)),
        ];
        let written = written.into_iter().map(|(setting, source)| (setting, at.key(setting.name()), source));
        let at_tokens = at.key(Setting::VerifyToken.name());
        let list = map.verify_token.as_ref().is_some_and(|tokens| tokens.list);
        let tokens = map.verify_token.iter().flat_map(|tokens| &tokens.items).enumerate();
        let tokens =
            tokens.map(|(i, token)| (if list { at_tokens.index(i) } else { at_tokens.clone() }, secret(Some(token))));
        let mut tokens: Vec<_> = tokens.map(|(place, source)| (Setting::VerifyToken, place, source)).collect();
        if tokens.is_empty() {
            tokens.push((Setting::VerifyToken, at_tokens, None));
        }
        for (setting, place, source) in tokens.into_iter().chain(written) {
            let needed = exchanges.iter().any(|exchange| exchange.needs().any(|needed| needed == setting));
            match source {
                None if needed && !self.document.has_damage(&place) => {
                    let help = format!("add `handshake: {{{}: {{env: NAME}}}}`", setting.name());
                    self.wrong(&place, "missing: the sender's question cannot be answered without it", help);
                }
                None => {}
                Some(_) if !needed => {
                    self.wrong(&place, "nothing in this sender's handshake needs it", "remove it");
                }
                Some((env, file, literal, limited)) => {
                    if limited {
                        self.wrong(&place, "`from` and `until` have no meaning here", "remove them");
                    }
                    let origin = Origin { env: env.as_deref(), file: file.as_deref(), literal: literal.as_deref() };
                    match self.find(origin, &place) {
                        Some(Ok((bytes, _))) if bytes.is_empty() => self.wrong(&place, "empty", "write a value"),
                        Some(Ok((bytes, _))) if setting == Setting::VerifyToken && settings.get(setting).is_some() => {
                            settings.also_accept(SecretBytes::new(bytes));
                        }
                        Some(Ok((bytes, _))) => settings.set(setting, SecretBytes::new(bytes)),
                        Some(Err(what)) => {
                            let help =
                                "the route answers 503 and the process is not ready until a restart or reload finds it";
                            self.warn(&place, &what, help);
                            missing.get_or_insert(format!("handshake.{}: {what}", setting.name()));
                        }
                        None => {}
                    }
                }
            }
        }
        if exchanges.iter().any(Exchange::needs_public_url) && raw.public_url.is_none() {
            let help = "add `public_url: https://…` to the route, the URL exactly as the sender was given it";
            self.wrong(at, "the sender's question is about the URL, and there is no `public_url`", help);
        }
        let mut exchanges = exchanges;
        let visits = exchanges.iter().any(|exchange| exchange.visit.is_some());
        if map.confirm && !visits {
            self.wrong(&at.key("confirm"), "this sender wants nothing visited", "remove it");
        } else if visits && !map.confirm && map.keep.is_none() && !self.document.has_damage(at) {
            let help = "add `handshake: {confirm: true}` to have it visited, or `handshake: {keep: FILE}` to have it \
                        written down for you";
            self.wrong(at, "does not say what becomes of the URL that this sender wants visited", help);
            return None;
        }
        for visit in exchanges.iter_mut().filter_map(|exchange| exchange.visit.as_mut()) {
            visit.by_hand = !map.confirm;
        }
        let hands_over = (visits && !map.confirm) || exchanges.iter().any(|exchange| !exchange.hands_over.is_empty());
        if hands_over && map.keep.is_none() && !self.document.has_damage(at) {
            let help =
                "add `handshake: {keep: FILE}`: what this sender hands over (a secret, a code, a URL) is written there";
            self.wrong(&at.key("keep"), "missing: what the sender hands over would be lost", help);
        } else if !hands_over && map.keep.is_some() {
            self.wrong(&at.key("keep"), "this sender hands nothing over", "remove it");
        }
        let keep = map.keep.as_deref().map(|file| self.world.resolve(file));
        let public_url = raw.public_url.as_deref().map(Into::into);
        Some(Box::new(Handshakes { exchanges, secrets, settings, public_url, keep }))
    }
}
