//! `hookmoat queue`: what waits, what was given up, and how it gets another chance.
//!
//! Works on the queue's file itself, also while the process that owns it delivers: everything is done in short
//! transactions, and what changed is seen there within a second.

use super::{FAULT, NO, fail};
use crate::config;
use crate::config::units::Span;
use crate::policy::QueueEngine;
use crate::port::queue::{Event, EventState, EventUid, Filter, Inspect, Portion, Queue, QueueError, Summary};
use crate::port::sqlite::db::Database;
use crate::port::sqlite::queue::SqliteQueue;
use crate::request::Now;
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Events looked at in one step of a long operation.
const PORTION: usize = 500;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat queue stats                                  how much waits, and for how long
  hookmoat queue list --state dead                      what was given up
  hookmoat queue show 019a…                             one event: headers, body, attempts
  hookmoat queue replay --route crm --dry-run           how many dead letters would get another chance
  hookmoat queue replay --uid 019a…                     give one another chance
  hookmoat queue purge --state dead --older-than 30d    forget old dead letters

Replayed events keep their IDs and are never refused as duplicates. Safe while the proxy runs.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Configuration file
    #[arg(short, long, global = true, env = "HOOKMOAT_CONFIG", default_value = "hookmoat.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Which queue of the configuration; needed where there are several
    #[arg(short, long, global = true, value_name = "NAME")]
    queue: Option<String>,
    /// The queue's file, instead of a configuration
    #[arg(long, global = true, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// How many events wait, are being delivered or were given up
    Stats,
    /// Events that fit, oldest first
    List {
        #[command(flatten)]
        filter: FilterArguments,
        /// At most so many
        #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT")]
        limit: usize,
        /// Begin behind this event
        #[arg(long, value_name = "UID")]
        after: Option<String>,
    },
    /// All of one event
    Show {
        /// Its UID, as `list` shows it
        #[arg(value_name = "UID")]
        uid: String,
        /// Write the body to standard output, byte for byte, and nothing else
        #[arg(long)]
        body: bool,
    },
    /// Give dead letters that fit another chance
    Replay {
        #[command(flatten)]
        filter: FilterArguments,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        /// All dead letters; needed where no filter is given
        #[arg(long)]
        all: bool,
    },
    /// Forget events that fit and are not being delivered
    Purge {
        #[command(flatten)]
        filter: FilterArguments,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        /// All events; needed where no filter is given
        #[arg(long)]
        all: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct FilterArguments {
    /// This event alone
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// From this preset
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Of this type, as the sender calls it
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// With this sender's ID
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// ready, scheduled, in_flight or dead
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Accepted at least so long ago, for instance 30d
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Accepted at most so long ago, for instance 2h
    #[arg(long, value_name = "AGE")]
    newer_than: Option<String>,
}

impl FilterArguments {
    fn read(&self) -> Result<Filter, String> {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let age = |text: &Option<String>| text.as_deref().map(span).transpose();
        Ok(Filter {
            uid: self.uid.as_deref().map(uid).transpose()?,
            route: text(&self.route),
            provider: text(&self.provider),
            event_type: text(&self.event_type),
            event_id: text(&self.event_id),
            state: self.state.as_deref().map(state).transpose()?,
            older_than: age(&self.older_than)?,
            newer_than: age(&self.newer_than)?,
        })
    }
}

fn uid(text: &str) -> Result<EventUid, String> {
    EventUid::parse(text).ok_or_else(|| format!("{text} is no UID: write the 32 digits that `queue list` shows"))
}

fn span(text: &str) -> Result<Duration, String> {
    let span = Span::parse(text).ok_or_else(|| format!("{text} is no age: write for instance 90m, 2h or 30d"))?;
    Ok(span.0)
}

fn state(text: &str) -> Result<EventState, String> {
    let known = EventState::ALL.iter().copied().find(|state| state.label() == text);
    known.ok_or_else(|| format!("{text} is no state: write ready, scheduled, in_flight or dead"))
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let queue = match open(arguments) {
        Ok(queue) => queue,
        Err(why) => return fail(&why, FAULT),
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return fail("no runtime", FAULT);
    };
    match runtime.block_on(answer(arguments, &queue)) {
        Ok(code) => code,
        Err(why) => fail(&why, FAULT),
    }
}

fn open(arguments: &Arguments) -> Result<SqliteQueue, String> {
    let path = match &arguments.db {
        Some(path) => path.clone(),
        None => path_of(arguments)?,
    };
    let database = Database::visit(&path).map_err(|error| error.to_string())?;
    SqliteQueue::visit(database).map_err(|error| error.to_string())
}

fn path_of(arguments: &Arguments) -> Result<PathBuf, String> {
    let loaded =
        config::load(&arguments.config).map_err(|problems| format!("{problems}or name the queue's file: --db FILE"))?;
    let queues = &loaded.policy.queues;
    let names = || queues.iter().map(|queue| &*queue.name).collect::<Vec<_>>().join(", ");
    let queue = match (&arguments.queue, &queues[..]) {
        (_, []) => return Err("the configuration has no queue".into()),
        (None, [queue]) => queue,
        (None, _) => return Err(format!("which queue? --queue NAME; there are: {}", names())),
        (Some(name), _) => queues
            .iter()
            .find(|queue| *queue.name == **name)
            .ok_or_else(|| format!("no queue {name}; there are: {}", names()))?,
    };
    match &queue.engine {
        QueueEngine::Sqlite(file) => Ok(file.path.clone()),
        QueueEngine::RabbitMq(_) => {
            Err("RabbitMQ's own tools look into its queues: rabbitmqctl, the management UI".into())
        }
        QueueEngine::Sqs(_) => {
            Err("AWS's own tools look into its queues: the console, aws sqs start-message-move-task".into())
        }
    }
}

async fn answer(arguments: &Arguments, queue: &SqliteQueue) -> Result<ExitCode, String> {
    let now = Now::read();
    let told = |error: QueueError| error.to_string();
    match &arguments.what {
        What::Stats => {
            let stats = queue.stats(now).await.map_err(told)?;
            let oldest = stats.oldest.map(|age| age.as_secs_f64());
            if arguments.json {
                let value = json!({
                    "ready": stats.ready, "scheduled": stats.scheduled, "in_flight": stats.in_flight,
                    "dead": stats.dead, "bytes": stats.bytes, "oldest_seconds": oldest,
                });
                println!("{value:#}");
            } else {
                let rows = [
                    ("ready", stats.ready),
                    ("scheduled", stats.scheduled),
                    ("in flight", stats.in_flight),
                    ("dead", stats.dead),
                    ("bytes", stats.bytes),
                ];
                for (name, count) in rows {
                    println!("{name:<10} {:>12}", count.map_or("?".into(), |count| count.to_string()));
                }
                println!("{:<10} {:>12}", "oldest", stats.oldest.map_or("-".into(), age));
            }
            Ok(ExitCode::SUCCESS)
        }
        What::List { filter, limit, after } => {
            let (filter, after) = (filter.read()?, after.as_deref().map(uid).transpose()?);
            let found = queue.list(&filter, after, *limit, now).await.map_err(told)?;
            if arguments.json {
                println!("{:#}", Value::from_iter(found.iter().map(value)));
            } else {
                found.iter().for_each(|summary| println!("{}", line(summary, now)));
            }
            Ok(if found.is_empty() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
        }
        What::Show { uid: text, body } => {
            let Some((summary, event)) = queue.show(uid(text)?, now).await.map_err(told)? else {
                return Ok(fail("no such event; it may have been delivered meanwhile", NO));
            };
            show(&summary, &event, *body, arguments.json, now);
            Ok(ExitCode::SUCCESS)
        }
        What::Replay { filter, dry_run, all } => {
            // A step that is repeated by itself would go on for ever: what fails again comes back dead, behind us.
            let filter = chosen(filter, *all, "replay")?;
            let total =
                in_portions(arguments, async |after| queue.replay(&filter, after, PORTION, *dry_run, now).await);
            Ok(done(arguments, total.await?, if *dry_run { "would be replayed" } else { "replayed" }))
        }
        What::Purge { filter, dry_run, all } => {
            let filter = chosen(filter, *all, "purge")?;
            let total = in_portions(arguments, async |after| queue.purge(&filter, after, PORTION, *dry_run, now).await);
            Ok(done(arguments, total.await?, if *dry_run { "would be purged" } else { "purged" }))
        }
    }
}

/// Everything at once has to be meant.
fn chosen(filter: &FilterArguments, all: bool, what: &str) -> Result<Filter, String> {
    let filter = filter.read()?;
    if filter == Filter::default() && !all {
        return Err(format!("{what} what? Give a filter, or --all"));
    }
    Ok(filter)
}

async fn in_portions(
    arguments: &Arguments,
    step: impl AsyncFn(Option<EventUid>) -> Result<Portion, QueueError>,
) -> Result<u64, String> {
    let shown = std::io::stderr().is_terminal() && !arguments.json;
    let (mut total, mut after) = (0, None);
    loop {
        let portion = step(after).await.map_err(|error| format!("{error}; {total} events were done before"))?;
        total += portion.matched;
        if shown {
            eprint!("\r{total}");
        }
        after = portion.next;
        if after.is_none() {
            if shown {
                eprint!("\r");
            }
            return Ok(total);
        }
    }
}

fn done(arguments: &Arguments, total: u64, what: &str) -> ExitCode {
    if arguments.json {
        println!("{}", json!({ "events": total, "done": what }));
    } else {
        println!("{total} {what}");
    }
    if total == 0 { ExitCode::from(NO) } else { ExitCode::SUCCESS }
}

fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn line(summary: &Summary, now: Now) -> String {
    let failure = summary.failure.as_ref().map(|failure| &*failure.message).unwrap_or_default();
    let why = summary.dead.as_deref().map(|dead| format!("{dead}: ")).unwrap_or_default();
    format!(
        "{}  {:<9} {:>5} old  {:>3} attempts  {:<16} {:<24} {why}{failure}",
        summary.uid,
        summary.state.label(),
        age(now.unix.saturating_sub(summary.received)),
        summary.attempts,
        summary.route,
        summary.event_id.as_deref().unwrap_or("-"),
    )
    .trim_end()
    .to_owned()
}

fn value(summary: &Summary) -> Value {
    json!({
        "uid": summary.uid.to_string(),
        "route": summary.route,
        "provider": summary.provider,
        "event_id": summary.event_id,
        "event_type": summary.event_type,
        "state": summary.state.label(),
        "received_unix": summary.received.as_secs_f64(),
        "due_unix": summary.due.as_secs_f64(),
        "attempts": summary.attempts,
        "body_bytes": summary.body_bytes,
        "status": summary.failure.as_ref().and_then(|failure| failure.status),
        "failure": summary.failure.as_ref().map(|failure| &failure.message),
        "dead": summary.dead,
    })
}

fn show(summary: &Summary, event: &Event, body_only: bool, json: bool, now: Now) {
    if body_only {
        let _ = std::io::stdout().write_all(&event.body);
        return;
    }
    let headers = event.headers.iter().map(|(name, value)| (&**name, String::from_utf8_lossy(value)));
    let target = match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.to_string(),
    };
    if json {
        let mut value = value(summary);
        value["method"] = json!(event.method);
        value["target"] = json!(target);
        value["host"] = json!(event.host);
        value["request_id"] = json!(event.request_id);
        value["client"] = json!(event.client.map(|client| client.to_string()));
        value["verified"] = json!(event.verified);
        value["headers"] = headers.map(|(name, value)| json!([name, value])).collect();
        value["body_base64"] = json!(base64::engine::general_purpose::STANDARD.encode(&event.body));
        println!("{value:#}");
        return;
    }
    println!("{}", line(summary, now));
    println!("\n{} {target}\nhost: {}", event.method, event.host);
    for (name, value) in headers {
        println!("{name}: {}", value.escape_debug());
    }
    match std::str::from_utf8(&event.body) {
        Ok(text) => println!("\n{text}"),
        Err(_) => println!("\n({} bytes that are no text; --body writes them)", event.body.len()),
    }
}
