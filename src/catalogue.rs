//! The presets as a document: a table of all senders, and for each what to copy where.
//!
//! Everything is read from the presets, so that `config/PROVIDERS.md`, `hookmoat providers` and the code cannot say
//! different things. A test compares the document with what stands here.

use crate::check::handshake::{Exchange, Setting};
use crate::check::source::Source;
use crate::provider::{Evidence, Provider, all};
use std::fmt::Write as _;
use std::time::Duration;

/// The table's markers in `config/PROVIDERS.md`.
const TABLE: &str = "providers";
/// The recipes' markers.
const RECIPES: &str = "recipes";

/// Categories in the order of the document: what is most often asked for comes first.
const CATEGORIES: &[(&str, &str)] = &[
    ("chat", "Chat"),
    ("messaging", "Messages and calls"),
    ("voice", "Voice"),
    ("video", "Video"),
    ("crm", "CRM"),
    ("support", "Support desks"),
    ("ecommerce", "Shops and shipping"),
    ("payments", "Payments"),
    ("accounting", "Accounting"),
    ("marketing", "Marketing"),
    ("email", "Email"),
    ("social", "Social media"),
    ("productivity", "Productivity"),
    ("scheduling", "Scheduling"),
    ("forms", "Forms"),
    ("esign", "Signing"),
    ("storage", "Storage"),
    ("cms", "Content"),
    ("media", "Media"),
    ("auth", "Identity"),
    ("devtools", "Developer tools"),
    ("infra", "Infrastructure"),
    ("ai", "AI"),
    ("generic", "Webhook services and standards"),
];

/// A category in words; as it stands where it has none.
pub fn category_name(category: &str) -> &str {
    CATEGORIES.iter().find(|(known, _)| *known == category).map_or(category, |(_, name)| name)
}

/// All presets by category, in the order of the document.
pub fn by_category() -> Vec<(&'static str, Vec<&'static Provider>)> {
    let mut categories: Vec<&'static str> = CATEGORIES.iter().map(|(known, _)| *known).collect();
    for provider in all() {
        if !categories.contains(&&*provider.category) {
            categories.push(&provider.category);
        }
    }
    let of = |category: &'static str| {
        let mut found: Vec<_> = all().iter().copied().filter(|provider| provider.category == category).collect();
        found.sort_by_key(|provider| provider.name.to_lowercase());
        (category, found)
    };
    categories.into_iter().map(of).filter(|(_, found)| !found.is_empty()).collect()
}

/// How a preset's requests are proved, in a few words: `hmac-sha256; time`.
pub fn scheme_in_words(provider: &Provider) -> String {
    let alternatives = provider.signature.any_of.as_deref().unwrap_or(std::slice::from_ref(&provider.signature));
    let mut algorithms: Vec<String> = Vec::new();
    for one in alternatives {
        let name = one.algorithm.as_ref().and_then(|algorithm| serde_json::to_value(algorithm).ok());
        let name = name.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        if !name.is_empty() && !algorithms.contains(&name) {
            algorithms.push(name);
        }
    }
    let signs = |what: &[&str]| {
        let texts = alternatives.iter().filter_map(|one| one.signed.as_deref());
        texts.into_iter().any(|text| what.iter().any(|part| text.contains(part)))
    };
    let mut also = Vec::new();
    if alternatives.iter().any(|one| one.timestamp.is_some()) {
        also.push("time");
    }
    if signs(&["{url", "{public_url"]) {
        also.push("URL");
    }
    let text = algorithms.join(", ");
    if also.is_empty() { text } else { format!("{text}; {}", also.join(", ")) }
}

/// `3s`, `10m`, `72h`, `7d`: in the largest unit that is whole.
pub fn duration_in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        // Three days are as often called 72h.
        if seconds >= length && seconds.is_multiple_of(length) && (unit != "d" || seconds > 4 * length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    if duration.subsec_millis() == 0 { format!("{seconds}s") } else { format!("{}ms", duration.as_millis()) }
}

