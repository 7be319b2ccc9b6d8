//! What senders hand over in a handshake, kept for the operator: a file that only its owner reads, a JSON object a line.

use crate::pipeline::Trail;
use crate::reject::{Reason, Reject};
use crate::request::Now;
use crate::secret::SecretBytes;
use serde_json::{Map, Value, json};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Anybody may ask as a sender does: the file ends here.
const MOST: u64 = 64 << 10;

/// Writes it down, and to the disk. The sender is answered only after that: some hand a secret over only once.
pub(super) async fn keep(
    trail: &Trail,
    exchange: &str,
    handed: Vec<(String, SecretBytes)>,
    now: Now,
) -> Result<(), Reject> {
    let missing = || Reason::Internal.because("a handshake hands something over and no `keep` is there");
    let route = trail.route.as_ref().ok_or_else(missing)?;
    let path = route.handshakes.as_ref().and_then(|handshakes| handshakes.keep.clone()).ok_or_else(missing)?;
    let text = |value: &SecretBytes| Value::from(String::from_utf8_lossy(value.expose()));
    let values: Map<String, Value> = handed.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let seconds = i64::try_from(now.unix.as_secs()).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    let line = json!({
        "time": at,
        "route": &*route.name,
        "exchange": exchange,
        "client": trail.client.map(|client| client.to_string()),
        "values": values,
    });
    let line = format!("{line}\n");
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || append(&path, &line)).await;
    match written {
        Ok(Ok(())) => {
            tracing::warn!(target: "hookmoat", route = &*route.name, exchange, file = shown, "a sender handed something over: read it there");
            Ok(())
        }
        Ok(Err(error)) => Err(Reason::StateUnavailable.because(format!("{shown} cannot be written ({error})"))),
        Err(_) => Err(Reason::Internal.because("writing what a sender handed over did not end")),
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    /// Lines of two requests stay apart.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() + line.len() as u64 > MOST {
        return Err(io::Error::other("it would be larger than 64 KiB: read it, then remove it"));
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()
}
