//! Why does a recorded request verify, or not? Every step of the check, for people.
//!
//! Goes on after a failed step where it can: an old request with a right signature is worth telling from a forged one.
//! Shows no secret and no expected signature.

use super::keys::PublicAlgorithm;
use super::message::{self, MessageRules};
use super::scheme::{Algorithm, KeyOrigin, Proof, Signed};
use super::template::Piece;
use super::token::{Token, TokenKey, TokenKind, TokenRules};
use super::{
    Credential, Place, Received, SignatureCheck, feed, key_id, mac, message_holds, present, received, shared, template,
    text,
};
use crate::reject::Reject;
use crate::request::{Head, Now};
use std::sync::Arc;

/// Bytes of the signed text that are shown.
const SHOWN: usize = 60;

/// One step of the check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// `scheme`, `secrets`, `signature`, `timestamp`, `require`, `signed`, `match`, `verdict`.
    pub name: &'static str,
    /// Did it hold?
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// Steps in the making.
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) {
        self.0.push(Step { name, ok, detail: detail.into() });
    }

    fn refuse(&mut self, name: &'static str, reject: &Reject) {
        self.add(name, false, reject.to_string());
    }
}

impl SignatureCheck {
    /// Judges a whole request step by step. The last step is the verdict of the check itself.
    pub fn explain(&self, head: &Head<'_>, body: &[u8], secure: bool, now: Now) -> Vec<Step> {
        let mut steps = Steps(Vec::new());
        self.explain_steps(&mut steps, head, body, now);
        let verdict = self.begin(head, secure, now).and_then(|mut verification| {
            verification.update(body);
            verification.finish(head, body, now)
        });
        match verdict {
            Ok(_) => steps.add("verdict", true, "verified"),
            Err(reject) => steps.refuse("verdict", &reject),
        }
        steps.0
    }

    fn explain_steps(&self, steps: &mut Steps, head: &Head<'_>, body: &[u8], now: Now) {
        let (index, alternative) = match self.choose(head) {
            Ok(chosen) => chosen,
            Err(reject) => return steps.refuse("scheme", &reject),
        };
        let kind = match &alternative.proof {
            Proof::Signed(signed) => signed.algorithm.to_string(),
            Proof::Shared(_) => "shared secret".to_owned(),
            Proof::Token(_) => "token".to_owned(),
            Proof::Message(rules) => format!("http message signature, {}", rules.algorithm.name),
        };
        match &alternative.name {
            Some(name) => steps.add("scheme", true, format!("{name}: {kind}")),
            None => steps.add("scheme", true, kind),
        }
        let active = self.active(now).count();
        let step = if self.word(index) == "key" { "keys" } else { "secrets" };
        steps.add(step, active > 0, format!("{active} of {} valid now", self.validity.len()));
        match &alternative.proof {
            Proof::Shared(place) => self.explain_shared(steps, index, place, head, body, now),
            Proof::Message(rules) => self.explain_message(steps, index, rules, head, body, now),
            Proof::Token(rules) => self.explain_token(steps, index, rules, head, body, now),
            Proof::Signed(signed) => self.explain_signed(steps, index, signed, head, body, now),
        }
    }

    fn explain_shared(&self, steps: &mut Steps, index: usize, place: &Place, head: &Head<'_>, body: &[u8], now: Now) {
        let matching = |secret: usize| {
            let key = self.credential(index, secret);
            shared(place, key.into_iter(), head, body).is_ok()
        };
        if let Err(reject) = present(&place.source, head, body) {
            return steps.refuse("signature", &reject);
        }
        steps.add("signature", true, format!("{} stands", place.source));
        self.explain_match(steps, index, None, matching, now);
    }

    fn credential(&self, alternative: usize, at: usize) -> Option<&Credential> {
        self.keys.get(alternative)?.get(at)?.as_ref()
    }

