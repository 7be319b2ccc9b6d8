//! Starting, serving, draining, ending.

use super::admin::Admin;
use super::diagnoses::Diagnoses;
use super::door::{self, Behind, Door, Listening};
use super::edge::Edge;
use super::gate::Gate;
use super::handover::{self, Taken};
use super::live::Live;
use super::reload::Reloader;
use super::tls::Certificate;
use super::upstream::{Client, MAINTENANCE};
use super::{RequestIds, Shared, export};
use crate::config::{Loaded, Problem};
use crate::delivery::{Queues, worker};
use crate::fetch::Fetching;
use crate::policy::{Policy, Tracing};
use crate::port::sqlite::db::Databases;
use crate::request::Now;
use crate::runtime::State;
use crate::telemetry::recent::Recent;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{self, metrics::Metrics};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{ExecutionPhase, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Why the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address is taken or not ours.
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// A certificate or key cannot be used.
    #[error("listener {0}: {1}")]
    Tls(SocketAddr, String),
    /// The process that is to be replaced does not let its sockets go.
    #[error("cannot take over from the process at {0}: {1}")]
    TakeOver(String, std::io::Error),
    /// An upstream's settings cannot be used.
    #[error("{0}")]
    Upstream(String),
    /// The store of seen IDs cannot be used.
    #[error("{0}")]
    State(String),
    /// A queue cannot be opened.
    #[error("{0}")]
    Queue(String),
    /// Metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What a start would fail for though the configuration is sound, and what it would be served with though senders would
/// not take it: certificates, keys and authorities, by what is in their files now.
pub fn look_at_certificates(policy: &Policy) -> (Vec<Problem>, Vec<String>) {
    pingora_rustls::install_default_crypto_provider();
    let (mut faults, mut doubts) = (Vec::new(), Vec::new());
    let places = (0..).map(|index| format!("listen[{index}].tls"));
    let listeners =
        policy.listeners.iter().zip(places).filter_map(|(own, at)| Some((at, own.address, own.tls.as_ref()?)));
    let admin = policy.admin.zip(policy.admin_access.tls.as_ref());
    for (path, address, files) in listeners.chain(admin.map(|(address, files)| ("admin.tls".into(), address, files))) {
        match Certificate::look(files, Now::read()) {
            Ok(found) => doubts.extend(found.into_iter().map(|doubt| format!("{address}: {doubt}"))),
            Err(error) => {
                let help =
                    "correct the file that is named; `openssl x509 -text -in FILE` shows what a certificate holds";
                faults.push(Problem::new(path, ServeError::Tls(address, error).to_string(), help));
            }
        }
    }
    for upstream in &policy.upstreams {
        if let Err(error) = Client::new(upstream.clone()) {
            let help = "correct the file that is named, or the settings of this upstream";
            faults.push(Problem::new(format!("upstreams.{}", upstream.name), error, help));
        }
    }
    (faults, doubts)
}

/// Serves until SIGTERM, SIGINT or SIGQUIT, then drains. Returns only on an error before the start; otherwise the
/// process ends with code 0 once drained.
///
/// With a path, the listening sockets are taken from a process that gives them there, and given to the next one.
pub fn serve(
    loaded: Loaded,
    take_over: Option<PathBuf>,
    started: impl FnOnce() + Send + 'static,
) -> Result<(), ServeError> {
    let Loaded { policy, files, path, text } = loaded;
    pingora_rustls::install_default_crypto_provider();
    let now = Now::read();
    let metrics = Metrics::new()?;
    metrics.install(&policy, now.unix.as_secs_f64());
    let (mut certificates, mut acceptors) = (Vec::new(), Vec::new());
    for listener in &policy.listeners {
        let failed = |error| ServeError::Tls(listener.address, error);
        let certificate = listener.tls.as_ref().map(Certificate::load).transpose().map_err(failed)?;
        let acceptor = certificate.as_ref().map(|own| own.acceptor(true)).transpose().map_err(failed)?;
        acceptors.push(acceptor.map(Arc::new));
        if let Some(certificate) = certificate {
            metrics.certificate(&listener.address.to_string(), certificate.not_after as f64);
            certificates.push((listener.address, Arc::new(certificate)));
        }
    }
    let mut admin_tls = None;
    if let (Some(address), Some(files)) = (policy.admin, &policy.admin_access.tls) {
        let failed = |error| ServeError::Tls(address, error);
        let certificate = Certificate::load(files).map_err(failed)?;
        admin_tls = Some(Arc::new(certificate.acceptor(false).map_err(failed)?));
        metrics.certificate(&address.to_string(), certificate.not_after as f64);
        certificates.push((address, Arc::new(certificate)));
    }
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| ServeError::TakeOver(path, error)
    };
    let taken = take_over.as_deref().map(|path| handover::take(path).map_err(failed(path))).transpose()?.flatten();
    let addresses: Vec<SocketAddr> = policy.listeners.iter().map(|listener| listener.address).collect();
    let workers = policy.workers.unwrap_or_else(cores);
    let sockets = Sockets::open(&addresses, workers, taken.as_ref())?;
    // A process that is taken over from keeps its admin port until its end.
    let first = taken.is_none();
    let open = |address| door::open(address, first, first).map_err(|error| ServeError::Bind(address, error));
    let admin_socket = policy.admin.map(open).transpose()?;

    let policy = Live::new(policy, None).map_err(ServeError::Upstream)?;
    let databases = Arc::new(Databases::default());
    let state = State::open(&policy, &databases, metrics.state.clone(), now).map_err(ServeError::State)?;
    let pre_stop = policy.shutdown.pre_stop;
    // In whole seconds, as pingora counts it.
    let grace = Duration::from_secs(policy.shutdown.grace.as_secs().max(1));
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        grace_period_seconds: Some(grace.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upgrade_sock: String::new(),
        ..ServerConf::default()
    };
    let lean = policy.fast_path;
    let fetching = Fetching::new(&policy, metrics.fetch.clone());
    let queues = Queues::open(&policy, &state, &databases, now).map_err(ServeError::Queue)?;
    let traces = metrics.traces.clone();
    let shared = Arc::new_cyclic(|me| Shared {
        me: me.clone(),
        state,
        fetching,
        queues,
        desk: Default::default(),
        metrics,
        body_memory: Default::default(),
        places: Default::default(),
        quiet: Default::default(),
        admin_places: Default::default(),
        admin_quiet: Default::default(),
        most_connections: most_connections(),
        in_flight: AtomicUsize::new(0),
        listening: AtomicBool::new(false),
        opened: tokio::sync::watch::Sender::new(taken.is_none()),
        draining: AtomicBool::new(false),
        taken_over: AtomicBool::new(false),
        ending: Default::default(),
        request_ids: RequestIds::new(),
        diagnoses: Diagnoses::new(Now::read().instant),
        recent: Recent::new(policy.history),
        tracer: policy.tracing.as_ref().map(|tracing| Tracer::new(tracing.sample, traces)),
        live: ArcSwap::from_pointee(policy),
    });

    let mut server = Server::new_with_opt_and_conf(None, conf);
    let gate = Arc::new(Gate::new(shared.clone(), &shared.live.load()));
    let edge = Arc::new(Edge { gate, lean });
    // One service of one thread for each worker, each with listeners of its own among which the system spreads
    // connections: a connection lives on one thread, with the connections to the backend that it uses.
    let given = take_over.is_some().then(|| sockets.cloned()).transpose();
    for (worker, sockets) in sockets.0.into_iter().enumerate() {
        let listening = |(index, socket): (usize, TcpListener)| {
            let tls = acceptors.get(index).cloned().flatten();
            Listening { index, socket, tls }
        };
        let listeners = sockets.into_iter().map(listening).collect();
        server.add_service(Door::new(format!("worker {worker}"), listeners, Behind::Edge(edge.clone())));
    }
    if let Some(socket) = admin_socket {
        let listener = Listening { index: 0, socket, tls: admin_tls };
        let behind = Behind::Admin(Arc::new(Admin(shared.clone())));
        server.add_service(Door::new("admin".into(), vec![listener], behind));
    }
    let reloader = Arc::new(Reloader::new(shared.clone(), certificates, path, text, files));
    server.add_service(background_service("maintenance", Maintenance(shared.clone(), reloader)));

    if !shared.queues.all().is_empty() {
        server.add_service(background_service("delivery", Deliveries(shared.clone())));
    }

    if let Some(tracing) = shared.live().tracing.clone() {
        let client = Client::new(tracing.collector.clone()).map_err(ServeError::Upstream)?;
        server.add_service(background_service("traces", Traces(shared.clone(), tracing, Arc::new(client))));
    }

    end_when_drained(&mut server, shared.clone(), databases, grace);
    let started = {
        let shared = shared.clone();
        move || {
            started();
            if let (Some(path), Ok(Some(given))) = (take_over, given) {
                hand_over(shared, path, taken, given);
            }
        }
    };
    announce_when_listening(shared.clone(), started);
    server.run(RunArgs { shutdown_signal: Box::new(Signals { shared, pre_stop }) });
    telemetry::log::flush();
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Connections of senders for which there are descriptors. The rest is for backends, stores and files.
fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit};
    let files =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub((files / 8).max(64)).max(16)
}

