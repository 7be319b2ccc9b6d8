//! A Hookmoat process, a backend that records, and clients that say exactly what they are told.

pub mod backend;
pub mod cable;
pub mod client;
pub mod engine;
pub mod frames;
pub mod ill;
pub mod load;
pub mod moat;
pub mod origin;
pub mod ports;
pub mod proxy;
pub mod rabbit;
pub mod redis;
pub mod sign;
pub mod sqs;

pub use backend::{Backend, Reply};
pub use cable::Cable;
pub use client::{Answer, Connection, post, request};
pub use engine::Engine;
pub use load::Load;
pub use moat::{Moat, PATIENCE, Refusal, refusal, refusal_and_close, within};
pub use proxy::{LEAN, Proxy};
pub use rabbit::Rabbit;
pub use redis::Redis;
pub use sqs::Sqs;
