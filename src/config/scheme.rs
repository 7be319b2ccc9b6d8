//! Placeholder until the scheme language lands; to be replaced as a whole.

use crate::check::signature::Scheme;
use schemars::JsonSchema;
use serde::Deserialize;

/// How a sender signs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureSpec {
    /// The MAC.
    pub algorithm: Option<String>,
}

impl SignatureSpec {
    /// The scheme, or every problem with the path of its field.
    pub fn compile(&self) -> Result<Scheme, Vec<(String, String)>> {
        match self.algorithm.as_deref() {
            Some("hmac-sha256") | None => Ok(Scheme {}),
            Some(_) => Err(vec![("algorithm".into(), "not an algorithm that is known".into())]),
        }
    }
}