/// How well a scheme is established, as written.
pub fn evidence_in_words(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::OfficialVector => "official-vector",
        Evidence::OfficialDocs => "official-docs",
        Evidence::ThirdParty => "third-party",
    }
}

/// Where a sender's addresses are published, in a word or two.
pub fn ranges_in_words(provider: &Provider) -> &'static str {
    match &provider.ranges {
        None => "",
        Some(ranges) if ranges.url.is_some() => "by URL",
        Some(ranges) if !ranges.networks.is_empty() => "list",
        Some(_) => "page",
    }
}

/// A route for this sender, as it stands under `routes`.
pub fn route_yaml(provider: &Provider) -> String {
    let id = provider.id;
    let variable = id.replace('-', "_").to_ascii_uppercase();
    let mut yaml = format!("- name: {id}\n  path: /webhooks/{id}\n  provider: {id}\n");
    if provider.scheme.needs_public_url() || provider.handshakes.iter().any(Exchange::needs_public_url) {
        let _ = writeln!(yaml, "  public_url: https://hooks.example.com/webhooks/{id}");
    }
    if provider.scheme.needs_secrets() {
        let _ = writeln!(yaml, "  secrets: [{{ env: {variable}_SECRET }}]");
    }
    if let Some(question) = provider.scheme.key_question() {
        let of = |name: String| format!("{name}: {{ env: {variable}_{} }}", name.to_ascii_uppercase());
        let credentials: Vec<_> = question.credentials().into_iter().map(of).collect();
        let _ = writeln!(yaml, "  public_keys: [{{ ask: {{ {} }} }}]", credentials.join(", "));
    } else if provider.scheme.needs_public_keys() {
        let _ = writeln!(yaml, "  public_keys: [{{ env: {variable}_PUBLIC_KEY }}]");
    }
    let chosen = |names: Vec<&str>| names.iter().map(|name| format!("{name}: YOURS")).collect::<Vec<_>>().join(", ");
    for (key, names) in [("settings", provider.scheme.settings()), ("claims", provider.scheme.configured_claims())] {
        if !names.is_empty() {
            let _ = writeln!(yaml, "  {key}: {{ {} }}", chosen(names));
        }
    }
    if !provider.handshakes.is_empty() {
        let mut settings: Vec<Setting> = provider.handshakes.iter().flat_map(Exchange::needs).collect();
        settings.sort_unstable_by_key(|setting| *setting as u8);
        settings.dedup();
        let mut written: Vec<String> = settings
            .iter()
            .map(|setting| format!("{}: {{ env: {variable}_{} }}", setting.name(), setting.name().to_ascii_uppercase()))
            .collect();
        if provider.handshakes.iter().any(|exchange| !exchange.hands_over.is_empty()) {
            written.push(format!("keep: {id}-handed-over.jsonl"));
        }
        if provider.handshakes.iter().any(|exchange| exchange.visit.is_some()) {
            written.push("confirm: true".into());
        }
        let _ = match written.is_empty() {
            true => writeln!(yaml, "  handshake: true"),
            false => writeln!(yaml, "  handshake: {{ {} }}", written.join(", ")),
        };
    }
    yaml + "  to: app\n"
}

