//! Hookmoat: a moat around your webhook endpoints.

pub mod check;
pub mod cli;
pub mod config;
pub mod pipeline;
pub mod policy;
pub mod port;
pub mod provider;
pub mod proxy;
pub mod reject;
pub mod request;
pub mod runtime;
pub mod secret;
pub mod telemetry;
pub mod vectors;
