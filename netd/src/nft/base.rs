//! What the table holds whatever the services are: maps, and the chains that the kernel enters.
//!
//! ```text
//! prerouting, output (nat)   jump dispatch
//! dispatch                   ip daddr . meta l4proto . th dport vmap @services
//!                            ip daddr != 127.0.0.0/8 fib daddr type local jump local
//! local                      ... vmap @node-ports; dnat to ... map @host-address-ports; dnat to ... map @host-ports
//! postrouting (nat)          redirected: a pod of ours to itself                        masquerade
//!                            redirected: from outside the cluster, to no pod of ours    masquerade
//!                            from a pod of ours, to outside the cluster                 masquerade
//! forward, sent (filter)     new connections to a service address that dispatch did not redirect: refuse
//! ```
//!
//! Every answer of a pod comes back through its node, which undoes the translation. So a client's address is kept whenever the
//! chosen endpoint is on the node that was asked, and no packet mark is needed.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    expression::{Field, Register, Rule},
    message::{Attributes, Batch, Kind},
};

/// The one table. Whatever has this name is ours.
pub const TABLE: &str = "orlop";

/// Map: address, protocol, port of a service to its chain.
pub const SERVICES: &str = "services";
/// Map: protocol and port of the node to a service's chain.
pub const NODE_PORTS: &str = "node-ports";
/// Map: protocol and port of the node to a pod's address and port.
pub const HOST_PORTS: &str = "host-ports";
/// Map: address, protocol and port of the node to a pod's address and port.
pub const HOST_ADDRESS_PORTS: &str = "host-address-ports";
/// Set: each pod of this node with itself.
pub const PODS: &str = "pods";

const DISPATCH: &str = "dispatch";
const LOCAL: &str = "local";
const REFUSE: &str = "refuse";

const ACCEPT: u32 = 1; // NF_ACCEPT
const MAP: u32 = 8; // NFT_SET_MAP
const ANONYMOUS_MAP: u32 = MAP | 1 | 2; // ... NFT_SET_ANONYMOUS, NFT_SET_CONSTANT

// Types are for those who list the table; the kernel looks at lengths alone. Six bits a field, as `nft` writes them.
const ADDRESS: u32 = 7;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const INTEGER: u32 = 4;
const VERDICT_TYPE: u32 = 0xffff_ff00; // NFT_DATA_VERDICT

/// Which addresses are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nets {
    /// The pods of all nodes.
    pub cluster: Ipv4Net,
    /// The pods of this node.
    pub node: Ipv4Net,
    /// The services.
    pub services: Ipv4Net,
    /// The cluster's name server: a service address that this node itself answers.
    pub dns: Ipv4Addr,
}

/// What a set's elements look like.
struct Shape {
    flags: u32,
    key: &'static [u32],
    /// Type and length in bytes.
    data: Option<(u32, u32)>,
}

const SOCKET: Option<(u32, u32)> = Some((ADDRESS << 6 | PORT, 8));
const CHAIN: Option<(u32, u32)> = Some((VERDICT_TYPE, 0));
const SETS: [(&str, Shape); 5] = [
    (SERVICES, Shape { flags: MAP, key: &[ADDRESS, PROTOCOL, PORT], data: CHAIN }),
    (NODE_PORTS, Shape { flags: MAP, key: &[PROTOCOL, PORT], data: CHAIN }),
    (HOST_PORTS, Shape { flags: MAP, key: &[PROTOCOL, PORT], data: SOCKET }),
    (HOST_ADDRESS_PORTS, Shape { flags: MAP, key: &[ADDRESS, PROTOCOL, PORT], data: SOCKET }),
    (PODS, Shape { flags: 0, key: &[ADDRESS, ADDRESS], data: None }),
];

/// How the table is guarded against everybody else: while its owner runs, `nft flush ruleset`, or a restart of the distribution's
/// firewall, passes it by. The kernel lets a socket own a table, and the table outlive that socket, since 6.9
/// (`NFT_TABLE_F_OWNER`, `_PERSIST`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Owned, now or by a socket that is gone, and owned afterwards.
    Owned,
    /// Owned from now on; the one that is there is not.
    Taken,
    /// Not owned: an older kernel.
    Open,
}

impl Guard {
    /// What is tried, in this order.
    pub const ALL: [Self; 3] = [Self::Owned, Self::Taken, Self::Open];

    /// The flags of the table that is there, and of the new one.
    fn flags(self) -> (u32, u32) {
        const OWNED: u32 = 2 | 4;
        match self {
            Self::Owned => (OWNED, OWNED),
            Self::Taken => (0, OWNED),
            Self::Open => (0, 0),
        }
    }
}

/// Writes that there be no table when the transaction is done.
pub fn clear(batch: &mut Batch, guard: Guard) {
    for kind in [Kind::NewTable, Kind::DelTable] {
        table(batch, kind, guard.flags().0);
    }
}

fn table(batch: &mut Batch, kind: Kind, flags: u32) {
    batch.message(kind, format!("table {TABLE}"), |m| {
        m.text(1, TABLE).number(2, flags);
    });
}

