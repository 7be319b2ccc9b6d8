//! The `hookmoat` program.

use std::process::ExitCode;

/// Bodies come and go by the megabyte; glibc's allocator keeps such memory for itself, this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hookmoat::cli::main()
}
