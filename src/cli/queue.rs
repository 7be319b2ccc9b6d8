//! `hookmoat queue`: what waits, what was given up, and how it gets another chance.
//!
//! Works on the queue's file itself, also while the process that owns it delivers: everything is done in short
//! transactions, and what changed is seen there within a second. Queues at brokers are the running process's: it is asked
//! at its admin listener.

use super::ask::{Trust, connector, exchange};
use super::health::certificate_at;
use super::{FAULT, NO, fail, out_bytes};
use crate::check::signature::UnsignedRequest;
use crate::config;
use crate::delivery::view::{self, FilterText};
use crate::policy::QueueEngine;
use crate::port::inspect::{Action, Inspect as _, Progress, Sweep};
use crate::port::queue::Queue as _;
use crate::port::sqlite::db::Database;
use crate::port::sqlite::queue::SqliteQueue;
use crate::proxy::upstream::Client;
use crate::request::Now;
use crate::secret::SecretBytes;
use base64::Engine as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Between two looks at how far a long operation is.
const LOOK: Duration = Duration::from_millis(100);
/// For one answer of the running process. A list of a broker's dead letters takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable with the admin listener's token.
const TOKEN: &str = "HOOKMOAT_ADMIN_TOKEN";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat queue stats                                  how much waits, and for how long
  hookmoat queue list --state dead                      what was given up
  hookmoat queue show 019a…                             one event: headers, body, attempts
  hookmoat queue replay --route crm --dry-run           how many dead letters would get another chance
  hookmoat queue replay --uid 019a…                     give one another chance
  hookmoat queue purge --state dead --older-than 30d    forget old dead letters
  hookmoat queue list --admin http://127.0.0.1:9901     ask the running process, not the file

A queue in SQLite is looked at in its file. For RabbitMQ and SQS the running process is asked, at its admin listener; of
these, dead letters alone can be listed, replayed and purged. Delivered events are not kept by any.

Where the admin listener asks for a token, it comes from the configuration, or from HOOKMOAT_ADMIN_TOKEN. Where it speaks
TLS, it has to show the certificate of the configuration; with --admin, one that this machine or --ca FILE trusts.

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
    /// Ask the running process at its admin listener
    #[arg(long, global = true, value_name = "URL", conflicts_with = "db")]
    admin: Option<String>,
    /// Trust these certificates (PEM) of the admin listener instead of the machine's or the configuration's
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Do not verify the admin listener's certificate
    #[arg(short = 'k', long, global = true)]
    insecure: bool,
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
        filter: FilterText,
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
        filter: FilterText,
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
        filter: FilterText,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        /// All events; needed where no filter is given
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return fail("no runtime", FAULT);
    };
    let answered = runtime.block_on(async {
        let source = open(arguments).await?;
        answer(arguments, &source).await
    });
    match answered {
        Ok(code) => code,
        Err(why) => fail(&why, FAULT),
    }
}

/// Where the queue is looked at. Both answer with the same JSON.
enum Source {
    File(SqliteQueue),
    Process(Process),
}

async fn open(arguments: &Arguments) -> Result<Source, String> {
    if let Some(path) = &arguments.db {
        return file(path);
    }
    if let Some(url) = &arguments.admin {
        return Process::find(url, arguments.queue.as_deref(), None, arguments.trust()).await.map(Source::Process);
    }
    let loaded = config::load(&arguments.config).map_err(|problems| {
        format!("{problems}or name the queue's file: --db FILE, or ask the process: --admin URL")
    })?;
    let queues = &loaded.policy.queues;
    let names: Vec<&str> = queues.iter().map(|queue| &*queue.name).collect();
    let name = one_of(arguments.queue.as_deref(), &names)?;
    match queues.iter().find(|queue| *queue.name == *name).map(|queue| &queue.engine) {
        Some(QueueEngine::Sqlite(found)) => file(&found.path),
        _ => {
            let off = "the running process has to be asked for this queue, and the configuration says `admin: off`";
            let mut address = loaded.policy.admin.ok_or(off)?;
            if address.ip().is_unspecified() {
                let loopback: IpAddr =
                    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                address.set_ip(loopback);
            }
            let access = &loaded.policy.admin_access;
            let token = access.token.as_ref().and_then(|token| token.as_ref().ok()).cloned();
            let pair = access.tls.as_ref().and_then(|tls| tls.pairs.first());
            let scheme = if pair.is_some() { "https" } else { "http" };
            let trust = match pair {
                Some(pair) if arguments.ca.is_none() && !arguments.insecure => {
                    shows(address, &pair.certificate)?;
                    Trust { ca: None, verify: false }
                }
                _ => arguments.trust(),
            };
            Process::find(&format!("{scheme}://{address}"), Some(name), token, trust).await.map(Source::Process)
        }
    }
}