/// Writes the table from nothing: what was there is gone when the transaction is done, and not before.
pub fn write(batch: &mut Batch, guard: Guard, nets: Nets) {
    clear(batch, guard);
    table(batch, Kind::NewTable, guard.flags().1);
    for (id, (name, shape)) in (1..).zip(&SETS) {
        set(batch, name, id, shape);
    }
    for name in [DISPATCH, LOCAL, REFUSE] {
        chain(batch, name);
    }
    base_chain(batch, "prerouting", "nat", 0, -100);
    base_chain(batch, "output", "nat", 3, -100);
    base_chain(batch, "postrouting", "nat", 4, 100);
    base_chain(batch, "forward", "filter", 2, 0);
    base_chain(batch, "sent", "filter", 3, 0);
    destinations(batch);
    sources(batch, nets);
    refusals(batch, nets);
}

fn destinations(batch: &mut Batch) {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    for from in ["prerouting", "output"] {
        rule(batch, from, |r| {
            r.jump(DISPATCH);
        });
    }
    rule(batch, DISPATCH, |r| {
        let r = r.load(Field::Destination, Register(0)).load_protocol(Register(1)).load(Field::Port, Register(2));
        r.dispatch(SERVICES);
    });
    rule(batch, DISPATCH, |r| {
        // what comes from 127.0.0.1 may not leave through another interface: better refused than lost
        r.within(Field::Destination, loopback, false).for_this_node().jump(LOCAL);
    });
    rule(batch, LOCAL, |r| {
        r.load_protocol(Register(0)).load(Field::Port, Register(1)).dispatch(NODE_PORTS);
    });
    rule(batch, LOCAL, |r| {
        let r = r.load(Field::Destination, Register(0)).load_protocol(Register(1)).load(Field::Port, Register(2));
        r.look_up(HOST_ADDRESS_PORTS, None, Register(0)).redirect(Register(0));
    });
    rule(batch, LOCAL, |r| {
        let r = r.load_protocol(Register(0)).load(Field::Port, Register(1));
        r.look_up(HOST_PORTS, None, Register(0)).redirect(Register(0));
    });
}

fn sources(batch: &mut Batch, nets: Nets) {
    let multicast = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    rule(batch, "postrouting", |r| {
        r.was_redirected().load(Field::Source, Register(0)).load(Field::Destination, Register(1));
        r.member_of(PODS).masquerade();
    });
    rule(batch, "postrouting", |r| {
        r.was_redirected().leaves_machine().within(Field::Source, nets.cluster, false);
        r.within(Field::Destination, nets.node, false).masquerade();
    });
    rule(batch, "postrouting", |r| {
        r.leaves_machine().within(Field::Source, nets.node, true).within(Field::Destination, nets.cluster, false);
        r.within(Field::Destination, multicast, false).masquerade();
    });
}

fn refusals(batch: &mut Batch, nets: Nets) {
    for from in ["forward", "sent"] {
        rule(batch, from, |r| {
            r.is_new().within(Field::Destination, nets.services, true);
            r.within(Field::Destination, nets.dns.into(), false).jump(REFUSE);
        });
    }
    rule(batch, REFUSE, |r| {
        r.is_tcp().reset();
    });
    rule(batch, REFUSE, |r| {
        r.unreachable();
    });
}

/// Writes a chain that is entered from another one only.
pub fn chain(batch: &mut Batch, name: &str) {
    batch.message(Kind::NewChain, format!("chain {name}"), |m| {
        m.text(1, TABLE).text(3, name);
    });
}

fn base_chain(batch: &mut Batch, name: &str, kind: &str, hook: u32, priority: i32) {
    batch.message(Kind::NewChain, format!("chain {name}"), |m| {
        m.text(1, TABLE).text(3, name);
        m.nest(4, |m| {
            m.number(1, hook).bytes(2, &priority.to_be_bytes());
        });
        m.number(5, ACCEPT).text(7, kind);
    });
}

/// Appends a rule to a chain.
pub fn rule(batch: &mut Batch, chain: &str, body: impl FnOnce(&mut Rule<'_, '_>)) {
    batch.message(Kind::NewRule, format!("rule in chain {chain}"), |m| {
        m.text(1, TABLE).text(2, chain).nest(4, |list| body(&mut Rule::new(list)));
    });
}

/// Writes the unnamed map of one rule: a slot's number to an address and port.
pub fn slots(batch: &mut Batch, name: &str, id: u32) {
    set(batch, name, id, &Shape { flags: ANONYMOUS_MAP, key: &[INTEGER], data: SOCKET });
}

fn set(batch: &mut Batch, name: &str, id: u32, shape: &Shape) {
    let key = shape.key.iter().fold(0, |types, field| types << 6 | field);
    let length = u32::try_from(shape.key.len() * 4).expect("invariant: keys have few fields");
    batch.message(Kind::NewSet, format!("set {name}"), |m: &mut Attributes<'_>| {
        m.text(1, TABLE).text(2, name).number(3, shape.flags).number(4, key).number(5, length);
        if let Some((kind, length)) = shape.data {
            m.number(6, kind);
            if length > 0 {
                m.number(7, length);
            }
        }
        m.number(10, id);
        if shape.key == [INTEGER] {
            // tells `nft list` that slot numbers are in this machine's order: NFTNL_UDATA_SET_KEYBYTEORDER, 4 bytes, host
            let host = 1_u32.to_ne_bytes();
            m.bytes(13, &[&[0, 4][..], &host].concat());
        }
    });
}