/// Listening sockets by worker, each with the place of its listener in the configuration.
struct Sockets(Vec<Vec<(usize, TcpListener)>>);

impl Sockets {
    /// One of each address for each worker. Those of the process before are used to the last: what waits in one that
    /// nobody looks at is lost.
    fn open(addresses: &[SocketAddr], workers: usize, taken: Option<&Taken>) -> Result<Self, ServeError> {
        let mut sockets: Vec<Vec<(usize, TcpListener)>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, address) in addresses.iter().enumerate() {
            let failed = |error| ServeError::Bind(*address, error);
            let is_his = |socket: &&TcpListener| socket.local_addr().is_ok_and(|his| his == *address);
            let his: Vec<&TcpListener> = taken.iter().flat_map(|taken| taken.sockets.iter().filter(is_his)).collect();
            for (number, socket) in his.iter().enumerate() {
                if let Some(worker) = sockets.get_mut(number % workers) {
                    worker.push((index, socket.try_clone().map_err(failed)?));
                }
            }
            for (number, worker) in sockets.iter_mut().enumerate().skip(his.len()) {
                let alone = number == 0;
                worker.push((index, door::open(*address, alone, taken.is_none()).map_err(failed)?));
            }
        }
        Ok(Self(sockets))
    }

    fn cloned(&self) -> std::io::Result<Vec<TcpListener>> {
        self.0.iter().flatten().map(|(_, socket)| socket.try_clone()).collect()
    }
}

