//! `hookmoat explain`

use super::captured::request;
use super::signing::{Diagnosed, Whose, read, time, unbound};
use super::{FAULT, NO, fail};
use crate::check::signature::{Credentials, SignatureCheck, Step};
use crate::diagnose::{Budget, Captured, Diagnosis, EVENT_TYPE, Finding, HANDSHAKE, Holds, LogLine, diagnose, walk};
use crate::policy::{Authentication, Observable, Route};
use crate::request::{Head, Now};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "hookmoat explain [OPTIONS] <ROUTE | --provider ID>",
    after_help = "Examples:
  hookmoat explain github --request refused.http
  hookmoat explain github --request refused.http --from 203.0.113.7 --tls
  hookmoat explain -p stripe --secret-env STRIPE_SECRET --request refused.http
  hookmoat explain github --request refused.http --at 2026-01-31T12:00:00Z
  grep 4c1f90aa36b1e2d7 hookmoat.log | hookmoat explain github
  grep 4c1f90aa36b1e2d7 hookmoat.log | hookmoat explain github --sent event.json

The request is what came over the wire, as for `hookmoat verify`, or a line of Hookmoat's own log. The checks are walked
through in their order. If the signature does not hold, the usual mistakes are tried, alone and by twos: a secret with a
line end or in another encoding, the secret of another route, JSON written anew, line ends, another URL, another time
unit, another hash, another sender. Where the signature then holds, that is the explanation.

A log line holds neither the body nor the signature. With `diagnose: true` at the route it holds what the proxy found out
and the body's digest, and --sent FILE says what became of the body on its way.

Nothing is sent anywhere. No secret and no expected signature is ever shown.

Exit code 0: the request passes, as far as a capture tells. 1: it is refused. 2: it cannot be judged."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    /// Captured request, or a line of the log; standard input by default
    #[arg(long = "request", value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// With a line of the log: the body as the sender sent it
    #[arg(long, value_name = "FILE")]
    sent: Option<PathBuf>,
    /// Judge at this time (seconds since 1970 or RFC 3339) instead of now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Now>,
    /// The address that connected to Hookmoat
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// The request came over Hookmoat's own TLS
    #[arg(long)]
    tls: bool,
    /// The request came in plain
    #[arg(long, conflicts_with = "tls")]
    plain: bool,
    /// Drop one line end at the end of the body, as editors add it
    #[arg(long)]
    trim: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// All that was found out.