    fn explain_message(
        &self,
        steps: &mut Steps,
        index: usize,
        rules: &MessageRules,
        head: &Head<'_>,
        body: &[u8],
        now: Now,
    ) {
        let all = match message::read(rules, head, self.public_url.as_ref(), None) {
            Ok(all) => all,
            Err(reject) => return steps.refuse("signature", &reject),
        };
        steps.add("signature", true, format!("{} signatures meet the rules", all.len()));
        match message::read(rules, head, self.public_url.as_ref(), Some(now)) {
            Ok(_) => steps.add("timestamp", true, "created within the window"),
            Err(reject) => steps.refuse("timestamp", &reject),
        }
        for signature in &all {
            let digest = hex::encode(mac::Hash::Sha256.digest(&signature.base).as_bytes());
            let start = signature.base.get(..SHOWN).unwrap_or(&signature.base);
            let detail = format!("{} bytes, sha256 {digest}: {}…", signature.base.len(), start.escape_ascii());
            steps.add("signed", true, detail);
            match signature.check_body(head, body) {
                Ok(()) => steps.add("require", true, "the digest of the body is right, or not signed"),
                Err(reject) => steps.refuse("require", &reject),
            }
        }
        let matching = |at: usize| {
            let key = self.credential(index, at);
            key.is_some_and(|key| all.iter().any(|signature| message_holds(rules, key, signature)))
        };
        self.explain_match(steps, index, None, matching, now);
    }

    fn explain_token(
        &self,
        steps: &mut Steps,
        index: usize,
        rules: &TokenRules,
        head: &Head<'_>,
        body: &[u8],
        now: Now,
    ) {
        let value = match rules.read(head, body) {
            Ok(value) => value,
            Err(reject) => return steps.refuse("signature", &reject),
        };
        let token = match Token::parse(&value, rules) {
            Ok(token) => token,
            Err(reject) => return steps.refuse("signature", &reject),
        };
        let id = token.key_id().map(|id| format!(", key {}", id.escape_debug())).unwrap_or_default();
        steps.add("signature", true, format!("{} holds {}{id}", rules.place(), token.algorithm().name));
        let input = token.signing_input(rules, body);
        let digest = hex::encode(mac::Hash::Sha256.digest(&input).as_bytes());
        steps.add("signed", true, format!("{} bytes, sha256 {digest}", input.len()));
        if rules.chain.is_some() {
            match token.brought(rules, now) {
                Ok(_) => steps.add("certificate", true, "the chain that the token brings leads to the sender's root"),
                Err(reject) => steps.refuse("certificate", &reject),
            }
        }
        let named = match token.algorithm().kind {
            TokenKind::Public(algorithm) => token.key_id().map(|id| (id, algorithm)),
            TokenKind::Hmac(_) => None,
        };
        self.explain_match(
            steps,
            index,
            named,
            |at| {
                let key = match self.credential(index, at) {
                    Some(Credential::Token(secret)) => TokenKey::Secret(secret),
                    Some(Credential::Public(keys)) => TokenKey::Public(keys.snapshot()),
                    Some(Credential::Brought) => match token.brought(rules, now) {
                        Ok(keys) => TokenKey::Public(Arc::new(keys)),
                        Err(_) => return false,
                    },
                    _ => return false,
                };
                token.verify(rules, body, std::iter::once(key)).is_ok()
            },
            now,
        );
        let checked = token.claims(rules).and_then(|claims| {
            claims.check(rules, &self.claims, self.public_url.as_ref(), head, now)?;
            claims.check_body(rules, head, body)
        });
        match checked {
            Ok(()) => steps.add("require", true, "the token's claims are as required"),
            Err(reject) => steps.refuse("require", &reject),
        }
    }