/// How often a process that takes over looks whether it is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Lets senders in once this process is ready, tells the process before that it is not needed any more, and is then there
/// for the next.
fn hand_over(shared: Arc<Shared>, path: PathBuf, taken: Option<Taken>, given: Vec<TcpListener>) {
    if let Some(taken) = taken {
        let mut told = None;
        while let Some(why) = shared.not_ready() {
            if told.as_ref() != Some(&why) {
                tracing::warn!(target: "hookmoat", why, "not ready: the process before goes on");
                told = Some(why);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        shared.opened.send_replace(true);
        match taken.ready() {
            Ok(()) => tracing::info!(target: "hookmoat", "took over from the process before"),
            Err(error) => tracing::warn!(target: "hookmoat", %error, "the process before has ended by itself"),
        }
    }
    handover::give(path, given, move || {
        tracing::info!(target: "hookmoat", "a next process has taken over");
        shared.taken_over.store(true, Ordering::Relaxed);
        shared.ending.notify_one();
    });
}

/// The sockets listen already, and what comes waits in them: all that is missing is somebody who takes it.
fn announce_when_listening(shared: Arc<Shared>, started: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        while !shared.listening.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        started();
    });
}

/// What connections get to write what finished requests left with them.
const LAST_FRAMES: Duration = Duration::from_millis(100);

/// What the collector of traces gets to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// What the last connections get to send their request, when a next process takes all that follow.
const LAST_CONNECTIONS: Duration = Duration::from_secs(1);

/// Said so long before everything is cut that it is still said.
const LAST_WARNING: Duration = Duration::from_millis(100);

