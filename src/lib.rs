//! Hookmoat: a moat around your webhook endpoints.
//!
//! A reverse proxy of one purpose. It lets a request through to the backend only when it came over HTTPS, from an
//! address that may send, at a rate that is allowed, with a signature that verifies over its exact bytes, recently, and
//! for the first time.
//!
//! # How it is laid out
//!
//! ```text
//!                            carriers:
//!  sender ──► proxy::edge ┬─► proxy::http1 ─┬─► proxy::exchange ──► proxy::upstream ──► backend
//!             TLS         │   lean HTTP/1.1 │   judge, deliver,     own HTTP/1.1 client
//!                         └─► proxy::gate ──┘   settle, answer
//!                             HTTP/2 and all    │
//!                                               ▼
//!                          pipeline        the order of the checks
//!                             │
//!              check::*  (no I/O, no clock, no async)      port::*  seen IDs, queues ──► delivery ──► proxy::upstream
//!                             ▲                                ▲
//!                          policy  ◄── config::compile ── YAML, presets      runtime  outlives a reload
//! ```
//!
//! * [`request`] is what a check may look at; it knows no HTTP library's session.
//! * [`reject`] is the table of refusals. What a sender gets is its row alone; details go to the log.
//! * [`check`] decides, [`pipeline`] says the order, [`port`] and [`proxy`] touch the world.
//! * [`config`] and [`provider`] turn text into a [`policy`], which is immutable.
//! * An [`answer::Answer`] is what a sender gets from us; the backend's own are passed through.
//! * [`diagnose`] tries out why a signature does not hold, for people; it decides nothing.
//! * `delivery` brings what a queue has made durable to the backend, in the background, through `proxy::upstream`.
//! * [`telemetry`] ends every request with one event: a log line and its counters.
//! * [`cli`] is the only room that prints.
//!
//! # Invariants
//!
//! 1. **Refused means untouched.** Only [`pipeline`] makes an [`pipeline::Admitted`], and only with one in hand does
//!    [`proxy`] ask for a connection to a backend. The body is whole and verified by then.
//! 2. **Exact bytes.** The buffer that was hashed is the buffer that is sent, under our own Content-Length.
//! 3. **A failure never burns an ID.** A claim ends as done only on the backend's 2xx whose answer was whole; everything
//!    else, a dropped future and a panic included, gives it back.
//! 4. **No secret, no service.** A route without a usable secret refuses with 503; it never means "no check".
//! 5. **A sender learns nothing.** All failures of a signature have one answer.
//! 6. **Bounded.** Bodies, heads, IDs, buckets, connections kept, label values: each has a limit and a clear answer at it.

pub mod answer;
pub mod catalogue;
pub mod check;
pub mod cli;
pub mod config;
pub(crate) mod delivery;
pub mod diagnose;
pub mod fetch;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
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
