//! `hookmoat run`

use super::signing::path_of;
use super::{ConfigFile, FAULT, demo, quoted};
use crate::policy::{Authentication, Listener, LogFormat, Policy, UpstreamAddress};
use crate::proxy::ServeError;
use crate::{config, proxy, telemetry};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookmoat run --config config/quickstart.yaml --demo    look at it, with a backend that prints what arrives
  hookmoat run --config /etc/hookmoat.yaml               serve

SIGHUP, or a change of the configuration or of a file that it names: takes the new one over if it is good.
SIGTERM drains: not ready, then the requests in flight, then the end. Ctrl-C skips the first wait.")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Start a backend to play with at the first upstream's address; it prints what reaches it
    #[arg(long)]
    demo: bool,
    /// A unix socket over which a next process takes over from this one without a refused connection: started with the same
    /// path, it gets the listeners, and this one ends when that one is ready
    #[arg(long, value_name = "PATH", env = "HOOKMOAT_TAKE_OVER")]
    take_over: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    harden();
    let path = &arguments.file.config;
    let loaded = match config::load(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(FAULT);
        }
    };
    let policy = &loaded.policy;
    telemetry::log::start(&policy.log);
    if arguments.demo && !policy.warnings.is_empty() {
        // Secrets that stand in a file are what a demo is made of. For anything else every warning has its line.
        let count = policy.warnings.len();
        tracing::info!(
            target: "hookmoat",
            "for play only: `hookmoat check` has {count} warning{} about this configuration",
            if count == 1 { "" } else { "s" },
        );
    } else {
        for warning in &policy.warnings {
            tracing::warn!(target: "hookmoat", "{warning}");
        }
    }
    let hints = hints(policy, arguments);
    // Hints are for people; whoever collects the log as JSON finds nothing else in it.
    let json = policy.log.format == LogFormat::Json;
    if arguments.demo
        && let Err(why) = start_demo(policy)
    {
        eprintln!("error: {why}");
        return ExitCode::from(FAULT);
    }
    let tell = move || {
        if json {
            tracing::info!(target: "hookmoat", "listening");
        } else {
            eprint!("{hints}");
        }
    };
    match proxy::serve(loaded, arguments.take_over.clone(), tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let ServeError::Bind(address, error) = &error {
                eprintln!("  help: {}", remedy(error, address.port(), &format!("change it in {}", path.display())));
            }
            ExitCode::from(FAULT)
        }
    }
}

/// No core dump may hold a secret (promise 5), and there have to be descriptors for every connection.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}

/// What to do about an address that cannot be listened on.
fn remedy(error: &std::io::Error, port: u16, otherwise: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there, perhaps a Hookmoat that still runs; `ss -ltnp 'sport = :{port}'` names it. End it, or {otherwise}"
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need the capability CAP_NET_BIND_SERVICE; grant it, or {otherwise}")
        }
        std::io::ErrorKind::AddrNotAvailable => format!("the address is none of this machine's; {otherwise}"),
        _ => otherwise.to_owned(),
    }
}

fn start_demo(policy: &Policy) -> Result<(), String> {
    let Some(upstream) = policy.upstreams.first() else { return Err("--demo needs an upstream".into()) };
    let UpstreamAddress::Socket(address) = upstream.address else {
        return Err(format!(
            "--demo needs an upstream with a plain address like http://127.0.0.1:3000; {} has none",
            upstream.name
        ));
    };
    if !address.ip().is_loopback() {
        return Err(format!("--demo only listens on loopback, and upstream {} is {address}", upstream.name));
    }
    demo::start(address).map_err(|error| {
        let otherwise = format!("leave --demo out to use it as the backend, or change upstream {}", upstream.name);
        format!(
            "cannot start the demo backend on {address}: {error}\n  help: {}",
            remedy(&error, address.port(), &otherwise)
        )
    })
}

fn url(listener: &Listener) -> String {
    format!("{}://{}", if listener.tls.is_some() { "https" } else { "http" }, listener.address)
}

fn hints(policy: &Policy, arguments: &Arguments) -> String {
    let mut text = String::new();
    for listener in &policy.listeners {
        let _ = writeln!(text, "hookmoat │ listening on {}", url(listener));
    }
    if let Some(admin) = policy.admin {
        let scheme = if policy.admin_access.tls.is_some() { "https" } else { "http" };
        let _ = writeln!(text, "hookmoat │ metrics on   {scheme}://{admin}/metrics");
        if policy.history > 0 {
            let _ = writeln!(text, "hookmoat │ status page  {scheme}://{admin}/status");
        }
    }
    if arguments.demo {
        if let Some(upstream) = policy.upstreams.first()
            && let UpstreamAddress::Socket(address) = upstream.address
        {
            let _ = writeln!(text, "hookmoat │ backend on   http://{address}, this process: it prints what reaches it");
        }
        text += &next_commands(policy, &arguments.file.config);
    }
    text
}

/// What to type next, ready to be pasted.
fn next_commands(policy: &Policy, config: &Path) -> String {
    let (dim, off) = if std::io::stderr().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let signed = |limited: bool| {
        policy.routes.iter().find(|(_, route)| {
            matches!(route.authentication, Authentication::Signature(_))
                && (!limited || !route.limits_before.is_empty() || !route.limits_after.is_empty())
        })
    };
    let Some((matcher, route)) = signed(true).or_else(|| signed(false)) else { return String::new() };
    let program = std::env::args().next().unwrap_or_else(|| "hookmoat".into());
    let program = quoted(&program);
    let file = quoted(&config.display().to_string());
    let send = |rest: &str| format!("{program} send {}{rest} -c {file}", route.name);
    let mut commands = vec![
        ("accepted: signed as its sender signs", send(" --id evt-1")),
        ("duplicate: the same event again; the backend does not see it", send(" --id evt-1")),
        ("forged: changed after it was signed", send(" --tamper")),
    ];
    let path = path_of(matcher);
    let plain = policy.listeners.iter().find(|listener| listener.tls.is_none());
    let tls = policy.listeners.iter().find(|listener| listener.tls.is_some());
    if let Some(listener) = plain.or(tls) {
        let k = if listener.tls.is_some() { "k" } else { "" };
        commands.push(("refused: plain curl, no signature", format!("curl -i{k} -d hello {}{path}", url(listener))));
    }
    if let Some(listener) = tls {
        let sign = format!("{program} sign {} -c {file} -u {}{path}", route.name, url(listener));
        commands.push(("accepted: a signed curl command, over HTTPS", format!("{sign} | sh")));
    }
    commands.push(("too fast: the last ones get 429", send(" -n 20")));
    let mut text = "hookmoat │ try this in another terminal, in the same folder:\n\n".to_owned();
    for (what, command) in commands {
        let _ = writeln!(text, "  {dim}# {what}{off}\n  {command}");
    }
    text + "\nhookmoat │ a line for every request follows; Ctrl-C ends\n\n"
}
