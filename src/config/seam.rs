//! Stand-ins for checks that are not there yet. Each function says what takes its place.

use crate::check::allowlist::NetSet;
use crate::check::path::{Matcher, PathPattern};
use crate::check::signature::{Scheme, SignatureCheck};
use crate::check::source::Source;
use crate::secret::Secret;
use ipnet::IpNet;
use std::time::Duration;

/// `PathPattern::parse`.
pub(super) fn path(text: &str) -> Result<PathPattern, String> {
    if !text.starts_with('/') {
        return Err("does not begin with a slash".into());
    }
    if ["//", "/./", "/../", "%", "\\", ";", "?", "#"].iter().any(|odd| text.contains(odd)) {
        return Err("has a spelling that servers read differently".into());
    }
    Ok(match text.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => PathPattern::Prefix(prefix.into()),
        Some(_) => return Err("`*` may only stand as `/*` at the end".into()),
        None => PathPattern::Exact(text.into()),
    })
}

/// `Matcher::conflicts`.
pub(super) fn conflicts(a: &Matcher, b: &Matcher) -> bool {
    a.host == b.host && a.path == b.path && a.methods.iter().any(|method| b.methods.contains(method))
}

/// `allowlist::parse_net`.
pub(super) fn net(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.into());
    }
    let net: IpNet = text.parse().map_err(|_| "not a network in CIDR form".to_owned())?;
    if net.trunc() != net {
        return Err(format!("has bits after its prefix; the network is {}", net.trunc()));
    }
    Ok(net)
}

/// `allowlist::parse_list`.
pub(super) fn list(text: &str) -> Result<Vec<IpNet>, Vec<(usize, String)>> {
    let (mut nets, mut wrong) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.is_empty().then(|| None).unwrap_or_else(|| Some(net(line))) {
            None => {}
            Some(Ok(net)) => nets.push(net),
            Some(Err(what)) => wrong.push((i + 1, what)),
        }
    }
    if wrong.is_empty() { Ok(nets) } else { Err(wrong) }
}

/// `NetSet::new`.
pub(super) fn set(nets: Vec<IpNet>) -> NetSet {
    NetSet::new(nets)
}

/// `SignatureCheck::new`.
pub(super) fn bind(_: Scheme, _: Vec<Secret>, _: Option<&str>) -> Result<SignatureCheck, Vec<String>> {
    Ok(SignatureCheck {})
}

/// `SignatureCheck::warnings`.
pub(super) fn warnings(_: &SignatureCheck) -> &[String] {
    &[]
}

/// `Scheme::needs_public_url`.
pub(super) fn needs_public_url(_: &Scheme) -> bool {
    false
}

/// `Scheme::replay_window`.
pub(super) fn replay_window(_: &Scheme) -> Option<Duration> {
    None
}

/// `Scheme::covers`.
pub(super) fn covers(_: &Scheme, source: &Source) -> bool {
    source.needs_body()
}
