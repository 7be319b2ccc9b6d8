//! Starting, serving, draining, ending.

use super::admin::Admin;
use super::diagnoses::Diagnoses;
use super::edge::Edge;
use super::gate::Gate;
use super::live::Live;
use super::reload::Reloader;
use super::tls::Certificate;
use super::upstream::{Client, MAINTENANCE};
use super::{RequestIds, Shared, export};
use crate::config::Loaded;
use crate::delivery::{Queues, worker};
use crate::fetch::Fetching;
use crate::policy::Tracing;
use crate::port::sqlite::db::Databases;
use crate::request::Now;
use crate::runtime::State;
use crate::telemetry::recent::Recent;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{self, metrics::Metrics};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::configuration::ServerConf;
use pingora::server::{ExecutionPhase, ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// Serves until SIGTERM, SIGINT or SIGQUIT, then drains. Returns only on an error before the start; otherwise the
/// process ends with code 0 once drained.
pub fn serve(loaded: Loaded, started: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    let Loaded { policy, files, path, text } = loaded;
    pingora_rustls::install_default_crypto_provider();
    let now = Now::read();
    let metrics = Metrics::new()?;
    metrics.install(&policy, now.unix.as_secs_f64());
    let mut listeners = Vec::new();
    for listener in &policy.listeners {
        let certificate = listener.tls.as_ref().map(Certificate::load).transpose();
        let certificate = certificate.map_err(|error| ServeError::Tls(listener.address, error))?;
        if let Some(certificate) = &certificate {
            metrics.certificate(&listener.address.to_string(), certificate.not_after as f64);
        }
        listeners.push((listener.address, certificate.map(Arc::new)));
    }
    // Pingora retries a taken address for 30 seconds and then lives on without it: better to know now.
    for address in policy.listeners.iter().map(|listener| listener.address).chain(policy.admin) {
        try_bind(address)?;
    }

    let policy = Live::new(policy, None).map_err(ServeError::Upstream)?;
    let databases = Arc::new(Databases::default());
    let state = State::open(&policy, &databases, metrics.state.clone(), now).map_err(ServeError::State)?;
    let workers = policy.workers.unwrap_or_else(cores);
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        grace_period_seconds: Some(policy.shutdown.grace.as_secs().max(1)),
        graceful_shutdown_timeout_seconds: Some(1),
        upgrade_sock: String::new(),
        ..ServerConf::default()
    };
    let admin = policy.admin;
    let pre_stop = policy.shutdown.pre_stop;
    let lean = policy.fast_path;
    let header_timeout = policy.timeouts.header;
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
        in_flight: AtomicUsize::new(0),
        listening: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        request_ids: RequestIds::new(),
        diagnoses: Diagnoses::new(Now::read().instant),
        recent: Recent::new(policy.history),
        tracer: policy.tracing.as_ref().map(|tracing| Tracer::new(tracing.sample, traces)),
        live: ArcSwap::from_pointee(policy),
    });

    let mut server = Server::new_with_opt_and_conf(None, conf);
    let gate = Arc::new(Gate::new(shared.clone(), &shared.live.load()));
    // One service of one thread for each worker, each with listeners of its own among which the system spreads
    // connections: a connection lives on one thread, with the connections to the backend that it uses.
    for worker in 0..workers {
        let edge = Edge { gate: gate.clone(), preface_timeout: header_timeout, lean };
        let mut service = Service::new(format!("worker {worker}"), edge);
        for (address, certificate) in &listeners {
            service.add_listener(listener(*address, certificate.as_deref(), workers > 1, lean)?);
        }
        server.add_service(Worker(service));
    }
    if let Some(address) = admin {
        let mut service = Service::new("admin".into(), Admin(shared.clone()));
        service.threads = Some(1);
        service.add_tcp(&address.to_string());
        server.add_service(service);
    }
    let certificates = listeners.iter().filter_map(|(address, pair)| Some((*address, pair.clone()?))).collect();
    let reloader = Arc::new(Reloader::new(shared.clone(), certificates, path, text, files));
    server.add_service(background_service("maintenance", Maintenance(shared.clone(), reloader)));

    if !shared.queues.all().is_empty() {
        server.add_service(background_service("delivery", Deliveries(shared.clone())));
    }

    if let Some(tracing) = shared.live().tracing.clone() {
        let client = Client::new(tracing.collector.clone()).map_err(ServeError::Upstream)?;
        server.add_service(background_service("traces", Traces(shared.clone(), tracing, Arc::new(client))));
    }

    end_when_drained(&mut server, shared.clone(), databases);
    announce_when_listening(
        shared.clone(),
        listeners.iter().map(|(address, _)| *address).chain(admin).collect(),
        started,
    );
    server.run(RunArgs { shutdown_signal: Box::new(Signals { shared, pre_stop }) });
    telemetry::log::flush();
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A service that makes listeners of its own. Pingora keeps one for each address, for handing over to a next process,
/// and would give the same to all services.
struct Worker(Service<Edge>);

#[async_trait]
impl pingora::services::Service for Worker {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        pingora::services::Service::start_service(&mut self.0, None, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        pingora::services::Service::name(&self.0)
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

fn listener(
    address: SocketAddr,
    certificate: Option<&Certificate>,
    shared: bool,
    lean: bool,
) -> Result<ListenerConfig, ServeError> {
    let mut options = TcpSocketOptions::default();
    options.so_reuseport = shared.then_some(true);
    let config = ListenerConfig::tcp(address.to_string()).tcp_socket_options(options);
    Ok(match certificate {
        Some(certificate) => config.tls(certificate.settings().map_err(|error| ServeError::Tls(address, error))?),
        // Heads and bodies are read into buffers of their own, and what the lean way writes is whole: one more in between
        // only costs a copy. Pingora's writes stay buffered, so that head and body of an answer leave together.
        None if lean => config.l4_buffer(L4BufferSettings::unbuffered()),
        None => config.l4_buffer(L4BufferSettings::default().read(0)),
    })
}

fn try_bind(address: SocketAddr) -> Result<(), ServeError> {
    TcpListener::bind(address).map(drop).map_err(|error| ServeError::Bind(address, error))
}

/// Pingora starts listeners in their own runtimes and says nothing when they are up: connecting tells.
fn announce_when_listening(shared: Arc<Shared>, addresses: Vec<SocketAddr>, started: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        for mut address in addresses {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() {
                    std::net::Ipv4Addr::LOCALHOST.into()
                } else {
                    std::net::Ipv6Addr::LOCALHOST.into()
                });
            }
            while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        shared.listening.store(true, Ordering::Relaxed);
        started();
    });
}

/// What connections get to write what finished requests left with them.
const LAST_FRAMES: Duration = Duration::from_millis(100);

/// What the collector of traces gets to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// Ends the process once nothing is in flight; pingora would always wait for the whole grace period.
fn end_when_drained(server: &mut Server, shared: Arc<Shared>, databases: Arc<Databases>) {
    let mut phases = server.watch_execution_phase();
    std::thread::spawn(move || {
        while let Ok(phase) = phases.blocking_recv() {
            if matches!(phase, ExecutionPhase::ShutdownGracePeriod) {
                let is_idle = || shared.in_flight.load(Ordering::Relaxed) == 0 && shared.queues.running() == 0;
                loop {
                    while !is_idle() {
                        std::thread::sleep(Duration::from_millis(10));
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
