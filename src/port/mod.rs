//! What the pipeline needs from the outside world, one trait each, and the implementations.

#[doc(hidden)]
pub mod contract;
pub mod inspect;
mod letters;
pub mod memory;
pub mod queue;
#[doc(hidden)]
pub mod queue_contract;
pub mod rabbitmq;
pub mod redis;
pub mod seen;
pub mod sqlite;
pub mod sqs;
pub mod tls;
