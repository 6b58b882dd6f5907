//! The kernel's nf_tables: one table, changed by transactions.
//!
//! # Guarantees
//! * A transaction is done whole or not at all, and no packet sees a state in between.
//! * The size of a change is that of what changed. [`replace`] alone writes everything: at the start, and after an error.
//!
//! # Absent
//! No `nft` program, and no reading back: the caller knows what it wrote, and replaces all when in doubt.

pub mod base;
mod expression;
pub(crate) mod message;

use nix::errno::Errno;

use crate::{
    ruleset::{self, Balance, Match, Ruleset, Step, Target},
    socket::{self, Socket},
};

use base::Guard;
pub use base::Nets;
use expression::{Register, Says};
use message::{Batch, Kind};

/// Elements of one message: with the longest names that the API allows they stay below netlink's 64 KiB.
const ELEMENTS: usize = 128;
/// Slots of a chain that balances by client. Each endpoint owns a share; when endpoints come and go, only their share moves.
const SLOTS: u32 = 256;
/// Anonymous maps are numbered from here within a transaction; the table's own have numbers below.
const FIRST_MAP: u32 = 100;

/// Why the kernel did not take a transaction.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused a part, and therefore all.
    #[error("the kernel refused {subject} of the packet filter's transaction of {messages} messages")]
    Refused {
        /// The part.
        subject: String,
        /// The size of the transaction.
        messages: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The socket failed.
    #[error("cannot send the packet filter's transaction")]
    Socket(#[from] socket::Error),
}

/// Replaces the whole table in one transaction. Whoever does so owns it from then on: changes must come over the same socket.
pub fn replace(socket: &Socket, nets: Nets, ruleset: &Ruleset) -> Result<(), Error> {
    guarded(socket, |batch, guard| {
        base::write(batch, guard, nets);
        write(batch, &ruleset::diff(ruleset.parts.values().map(|part| (None, Some(&**part)))));
    })
}

/// Makes a change in one transaction.
pub fn change(socket: &Socket, steps: &[Step]) -> Result<(), Error> {
    if steps.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    write(&mut batch, steps);
    commit(socket, batch)
}

/// Deletes the table, if there is one.
pub fn remove(socket: &Socket) -> Result<(), Error> {
    guarded(socket, base::clear)
}

/// Commits with the strongest guard that the kernel and the table that is there allow.
fn guarded(socket: &Socket, fill: impl Fn(&mut Batch, Guard)) -> Result<(), Error> {
    let mut outcome = Ok(());
    for guard in Guard::ALL {
        let mut batch = Batch::new();
        fill(&mut batch, guard);
        outcome = commit(socket, batch);
        if !matches!(outcome, Err(Error::Refused { source: Errno::EOPNOTSUPP, .. })) {
            break;
        }
    }
    outcome
}

fn commit(socket: &Socket, batch: Batch) -> Result<(), Error> {
    let (bytes, subjects) = batch.finish();
    socket.send(&bytes)?;
    let mut first: Option<(u32, i32)> = None;
    while let Some(datagram) = socket.queued()? {
        let errors = message::errors(&datagram);
        first = first.or_else(|| errors.first().copied());
    }
    let Some((sequence, code)) = first else { return Ok(()) };
    let subject = subjects.get(sequence as usize).cloned().unwrap_or_else(|| format!("message {sequence}"));
    Err(Error::Refused { subject, messages: subjects.len(), source: Errno::from_raw(code) })
}

fn write(batch: &mut Batch, steps: &[Step]) {
    let mut maps = FIRST_MAP..;
    // runs of elements of the same map become one message
    for run in steps.chunk_by(same_map) {
        for piece in run.chunks(ELEMENTS) {
            match &piece[0] {
                Step::AddChain(name) => base::chain(batch, name),
                Step::Flush(name) => in_chain(batch, Kind::DelRule, name),
                Step::DeleteChain(name) => delete(batch, name),
                Step::Fill(name, balance) => fill(batch, name, balance, maps.next().unwrap_or(FIRST_MAP)),
                Step::Insert(first, _) => elements(batch, Kind::NewElement, map_of(first), piece),
                Step::Remove(first) => elements(batch, Kind::DelElement, map_of(first), piece),
            }
        }
    }
}

fn same_map(a: &Step, b: &Step) -> bool {
    match (a, b) {
        (Step::Insert(a, _), Step::Insert(b, _)) | (Step::Remove(a), Step::Remove(b)) => map_of(a) == map_of(b),
        _ => false,
    }
}

fn map_of(element: &Match) -> &'static str {
    match element {
        Match::Service(..) => base::SERVICES,
        Match::NodePort(..) => base::NODE_PORTS,
        Match::HostPort(..) => base::HOST_PORTS,
        Match::HostAddressPort(..) => base::HOST_ADDRESS_PORTS,
        Match::Pod(_) => base::PODS,
    }
}

