//! How many connections are open, altogether and of each address.

use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of the table that are locked by themselves. A power of two.
const SHARDS: usize = 16;

/// Counts open connections. The table holds no more addresses than connections are open.
#[derive(Debug, Default)]
pub(super) struct Places {
    open: AtomicUsize,
    hasher: RandomState,
    addresses: [Mutex<HashMap<IpAddr, usize, RandomState>>; SHARDS],
}

/// The place of one open connection. Free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Places {
    /// A place, unless so many are taken.
    pub(super) fn take(self: &Arc<Self>, max: usize) -> Option<Place> {
        let place = Place { places: self.clone(), address: None };
        (self.open.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, address: IpAddr) -> Option<&Mutex<HashMap<IpAddr, usize, RandomState>>> {
        let hash = usize::try_from(self.hasher.hash_one(address) & (SHARDS as u64 - 1)).unwrap_or_default();
        self.addresses.get(hash)
    }
}

impl Place {
    /// Counts it for an address (IPv6: its /64), unless that has so many already. At most once.
    pub(super) fn count_for(&mut self, address: IpAddr, max: usize) -> bool {
        let address = network(address);
        let Some(shard) = self.places.shard(address) else { return true };
        let mut counts = shard.lock();
        let count = counts.entry(address).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        self.address = Some(address);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let Some(shard) = self.places.shard(address) else { return };
        let mut counts = shard.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// What counts as one address: nobody has a single IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_free_again_and_an_address_takes_no_more_than_its_share() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<Place> = (0..3).map_while(|_| places.take(3)).collect();
        assert_eq!((taken.len(), places.open()), (3, 3));
        assert!(places.take(3).is_none());
        assert_eq!(places.open(), 3);
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(taken[0].count_for(of("2001:db8::1"), 2));
        assert!(taken[1].count_for(of("2001:db8::2"), 2));
        assert!(!taken[2].count_for(of("2001:db8::3"), 2));
        assert!(taken[2].count_for(of("2001:db8:0:1::3"), 2));
        taken.pop();
        taken.pop();
        let (mut again, mut mapped) = (places.take(3).unwrap(), places.take(3).unwrap());
        assert!(again.count_for(of("2001:db8::9"), 2));
        assert!(mapped.count_for(of("::ffff:192.0.2.1"), 1));
        drop((again, mapped, taken));
        assert_eq!(places.open(), 0);
        assert_eq!(places.addresses.iter().map(|shard| shard.lock().len()).sum::<usize>(), 0);
    }
}
