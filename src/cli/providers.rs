//! `hookmoat providers`

use super::signing::unknown_preset;
use super::{FAULT, NO, fail};
use crate::catalogue::{category_name, evidence_in_words, route_yaml, scheme_in_words};
use crate::provider::{self, Provider};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat providers                       all of them
  hookmoat providers stripe                one in full: scheme, event ID, where to find the secret, a route to copy
  hookmoat providers --search zoho         those whose ID, name or category holds this
  hookmoat providers --category chat       those of one category
  hookmoat providers --category crm --json

Evidence: official-vector means that requests published by the sender or its SDK verify; official-docs that the sender
describes the scheme; third-party that only others do.")]
pub(super) struct Arguments {
    /// Show this one in full
    #[arg(value_name = "ID", conflicts_with_all = ["search", "category"])]
    id: Option<String>,
    /// Only those whose ID, alias, name or category holds this text
    #[arg(short, long, value_name = "TEXT")]
    search: Option<String>,
    /// Only those of this category: chat, crm, payments, …
    #[arg(short, long, value_name = "NAME")]
    category: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if let Some(id) = &arguments.id {
        return match provider::find(id) {
            Some(provider) => {
                show(provider, arguments.json);
                ExitCode::SUCCESS
            }
            None => fail(&unknown_preset(id), FAULT),
        };
    }
    if let Some(category) = &arguments.category
        && provider::all().iter().all(|provider| provider.category != *category)
    {
        let mut known: Vec<&str> = provider::all().iter().map(|provider| &*provider.category).collect();
        known.sort_unstable();
        known.dedup();
        return fail(&format!("no category `{category}`; there are: {}", known.join(", ")), FAULT);
    }
    let found: Vec<_> = provider::all().iter().copied().filter(|provider| arguments.wants(provider)).collect();
    if arguments.json {
        println!("{:#}", Value::from_iter(found.iter().map(|provider| value(provider))));
    } else if !found.is_empty() {
        list(&found);
    }
    match found.is_empty() {
        false => ExitCode::SUCCESS,
        true => fail("no preset fits; a scheme of one's own is written as `signature` of a route", NO),
    }
}

impl Arguments {
    fn wants(&self, provider: &Provider) -> bool {
        let holds = |text: &str| {
            let text = text.to_lowercase();
            self.search.as_ref().is_none_or(|wanted| text.contains(&wanted.to_lowercase()))
        };
        let category = self.category.as_ref().is_none_or(|category| provider.category == *category);
        let texts = [provider.id, &provider.name, &provider.category, category_name(&provider.category)];
        category && (texts.into_iter().any(holds) || provider.aliases.iter().any(|alias| holds(alias)))
    }
}

fn list(providers: &[&Provider]) {
    let width = providers.iter().map(|provider| provider.id.len()).max().unwrap_or_default();
    println!("{:<width$}  {:<12}  {:<16}  NAME", "ID", "CATEGORY", "EVIDENCE");
    for provider in providers {
        let evidence = evidence_in_words(provider.evidence);
        println!("{:<width$}  {:<12}  {evidence:<16}  {}", provider.id, provider.category, provider.name);
    }
}

fn value(provider: &Provider) -> Value {
    let sources =
        |sources: &[crate::check::source::Source]| -> Vec<String> { sources.iter().map(ToString::to_string).collect() };
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    json!({
        "id": provider.id,
        "name": provider.name,
        "aliases": provider.aliases,
        "category": provider.category,
        "evidence": provider.evidence,
        "docs": provider.docs,
        "methods": provider.methods,
        "content_types": provider.content_types,
        "signature": provider.signature,
        "event_id": sources(&provider.event_id),
        "event_type": sources(&provider.event_type),
        "retry_horizon_seconds": seconds(provider.retry_horizon),
        "remember_seconds": provider.remember.as_secs(),
        "ack_deadline_seconds": seconds(provider.ack_deadline),
        "answers": provider.answers,
        "ranges": provider.ranges,
        "notes": provider.notes,
        "proof": scheme_in_words(provider),
        "recipe": provider.recipe,
        "route": route_yaml(provider),
        "vectors": provider.vectors.len(),
    })
}

fn show(provider: &Provider, json: bool) {
    let value = value(provider);
    if json {
        println!("{value:#}");
        return;
    }
    match serde_yaml::to_string(&value) {
        Ok(text) => print!("{text}"),
        Err(error) => eprintln!("error: {error}"),
    }
}
