//! The instructions of nf_tables rules that this crate uses.
//!
//! Values are loaded into 32-bit registers; a key of several fields lies in consecutive ones, each padded to 4 bytes.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::message::Attributes;

const LIST_ELEMENT: u16 = 1; // NFTA_LIST_ELEM
const VALUE: u16 = 1; // NFTA_DATA_VALUE
const VERDICT: u16 = 2; // NFTA_DATA_VERDICT
const VERDICT_REGISTER: u32 = 0; // NFT_REG_VERDICT
const FIRST_REGISTER: u32 = 8; // NFT_REG32_00

const JUMP: i32 = -3;
const GOTO: i32 = -4;

/// A register: 0 to 15.
#[derive(Clone, Copy, Debug)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }
}

/// A field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Where an IPv4 packet comes from.
    Source,
    /// Where it goes.
    Destination,
    /// The destination port of TCP, UDP and SCTP.
    Port,
}

/// A rule that is being written: its instructions in order.
pub struct Rule<'a, 'b> {
    list: &'a mut Attributes<'b>,
}

impl<'a, 'b> Rule<'a, 'b> {
    /// A rule whose instructions are appended to this list.
    pub fn new(list: &'a mut Attributes<'b>) -> Self {
        Self { list }
    }

    fn instruction(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.list.nest(LIST_ELEMENT, |m| {
            m.text(1, name).nest(2, data);
        });
        self
    }

    /// Loads a field of the packet.
    pub fn load(&mut self, field: Field, to: Register) -> &mut Self {
        let (base, offset, length) = match field {
            Field::Source => (1, 12, 4),
            Field::Destination => (1, 16, 4),
            Field::Port => (2, 2, 2),
        };
        self.instruction("payload", |m| {
            m.number(1, to.number()).number(2, base).number(3, offset).number(4, length);
        })
    }

    /// Loads the transport protocol's number.
    pub fn load_protocol(&mut self, to: Register) -> &mut Self {
        self.meta(16, to) // NFT_META_L4PROTO
    }

    fn meta(&mut self, key: u32, to: Register) -> &mut Self {
        self.instruction("meta", |m| {
            m.number(1, to.number()).number(2, key);
        })
    }

    /// Goes on if the register holds, or does not hold, these bytes.
    fn compare(&mut self, register: Register, equal: bool, value: &[u8]) -> &mut Self {
        self.instruction("cmp", |m| {
            m.number(1, register.number()).number(2, u32::from(!equal)).nest(3, |m| {
                m.bytes(VALUE, value);
            });
        })
    }

    fn mask(&mut self, register: Register, mask: [u8; 4]) -> &mut Self {
        self.instruction("bitwise", |m| {
            m.number(1, register.number()).number(2, register.number()).number(3, 4);
            m.nest(4, |m| {
                m.bytes(VALUE, &mask);
            });
            m.nest(5, |m| {
                m.bytes(VALUE, &[0; 4]);
            });
        })
    }

    /// Goes on if a field lies, or does not lie, within a network.
    pub fn within(&mut self, field: Field, net: Ipv4Net, inside: bool) -> &mut Self {
        self.load(field, Register(0));
        if net.prefix_len() < 32 {
            self.mask(Register(0), net.netmask().octets());
        }
        self.compare(Register(0), inside, &net.network().octets())
    }

    /// Goes on if the packet is TCP.
    pub fn is_tcp(&mut self) -> &mut Self {
        self.load_protocol(Register(0)).compare(Register(0), true, &[6])
    }

    /// Goes on if the packet is for an address of this node.
    pub fn for_this_node(&mut self) -> &mut Self {
        self.instruction("fib", |m| {
            m.number(1, Register(0).number()).number(2, 3).number(3, 2); // address type of the destination
        });
        self.compare(Register(0), true, &2_u32.to_ne_bytes()) // RTN_LOCAL
    }

    /// Goes on unless the packet leaves through the loopback interface.
    pub fn leaves_machine(&mut self) -> &mut Self {
        let mut name = [0; 16];
        name[..2].copy_from_slice(b"lo");
        self.meta(7, Register(0)).compare(Register(0), false, &name) // NFT_META_OIFNAME
    }

    /// Goes on if the connection is new.
    pub fn is_new(&mut self) -> &mut Self {
        self.connection(0, 8) // NFT_CT_STATE, IP_CT_NEW
    }

    /// Goes on if the connection's destination was translated.
    pub fn was_redirected(&mut self) -> &mut Self {
        self.connection(2, 32) // NFT_CT_STATUS, IPS_DST_NAT
    }

    fn connection(&mut self, key: u32, bit: u32) -> &mut Self {
        self.instruction("ct", |m| {
            m.number(1, Register(0).number()).number(2, key);
        });
        self.mask(Register(0), bit.to_ne_bytes()).compare(Register(0), false, &[0; 4])
    }

