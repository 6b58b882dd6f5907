//! What a node does with packets to services and host ports, as data, and what changes between two states of that.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use client::Key;

/// A transport protocol that services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's word for it.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Its number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// How a chain chooses among its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The endpoints; never empty, sorted.
    pub endpoints: Vec<SocketAddrV4>,
    /// Whether a client address always gets the same one.
    pub affinity: bool,
}

/// Where packets of a map's element go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// On to a chain that balances.
    Chain(String),
    /// To this address and port.
    Address(SocketAddrV4),
}

/// An element of one of the table's maps and sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Match {
    /// A service's own address and port.
    Service(Ipv4Addr, Protocol, u16),
    /// A port of every address of the node, for a service.
    NodePort(Protocol, u16),
    /// A port of every address of the node, for a pod.
    HostPort(Protocol, u16),
    /// A port of one address of the node, for a pod.
    HostAddressPort(Ipv4Addr, Protocol, u16),
    /// A pod of this node: what comes from it and goes back to it through a service needs another source address.
    Pod(Ipv4Addr),
}

/// What one owner (a service, or a pod of this node) asks of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Chains that balance, by name.
    pub chains: BTreeMap<String, Balance>,
    /// Elements; a [`Match::Pod`] has no target.
    pub elements: BTreeMap<Match, Option<Target>>,
}

/// Who asks for a [`Part`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A service.
    Service(Key),
    /// A pod of this node, by address.
    Pod(Ipv4Addr),
}

/// Everything. Two owners never ask for the same chain; for the same element the first in order wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The parts by owner. An owner that asks for nothing is absent.
    pub parts: BTreeMap<Owner, Arc<Part>>,
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Takes an element out.
    Remove(Match),
    /// Makes an empty chain.
    AddChain(String),
    /// Empties a chain.
    Flush(String),
    /// Fills an empty chain.
    Fill(String, Balance),
    /// Puts an element in.
    Insert(Match, Option<Target>),
    /// Deletes a chain to which nothing refers any more.
    DeleteChain(String),
}

/// The steps from `old` to `new` for these owners, in an order that the kernel accepts within one transaction. Their number
/// depends on what changed alone.
pub fn diff<'a>(changes: impl Iterator<Item = (Option<&'a Part>, Option<&'a Part>)>) -> Vec<Step> {
    let (mut removals, mut chains, mut insertions, mut deletions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let nothing = Part::default();
    for (old, new) in changes {
        let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        for (element, target) in &old.elements {
            if new.elements.get(element) != Some(target) {
                removals.push(Step::Remove(*element));
            }
        }
        for (name, balance) in &new.chains {
            match old.chains.get(name) {
                Some(same) if same == balance => continue,
                Some(_) => chains.push(Step::Flush(name.clone())),
                None => chains.push(Step::AddChain(name.clone())),
            }
            chains.push(Step::Fill(name.clone(), balance.clone()));
        }
        for (element, target) in &new.elements {
            if old.elements.get(element) != Some(target) {
                insertions.push(Step::Insert(*element, target.clone()));
            }
        }
        let gone = old.chains.keys().filter(|name| !new.chains.contains_key(*name));
        deletions.extend(gone.map(|name| Step::DeleteChain(name.clone())));
    }
    [removals, chains, insertions, deletions].concat()
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(address, protocol, port) => write!(f, "service {address} {protocol} {port}"),
            Self::NodePort(protocol, port) => write!(f, "node port {protocol} {port}"),
            Self::HostPort(protocol, port) => write!(f, "host port {protocol} {port}"),
            Self::HostAddressPort(address, protocol, port) => write!(f, "host port {address} {protocol} {port}"),
            Self::Pod(address) => write!(f, "pod {address}"),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        let how = if self.affinity { "by client" } else { "at random" };
        write!(f, "{} {how}", words.join(" "))
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(element) => write!(f, "remove {element}"),
            Self::AddChain(name) => write!(f, "add chain {name}"),
            Self::Flush(name) => write!(f, "flush chain {name}"),
            Self::Fill(name, balance) => write!(f, "fill chain {name}: {balance}"),
            Self::Insert(element, Some(target)) => write!(f, "insert {element} -> {target}"),
            Self::Insert(element, None) => write!(f, "insert {element}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
        }
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.parts.values() {
            for (name, balance) in &part.chains {
                writeln!(f, "chain {name}: {balance}")?;
            }
            for (element, target) in &part.elements {
                match target {
                    Some(target) => writeln!(f, "{element} -> {target}")?,
                    None => writeln!(f, "{element}")?,
                }
            }
        }
        Ok(())
    }
}