fn file(path: &Path) -> Result<Source, String> {
    let database = Database::visit(path).map_err(|error| error.to_string())?;
    SqliteQueue::visit(database).map(Source::File).map_err(|error| error.to_string())
}

/// Whoever has the key of the configuration's certificate is who is meant, whatever names and issuer the certificate has.
/// Unlike `health`, this command may send a token: it does not go to whoever took the port.
fn shows(address: SocketAddr, certificate: &Path) -> Result<(), String> {
    let own = CertificateDer::from_pem_file(certificate)
        .map_err(|error| format!("cannot read certificate {}: {error}", certificate.display()))?;
    let help = "does Hookmoat run there with this configuration? --ca FILE trusts another certificate, --insecure any";
    match certificate_at(address) {
        Ok(Some(shown)) if shown == own => Ok(()),
        Ok(_) => Err(format!("{address} does not show the certificate of {}\n  help: {help}", certificate.display())),
        Err(error) => Err(format!("cannot connect to {address}: {error}\n  help: {help}")),
    }
}

/// The queue that is meant.
fn one_of<'a>(wanted: Option<&str>, names: &[&'a str]) -> Result<&'a str, String> {
    match (wanted, names) {
        (_, []) => Err("there is no queue".into()),
        (None, [name]) => Ok(name),
        (None, _) => Err(format!("which queue? --queue NAME; there are: {}", names.join(", "))),
        (Some(wanted), _) => {
            let found = names.iter().find(|name| **name == wanted);
            found.copied().ok_or_else(|| format!("no queue {wanted}; there are: {}", names.join(", ")))
        }
    }
}

/// A running process, by its admin listener.
struct Process {
    client: Arc<Client>,
    url: String,
    queue: String,
    token: Option<SecretBytes>,
}

impl Process {
    async fn find(url: &str, queue: Option<&str>, token: Option<SecretBytes>, trust: Trust) -> Result<Self, String> {
        let url = url.trim_end_matches('/').to_owned();
        let client = connector(&url, trust, PATIENCE)?;
        let given = std::env::var_os(TOKEN).map(|token| SecretBytes::new(token.into_encoded_bytes()));
        let mut process = Self { client, url, queue: String::new(), token: given.or(token) };
        let (_, all) = process.ask("GET", "/queues", Vec::new()).await?;
        let all = all["queues"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = all.iter().filter_map(|queue| queue["name"].as_str()).collect();
        process.queue = one_of(queue, &names)?.to_owned();
        Ok(process)
    }

    /// Status and JSON of an answer. An error of the other side is one here, unless it says that something is not there.
    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Value), String> {
        let mut headers = match method {
            "POST" => vec![("Content-Type".to_owned(), b"application/json".to_vec())],
            _ => Vec::new(),
        };
        if let Some(token) = &self.token {
            headers.push(("Authorization".to_owned(), [b"Bearer ", token.expose()].concat()));
        }
        let request = UnsignedRequest { method: method.into(), url: format!("{}{path}", self.url), headers, body };
        let answer = exchange(&self.client, &request, PATIENCE, "--admin").await?;
        if answer.status == 401 {
            return Err(format!("{} asks for its token: set {TOKEN}", self.url));
        }
        let value: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| format!("{} answered {}, and not as an admin listener does", self.url, answer.status))?;
        match (answer.status, value["error"].as_str()) {
            (404 | 200..=299, _) => Ok((answer.status, value)),
            (status, why) => Err(why.map_or_else(|| format!("{} answered {status}", self.url), str::to_owned)),
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/queues/{}{rest}", self.queue)
    }
}

