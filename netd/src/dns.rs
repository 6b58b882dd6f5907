//! The cluster's name server, one on every node.
//!
//! ```text
//! services, slices ─> zone (an immutable snapshot) ─┐
//!                                                    ├─> server ─> pods and the node
//! upstream resolvers ─> forward (with a cache) ─────┘
//! ```
//!
//! What it answers is Kubernetes' DNS-based service discovery, version 1.1.0.

pub mod forward;
pub mod server;
pub mod zone;

pub use forward::system_resolvers;
pub use zone::Zone;
