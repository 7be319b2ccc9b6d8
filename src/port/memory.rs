//! port/memory
