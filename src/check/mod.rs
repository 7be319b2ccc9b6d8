//! The checks: one file, one question each. No I/O, no clock, no `async`.

pub mod allowlist;
pub mod client_ip;
pub mod duplicate;
pub mod https;
pub mod path;
pub mod rate_limit;
pub mod shape;
pub mod signature;
pub mod source;
