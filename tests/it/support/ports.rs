//! Ports that nobody else takes.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses that are free and that no other test gets. Below the range from which the system takes ports for outgoing
/// connections and for "any port", so that nothing takes them between this look and the start of a process.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    std::array::from_fn(|_| {
        loop {
            // Runs side by side start at different places, and so does the second copy of the helpers in `complete.rs`, which
            // counts by itself: listeners that got the same port would share it without a word.
            let copy = if module_path!().contains("::complete::") { COUNT / 2 } else { 0 };
            let start = std::process::id().wrapping_mul(97).wrapping_add(copy);
            let next = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(FIRST + next).expect("a port")));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    })
}