fn key(element: &Match) -> Vec<u8> {
    match element {
        Match::Service(address, protocol, port) | Match::HostAddressPort(address, protocol, port) => {
            expression::port_key(Some(*address), protocol.number(), *port)
        }
        Match::NodePort(protocol, port) | Match::HostPort(protocol, port) => {
            expression::port_key(None, protocol.number(), *port)
        }
        Match::Pod(address) => [address.octets(), address.octets()].concat(),
    }
}

fn elements(batch: &mut Batch, kind: Kind, map: &str, steps: &[Step]) {
    batch.message(kind, format!("elements of {map}"), |m| {
        m.text(1, base::TABLE).text(2, map).nest(3, |list| {
            for step in steps {
                let (element, says) = match step {
                    Step::Insert(element, Some(Target::Chain(name))) => (element, Says::Goto(name)),
                    Step::Insert(element, Some(Target::Address(address))) => (element, Says::Address(*address)),
                    Step::Insert(element, None) | Step::Remove(element) => (element, Says::Nothing),
                    Step::AddChain(_) | Step::Flush(_) | Step::Fill(..) | Step::DeleteChain(_) => continue,
                };
                expression::element(list, &key(element), &says);
            }
        });
    });
}

fn in_chain(batch: &mut Batch, kind: Kind, name: &str) {
    batch.message(kind, format!("rules of chain {name}"), |m| {
        m.text(1, base::TABLE).text(2, name);
    });
}

fn delete(batch: &mut Batch, name: &str) {
    in_chain(batch, Kind::DelRule, name);
    batch.message(Kind::DelChain, format!("chain {name}"), |m| {
        m.text(1, base::TABLE).text(3, name);
    });
}

/// Writes the one rule of a chain that balances.
fn fill(batch: &mut Batch, name: &str, balance: &Balance, id: u32) {
    if let [only] = balance.endpoints[..] {
        return base::rule(batch, name, |r| {
            r.constant(only, Register(0)).redirect(Register(0));
        });
    }
    let slots = slots(balance);
    // the kernel makes a name of its own out of the pattern
    let map = "__map%d";
    base::slots(batch, map, id);
    for (piece, addresses) in slots.chunks(ELEMENTS).enumerate() {
        batch.message(Kind::NewElement, format!("endpoints of chain {name}"), |m| {
            m.text(1, base::TABLE).text(2, map).number(4, id).nest(3, |list| {
                for (slot, address) in (piece * ELEMENTS..).zip(addresses) {
                    let slot = u32::try_from(slot).expect("invariant: slots are few");
                    expression::element(list, &slot.to_ne_bytes(), &Says::Address(*address));
                }
            });
        });
    }
    let count = u32::try_from(slots.len()).expect("invariant: slots are few");
    base::rule(batch, name, |r| {
        let r = if balance.affinity { r.hash_of_source(count, Register(0)) } else { r.random(count, Register(0)) };
        r.look_up(map, Some(id), Register(0)).redirect(Register(0));
    });
}

/// Which endpoint each slot goes to: one slot each at random; by client, each slot goes to the endpoint with the highest hash of
/// slot and endpoint (rendezvous hashing), so that a change moves only the clients of what changed.
fn slots(balance: &Balance) -> Vec<std::net::SocketAddrV4> {
    if !balance.affinity {
        return balance.endpoints.clone();
    }
    let best = |slot: u32| balance.endpoints.iter().max_by_key(|endpoint| score(slot, endpoint)).copied();
    (0..SLOTS).filter_map(best).collect()
}

/// FNV-1a with a finishing mix: must be the same on every node and in every version, unlike a library's hasher.
fn score(slot: u32, endpoint: &std::net::SocketAddrV4) -> u64 {
    let bytes = slot.to_be_bytes().into_iter().chain(endpoint.ip().octets()).chain(endpoint.port().to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(endpoints: std::ops::Range<u8>) -> Balance {
        let address = |last| format!("10.42.0.{last}:80").parse().unwrap();
        Balance { endpoints: endpoints.map(address).collect(), affinity: true }
    }

    #[test]
    fn with_affinity_every_endpoint_has_a_fair_share() {
        let balance = balance(1..9);
        let slots = slots(&balance);
        for endpoint in &balance.endpoints {
            let share = slots.iter().filter(|slot| *slot == endpoint).count();
            assert!((12..=60).contains(&share), "{endpoint} has {share} of 256");
        }
    }

    #[test]
    fn a_new_endpoint_moves_only_the_clients_that_it_gets() {
        let (before, after) = (slots(&balance(1..9)), slots(&balance(1..10)));
        let newcomer = "10.42.0.9:80".parse().unwrap();
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(_, b)| *b).collect();
        assert!(!moved.is_empty());
        assert!(moved.iter().all(|to| *to == newcomer));
    }
}
