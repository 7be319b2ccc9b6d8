//! The senders Hookmoat knows: presets, as data, embedded in the binary.
//!
//! One file in `config/providers/` each, written in the same scheme language as a route's own `signature`, with the
//! vectors that it must pass. The file's name is the preset's ID.

use crate::check::allowlist::{NetSet, parse_net};
use crate::check::handshake::Exchange;
use crate::check::ranges::{JsonPath, List, Origin, Pick, Ranges};
use crate::check::signature::Scheme;
use crate::check::source::Source;
use crate::config::handshake::RawExchange;
use crate::config::scheme::{Problem, RawScheme, RawSources, parse_duration};
use crate::fetch::target::Target;
use crate::policy::Manners;
use crate::request::HeaderName;
use crate::vectors::{HandshakeVector, Vector};
use http::HeaderValue;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Every preset: its ID and its text.
macro_rules! presets {
    ($($id:literal),+ $(,)?) => {
        const FILES: &[(&str, &str)] = &[
            $(($id, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers/", $id, ".yaml"))),)+
        ];
    };
}

// A test compares the list with the folder.
presets![
    "acuity",
    "adyen",
    "adyen-platform",
    "aftership",
    "airtable",
    "airwallex",
    "alchemy",
    "alipay",
    "apple-app-store",
    "asana",
    "attio",
    "auth0",
    "autodesk",
    "aws-sns",
    "azure-devops",
    "azure-event-grid-entra",
    "bigcommerce",
    "bird",
    "bitbucket",
    "bolt",
    "box",
    "braintree",
    "brevo",
    "brevo-basic",
    "brex",
    "btcpay",
    "buildkite",
    "cal-com",
    "calendly",
    "cashfree",
    "castle",
    "chargebee",
    "chargify",
    "chatwoot",
    "checkout-com",
    "circleci",
    "clerk",
    "clickup",
    "cloudflare-notifications",
    "cloudinary",
    "coinbase-cdp",
    "coinbase-commerce",
    "coinify",
    "contentful",
    "convoy",
    "convoy-simple",
    "convoy-simple-base64",
    "convoy-simple-sha512",
    "crisp",
    "cursor",
    "customerio",
    "deepgram",
    "dingtalk-robot",
    "discord",
    "docusign",
    "dropbox",
    "dropbox-sign",
    "dwolla",
    "easypost",
    "ebay",
    "elevenlabs",
    "etsy",
    "fastspring",
    "figma",
    "fitbit",
    "flutterwave",
    "forgejo",
    "frameio",
    "freshchat",
    "front",
    "fusionauth",
    "fusionauth-public-key",
    "gemini-api",
    "getstream-chat",
    "gitea",
    "github",
    "gitlab",
    "gitlab-signed",
    "gocardless",
    "google-chat",
    "google-chat-project",
    "google-pubsub",
    "google-workspace-push",
    "grafana",
    "helpscout",
    "heroku",
    "hookdeck",
    "hubspot",
    "hygraph",
    "incident-io",
    "increase",
    "intercom",
    "jira",
    "klaviyo",
    "ko-fi",
    "lark-card",
    "lark-feishu",
    "launchdarkly",
    "lemon-squeezy",
    "line",
    "linear",
    "lithic",
    "lob",
    "mailchimp-transactional",
    "mailgun",
    "mailgun-form",
    "mattermost-outgoing",
    "mercado-pago",
    "messagebird",
    "meta",
    "microsoft-bot-framework",
    "microsoft-graph",
    "microsoft-teams-outgoing",
    "modern-treasury",
    "mollie",
    "monday",
    "mongodb-atlas",
    "mux",
    "netlify",
    "notion",
    "nowpayments",
    "okta",
    "onfido",
    "onfleet",
    "openai",
    "orb",
    "paddle",
    "pagerduty",
    "pandadoc",
    "patreon",
    "paypal",
    "paystack",
    "pinwheel",
    "pipedrive",
    "plaid",
    "plivo",
    "polar",
    "polar-decoded",
    "postmark",
    "primer",
    "printful",
    "prismic",
    "pusher",
    "qq-bot",
    "quickbooks",
    "ramp-network",
    "razorpay",
    "recurly",
    "render",
    "replicate",
    "resend",
    "revenuecat",
    "revolut",
    "ringcentral",
    "rocketchat-omnichannel",
    "salesforce-marketing-cloud-ens",
    "salesforce-outbound-message",
    "sanity",
    "sendbird",
    "sendgrid",
    "sentry",
    "shippo",
    "shipstation",
    "shopify",
    "sinch",
    "sinch-voice",
    "slack",
    "smartsheet",
    "snyk",
    "sonatype-nexus",
    "square",
    "squarespace",
    "standard-webhooks",
    "standard-webhooks-public-key",
    "storyblok",
    "stripe",
    "stytch",
    "supabase",
    "svix",
    "telegram",
    "telnyx",
    "terraform",
    "tiktok",
    "todoist",
    "transloadit",
    "travis-ci",
    "trello",
    "twilio",
    "twitch-eventsub",
    "typeform",
    "vanta",
    "vercel",
    "viber",
    "vonage",
    "webex",
    "websub",
    "wechat",
    "wechat-pay",
    "wecom",
    "wise",
    "wix",
    "woocommerce",
    "workos",
    "worldline",
    "x-twitter",
    "xendit",
    "xero",
    "zendesk",
    "zoho-crm",
    "zoho-payments",
    "zoom",
];

/// A preset.
#[derive(Debug)]
pub struct Provider {
    /// Lower case with hyphens; what a route's `provider` names.
    pub id: &'static str,
    /// As the sender calls itself.
    pub name: String,
    /// Other IDs for the same preset.
    pub aliases: Vec<String>,
    /// `chat`, `crm`, `payments`, …
    pub category: String,
    /// How well the scheme is established.
    pub evidence: Evidence,
    /// Where it is described.
    pub docs: Vec<String>,
    /// As written, for showing.
    pub signature: RawScheme,
    /// How a request proves where it is from.
    pub scheme: Scheme,
    /// The event's ID; the first that stands counts.
    pub event_id: Vec<Source>,
    /// The event's type; the first that stands counts.
    pub event_type: Vec<Source>,
    /// How long after the first attempt the sender may still send the event again.
    pub retry_horizon: Option<Duration>,
    /// How long event IDs are remembered unless the route says otherwise. At least the retry horizon.
    pub remember: Duration,
    /// Statuses that the sender understands better than the usual ones.
    pub answers: RawAnswers,
    /// How soon the sender wants its answer.
    pub ack_deadline: Option<Duration>,
    /// When the sender tries again, and when never.
    pub retries: Retries,
    /// What it understands besides statuses.
    pub manners: Manners,
    /// One request may hold several events.
    pub batch: bool,
    /// Different events may carry the same ID, so that it names none of them alone.
    pub ids_repeat: bool,
    /// Why the scheme alone does not keep strangers out, if it does not.
    pub weakness: Option<String>,
    /// Questions that the sender asks before it trusts a URL.
    pub handshakes: Vec<Exchange>,
    /// Such questions with the answers that they must get.
    pub handshake_vectors: Vec<HandshakeVector>,
    /// Methods that the sender uses.
    pub methods: Vec<String>,
    /// Media types that the sender uses. Empty: not established, so any.
    pub content_types: Vec<String>,
    /// Content-Encodings that the sender uses.
    pub content_encodings: Vec<String>,
    /// Where the sender's addresses are published.
    pub ranges: Option<RawRanges>,
    /// What an operator should know.
    pub notes: String,
    /// What to copy where.
    pub recipe: Option<Recipe>,
    /// Requests that must pass or fail.
    pub vectors: Vec<Vector>,
}

/// How well a scheme is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The sender or its SDK publishes requests with their signatures, and they pass.
    OfficialVector,
    /// The sender describes it.
    OfficialDocs,
    /// Others describe it.
    ThirdParty,
}

/// A preset as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    category: String,
    evidence: Evidence,
    docs: Vec<String>,
    signature: RawScheme,
    #[serde(default)]
    event_id: RawSources,
    #[serde(default)]
    event_type: RawSources,
    retry_horizon: Option<String>,
    #[serde(default)]
    duplicates: RawDuplicates,
    #[serde(default)]
    answers: RawAnswers,
    ack_deadline: Option<String>,
    #[serde(default)]
    retries: Retries,
    success: Option<RawSuccess>,
    #[serde(default)]
    no_retry: BTreeMap<String, String>,
    #[serde(default)]
    empty_unauthorized: bool,
    #[serde(default)]
    batch: bool,
    #[serde(default)]
    ids_repeat: bool,
    weakness: Option<String>,
    #[serde(default)]
    handshakes: Vec<RawExchange>,
    #[serde(default)]
    handshake_vectors: Vec<HandshakeVector>,
    #[serde(default = "post")]
    methods: Vec<String>,
    #[serde(default)]
    content_types: Vec<String>,
    #[serde(default)]
    content_encodings: Vec<String>,
    ranges: Option<RawRanges>,
    #[serde(default)]
    notes: String,
    recipe: Option<Recipe>,
    vectors: Vec<Vector>,
}

