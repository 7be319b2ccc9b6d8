//! Why does a signature not verify, and what would make it verify? The usual mistakes, tried out one by one.
//!
//! A request that is refused is judged again under changes that people make without knowing: a secret with a line end,
//! JSON that was written anew, a URL with another port. Where the check then holds, the change is the explanation, told
//! in words and with the remedy. Where one change is not enough, two of different kinds are tried together.
//!
//! Nothing here decides about a request: the changes are made to copies, and their verdict goes to people. No secret and
//! no expected signature is ever told. The work is bounded by a [`Budget`], and how many attempts were made is told.

mod captured;
mod changes;
mod json;
mod logged;
mod walk;

pub use captured::Captured;
pub use logged::LogLine;
pub use walk::{EVENT_TYPE, Finding, HANDSHAKE, Holds, walk};

use crate::check::signature::{Credentials, FixedClaim, PublicKeys, SignatureCheck};
use crate::config::scheme::RawScheme;
use crate::request::Now;
use crate::secret::{Secret, SecretBytes};
use changes::{Change, Kind};
use serde::Serialize;
use std::time::Duration;

/// Explanations told at most; more would say nothing more.
const MAX_EXPLANATIONS: usize = 5;

/// What has to be known of a route to try changes: its scheme as written, its secrets as configured.
///
/// Kept by the command line, and by the proxy only for routes that ask for diagnoses.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The preset's ID; `None`: a scheme of the route's own.
    pub provider: Option<&'static str>,
    /// As written.
    pub scheme: RawScheme,
    /// The variants that the route accepts. `None`: all.
    pub variants: Option<Vec<String>>,
    /// All of them, whatever their time.
    pub secrets: Vec<Secret>,
    /// All of them, whatever their time.
    pub public_keys: Vec<PublicKeys>,
    /// What claims of a token must hold.
    pub claims: Vec<FixedClaim>,
    /// What else the sender signs.
    pub settings: std::collections::BTreeMap<Box<str>, Box<str>>,
    /// As written.
    pub public_url: Option<String>,
}

/// Bounds of the work.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Attempts at most.
    pub attempts: usize,
    /// Bytes of bodies hashed at most.
    pub bytes: usize,
}

impl Budget {
    /// For a person who waits: some seconds at worst.
    pub const PATIENT: Self = Self { attempts: 20_000, bytes: 1 << 30 };
    /// For a process that has other things to do: some tens of milliseconds.
    pub const BRIEF: Self = Self { attempts: 2_000, bytes: 16 << 20 };
}

/// What would make the request verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The changes that were made together, each ending the sentence "it would verify if …".
    #[serde(rename = "if")]
    pub changes: Vec<String>,
    /// What to do about it.
    pub remedy: Vec<String>,
    /// What to write into the configuration, where that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yaml: Option<String>,
    /// The secret that it verifies with.
    pub secret: String,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Explanations, the simplest first.
    pub explanations: Vec<Explanation>,
    /// What can be seen without trying: a header of another sender, a time in another unit.
    pub hints: Vec<String>,
    /// Attempts made.
    pub tried: usize,
    /// Was the budget used up before all was tried?
    pub cut: bool,
}

impl Diagnosis {
    /// In one line, for the log.
    pub fn line(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for explanation in self.explanations.iter().take(2) {
            parts.push(format!("would verify if {}", explanation.changes.join(" and ")));
        }
        parts.extend(self.hints.iter().take(3).cloned());
        if self.explanations.is_empty() && self.tried > 0 {
            let cut = if self.cut { ", not all that there are" } else { "" };
            parts.push(format!("none of {} usual mistakes{cut} explains it", self.tried));
        }
        parts.join("; ")
    }
}

/// Tries the usual mistakes on a request that does not verify.
///
/// `others`: secrets of other routes, each with the route's name. Without a whole body ([`Captured::body`] is `None`)
/// nothing can be tried and only hints are given.
pub fn diagnose(
    subject: &Subject,
    others: &[(String, Secret)],
    request: &Captured,
    now: Now,
    budget: Budget,
) -> Diagnosis {
    let mut found = Diagnosis { hints: changes::hints(subject, request, now), ..Diagnosis::default() };
    if request.body.is_none() {
        return found;
    }
    let base = Trial::of(subject, request, now);
    let mut work = Work { budget, tried: 0, cut: false };
    // Every secret counts and the clock is the sender's: what is left is the signature alone.
    if let Some(secret) = work.attempt(&base, &[]) {
        found.explanations.extend(changes::of_time(subject, &base, secret, request, now));
    } else {
        let all = changes::all(subject, others, &base);
        for change in &all {
            if let Some(secret) = work.attempt(&base, &[change]) {
                found.explanations.push(explanation(&[change], secret, &base, now));
            }
        }
        if found.explanations.is_empty() {
            'pairs: for (one, other) in Kind::PAIRS {
                for first in all.iter().filter(|change| change.kind == one) {
                    for second in all.iter().filter(|change| change.kind == other) {
                        if work.cut || found.explanations.len() >= MAX_EXPLANATIONS {
                            break 'pairs;
                        }
                        if let Some(secret) = work.attempt(&base, &[first, second]) {
                            found.explanations.push(explanation(&[first, second], secret, &base, now));
                        }
                    }
                }
            }
        }
    }
    found.explanations.truncate(MAX_EXPLANATIONS);
    found.tried = work.tried;
    found.cut = work.cut;
    found
}

