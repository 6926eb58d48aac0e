//! How many sessions one address may have of those that all clients share.
//!
//! The table has an entry for each address with a session, and none for others: it is as bounded as these are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Mode;

/// What one address may have at the same time. An IPv6 address counts with its /64, which one host may have as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerAddress {
    /// Handshakes in progress, in all workers together, which have equal shares of at least one. One more ends the one of
    /// this address that has got least far.
    pub handshakes_max: usize,
    /// Connections whose handshake is done.
    pub connections_max: usize,
}

impl PerAddress {
    /// No limits.
    pub const UNLIMITED: Self = Self { handshakes_max: usize::MAX, connections_max: usize::MAX };
}

/// What is counted as one address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Block(IpAddr);

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

/// The addresses that have sessions.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    most: usize,
    present: Arc<Mutex<BTreeMap<Block, usize>>>,
}

impl Addresses {
    fn new(most: usize) -> Self {
        Self { most, present: Arc::default() }
    }

    /// Only TLS clients have limits: plain ones are of this host.
    pub(crate) fn of(mode: &Mode) -> Self {
        Self::new(match mode {
            Mode::Client(_) | Mode::Plain => usize::MAX,
            Mode::Server(mode) => mode.per_address.connections_max,
        })
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Whether this address can have no session more now.
    pub(crate) fn is_full(&self, address: IpAddr) -> bool {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.get(&address.into()).is_some_and(|sessions| *sessions >= self.most)
    }

    /// Counts a session of `address`; `None` when it has as many as it may.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Presence> {
        let block = Block::from(address);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = present.get(&block).copied().unwrap_or_default();
        if sessions >= self.most {
            return None;
        }
        present.insert(block, sessions + 1);
        Some(Presence { addresses: self.clone(), block })
    }
}

/// One session of an address; dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Presence {
    addresses: Addresses,
    block: Block,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut present = self.addresses.present.lock().unwrap_or_else(PoisonError::into_inner);
        match present.get_mut(&self.block) {
            Some(sessions) if *sessions > 1 => *sessions -= 1,
            _ => drop(present.remove(&self.block)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_sessions_and_takes_none_from_another() {
        let addresses = Addresses::new(2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = addresses.enter(one).unwrap();
        assert!(!addresses.is_full(one));
        let second = addresses.enter(one).unwrap();
        assert!(addresses.is_full(one) && addresses.enter(one).is_none());
        let elsewhere = addresses.enter(other).unwrap();
        assert!(!addresses.is_full(other));
        drop(second);
        let third = addresses.enter(one).unwrap();
        drop((first, third, elsewhere));
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
            assert_eq!(Block::from(address(left)) == Block::from(address(right)), same, "{left} {right}");
        }
    }
}