impl Source {
    async fn stats(&self, now: Now) -> Result<Value, String> {
        match self {
            Self::File(queue) => {
                let stats = queue.stats(now).await.map_err(|error| error.to_string())?;
                Ok(view::stats(&stats, Some(&queue.reach())))
            }
            Self::Process(process) => match process.ask("GET", &process.path(""), Vec::new()).await? {
                (_, value) if value["trouble"].is_string() && value["dead"].is_null() => {
                    Err(value["trouble"].as_str().unwrap_or_default().to_owned())
                }
                (_, value) => Ok(value),
            },
        }
    }

    /// Events, whether all was looked at, and what cannot be seen.
    async fn list(&self, filter: &FilterText, after: Option<&str>, limit: usize, now: Now) -> Result<Value, String> {
        match self {
            Self::File(queue) => {
                let (filter, after) = (filter.read()?, after.map(view::uid).transpose()?);
                let found = queue.list(&filter, after, limit, now).await.map_err(|error| error.to_string())?;
                let events = Value::from_iter(found.events.iter().map(view::summary));
                Ok(json!({ "events": events, "complete": found.complete }))
            }
            Self::Process(process) => {
                let mut query = format!("?limit={limit}");
                let fields = serde_json::to_value(filter).unwrap_or_default();
                let fields = fields.as_object().into_iter().flatten().map(|(name, value)| (&**name, value.as_str()));
                for (name, value) in fields.chain([("after", after)]) {
                    if let Some(value) = value {
                        query += &format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
                    }
                }
                Ok(process.ask("GET", &process.path(&format!("/events{query}")), Vec::new()).await?.1)
            }
        }
    }

    async fn show(&self, uid: &str, now: Now) -> Result<Option<Value>, String> {
        match self {
            Self::File(queue) => {
                let found = queue.show(view::uid(uid)?, now).await.map_err(|error| error.to_string())?;
                Ok(found.map(|(summary, event)| view::event(&summary, &event)))
            }
            Self::Process(process) => {
                view::uid(uid)?;
                let (status, value) = process.ask("GET", &process.path(&format!("/events/{uid}")), Vec::new()).await?;
                Ok((status == 200).then_some(value))
            }
        }
    }

    /// How many events it was.
    async fn sweep(
        &self,
        action: Action,
        filter: &FilterText,
        (dry_run, all): (bool, bool),
        shown: bool,
        now: Now,
    ) -> Result<u64, String> {
        let show = |events: u64, looked: u64| {
            if shown {
                eprint!("\r{events} of {looked} looked at ");
            }
        };
        let ended = match self {
            Self::File(queue) => {
                let sweep = Sweep { action, filter: filter.chosen(all)?, dry_run };
                let progress = Progress::default();
                let mut sweeping = pin!(queue.sweep(&sweep, &progress, now));
                let ended = loop {
                    match timeout(LOOK, &mut sweeping).await {
                        Ok(ended) => break ended.map_err(|error| error.to_string()),
                        Err(_) => show(progress.matched(), progress.looked()),
                    }
                };
                (progress.matched(), ended)
            }
            Self::Process(process) => {
                let order = json!({ "filter": filter, "dry_run": dry_run, "all": all }).to_string().into_bytes();
                let begun = process.ask("POST", &process.path(&format!("/{}", action.label())), order).await?.1;
                let job = begun["job"].as_str().ok_or("the process told no job")?;
                let path = process.path(&format!("/jobs/{job}"));
                loop {
                    let (_, told) = process.ask("GET", &path, Vec::new()).await?;
                    let events = told["events"].as_u64().unwrap_or(0);
                    match (told["done"].as_bool(), told["error"].as_str()) {
                        (Some(false), _) => show(events, told["looked"].as_u64().unwrap_or(0)),
                        (_, Some(why)) => break (events, Err(why.to_owned())),
                        _ => break (events, Ok(())),
                    }
                    sleep(LOOK).await;
                }
            }
        };
        if shown {
            eprint!("\r");
        }
        match ended {
            (events, Ok(())) => Ok(events),
            (events, Err(why)) => Err(format!("{why}; {events} events were done before")),
        }
    }
}

