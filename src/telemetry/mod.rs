//! What a process tells: one event for each request (a log line and its counters in one place), metrics, the admin
//! service's answers.

pub mod connections;
pub mod event;
pub mod fetch;
mod json;
mod lines;
pub mod log;
pub mod metrics;
pub mod openmetrics;
pub mod queues;
pub mod recent;
pub mod state;
pub mod trace;