/// What to copy where, in the words of the sender's own pages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where the secret is found, or given to the sender.
    pub secret: String,
    /// Where the sender is told the URL.
    pub url: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDuplicates {
    remember: Option<String>,
}

/// When a sender tries again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How often at most, the first attempt not counted. 0: never. Left out: not established.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The time before each, as far as it is established: `[0s, 1m, 5m]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    /// Statuses after which the event is never sent again: `4xx`, `406`. An exception stands behind a `!`: `!429`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost_on: Vec<String>,
    /// Statuses after which the sender gives the URL up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone_on: Vec<u16>,
}

impl Retries {
    /// Is an event that was answered like this never sent again?
    pub fn is_lost_on(&self, status: u16) -> bool {
        let is = |text: &str| match text.strip_suffix("xx") {
            Some(class) => class.parse() == Ok(status / 100),
            None => text.parse() == Ok(status),
        };
        let (excepted, lost): (Vec<_>, Vec<_>) = self.lost_on.iter().partition(|text| text.starts_with('!'));
        lost.iter().any(|text| is(text)) && !excepted.iter().any(|text| is(&text[1..]))
    }
}

/// The answer that a sender takes for "taken".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuccess {
    #[serde(rename = "type")]
    kind: String,
    body: String,
}

/// Statuses of a preset; those left out are the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAnswers {
    /// A signature that does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unauthorized: Option<u16>,
    /// A copy of a delivered event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<u16>,
    /// A copy of an event in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<u16>,
    /// Over a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limited: Option<u16>,
    /// Nothing can be taken now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<u16>,
    /// Taken without the backend's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u16>,
}

