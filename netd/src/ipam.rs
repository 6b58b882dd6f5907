//! Addresses of this node's pods.
//!
//! A pure pool. Addresses are handed out in order and come back at the end of the queue, so that one that was just released is
//! reused last. What is taken is not recorded here: it is read back from the attachments, which are the record.

use std::{
    collections::{BTreeSet, VecDeque},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

/// The most addresses that one node manages; a wider CIDR is used up to here.
pub const MAX_ADDRESSES: usize = 4096;

/// Why there is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node's CIDR is used up.
    #[error("no address left in {0}: every one is used by a pod of this node")]
    Exhausted(Ipv4Net),
    /// The CIDR leaves nothing for pods.
    #[error("pod CIDR {0} is too small: at least a /29 is needed")]
    TooSmall(Ipv4Net),
}

/// The free addresses of a node.
#[derive(Clone, Debug)]
pub struct Pool {
    cidr: Ipv4Net,
    free: VecDeque<Ipv4Addr>,
    members: BTreeSet<Ipv4Addr>,
}

/// The address of the bridge: every pod's gateway.
pub fn gateway(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()) + 1)
}

impl Pool {
    /// The pool of `cidr` without `taken`. It goes on after `last`, the address that was handed out last.
    pub fn new(cidr: Ipv4Net, taken: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Result<Self, Error> {
        if cidr.prefix_len() > 29 {
            return Err(Error::TooSmall(cidr));
        }
        // network, gateway and broadcast address are no pod's
        let members: BTreeSet<_> = cidr.hosts().skip(1).take(MAX_ADDRESSES).collect();
        let free = |address: &&Ipv4Addr| !taken.contains(*address);
        let later = members.iter().filter(free).filter(|address| last.is_some_and(|last| **address > last));
        let earlier = members.iter().filter(free).filter(|address| last.is_none_or(|last| **address <= last));
        let free = later.chain(earlier).copied().collect();
        Ok(Self { cidr, free, members })
    }

    /// The addresses that are managed.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// Takes the address that has been free for the longest time.
    pub fn take(&mut self) -> Result<Ipv4Addr, Error> {
        self.free.pop_front().ok_or(Error::Exhausted(self.cidr))
    }

    /// Gives an address back. One that is free already, or is none of ours, changes nothing.
    pub fn release(&mut self, address: Ipv4Addr) {
        if self.members.contains(&address) && !self.free.contains(&address) {
            self.free.push_back(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str, taken: &[&str], last: Option<&str>) -> Pool {
        let taken = taken.iter().map(|a| a.parse().unwrap()).collect();
        Pool::new(cidr.parse().unwrap(), &taken, last.map(|a| a.parse().unwrap())).unwrap()
    }

    fn drain(pool: &mut Pool) -> Vec<String> {
        std::iter::from_fn(|| pool.take().ok()).map(|a| a.to_string()).collect()
    }

    #[test]
    fn network_gateway_and_broadcast_are_kept_back() {
        let all = drain(&mut pool("10.0.0.0/29", &[], None));
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    }

    #[test]
    fn what_was_released_last_is_reused_last() {
        let mut pool = pool("10.0.0.0/29", &[], None);
        let first = pool.take().unwrap();
        pool.release(first);
        pool.release(first);
        assert_eq!(drain(&mut pool), ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
        assert_eq!(pool.take(), Err(Error::Exhausted("10.0.0.0/29".parse().unwrap())));
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let mut pool = pool("10.0.0.0/29", &["10.0.0.5"], Some("10.0.0.4"));
        assert_eq!(drain(&mut pool), ["10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    }

    #[test]
    fn foreign_addresses_do_not_enter_the_pool() {
        let mut pool = pool("10.0.0.0/29", &[], None);
        pool.release("10.9.9.9".parse().unwrap());
        assert_eq!(drain(&mut pool).len(), 5);
    }

    #[test]
    fn a_cidr_without_room_for_pods_is_refused() {
        let cidr = "10.0.0.0/30".parse().unwrap();
        assert_eq!(Pool::new(cidr, &BTreeSet::new(), None).unwrap_err(), Error::TooSmall(cidr));
    }
}
