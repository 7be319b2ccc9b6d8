//! Placeholder until the presets land; to be replaced as a whole.

use crate::check::source::Source;
use crate::config::scheme::SignatureSpec;
use crate::policy::Answers;
use crate::request::HeaderName;
use std::sync::LazyLock;
use std::time::Duration;

/// A preset.
#[derive(Debug)]
pub struct Provider {
    /// As in the configuration.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// How it signs.
    pub signature: SignatureSpec,
    /// Where its event IDs stand.
    pub event_id: Vec<Source>,
    /// What it wants to be told.
    pub answers: Answers,
    /// Methods that it uses.
    pub methods: Vec<Box<str>>,
    /// Media types that it sends.
    pub content_types: Vec<Box<str>>,
    /// How long it tries again.
    pub retry_horizon: Option<Duration>,
}

static ALL: LazyLock<Vec<Provider>> = LazyLock::new(|| {
    let preset = |id, name, header: Option<&'static str>| Provider {
        id,
        name,
        signature: SignatureSpec::default(),
        event_id: header.map(|name| Source::Header(HeaderName::from_static(name))).into_iter().collect(),
        answers: Answers::default(),
        methods: vec!["POST".into()],
        content_types: Vec::new(),
        retry_horizon: None,
    };
    vec![preset("github", "GitHub", Some("x-github-delivery")), preset("stripe", "Stripe", None)]
});

/// The preset of this id.
pub fn find(id: &str) -> Option<&'static Provider> {
    all().find(|provider| provider.id == id)
}

/// Every preset.
pub fn all() -> impl Iterator<Item = &'static Provider> {
    ALL.iter()
}