fn explanation(changes: &[&Change], secret: String, base: &Trial, now: Now) -> Explanation {
    let mut told: Vec<String> = changes.iter().map(|change| change.what.clone()).collect();
    let mut remedy: Vec<String> = changes.iter().map(|change| change.remedy.clone()).collect();
    remedy.dedup();
    // Right, but too late as well.
    let (check, request) = base.with(changes);
    if let Some((what, how)) = check.and_then(|checks| changes::lateness(&checks, &request, now)) {
        told.push(what);
        remedy.push(how);
    }
    let yaml: Vec<&str> = changes.iter().filter_map(|change| change.yaml.as_deref()).collect();
    let yaml = (!yaml.is_empty()).then(|| yaml.join("\n"));
    Explanation { changes: told, remedy, yaml, secret }
}

/// A request and what it is judged by; changes are made to copies.
#[derive(Clone)]
struct Trial {
    request: Captured,
    scheme: RawScheme,
    /// Where each is from, and its bytes.
    secrets: Vec<(String, SecretBytes)>,
    public_keys: Vec<PublicKeys>,
    claims: Vec<FixedClaim>,
    settings: std::collections::BTreeMap<Box<str>, Box<str>>,
    public_url: Option<String>,
    /// For requests that say no time.
    now: Now,
}

/// One check for each secret and each public key, so that one that does not fit the scheme spoils no other.
type Checks = Vec<(String, SignatureCheck)>;

impl Trial {
    fn of(subject: &Subject, request: &Captured, now: Now) -> Self {
        let secrets = subject.secrets.iter().map(|secret| (secret.origin.to_string(), secret.bytes.clone())).collect();
        let mut scheme = subject.scheme.clone();
        if let (Some(names), Some(list)) = (&subject.variants, &mut scheme.any_of) {
            list.retain(|one| one.name.as_ref().is_some_and(|name| names.contains(name)));
        }
        let public_keys = subject.public_keys.iter().cloned();
        Self {
            request: request.clone(),
            scheme,
            secrets,
            public_keys: public_keys.map(|keys| PublicKeys { from: None, until: None, ..keys }).collect(),
            claims: subject.claims.clone(),
            settings: subject.settings.clone(),
            public_url: subject.public_url.clone(),
            now,
        }
    }

    /// The checks and the request under these changes. `None`: they do not go together with the scheme.
    fn with(&self, changes: &[&Change]) -> (Option<Checks>, Captured) {
        let mut trial = self.clone();
        for change in changes {
            change.edit.apply(&mut trial);
        }
        let checks = trial.scheme.compile("signature").ok().map(|scheme| {
            let bind = |secrets, public_keys| {
                let (public_url, claims) = (trial.public_url.as_deref(), trial.claims.clone());
                let settings = trial.settings.clone();
                let credentials = Credentials { secrets, public_keys, public_url, claims, settings };
                SignatureCheck::bind(scheme.clone(), credentials).ok()
            };
            let of_secrets = trial.secrets.into_iter().filter_map(|(origin, bytes)| {
                let secret = Secret { bytes, from: None, until: None, origin: origin.as_str().into() };
                Some((origin, bind(vec![secret], Vec::new())?))
            });
            let of_keys = trial
                .public_keys
                .iter()
                .filter_map(|keys| Some((keys.origin.to_string(), bind(Vec::new(), vec![keys.clone()])?)));
            of_secrets.chain(of_keys).collect()
        });
        (checks, trial.request)
    }
}

struct Work {
    budget: Budget,
    tried: usize,
    cut: bool,
}

impl Work {
    /// The secret that makes the changed request verify at the time that it claims.
    fn attempt(&mut self, base: &Trial, changes: &[&Change]) -> Option<String> {
        if self.cut {
            return None;
        }
        self.tried += 1;
        // Also where nothing comes of it, since a scheme or a secret does not fit.
        self.cut = self.tried >= self.budget.attempts;
        let (checks, request) = base.with(changes);
        let body = request.body.as_deref().unwrap_or_default();
        for (origin, check) in checks? {
            self.budget.bytes = self.budget.bytes.saturating_sub(body.len() + 64);
            self.cut |= self.budget.bytes == 0;
            let holds = request.with_head(|head| {
                let now = at(check.claimed_time(head, body), base.now);
                let mut verification = check.begin(head, true, now).ok()?;
                verification.update(body);
                verification.finish(head, body, now).ok()
            });
            if holds.is_some() {
                return Some(origin);
            }
        }
        None
    }
}

/// The claimed time as the moment to judge at.
fn at(claimed: Option<Duration>, now: Now) -> Now {
    Now { instant: now.instant, unix: claimed.unwrap_or(now.unix) }
}

#[cfg(test)]
mod tests;
