//! What the pipeline needs from the outside world, one trait each, and the implementations.

pub mod memory;
pub mod seen;
