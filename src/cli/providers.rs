//! `hookmoat providers`

use super::signing::unknown_preset;
use super::{FAULT, fail};
use crate::provider::{self, Provider};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat providers             all of them
  hookmoat providers stripe      one, with its scheme, where its event ID stands, and its notes

Evidence: official-vector means that requests published by the sender or its SDK verify; official-docs that the sender
describes the scheme; third-party that only others do.")]
pub(super) struct Arguments {
    /// Show this one in full
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.id {
        None => list(arguments.json),
        Some(id) => match provider::find(id) {
            Some(provider) => show(provider, arguments.json),
            None => return fail(&unknown_preset(id), FAULT),
        },
    }
    ExitCode::SUCCESS
}

fn list(json: bool) {
    if json {
        println!("{:#}", Value::from_iter(provider::all().iter().map(|provider| value(provider))));
        return;
    }
    println!("{:<31} {:<13} {:<16} NAME", "ID", "CATEGORY", "EVIDENCE");
    for provider in provider::all() {
        println!("{:<31} {:<13} {:<16} {}", provider.id, provider.category, evidence(provider), provider.name);
    }
}

fn evidence(provider: &Provider) -> String {
    json!(provider.evidence).as_str().unwrap_or_default().to_owned()
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
