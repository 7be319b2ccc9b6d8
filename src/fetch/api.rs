//! Questions for keys that take credentials, and the token that some of them take first.

use super::Work;
use super::client::{FetchError, Fetched, Question};
use crate::check::signature::asked::{Asking, Request};
use crate::check::signature::keys::MAX_KEY_TEXT;
use crate::secret::SecretBytes;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The longest answer with a token, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// A token is renewed this long before it ends, and used no longer than a day, whatever its sender says.
const AHEAD: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What is remembered of one sender's API.
#[derive(Default)]
pub(super) struct Api {
    token: Mutex<Option<(SecretBytes, Instant)>>,
}

impl Api {
    /// The answer to the question for a key.
    pub(super) async fn key(&self, work: &Work, asking: &Asking, id: &str) -> Result<Fetched, FetchError> {
        let token = match asking.needs_token() {
            true => Some(self.token(work, asking).await?),
            false => None,
        };
        let answer = ask(work, asking.request(id, token.as_ref()), MAX_KEY_TEXT).await;
        if let (Some(_), Err(FetchError::Status(401 | 403, _))) = (&token, &answer) {
            // Taken back before its time; the next question begins with a new one.
            *self.token.lock().await = None;
        }
        answer
    }

    /// The token in force, or a new one. Who needs it meanwhile waits for the same.
    async fn token(&self, work: &Work, asking: &Asking) -> Result<SecretBytes, FetchError> {
        let mut held = self.token.lock().await;
        if let Some((token, until)) = &*held
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let answer = ask(work, asking.token_request(), MAX_ANSWER).await;
        let answer = answer.map_err(|error| match error {
            // No answer to what was asked for: the credentials, not the name of a key.
            FetchError::Status(status, note) => FetchError::Answer(format!("the token: answered {status}{note}")),
            other => other,
        })?;
        let (token, seconds) = Asking::judge_token(&answer.body.unwrap_or_default())
            .map_err(|why| FetchError::Content(format!("the answer {why}")))?;
        let good = Duration::from_secs(seconds).min(LONGEST).saturating_sub(AHEAD);
        *held = Some((token.clone(), Instant::now() + good));
        Ok(token)
    }
}

async fn ask(work: &Work, request: Option<Request>, limit: usize) -> Result<Fetched, FetchError> {
    let Some(Request { target, headers, body }) = request else {
        return Err(FetchError::Content("there is nothing to ask with".into()));
    };
    let body = body.map(|body| Bytes::copy_from_slice(&body));
    work.ask(Question { target: &target, headers, body }, limit).await
}
