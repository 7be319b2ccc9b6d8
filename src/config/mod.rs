//! config
pub mod scheme;