/// Where a sender's addresses are published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRanges {
    /// A machine-readable list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where the networks stand in it; `*` for every element. None: one network a line.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub json_path: Vec<String>,
    /// A page for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docs: Option<String>,
    /// Networks as of `as_of`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// The date of `networks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

impl RawRanges {
    /// The list, with the shipped copy in force. `None`: there is only a page for people.
    pub fn compile(&self, name: &str) -> Result<Option<Ranges>, String> {
        let url = self.url.as_deref().map(Target::parse).transpose().map_err(|what| format!("ranges.url {what}"))?;
        let paths = self.json_path.iter().map(|path| JsonPath::parse(path)).collect::<Result<Box<_>, _>>();
        let paths = paths.map_err(|what| format!("ranges.json_path {what}"))?;
        let pick = if paths.is_empty() { Pick::Lines } else { Pick::Json(paths) };
        let nets = self.networks.iter().map(|net| parse_net(net)).collect::<Result<Vec<_>, _>>();
        let nets = NetSet::new(nets.map_err(|what| format!("ranges.networks: {what}"))?);
        let date = |date: &String| OffsetDateTime::parse(&format!("{date}T00:00:00Z"), &Rfc3339);
        let as_of = self.as_of.as_ref().map(date).transpose().map_err(|_| "ranges.as_of is no date")?;
        let as_of = as_of.map(OffsetDateTime::unix_timestamp);
        if url.is_none() && nets.is_empty() {
            return Ok(None);
        }
        let shipped = (!nets.is_empty()).then_some(List { nets, as_of, origin: Origin::Shipped });
        Ok(Some(Ranges::new(name.into(), url, pick, shipped)))
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Form::deserialize(deserializer).map(|form| match form {
        Form::One(one) => vec![one],
        Form::Many(many) => many,
    })
}

/// How long IDs are remembered where a preset knows no retry horizon.
const REMEMBER: Duration = Duration::from_secs(72 * 3600);

fn post() -> Vec<String> {
    vec!["POST".into()]
}

/// All presets in order of their IDs. Parses every file that was not needed so far.
pub fn all() -> &'static [&'static Provider] {
    static ALL: OnceLock<Vec<&'static Provider>> = OnceLock::new();
    ALL.get_or_init(|| (0..FILES.len()).filter_map(load).collect())
}

