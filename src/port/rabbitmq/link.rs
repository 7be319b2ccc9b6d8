//! One connection to the broker that is there again by itself.
//!
//! Publishing and consuming have a connection each: a broker that runs out of memory or disk stops reading from
//! connections that publish, and acknowledgements must still get through.

use super::{Credentials, Settings};
use futures_util::StreamExt as _;
use lapin::auth::AuthProvider;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::{LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{sleep, timeout};

/// Between two looks at a connection that says nothing.
const LOOK: Duration = Duration::from_millis(250);
/// The first wait before another try, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A connection that works.
pub(super) struct Up {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    /// For events that are held back. Made when the first one is.
    pub(super) holding: OnceCell<Channel>,
    /// Queues known to exist.
    pub(super) declared: Mutex<HashSet<String>>,
}

impl Up {
    pub(super) fn is_well(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

/// A connection, or why there is none.
pub(super) struct Link {
    what: &'static str,
    state: Mutex<State>,
    /// Somebody met an error: look now.
    pub(super) suspect: Notify,
    changed: Notify,
}

struct State {
    up: Result<Arc<Up>, String>,
    blocked: Option<String>,
}

impl Link {
    pub(super) fn new(what: &'static str) -> Self {
        let state = State { up: Err("not connected yet".into()), blocked: None };
        Self { what, state: Mutex::new(state), suspect: Notify::new(), changed: Notify::new() }
    }

    pub(super) fn up(&self) -> Result<Arc<Up>, String> {
        let state = self.state.lock();
        match &state.up {
            Ok(up) if up.is_well() => Ok(up.clone()),
            Ok(_) => Err("the connection broke".into()),
            Err(why) => Err(why.clone()),
        }
    }

    /// Why the broker reads nothing from this connection.
    pub(super) fn blocked(&self) -> Option<String> {
        let state = self.state.lock();
        let up = state.up.as_ref().ok()?;
        let blocked = up.connection.status().blocked();
        blocked.then(|| state.blocked.clone().unwrap_or_else(|| "resources are low".into()))
    }

    /// Waits until there is a connection, for start-up.
    pub(super) async fn wait(&self, patience: Duration) {
        let until = tokio::time::Instant::now() + patience;
        while self.up().is_err() && tokio::time::Instant::now() < until {
            let _ = timeout(LOOK, self.changed.notified()).await;
        }
    }

    /// Told once for each new reason.
    fn down(&self, name: &str, why: String) {
        let mut state = self.state.lock();
        let known = state.up.as_ref().is_err_and(|known| *known == why);
        if !known {
            tracing::warn!(target: "hookmoat", queue = name, connection = self.what, why = &*why, "broker away");
        }
        state.up = Err(why);
        state.blocked = None;
    }
}

/// What a connection is for.
pub(super) trait Role: Sync {
    /// Opens the channel, with everything that has to be there.
    fn setup(&self, connection: &Connection) -> impl Future<Output = Result<Channel, String>> + Send;

    /// Works until something is wrong, and says what.
    fn serve(&self, up: &Arc<Up>) -> impl Future<Output = String> + Send;
}

/// Connects, works while all is well, and begins again. Never returns; ends with its task.
pub(super) async fn supervise(link: &Link, settings: &Settings, role: &impl Role) {
    let mut failures = 0;
    let mut node = 0;
    loop {
        match timeout(settings.connect_timeout, connect(settings, node, link.what, role)).await {
            Ok(Ok(up)) => {
                failures = 0;
                let up = Arc::new(up);
                *link.state.lock() = State { up: Ok(up.clone()), blocked: None };
                link.changed.notify_waiters();
                tracing::info!(target: "hookmoat", queue = &*settings.name, connection = link.what, "broker connected");
                let why = tokio::select! {
                    why = watch(link, settings, &up) => why,
                    why = role.serve(&up) => why,
                };
                link.down(&settings.name, why);
                // What is left of it must not linger: the broker gives back what it holds when it is closed.
                let _ = timeout(LOOK, up.connection.close(200, ShortString::from("bye"))).await;
            }
            Ok(Err(why)) => link.down(&settings.name, why),
            Err(_) => {
                link.down(&settings.name, format!("no connection within {} ms", settings.connect_timeout.as_millis()));
            }
        }
        node = node.wrapping_add(1);
        sleep(pause(failures)).await;
        failures = (failures + 1).min(10);
    }
}

/// Returns why a connection is of no use any more.
async fn watch(link: &Link, settings: &Settings, up: &Up) -> String {
    let mut events = Box::pin(up.connection.events_listener());
    let mut last = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                // Perhaps only of a channel that asked for a queue that is not there.
                Some(Event::Error(error)) => last = Some(error.to_string()),
                Some(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(
                        target: "hookmoat", queue = &*settings.name, connection = link.what, why = &*why, "broker blocks"
                    );
                    link.state.lock().blocked = Some(why);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(
                        target: "hookmoat", queue = &*settings.name, connection = link.what, "broker unblocks"
                    );
                    link.state.lock().blocked = None;
                }
                Some(_) => {}
                None => return "the connection ended".into(),
            },
            () = link.suspect.notified() => {}
            () = sleep(LOOK) => {}
        }
        if !up.is_well() {
            return last.unwrap_or_else(|| "the connection broke".into());
        }
    }
}

