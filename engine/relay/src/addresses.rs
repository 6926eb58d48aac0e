//! How much one address may have of what all clients share.
//!
//! The table has an entry for each address with a connection, and none for others: it is as bounded as these are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one address may have at the same time. An IPv6 address counts with its /64, which one host may have as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerAddress {
    /// Connections on their way to a session: until the handshake is done and the NFS server was reached.
    pub handshakes_max: usize,
    /// Connections, those among them.
    pub connections_max: usize,
}

impl PerAddress {
    /// No limits.
    pub const UNLIMITED: Self = Self { handshakes_max: usize::MAX, connections_max: usize::MAX };
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    handshakes: usize,
    connections: usize,
}

/// The addresses that have connections.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limits: PerAddress,
    present: Arc<Mutex<BTreeMap<IpAddr, Counts>>>,
}

/// Which limit a connection would exceed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exceeded {
    Handshakes(usize),
    Connections(usize),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshakes(most) => {
                write!(f, "its address has {most} handshakes in progress already (--handshakes-per-address-max)")
            }
            Self::Connections(most) => {
                write!(f, "its address has {most} connections already (--connections-per-address-max)")
            }
        }
    }
}

impl Addresses {
    pub(crate) fn new(limits: PerAddress) -> Self {
        Self { limits, present: Arc::default() }
    }

    /// Counts a connection of `address`, which begins with its handshake.
    ///
    /// # Errors
    /// The limit that does not let it in.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<Presence, Exceeded> {
        let PerAddress { handshakes_max, connections_max } = self.limits;
        let block = block_of(address);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = present.get(&block).copied().unwrap_or_default();
        if counts.connections >= connections_max {
            return Err(Exceeded::Connections(connections_max));
        }
        if counts.handshakes >= handshakes_max {
            return Err(Exceeded::Handshakes(handshakes_max));
        }
        let Counts { handshakes, connections } = counts;
        present.insert(block, Counts { handshakes: handshakes + 1, connections: connections + 1 });
        Ok(Presence { addresses: self.clone(), block, shakes_hands: AtomicBool::new(true) })
    }

    fn take_from(&self, block: IpAddr, handshakes: usize, connections: usize) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = present.get_mut(&block) {
            counts.handshakes = counts.handshakes.saturating_sub(handshakes);
            counts.connections = counts.connections.saturating_sub(connections);
            if counts.connections == 0 {
                present.remove(&block);
            }
        }
    }
}

/// One connection of an address; dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Presence {
    addresses: Addresses,
    block: IpAddr,
    shakes_hands: AtomicBool,
}

impl Presence {
    /// The handshake is done.
    pub(crate) fn established(&self) {
        if self.shakes_hands.swap(false, Ordering::Relaxed) {
            self.addresses.take_from(self.block, 1, 0);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.established();
        self.addresses.take_from(self.block, 0, 1);
    }
}

/// What is counted as one address.
fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_limits_and_takes_nothing_from_another() {
        let addresses = Addresses::new(PerAddress { handshakes_max: 2, connections_max: 3 });
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = addresses.enter(one).unwrap();
        let second = addresses.enter(one).unwrap();
        assert_eq!(addresses.enter(one).unwrap_err(), Exceeded::Handshakes(2));
        let elsewhere = addresses.enter(other).unwrap();
        first.established();
        first.established();
        let third = addresses.enter(one).unwrap();
        assert_eq!(addresses.enter(one).unwrap_err(), Exceeded::Connections(3));
        drop(second);
        let fourth = addresses.enter(one).unwrap();
        drop((first, third, fourth, elsewhere));
        assert!(addresses.present.lock().unwrap().is_empty(), "nobody is remembered who is gone");
    }

    #[test]
    fn ipv6_counts_by_its_64_and_mapped_addresses_are_ipv4() {
        for (left, right, same) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ] {
            assert_eq!(block_of(address(left)) == block_of(address(right)), same, "{left} {right}");
        }
    }
}
