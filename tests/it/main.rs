//! The promises, tried through real sockets on the built program.
//!
//! One binary: linking is the dear part of a test build. Every test starts a Hookmoat process of its own in front of a
//! recording backend of its own, so that tests can run side by side and nothing is shared but the machine.

#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]
#![allow(clippy::duplicate_mod, reason = "`complete` holds the same tests for the other way through the program")]
#![allow(clippy::disallowed_methods, reason = "tests wait for what they started; nothing asserts a time")]

mod access;
mod asked_keys;
mod bodies;
mod chains;
mod cli;
mod complete;
mod confirmation;
mod differential;
mod duplicates;
mod events;
mod explain;
mod fetched;
mod fetched_keys;
mod forwarding;
mod handshakes;
mod hostile;
mod kills;
mod letters;
mod machine;
mod operations;
mod queue;
mod rabbitmq;
mod readme;
mod recipes;
mod reload;
mod sdk;
mod smoke;
mod soak;
mod sqs;
mod state;
mod status;
mod support;
mod threats;
mod tls;
mod traces;
mod transport;
mod understood;
mod upgrade;
mod vectors;