struct Report {
    findings: Vec<Finding>,
    passes: bool,
    diagnosis: Option<Diagnosis>,
    /// Length and digest of the body.
    body: String,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let report = match report(arguments) {
        Ok(report) => report,
        Err(why) => return fail(&why, FAULT),
    };
    if arguments.json {
        let diagnosis = report.diagnosis.unwrap_or_default();
        let value = serde_json::json!({
            "passes": report.passes,
            "steps": report.findings,
            "explanations": diagnosis.explanations,
            "hints": diagnosis.hints,
            "tried": diagnosis.tried,
            "cut": diagnosis.cut,
        });
        println!("{value:#}");
    } else {
        print(&report);
    }
    if report.passes { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

fn report(arguments: &Arguments) -> Result<Report, String> {
    let diagnosed = arguments.whose.diagnosed()?;
    let bytes = read(&arguments.file)?;
    if let Some(line) = std::str::from_utf8(&bytes).ok().and_then(LogLine::last_of) {
        return logged(arguments, &diagnosed, &line);
    }
    let request = request(bytes, arguments.trim)?;
    let now = arguments.at.unwrap_or_else(Now::read);
    let tls = (arguments.tls || arguments.plain).then_some(arguments.tls);
    let mut findings = Vec::new();
    if let Some((policy, route)) = &diagnosed.route {
        findings = walk(policy, route, &request, arguments.from, tls, now);
    }
    if findings.iter().any(|finding| finding.step == HANDSHAKE && finding.holds == Holds::Yes) {
        // The rest is not asked.
        findings.retain(|finding| !["event id", EVENT_TYPE, "method"].contains(&finding.step));
        let passes = findings.iter().all(|finding| finding.holds != Holds::No);
        return Ok(Report { findings, passes, diagnosis: None, body: request.body_summary() });
    }
    // The event's type and ID come last, as in the pipeline.
    let id = findings.pop_if(|finding| finding.step == "event id");
    let kind = findings.pop_if(|finding| finding.step == EVENT_TYPE);
    let signed = match signature(&diagnosed, &request, now) {
        Ok(steps) => steps,
        Err(why) => vec![Finding { step: "signature", holds: Holds::No, detail: why }],
    };
    let verified = signed.iter().all(|finding| finding.holds != Holds::No);
    let observes = diagnosed.route.as_ref().is_some_and(|(_, route)| route.observed.has(Observable::Signature));
    findings.extend(signed.into_iter().map(|finding| match finding.holds {
        Holds::No if observes => Finding {
            holds: Holds::Unknown,
            detail: format!("{} (the check only observes)", finding.detail),
            ..finding
        },
        _ => finding,
    }));
    if verified && let Some((_, route)) = &diagnosed.route {
        findings.extend(request.with_head(|head| asked(route, head, request.body.as_deref().unwrap_or_default(), now)));
    }
    findings.extend(kind);
    findings.extend(id);
    let diagnosis = match &diagnosed.subject {
        Some(subject) if !verified => Some(diagnose(subject, &diagnosed.others, &request, now, Budget::PATIENT)),
        _ => None,
    };
    let passes = findings.iter().all(|finding| finding.holds != Holds::No);
    let body = request.body_summary();
    Ok(Report { findings, passes, diagnosis, body })
}

/// A signed question of the sender, which is answered here.
fn asked(route: &Route, head: &Head<'_>, body: &[u8], now: Now) -> Option<Finding> {
    let reply = route.handshakes.as_deref()?.of_verified(head, body, now).ok().flatten()?;
    let detail =
        format!("answered here as {}, with {}; the backend hears nothing", reply.exchange, reply.answer.status);
    Some(Finding { step: HANDSHAKE, holds: Holds::Yes, detail })
}

/// The steps of the signature's check.
fn signature(diagnosed: &Diagnosed, request: &Captured, now: Now) -> Result<Vec<Finding>, String> {
    let own;
    let check = match (&diagnosed.route, &diagnosed.subject) {
        (Some((_, route)), _) => match &route.authentication {
            Authentication::Signature(check) => &**check,
            Authentication::NoSecret(_) => return Ok(Vec::new()),
            Authentication::None => {
                let detail = "the route verifies nothing (`signature: none`)".into();
                return Ok(vec![Finding { step: "signature", holds: Holds::Yes, detail }]);
            }
        },
        (None, Some(subject)) => {
            let scheme = subject
                .scheme
                .compile("signature")
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
            let credentials = Credentials {
                secrets: subject.secrets.clone(),
                public_keys: subject.public_keys.clone(),
                public_url: subject.public_url.as_deref(),
                claims: subject.claims.clone(),
                settings: subject.settings.clone(),
            };
            own = SignatureCheck::bind(scheme, credentials).map_err(|errors| unbound(&errors))?;
            &own
        }
        (None, None) => return Ok(Vec::new()),
    };
    let body = request.body.as_deref().unwrap_or_default();
    let steps: Vec<Step> = request.with_head(|head| check.explain(head, body, true, now));
    let verified = steps.last().is_some_and(|step| step.ok);
    let found = steps.into_iter().map(|step| {
        // What did not matter to the verdict is no failure.
        let holds = if step.ok {
            Holds::Yes
        } else if verified {
            Holds::Unknown
        } else {
            Holds::No
        };
        Finding { step: step.name, holds, detail: step.detail }
    });
    Ok(found.collect())
}

/// What a line of the log and the configuration say together.
fn logged(arguments: &Arguments, diagnosed: &Diagnosed, line: &LogLine) -> Result<Report, String> {
    let mut findings = Vec::new();
    if let Some((_, route)) = &diagnosed.route {
        findings.extend(line.findings(route));
    }
    let sent = arguments.sent.as_deref().map(read).transpose()?;
    let became = sent.as_deref().map(|sent| line.compare(sent));
    findings.extend(became);
    let mut diagnosis = Diagnosis::default();
    diagnosis.hints.extend(line.diagnosis.clone());
    let body = line.capture.clone().unwrap_or_default();
    Ok(Report { findings, passes: line.passed(), diagnosis: Some(diagnosis), body })
}

fn print(report: &Report) {
    for finding in &report.findings {
        let sign = match finding.holds {
            Holds::Yes => '✓',
            Holds::No => '✗',
            Holds::Unknown => '?',
        };
        println!("{sign} {:<10} {}", finding.step, finding.detail);
    }
    let Some(diagnosis) = &report.diagnosis else { return };
    let word = if report.findings.iter().any(|finding| finding.step == "keys") { "key" } else { "secret" };
    for explanation in &diagnosis.explanations {
        println!("\nIt would verify if {}.", explanation.changes.join(",\n  and "));
        println!("  with the {word} from {}", explanation.secret);
        for remedy in &explanation.remedy {
            println!("  → {remedy}");
        }
        for line in explanation.yaml.iter().flat_map(|yaml| yaml.lines()) {
            println!("      {line}");
        }
    }
    if !diagnosis.hints.is_empty() {
        println!("\nBesides:");
        diagnosis.hints.iter().for_each(|hint| println!("  {hint}"));
    }
    if diagnosis.tried > 0 {
        let cut = if diagnosis.cut { "; there are more, but the bound was reached" } else { "" };
        println!("\n{} possibilities tried{cut}.", diagnosis.tried);
    }
    let matches = |finding: &Finding| finding.step == "match" && finding.holds == Holds::Yes;
    if diagnosis.explanations.is_empty() && report.findings.iter().any(matches) {
        println!("\nThe signature itself holds: what refuses the request stands above.");
    } else if diagnosis.explanations.is_empty() && diagnosis.tried > 0 {
        println!(
            "None explains it: most likely the {word} is another one, or the body was changed in a way of its own.\n\
             Compare with what the sender signed: {}",
            report.body
        );
    }
}