/// Ends the process once nothing is in flight; pingora would always wait for the whole grace period, and then cuts what is
/// left.
fn end_when_drained(server: &mut Server, shared: Arc<Shared>, databases: Arc<Databases>, grace: Duration) {
    let mut phases = server.watch_execution_phase();
    std::thread::spawn(move || {
        while let Ok(phase) = phases.blocking_recv() {
            if matches!(phase, ExecutionPhase::ShutdownGracePeriod) {
                let begun = Now::read().instant;
                if shared.taken_over.load(Ordering::Relaxed) {
                    std::thread::sleep(LAST_CONNECTIONS);
                }
                let left = || (shared.in_flight.load(Ordering::Relaxed), shared.queues.running());
                let is_idle = || left() == (0, 0);
                let mut told = false;
                loop {
                    while !is_idle() {
                        std::thread::sleep(Duration::from_millis(10));
                        if !told && begun.elapsed() + LAST_WARNING >= grace {
                            told = true;
                            let (requests, attempts) = left();
                            tracing::warn!(target: "hookmoat", requests, attempts, "`shutdown.grace` is over: cutting what is not done");
                            telemetry::log::flush();
                        }
                    }
                    // An HTTP/2 connection writes the last frames after the request is done with them.
                    std::thread::sleep(LAST_FRAMES);
                    if is_idle() {
                        break;
                    }
                }
                databases.checkpoint_blocking();
                let begun = Now::read().instant;
                while shared.tracer().is_some_and(|tracer| !tracer.is_empty()) && begun.elapsed() < LAST_SPANS {
                    std::thread::sleep(Duration::from_millis(10));
                }
                tracing::info!(target: "hookmoat", "drained");
                telemetry::log::flush();
                std::process::exit(0);
            }
        }
    });
}

struct Signals {
    shared: Arc<Shared>,
    pre_stop: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut term), Ok(mut int), Ok(mut quit), Ok(mut leaving)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
            signal(SignalKind::user_defined1()),
        ) else {
            return std::future::pending().await;
        };
        let pre_stop = loop {
            tokio::select! {
                _ = term.recv() => break self.pre_stop,
                // Somebody at a terminal does not wait for load balancers.
                _ = int.recv() => break Duration::ZERO,
                _ = quit.recv() => break Duration::ZERO,
                // Nobody has to be told: who serves now has the same address.
                () = self.shared.ending.notified() => break Duration::ZERO,
                // The pod leaves, and this process is not the first of it to go.
                _ = leaving.recv() => {
                    self.shared.draining.store(true, Ordering::Relaxed);
                    tracing::info!(target: "hookmoat", "told to drain: not ready any more; serving until SIGTERM");
                }
            }
        };
        self.shared.draining.store(true, Ordering::Relaxed);
        if !pre_stop.is_zero() {
            let seconds = pre_stop.as_secs_f64();
            tracing::info!(target: "hookmoat", pre_stop_seconds = seconds, "not ready any more; serving until the listeners close");
        }
        tokio::select! {
            () = tokio::time::sleep(pre_stop) => {}
            _ = int.recv() => {}
        }
        ShutdownSignal::GracefulTerminate
    }
}

/// Background delivery.
struct Deliveries(Arc<Shared>);

#[async_trait]
impl BackgroundService for Deliveries {
    async fn start(&self, shutdown: ShutdownWatch) {
        worker::run(self.0.clone(), shutdown).await;
    }
}

/// The export of traces. Goes on to the end of the process: the last requests have spans too.
struct Traces(Arc<Shared>, Arc<Tracing>, Arc<Client>);

#[async_trait]
impl BackgroundService for Traces {
    async fn start(&self, _: ShutdownWatch) {
        if let Some(tracer) = self.0.tracer() {
            export::run(tracer, &self.1, self.2.clone()).await;
        }
    }
}

/// What is done beside requests: names resolved, unused connections closed, expired IDs dropped, lists and keys fetched.
struct Maintenance(Arc<Shared>, Arc<Reloader>);

#[async_trait]
impl BackgroundService for Maintenance {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let resolving = async {
            loop {
                for client in self.0.live.load_full().upstreams() {
                    if let Err(error) = client.resolve().await {
                        tracing::warn!(target: "hookmoat", %error, "keeping the addresses found last");
                    }
                    client.sweep();
                }
                tokio::time::sleep(MAINTENANCE).await;
            }
        };
        let sweeping = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.0.state.sweep(Now::read());
            }
        };
        tokio::select! {
            () = resolving => {}
            () = sweeping => {}
            () = self.1.clone().run() => {}
            () = self.0.fetching.run() => {}
            _ = shutdown.wait_for(|stopping| *stopping) => {}
        }
    }
}