async fn connect(settings: &Settings, node: usize, what: &str, role: &impl Role) -> Result<Up, String> {
    if let Credentials::Missing(what) = &settings.credentials {
        return Err(what.to_string());
    }
    let nodes = settings.nodes.len().max(1);
    let (host, port) = settings.nodes.get(node % nodes).ok_or("no address")?.clone();
    let tls = match &settings.tls {
        None => None,
        Some(files) => Some(RustlsConnector::from(Arc::new(files.client()?))),
    };
    let server_name = settings.server_name.as_deref().unwrap_or(&host).to_owned();
    let mut uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        // Not here: the library writes the address into its traces.
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: String::new(), password: String::new() },
            host: host.to_string(),
            port,
        },
        vhost: settings.vhost.to_string(),
        query: lapin::uri::AMQPQueryString::default(),
    };
    uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs().max(1)).unwrap_or(u16::MAX));
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(format!("hookmoat {} {what}", settings.name)))
        .with_auth_provider(settings.credentials.clone());
    let patience = settings.connect_timeout;
    let stream = async move |uri: AMQPUri, runtime| {
        let open = async {
            let addresses: Vec<_> =
                tokio::net::lookup_host((&*uri.authority.host, uri.authority.port)).await?.collect();
            let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
            match &tls {
                None => Ok(stream),
                Some(tls) => stream.into_rustls(tls, &server_name).await,
            }
        };
        // The library's thread waits here, and nobody could end it.
        match timeout(patience, open).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    };
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    let connection = Connection::connector(uri, runtime, stream, properties)
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    let channel = role.setup(&connection).await?;
    Ok(Up { connection, channel, holding: OnceCell::new(), declared: Mutex::default() })
}

impl AuthProvider for Credentials {
    fn mechanism(&self) -> ShortString {
        match self {
            Self::Plain { .. } => "PLAIN".into(),
            Self::External | Self::Missing(_) => "EXTERNAL".into(),
        }
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        match self {
            Self::External => Ok(LongString::from("")),
            Self::Missing(what) => Err(what.to_string()),
            Self::Plain { username, password } => {
                let mut answer = vec![0];
                answer.extend_from_slice(username.as_bytes());
                answer.push(0);
                answer.extend_from_slice(password.expose());
                Ok(LongString::from(answer))
            }
        }
    }
}

/// Doubles with every failure in a row; half of it is chance, so that replicas do not come back in step.
fn pause(failures: u32) -> Duration {
    let whole = (BACKOFF.0 * 2u32.saturating_pow(failures)).min(BACKOFF.1);
    let mut chance = [0; 2];
    // Without chance it is only less even.
    let _ = getrandom::fill(&mut chance);
    whole / 2 + (whole / 2).mul_f64(f64::from(u16::from_be_bytes(chance)) / f64::from(u16::MAX))
}
