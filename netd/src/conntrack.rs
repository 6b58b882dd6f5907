//! Flows that outlive their endpoint.
//!
//! The kernel translates a UDP flow as its first packet was, for as long as packets keep coming: a client that goes on sending from
//! one port would never reach another endpoint. So when an endpoint goes away, its flows are forgotten. TCP needs nothing of
//! the kind: a connection to an endpoint that is gone is dead.

use std::{collections::BTreeSet, net::SocketAddrV4};

use nix::errno::Errno;

use crate::{
    nft::message::{errors, split},
    ruleset::{Match, Part, Protocol, Target},
    socket::{Error, Socket},
};

const SUBSYSTEM: u16 = 1; // NFNL_SUBSYS_CTNETLINK
const GET: u16 = 1; // IPCTNL_MSG_CT_GET
const DELETE: u16 = 2; // IPCTNL_MSG_CT_DELETE
const DONE: u16 = 3; // NLMSG_DONE
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
const ORIGINAL: u16 = 1; // CTA_TUPLE_ORIG
const REPLY: u16 = 2; // CTA_TUPLE_REPLY
const FAMILY_IPV4: u8 = 2;
/// The header of a netlink message and that of a netfilter one.
const HEADERS: usize = 20;

/// What the kernel must forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// UDP endpoints that traffic went to before, and does not any more.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// UDP ports of the node that lead somewhere now: flows from before end at the node itself.
    pub ports: BTreeSet<u16>,
}

/// What these changes leave behind.
pub fn stale<'a>(changes: impl Iterator<Item = (Option<&'a Part>, Option<&'a Part>)>) -> Stale {
    let (mut gone, mut here) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = BTreeSet::new();
    for (old, new) in changes {
        gone.extend(old.into_iter().flat_map(endpoints));
        here.extend(new.into_iter().flat_map(endpoints));
        for element in new.into_iter().flat_map(|part| part.elements.keys()) {
            let known = old.is_some_and(|part| part.elements.contains_key(element));
            match element {
                Match::NodePort(Protocol::Udp, port)
                | Match::HostPort(Protocol::Udp, port)
                | Match::HostAddressPort(_, Protocol::Udp, port)
                    if !known =>
                {
                    ports.insert(*port);
                }
                _ => {}
            }
        }
    }
    Stale { endpoints: &gone - &here, ports }
}

fn endpoints(part: &Part) -> BTreeSet<SocketAddrV4> {
    let mut found = BTreeSet::new();
    for (element, target) in &part.elements {
        let (Match::Service(_, protocol, _)
        | Match::NodePort(protocol, _)
        | Match::HostPort(protocol, _)
        | Match::HostAddressPort(_, protocol, _)) = element
        else {
            continue;
        };
        match target {
            Some(Target::Chain(name)) if *protocol == Protocol::Udp => {
                found.extend(part.chains.get(name).into_iter().flat_map(|balance| balance.endpoints.iter().copied()));
            }
            Some(Target::Address(address)) if *protocol == Protocol::Udp => {
                found.insert(*address);
            }
            _ => {}
        }
    }
    found
}

/// Makes the kernel forget these UDP flows.
pub fn forget(socket: &Socket, stale: &Stale) -> Result<(), Error> {
    if *stale == Stale::default() {
        return Ok(());
    }
    for flow in flows(socket)? {
        let matches = if flow.translated {
            stale.endpoints.contains(&flow.answers_from)
        } else {
            stale.ports.contains(&flow.answers_from.port())
        };
        if matches {
            socket.send(&message(DELETE, REQUEST, Some(&flow.original)))?;
            while let Some(datagram) = socket.queued()? {
                // a flow that ended by itself meanwhile is as good
                for (_, code) in errors(&datagram) {
                    let source = Errno::from_raw(code);
                    if source != Errno::ENOENT {
                        let operation = format!("forget a flow to {}", flow.answers_from);
                        return Err(Error::Refused { operation, source });
                    }
                }
            }
        }
    }
    Ok(())
}

struct Flow {
    original: Vec<u8>,
    answers_from: SocketAddrV4,
    translated: bool,
}

fn flows(socket: &Socket) -> Result<Vec<Flow>, Error> {
    socket.send(&message(GET, REQUEST | DUMP, None))?;
    let mut found = Vec::new();
    loop {
        let datagram = socket.wait()?;
        let mut rest = &datagram[..];
        while let Some((length, kind, _, body)) = split(rest) {
            match kind {
                DONE => return Ok(found),
                2 => {
                    let code = errors(rest).first().map_or(0, |(_, code)| *code);
                    let operation = "list flows".to_owned();
                    return Err(Error::Refused { operation, source: Errno::from_raw(code) });
                }
                _ => found.extend(flow(body.get(4..).unwrap_or_default())),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn flow(body: &[u8]) -> Option<Flow> {
    let original = attribute(body, ORIGINAL)?;
    let reply = attribute(body, REPLY)?;
    let protocol = attribute(attribute(reply, 2)?, 1)?;
    if protocol != [Protocol::Udp.number()] {
        return None;
    }
    let answers_from = end(reply, 1, 2)?;
    let translated = end(original, 2, 3)? != answers_from;
    Some(Flow { original: original.to_vec(), answers_from, translated })
}

/// One end of a tuple: its address and its port, by their attributes.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddrV4> {
    let address: [u8; 4] = attribute(attribute(tuple, 1)?, address)?.try_into().ok()?;
    let port: [u8; 2] = attribute(attribute(tuple, 2)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(port)))
}

/// The value of the first attribute of that kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn message(kind: u16, flags: u16, original: Option<&[u8]>) -> Vec<u8> {
    let tuple = original.unwrap_or_default();
    let length = HEADERS + original.map_or(0, |tuple| tuple.len() + 4);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).expect("invariant: a tuple is small").to_ne_bytes());
    bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port
    bytes.extend([FAMILY_IPV4, 0, 0, 0]);
    if original.is_some() {
        bytes.extend(u16::try_from(tuple.len() + 4).expect("invariant: a tuple is small").to_ne_bytes());
        bytes.extend((ORIGINAL | 0x8000).to_ne_bytes());
        bytes.extend(tuple);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::Balance;

    fn part(protocol: Protocol, endpoints: &[&str]) -> Part {
        let mut part = Part::default();
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        part.chains.insert("c".to_owned(), Balance { endpoints, affinity: false });
        part.elements.insert(Match::NodePort(protocol, 30053), Some(Target::Chain("c".to_owned())));
        part
    }

    #[test]
    fn only_udp_endpoints_that_nobody_uses_any_more_are_stale() {
        let old = part(Protocol::Udp, &["10.42.0.2:53", "10.42.0.3:53"]);
        let new = part(Protocol::Udp, &["10.42.0.3:53"]);
        let gone = stale([(Some(&old), Some(&new))].into_iter());
        assert_eq!(gone.endpoints, BTreeSet::from(["10.42.0.2:53".parse().unwrap()]));
        assert!(gone.ports.is_empty(), "the port led somewhere before");
        let moved = stale([(Some(&old), None), (None, Some(&old))].into_iter());
        assert!(moved.endpoints.is_empty(), "another service has them");
        assert_eq!(stale([(Some(&part(Protocol::Tcp, &["10.42.0.2:53"])), None)].into_iter()), Stale::default());
    }

    #[test]
    fn a_udp_port_that_begins_to_lead_somewhere_is_stale() {
        let new = part(Protocol::Udp, &["10.42.0.2:53"]);
        assert_eq!(stale([(None, Some(&new))].into_iter()).ports, BTreeSet::from([30053]));
    }
}