async fn answer(arguments: &Arguments, source: &Source) -> Result<ExitCode, String> {
    let now = Now::read();
    match &arguments.what {
        What::Stats => {
            let stats = source.stats(now).await?;
            if arguments.json {
                println!("{stats:#}");
            } else {
                for name in ["ready", "scheduled", "in_flight", "dead", "bytes"] {
                    let count = stats[name].as_u64().map_or("?".into(), |count| count.to_string());
                    println!("{:<10} {count:>12}", name.replace('_', " "));
                }
                let oldest = stats["oldest_seconds"].as_f64().map_or("-".into(), |age| self::age(seconds(age)));
                println!("{:<10} {oldest:>12}", "oldest");
                notes(&stats);
            }
            Ok(ExitCode::SUCCESS)
        }
        What::List { filter, limit, after } => {
            let found = source.list(filter, after.as_deref(), *limit, now).await?;
            let events = found["events"].as_array().cloned().unwrap_or_default();
            if arguments.json {
                println!("{:#}", found["events"]);
            } else {
                events.iter().for_each(|event| println!("{}", line(event, now)));
                notes(&found);
            }
            if found["complete"] == false {
                eprintln!("note: there are more dead letters than were looked at");
            }
            Ok(if events.is_empty() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
        }
        What::Show { uid, body } => {
            let Some(event) = source.show(uid, now).await? else {
                let why = "no such event: it may have been delivered meanwhile, and delivered events are not kept";
                return Ok(fail(why, NO));
            };
            show(&event, *body, arguments.json, now);
            Ok(ExitCode::SUCCESS)
        }
        What::Replay { filter, dry_run, all } => {
            let total = source.sweep(Action::Replay, filter, (*dry_run, *all), arguments.shown(), now).await?;
            Ok(done(arguments, total, if *dry_run { "would be replayed" } else { "replayed" }))
        }
        What::Purge { filter, dry_run, all } => {
            let total = source.sweep(Action::Purge, filter, (*dry_run, *all), arguments.shown(), now).await?;
            Ok(done(arguments, total, if *dry_run { "would be purged" } else { "purged" }))
        }
    }
}

impl Arguments {
    fn trust(&self) -> Trust {
        Trust { ca: self.ca.clone(), verify: !self.insecure }
    }

    /// Is somebody there to see how far it is?
    fn shown(&self) -> bool {
        std::io::stderr().is_terminal() && !self.json
    }
}

/// What the engine cannot do.
fn notes(value: &Value) {
    for note in value["cannot"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("note: {note}");
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

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn line(event: &Value, now: Now) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let why = event["dead"].as_str().map(|dead| format!("{dead}: ")).unwrap_or_default();
    let received = seconds(event["received_unix"].as_f64().unwrap_or(0.0));
    format!(
        "{}  {:<9} {:>5} old  {:>3} attempts  {:<16} {:<24} {why}{}",
        text("uid"),
        text("state"),
        age(now.unix.saturating_sub(received)),
        event["attempts"],
        text("route"),
        event["event_id"].as_str().unwrap_or("-"),
        text("failure").escape_debug(),
    )
    .trim_end()
    .to_owned()
}

fn show(event: &Value, body_only: bool, json: bool, now: Now) {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let body = base64::engine::general_purpose::STANDARD.decode(text("body_base64")).unwrap_or_default();
    if body_only {
        out_bytes(&body);
        return;
    }
    if json {
        println!("{event:#}");
        return;
    }
    println!("{}", line(event, now));
    println!("\n{} {}\nhost: {}", text("method"), text("target"), text("host"));
    for header in event["headers"].as_array().into_iter().flatten() {
        let part = |index: usize| header[index].as_str().unwrap_or_default();
        println!("{}: {}", part(0), part(1).escape_debug());
    }
    match std::str::from_utf8(&body) {
        Ok(text) => println!("\n{text}"),
        Err(_) => println!("\n({} bytes that are no text; --body writes them)", body.len()),
    }
}