/// The table of all presets.
pub fn table() -> String {
    let mut text = String::from(
        "| Sender | `provider` | Proof | Event ID | Event type | Handshake | Ranges | Answer within | Tries for | Evidence |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (category, providers) in by_category() {
        let _ = writeln!(text, "| **{}** | | | | | | | | | |", category_name(category));
        for provider in providers {
            let name = provider.name.replace('|', "\\|");
            let name = match provider.docs.first() {
                Some(docs) => format!("[{name}]({docs})"),
                None => name,
            };
            let ids: Vec<String> =
                std::iter::once(provider.id).chain(provider.aliases.iter().map(String::as_str)).map(code).collect();
            let places = |sources: &[Source]| {
                let places: Vec<String> = sources.iter().map(ToString::to_string).collect();
                places.join(", else ").replace('|', "\\|")
            };
            let handshakes: Vec<&str> = provider.handshakes.iter().map(|exchange| &*exchange.name).collect();
            let time = |time: Option<Duration>| time.map(duration_in_words).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                ids.join(", "),
                scheme_in_words(provider),
                places(&provider.event_id),
                places(&provider.event_type),
                handshakes.join(", "),
                ranges_in_words(provider),
                time(provider.ack_deadline),
                time(provider.retry_horizon),
                evidence_in_words(provider.evidence),
            );
        }
    }
    text
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// Recipes of the presets that have one.
pub fn recipes() -> String {
    let mut text = String::new();
    for (category, providers) in by_category() {
        let providers: Vec<_> = providers.into_iter().filter(|provider| provider.recipe.is_some()).collect();
        if providers.is_empty() {
            continue;
        }
        let _ = writeln!(text, "### {}\n", category_name(category));
        for provider in providers {
            let Some(recipe) = &provider.recipe else { continue };
            let _ = writeln!(text, "#### {}\n", provider.name);
            let _ = writeln!(text, "* Secret: {}", recipe.secret);
            let _ = writeln!(text, "* URL: {}\n", recipe.url);
            let _ = writeln!(text, "```yaml\n{}```\n", route_yaml(provider));
        }
    }
    text
}

/// The document with both parts current. `None`: a marker is not there.
pub fn document(text: &str) -> Option<String> {
    let text = between(text, TABLE, &table())?;
    between(&text, RECIPES, recipes().trim_end())
}

fn between(text: &str, name: &str, part: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_document_is_the_current_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/PROVIDERS.md");
        let written = std::fs::read_to_string(&path).unwrap();
        let current = document(&written).expect("markers");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &current).unwrap();
        } else {
            assert!(written == current, "config/PROVIDERS.md is out of date: run the tests with UPDATE_GOLDEN=1");
        }
    }

    #[test]
    fn every_preset_stands_in_the_table_under_a_category_that_has_a_name() {
        let table = table();
        for provider in all() {
            assert!(table.contains(&format!("`{}`", provider.id)), "{}", provider.id);
            assert_ne!(category_name(&provider.category), provider.category, "{}", provider.id);
            assert!(!scheme_in_words(provider).is_empty(), "{}", provider.id);
        }
        assert_eq!(all().len(), by_category().iter().map(|(_, found)| found.len()).sum::<usize>());
    }

    /// Nobody falls between the presets and the gaps.
    #[test]
    fn every_sender_that_is_known_has_a_preset_or_a_reason_why_not() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Senders {
            presets: std::collections::BTreeMap<String, String>,
            gaps: std::collections::BTreeMap<String, String>,
            further: Vec<String>,
        }
        let read = |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let senders: Senders = serde_yaml::from_str(&read("config/senders.yaml")).unwrap();
        let gaps = read("config/GAPS.md");
        for (sender, preset) in &senders.presets {
            assert!(all().iter().any(|known| known.id == preset), "{sender}: there is no preset {preset}");
            assert!(!senders.gaps.contains_key(sender), "{sender} stands twice");
        }
        for (sender, words) in &senders.gaps {
            assert!(gaps.contains(words.as_str()), "{sender}: {words} does not stand in GAPS.md");
        }
        for provider in all() {
            let served = senders.presets.values().filter(|preset| *preset == provider.id).count();
            let further = senders.further.iter().filter(|preset| *preset == provider.id).count();
            assert!((served > 0) != (further > 0), "{} stands nowhere in senders.yaml, or on both sides", provider.id);
        }
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(3, "3s"), (600, "10m"), (259_200, "72h"), (604_800, "7d"), (90, "90s"), (0, "0s")] {
            assert_eq!(duration_in_words(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration_in_words(Duration::from_millis(2500)), "2500ms");
    }
}
