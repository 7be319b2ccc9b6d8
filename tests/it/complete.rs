//! The same once more with `fast_path: off`: both ways through the program keep every promise. What follows is compiled a
//! second time, and the harness in it starts programs that send HTTP/1.1 the complete way.

#![allow(dead_code, unused_imports, reason = "not all of the harness is needed twice")]

#[path = "bodies.rs"]
mod bodies;
#[path = "duplicates.rs"]
mod duplicates;
#[path = "forwarding.rs"]
mod forwarding;
#[path = "hostile.rs"]
mod hostile;
#[path = "support/mod.rs"]
pub mod support;
#[path = "threats.rs"]
mod threats;
#[path = "transport.rs"]
mod transport;
#[path = "vectors.rs"]
mod vectors;