    /// Goes on if the key in register 0 and after is in the set.
    pub fn member_of(&mut self, set: &str) -> &mut Self {
        self.instruction("lookup", |m| {
            m.text(1, set).number(2, Register(0).number());
        })
    }

    /// Loads what the map says about the key in register 0 and after; ends the rule if it says nothing.
    pub fn look_up(&mut self, map: &str, id: Option<u32>, to: Register) -> &mut Self {
        self.instruction("lookup", |m| {
            m.text(1, map).number(2, Register(0).number()).number(3, to.number());
            if let Some(id) = id {
                m.number(4, id);
            }
        })
    }

    /// Does what the map says about the key in register 0 and after, if it says anything.
    pub fn dispatch(&mut self, map: &str) -> &mut Self {
        self.instruction("lookup", |m| {
            m.text(1, map).number(2, Register(0).number()).number(3, VERDICT_REGISTER);
        })
    }

    /// Loads an address and a port into a register and the next.
    pub fn constant(&mut self, address: SocketAddrV4, to: Register) -> &mut Self {
        self.immediate(to, &address.ip().octets());
        self.immediate(Register(to.0 + 1), &address.port().to_be_bytes())
    }

    fn immediate(&mut self, to: Register, value: &[u8]) -> &mut Self {
        self.instruction("immediate", |m| {
            m.number(1, to.number()).nest(2, |m| {
                m.bytes(VALUE, value);
            });
        })
    }

    /// Loads a random number below `below`.
    pub fn random(&mut self, below: u32, to: Register) -> &mut Self {
        self.instruction("numgen", |m| {
            m.number(1, to.number()).number(2, below).number(3, 1).number(4, 0);
        })
    }

    /// Loads a number below `below` that depends on the source address alone.
    pub fn hash_of_source(&mut self, below: u32, to: Register) -> &mut Self {
        self.load(Field::Source, Register(1));
        self.instruction("hash", |m| {
            // the seed is given: with one of the kernel's choosing, clients would move at every change
            m.number(1, Register(1).number())
                .number(2, to.number())
                .number(3, 4)
                .number(4, below)
                .number(5, 0x6f72_6c6f);
            m.number(6, 0).number(7, 0);
        })
    }

    /// Sends the connection to the address and port in a register and the next.
    pub fn redirect(&mut self, to: Register) -> &mut Self {
        let (address, port) = (to.number(), to.number() + 1);
        self.instruction("nat", |m| {
            m.number(1, 1).number(2, 2).number(3, address).number(4, address).number(5, port).number(6, port);
        })
    }

    /// Gives the connection an address of this node as source, and a random port.
    pub fn masquerade(&mut self) -> &mut Self {
        self.instruction("masq", |m| {
            m.number(1, 1 << 4); // NF_NAT_RANGE_PROTO_RANDOM_FULLY: two clients never race for one port
        })
    }

    /// Refuses the packet with a TCP reset.
    pub fn reset(&mut self) -> &mut Self {
        self.instruction("reject", |m| {
            m.number(1, 1).bytes(2, &[0]);
        })
    }

    /// Refuses the packet with ICMP "port unreachable".
    pub fn unreachable(&mut self) -> &mut Self {
        self.instruction("reject", |m| {
            m.number(1, 0).bytes(2, &[3]);
        })
    }

    /// Goes on in another chain and comes back.
    pub fn jump(&mut self, chain: &str) -> &mut Self {
        self.verdict(JUMP, Some(chain))
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.instruction("immediate", |m| {
            m.number(1, VERDICT_REGISTER).nest(2, |m| verdict(m, code, chain));
        })
    }
}

fn verdict(m: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    m.nest(VERDICT, |m| {
        m.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            m.text(2, chain);
        }
    });
}

/// What an element of a map says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says<'a> {
    /// It is there: a set.
    Nothing,
    /// Go on in this chain.
    Goto(&'a str),
    /// This address and port.
    Address(SocketAddrV4),
}

/// Appends an element to a list of elements.
pub fn element(list: &mut Attributes<'_>, key: &[u8], says: &Says<'_>) {
    list.nest(LIST_ELEMENT, |m| {
        m.nest(1, |m| {
            m.bytes(VALUE, key);
        });
        match says {
            Says::Nothing => {}
            Says::Goto(chain) => {
                m.nest(2, |m| verdict(m, GOTO, Some(chain)));
            }
            Says::Address(address) => {
                m.nest(2, |m| {
                    m.bytes(VALUE, &socket(*address));
                });
            }
        }
    });
}

/// An address and a port as two registers.
fn socket(address: SocketAddrV4) -> [u8; 8] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low, 0, 0]
}

/// A key: address (if any), protocol, port, each padded to a register.
pub fn port_key(address: Option<Ipv4Addr>, protocol: u8, port: u16) -> Vec<u8> {
    let mut key = address.map(|a| a.octets().to_vec()).unwrap_or_default();
    key.extend([protocol, 0, 0, 0]);
    key.extend(port.to_be_bytes());
    key.extend([0, 0]);
    key
}