    fn explain_signed(&self, steps: &mut Steps, index: usize, scheme: &Signed, head: &Head<'_>, body: &[u8], now: Now) {
        let (value, signatures) = match received(scheme, head, body) {
            Ok((value, signatures)) => (value, Ok(signatures)),
            Err(reject) => match present(&scheme.from.source, head, body) {
                Ok(value) => (value, Err(reject)),
                Err(_) => return steps.refuse("signature", &reject),
            },
        };
        let signatures = match signatures {
            Ok(signatures) => {
                let (count, len) = match &signatures {
                    Received::Tags(tags) => {
                        (tags.as_slice().len(), tags.as_slice().first().map(|tag| tag.as_bytes().len()))
                    }
                    Received::Public(all) => (all.len(), all.first().map(Vec::len)),
                };
                let len = len.unwrap_or_default();
                steps.add("signature", true, format!("{} holds {count} of {len} bytes", scheme.from.source));
                Some(signatures)
            }
            Err(reject) => {
                steps.refuse("signature", &reject);
                None
            }
        };
        let inputs = self.inputs(head, body, scheme, &value);
        if let Some(rule) = &scheme.timestamp
            && !template::lacks_optional_time(&inputs)
        {
            match template::timestamp(&inputs) {
                Err(reject) => steps.refuse("timestamp", &reject),
                Ok(written) => match (rule.check(&written, now), rule.unit.parse(&written)) {
                    (Ok(()), Ok(millis)) => {
                        let age = now.unix_seconds().saturating_sub(millis / 1000);
                        steps.add("timestamp", true, format!("{} is {age} s old", written.escape_ascii()));
                    }
                    (Err(reject), _) | (_, Err(reject)) => steps.refuse("timestamp", &reject),
                },
            }
        }
        for requirement in &scheme.require {
            match requirement.check(head, body) {
                Ok(()) => steps.add("require", true, format!("{} is as required", requirement.source)),
                Err(reject) => steps.refuse("require", &reject),
            }
        }
        let variants = scheme.signed.variants();
        for variant in 0..variants {
            let mut text = Vec::new();
            let fed = scheme.signed.feed(0..usize::MAX, &inputs, variant, &mut |piece| match piece {
                Piece::Bytes(bytes) => text.extend_from_slice(bytes),
                // With the secret inside, the digest of the text would be the expected signature.
                Piece::Secret => text.extend_from_slice(b"{secret}"),
                Piece::Sorted(values) => {
                    text.extend_from_slice(b"{sorted:secret");
                    values.iter().for_each(|value| text.extend_from_slice(&[b",", &**value].concat()));
                    text.push(b'}');
                }
            });
            if let Err(reject) = fed {
                return steps.refuse("signed", &reject);
            }
            let start = text.get(..SHOWN).unwrap_or(&text);
            let more = if text.len() > SHOWN { "…" } else { "" };
            let digest = hex::encode(mac::Hash::Sha256.digest(&text).as_bytes());
            steps.add("signed", true, format!("{} bytes, sha256 {digest}: {}{more}", text.len(), start.escape_ascii()));
        }
        let Some(signatures) = signatures else { return };
        let id = key_id(scheme, head).ok().flatten();
        let matching = |secret: usize| {
            (0..variants).any(|variant| match (self.credential(index, secret), &signatures, scheme.algorithm) {
                (Some(Credential::Secret(key)), Received::Tags(tags), _) => {
                    let mut state = key.start();
                    feed(scheme, 0..usize::MAX, &inputs, variant, &mut state).is_ok()
                        && mac::any_match(&[state.finish()], tags.as_slice())
                }
                (Some(key), Received::Public(all), Algorithm::Public(algorithm)) => {
                    let Some(keys) = key.public() else { return false };
                    text(scheme, &inputs, variant).is_ok_and(|text| {
                        all.iter().any(|signature| keys.verifies(algorithm, id.as_deref(), &text, signature))
                    })
                }
                _ => false,
            })
        };
        let named = match scheme.public_algorithm(head, body) {
            Ok(algorithm) => id.as_deref().map(|id| (id, algorithm)),
            Err(_) => None,
        };
        self.explain_match(steps, index, named, matching, now);
    }

    /// `named`: the key that the request says it was made with, and for what.
    fn explain_match(
        &self,
        steps: &mut Steps,
        index: usize,
        named: Option<(&str, PublicAlgorithm)>,
        matching: impl Fn(usize) -> bool,
        now: Now,
    ) {
        let word = self.word(index);
        let active: Vec<usize> = self.active(now).collect();
        let matched: Vec<usize> = (0..self.validity.len()).filter(|secret| matching(*secret)).collect();
        let origin = |secret: &usize| self.validity.get(*secret).map(|validity| &*validity.origin).unwrap_or_default();
        if let Some(secret) = matched.iter().find(|secret| active.contains(secret)) {
            return steps.add("match", true, format!("the {word} from {}", origin(secret)));
        }
        if let Some(secret) = matched.first() {
            let detail = format!("only the {word} from {}, which is not valid now", origin(secret));
            return steps.add("match", false, detail);
        }
        let keys = || self.keys.get(index).into_iter().flatten().flatten().filter_map(Credential::public);
        let detail = match named {
            _ if keys().next().is_some() && keys().all(|keys| keys.is_empty()) => {
                "no key is at hand: the sender's are fetched by the process that runs, and nothing is fetched here; save \
                 them and name the file under `public_keys`"
                    .to_owned()
            }
            Some((id, algorithm)) if !keys().any(|keys| keys.has(algorithm, Some(id))) => {
                format!("the request names the key {}, and none of the keys is called that", id.escape_debug())
            }
            _ => format!("none of the {word}s"),
        };
        steps.add("match", false, detail);
    }

    /// What an alternative is verified with, in a word.
    fn word(&self, index: usize) -> &'static str {
        match self.scheme.alternatives.get(index).map(|alternative| &alternative.keys) {
            Some(KeyOrigin::Secrets) | None => "secret",
            Some(_) => "key",
        }
    }
}
