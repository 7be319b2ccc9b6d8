//! The checks: one file, one question each. No I/O, no clock, no `async`.

pub mod allowlist;
pub mod client_certificate;
pub mod client_ip;
pub mod duplicate;
pub mod event_type;
pub mod handshake;
pub mod https;
pub(crate) mod multipart;
pub mod path;
pub mod ramp;
pub mod ranges;
pub mod rate_limit;
pub mod shape;
pub mod signature;
pub mod source;
pub mod xml;

#[cfg(test)]
pub(crate) mod tests {
    use crate::check::allowlist::Allowlist;
    use crate::policy::{Answers, Authentication, Forward, HostHeader, Https, Observed, OnFailure, Route};
    use crate::port::seen::Group;

    /// A route of this name that accepts everything.
    pub(crate) fn route(name: &str) -> Route {
        Route {
            name: name.into(),
            provider: None,
            https: Https::Allow,
            methods: None,
            allow: Allowlist::Anyone,
            limits_before: Vec::new(),
            limits_after: Vec::new(),
            content_types: Vec::new(),
            content_encodings: Vec::new(),
            client_certificates: Vec::new(),
            required_headers: Vec::new(),
            max_body: 1 << 20,
            authentication: Authentication::None,
            handshakes: None,
            event_types: Default::default(),
            duplicates: None,
            on_failure: OnFailure::default(),
            group: Group([b'g'; 8]),
            forward: Forward {
                upstream: 0,
                path: None,
                host: HostHeader::Keep,
                set_headers: Vec::new(),
                remove_headers: Vec::new(),
                pass_gone: false,
            },
            deliver: None,
            branches: Vec::new(),
            observed: Observed::default(),
            subject: None,
            answers: Answers::default(),
            manners: Default::default(),
        }
    }
}
