//! The cluster's name server, one on every node.
//!
//! ```text
//! services, slices ─> zone (an immutable snapshot) ─┐
//!                                                    ├─> server ─> pods and the node
//! upstream resolvers ─> forward (with a cache) ─────┘
//! ```
//!
//! Its sockets outlive it, in the hands of whoever keeps them (see [`listeners`]).
//!
//! What it answers is Kubernetes' DNS-based service discovery, version 1.1.0.

pub mod forward;
pub mod listeners;
pub mod server;
pub mod zone;

pub use forward::system_resolvers;
pub use listeners::Listeners;
pub use zone::Zone;
