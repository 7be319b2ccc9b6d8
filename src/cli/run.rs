//! `hookmoat run`

use super::{ConfigFile, FAULT, demo};
use crate::policy::{LogFormat, Policy, UpstreamAddress};
use crate::{config, proxy, telemetry};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Start a backend to play with at the first upstream's address; it prints what reaches it
    #[arg(long)]
    demo: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    harden();
    let policy = match config::load(&arguments.file.config) {
        Ok(loaded) => loaded.policy,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(FAULT);
        }
    };
    telemetry::log::start(&policy.log);
    for warning in &policy.warnings {
        tracing::warn!(target: "hookmoat", "{warning}");
    }
    let hints = hints(&policy, arguments);
    // Hints are for people; whoever collects the log as JSON finds nothing else in it.
    let json = policy.log.format == LogFormat::Json;
    if arguments.demo && let Err(why) = start_demo(&policy) {
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
    match proxy::serve(policy, tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
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

fn start_demo(policy: &Policy) -> Result<(), String> {
    let Some(upstream) = policy.upstreams.first() else { return Err("--demo needs an upstream".into()) };
    let UpstreamAddress::Socket(address) = upstream.address else {
        return Err(format!("--demo needs an upstream with a plain address; {} has none", upstream.name));
    };
    if !address.ip().is_loopback() {
        return Err(format!("--demo only listens on loopback; upstream {} is {address}", upstream.name));
    }
    demo::start(address).map_err(|error| format!("cannot start the demo backend on {address}: {error}"))
}

fn hints(policy: &Policy, arguments: &Arguments) -> String {
    let mut text = String::new();
    for listener in &policy.listeners {
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        text += &format!("hookmoat │ listening on {scheme}://{}\n", listener.address);
    }
    if let Some(admin) = policy.admin {
        text += &format!("hookmoat │ metrics on   http://{admin}/metrics\n");
    }
    if arguments.demo {
        let program = std::env::args().next().unwrap_or_else(|| "hookmoat".into());
        let route = policy.routes.iter().next().map(|(_, route)| route.name.to_string()).unwrap_or_default();
        text += &format!(
            "hookmoat │ now, in another terminal, send a signed request:\n\n    {program} send --config {} {route}\n\n",
            arguments.file.config.display()
        );
    }
    text
}
