//! The `hookmoat` program.
fn main() {}