/// The preset with this ID or alias; `_` counts as `-`. Parses the one file that it needs.
pub fn find(id: &str) -> Option<&'static Provider> {
    let id = id.replace('_', "-");
    let by_id = FILES.iter().position(|(known, _)| *known == id);
    by_id.or_else(|| FILES.iter().position(|(_, text)| aliases(text).any(|alias| alias == id))).and_then(load)
}

/// The preset of one file, parsed once.
fn load(at: usize) -> Option<&'static Provider> {
    static LOADED: [OnceLock<Option<Provider>>; FILES.len()] = [const { OnceLock::new() }; FILES.len()];
    let (id, text) = FILES.get(at)?;
    // A preset that does not parse cannot be shipped: a test loads every file.
    LOADED.get(at)?.get_or_init(|| parse(id, text).ok()).as_ref()
}

/// The aliases of a file without parsing it: they stand on one line, before `category`. A test compares.
fn aliases(text: &str) -> impl Iterator<Item = &str> {
    let mut head = text.lines().take_while(|line| !line.starts_with("category:"));
    let list = head.find_map(|line| line.strip_prefix("aliases: [")?.strip_suffix(']')).unwrap_or_default();
    list.split(',').map(str::trim).filter(|alias| !alias.is_empty())
}

fn parse(id: &'static str, text: &str) -> Result<Provider, Vec<String>> {
    let deserializer = serde_yaml::Deserializer::from_str(text);
    let raw: RawProvider =
        serde_path_to_error::deserialize(deserializer).map_err(|error| vec![format!("{id}: {error}")])?;
    let mut problems = Vec::new();
    let scheme = raw.signature.compile("signature").map_err(|found| problems.extend(found)).ok();
    let event_id = raw.event_id.compile("event_id", &mut problems);
    let event_type = raw.event_type.compile("event_type", &mut problems);
    let mut duration = |path: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(parse_duration).transpose();
        parsed.unwrap_or_else(|message| {
            problems.push(Problem { path: path.into(), message });
            None
        })
    };
    let retry_horizon = duration("retry_horizon", &raw.retry_horizon);
    let ack_deadline = duration("ack_deadline", &raw.ack_deadline);
    let remember = duration("duplicates.remember", &raw.duplicates.remember)
        .unwrap_or_else(|| retry_horizon.map_or(REMEMBER, |horizon| horizon.max(REMEMBER)));
    if retry_horizon.is_some_and(|horizon| horizon > remember) {
        let message = "is shorter than retry_horizon: a late retry would pass as new".into();
        problems.push(Problem { path: "duplicates.remember".into(), message });
    }
    if let Some(Err(message)) = raw.ranges.as_ref().map(|ranges| ranges.compile(id)) {
        problems.push(Problem { path: "ranges".into(), message });
    }
    for (at, gap) in raw.retries.gaps.iter().enumerate() {
        if let Err(message) = parse_duration(gap) {
            problems.push(Problem { path: format!("retries.gaps[{at}]"), message });
        }
    }
    for text in &raw.retries.lost_on {
        let status = text.trim_start_matches('!');
        if !(matches!(status, "4xx" | "5xx") || status.parse().is_ok_and(|status: u16| (300..600).contains(&status))) {
            problems.push(Problem { path: "retries.lost_on".into(), message: format!("`{text}` is no status") });
        }
    }
    let handshakes = raw.handshakes.iter().enumerate();
    let handshakes =
        handshakes.filter_map(|(at, one)| one.compile(&format!("handshakes[{at}]"), &mut problems)).collect();
    let success = raw.success.and_then(|success| match HeaderValue::from_str(&success.kind) {
        Ok(kind) => Some((kind, success.body.into())),
        Err(_) => {
            problems.push(Problem { path: "success.type".into(), message: "is no media type".into() });
            None
        }
    });
    for (name, value) in &raw.no_retry {
        if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
            problems.push(Problem { path: "no_retry".into(), message: format!("`{name}` is no header") });
        }
    }
    let no_retry = raw.no_retry.iter().map(|(name, value)| (name.to_lowercase().into(), value.as_str().into()));
    let manners = Manners {
        deadline: ack_deadline,
        success,
        no_retry: no_retry.collect(),
        empty_unauthorized: raw.empty_unauthorized,
    };
    match scheme {
        Some(scheme) if problems.is_empty() => Ok(Provider {
            id,
            name: raw.name,
            aliases: raw.aliases,
            category: raw.category,
            evidence: raw.evidence,
            docs: raw.docs,
            signature: raw.signature,
            scheme,
            event_id,
            event_type,
            retry_horizon,
            remember,
            answers: raw.answers,
            ack_deadline,
            retries: raw.retries,
            manners,
            batch: raw.batch,
            ids_repeat: raw.ids_repeat,
            weakness: raw.weakness,
            handshakes,
            handshake_vectors: raw.handshake_vectors,
            methods: raw.methods,
            content_types: raw.content_types,
            content_encodings: raw.content_encodings,
            ranges: raw.ranges,
            notes: raw.notes,
            recipe: raw.recipe,
            vectors: raw.vectors,
        }),
        _ => Err(problems.iter().map(|problem| format!("{id}: {problem}")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expect, run};

    #[test]
    fn every_file_of_the_folder_is_embedded_and_parses() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".yaml").to_owned())
            .collect();
        files.sort();
        let embedded: Vec<&str> = FILES.iter().map(|(id, _)| *id).collect();
        assert_eq!(files, embedded);
        let problems: Vec<String> = FILES.iter().filter_map(|(id, text)| parse(id, text).err()).flatten().collect();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn ids_and_aliases_are_unique() {
        let mut names: Vec<&str> =
            all().iter().flat_map(|p| std::iter::once(p.id).chain(p.aliases.iter().map(String::as_str))).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(find("github").is_some() && find("whatsapp").is_some() && find("nobody").is_none());
        for (at, (id, text)) in FILES.iter().enumerate() {
            let provider = load(at).unwrap();
            assert_eq!(aliases(text).collect::<Vec<_>>(), provider.aliases, "{id}: aliases stand on one line");
            for name in provider.aliases.iter().map(String::as_str).chain([*id, &id.replace('-', "_")]) {
                assert!(std::ptr::eq(find(name).unwrap(), provider), "{name}");
            }
        }
    }

    #[test]
    fn every_preset_says_where_it_is_from_and_has_an_accepting_and_a_rejecting_vector() {
        for provider in all() {
            assert!(!provider.docs.is_empty() && !provider.category.is_empty(), "{}", provider.id);
            for expect in [Expect::Accept, Expect::Reject] {
                assert!(provider.vectors.iter().any(|vector| vector.expect == expect), "{}: {expect:?}", provider.id);
            }
            let published = provider.vectors.iter().any(|vector| vector.source != "own");
            match provider.evidence {
                Evidence::OfficialVector => assert!(published, "{}", provider.id),
                Evidence::OfficialDocs => assert!(!published, "{}", provider.id),
                // Others publish captured requests as well.
                Evidence::ThirdParty => {}
            }
            for variant in provider.scheme.variants() {
                assert!(
                    provider
                        .vectors
                        .iter()
                        .any(|v| v.variant.as_deref() == Some(variant) && v.expect == Expect::Accept),
                    "{}: no vector for {variant}",
                    provider.id
                );
            }
        }
    }

    #[test]
    fn every_vector_of_every_preset_passes() {
        let failed: Vec<String> = all()
            .iter()
            .flat_map(|provider| provider.vectors.iter().enumerate().map(move |(at, vector)| (provider, at, vector)))
            .filter_map(|(provider, at, vector)| {
                run(vector, provider).err().map(|why| format!("{} vectors[{at}]: {why}", provider.id))
            })
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn every_handshake_of_every_preset_is_answered_as_its_sender_wants_it() {
        let mut failed = Vec::new();
        for provider in all() {
            for (at, vector) in provider.handshake_vectors.iter().enumerate() {
                if let Err(why) = vector.run(provider) {
                    failed.push(format!("{} handshake_vectors[{at}] ({}): {why}", provider.id, vector.exchange));
                }
            }
            for exchange in &provider.handshakes {
                let answered = |vector: &&HandshakeVector| *vector.exchange == *exchange.name && !vector.answer.refused;
                if !provider.handshake_vectors.iter().any(|vector| answered(&vector)) {
                    failed.push(format!("{}: no vector for {}", provider.id, exchange.name));
                }
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn no_preset_answers_with_a_status_that_loses_events() {
        for provider in all() {
            let usual = crate::policy::Answers::default();
            let answers = &provider.answers;
            for (what, status) in [
                ("busy", answers.busy.unwrap_or(usual.busy)),
                ("rate_limited", answers.rate_limited.unwrap_or(usual.rate_limited)),
                ("overload", answers.overload.unwrap_or(usual.overload)),
            ] {
                assert!(!provider.retries.is_lost_on(status), "{}: answers.{what}: {status}", provider.id);
            }
        }
        let retries = Retries { lost_on: vec!["4xx".into(), "!429".into(), "503".into()], ..Retries::default() };
        assert_eq!([400, 429, 500, 503].map(|status| retries.is_lost_on(status)), [true, false, false, true]);
    }

    /// A changed body (where it is signed), secret or signature turns every accepting vector into a rejected one.
    #[test]
    fn every_tampered_copy_of_an_accepting_vector_is_rejected() {
        use crate::check::signature::SignatureCheck;
        for provider in all() {
            for (at, vector) in provider.vectors.iter().enumerate().filter(|(_, v)| v.expect == Expect::Accept) {
                let check = vector.check(provider).unwrap();
                let request = vector.request().unwrap();
                let verify = |check: &SignatureCheck, changed: &crate::check::signature::UnsignedRequest| {
                    let claimed = request.with_head(|head| check.claimed_time(head, &request.body)).unwrap();
                    let mut now = crate::request::Now::at_unix(0);
                    now.unix = vector.at.map_or(claimed.unwrap_or_default(), Duration::from_secs);
                    let verdict = |head: &crate::request::Head<'_>| {
                        let mut verification = check.begin(head, true, now)?;
                        verification.update(&changed.body);
                        verification.finish(head, &changed.body, now)
                    };
                    changed.with_head(verdict).unwrap().map(drop)
                };
                let what = format!("{} vectors[{at}]", provider.id);
                assert!(verify(&check, &request).is_ok(), "{what}");
                if provider.scheme.covers_body() {
                    for bit in 0..(request.body.len() * 8).min(256) {
                        let mut changed = request.clone();
                        changed.body[bit / 8] ^= 1 << (bit % 8);
                        assert!(verify(&check, &changed).is_err(), "{what}: bit {bit} of the body");
                    }
                    let mut changed = request.clone();
                    changed.body.push(b'\n');
                    assert!(verify(&check, &changed).is_err(), "{what}: a line end more");
                }
                let mut other = vector.clone();
                // The first letter behind the prefix: base64 and text alike become another key.
                other.secrets.iter_mut().for_each(|secret| {
                    let first = usize::from(secret.starts_with("whsec_")) * 6;
                    let letter = if secret[first..].starts_with('0') { "1" } else { "0" };
                    secret.replace_range(first..=first, letter);
                });
                if let Some(public) = &vector.public_key {
                    other.public_key = Some(crate::check::signature::another_public_key(public));
                }
                if !provider.scheme.brings_keys() {
                    assert!(verify(&other.check(provider).unwrap(), &request).is_err(), "{what}: another secret");
                }
                // A bit of every byte of what is read, as far as that is short. A list may hold items of other versions and
                // several signatures, of which one is enough.
                let alternatives = provider.signature.any_of.as_deref();
                let alternatives = alternatives.unwrap_or(std::slice::from_ref(&provider.signature));
                let list = |one: &RawScheme| one.from.as_ref().is_some_and(|from| from.list.is_some());
                let lists = alternatives.iter().any(list);
                for (at, (name, value)) in request.headers.iter().enumerate() {
                    // A key without a name is tried whatever name is given.
                    let names_key = |one: &RawScheme| {
                        let header = one.key_id.as_ref().and_then(|key| key.header.as_deref());
                        vector.key_id.is_none() && header.is_some_and(|header| name.eq_ignore_ascii_case(header))
                    };
                    if !check.headers().iter().any(|known| name.eq_ignore_ascii_case(known.as_str()))
                        || alternatives.iter().any(names_key)
                    {
                        continue;
                    }
                    let looked_at = value.len().min(128);
                    let flip = |byte: &usize| {
                        let mut changed = request.clone();
                        changed.headers[at].1[*byte] ^= 1;
                        verify(&check, &changed).is_ok()
                    };
                    let good = (0..looked_at).filter(flip).count();
                    assert!(good == 0 || (lists && good < looked_at), "{what}: {good} bits of {name}");
                }
                if check.needs_public_url() {
                    let mut moved = vector.clone();
                    moved.request.url = moved.request.url.map(|url| url.replacen("://", "://x", 1));
                    let moved = moved.check(provider).unwrap();
                    assert!(verify(&moved, &request).is_err(), "{what}: another URL");
                }
                for name in check.headers() {
                    let mut changed = request.clone();
                    let before = changed.headers.len();
                    changed.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
                    if changed.headers.len() < before {
                        assert!(verify(&check, &changed).is_err(), "{what}: without {name}");
                    }
                }
            }
        }
    }
}
