//! Runs the pods of one node.
//!
//! ```text
//! API ─ pods of this node ─> worker per pod ─ step() ─> effects ─┬─> Runtime  (supervisor process: owns the containers)
//!                                                                ├─> Network  (netd)
//!                                                                ├─> image::Store
//!                                                                └─> status, through the API
//! ```
//!
//! # Invariants
//! * What runs is adopted after a restart of the agent, never restarted.
//! * [`pod::step`] and [`status::status`] take no clock, no client, no lock.
//! * A pod object is deleted for good only when nothing of it is left on the node.
//!
//! # Absent
//! Nothing here starts a process or touches a network device: that is the runtime's and the network's. No eviction and no
//! collection of unused images yet.

pub mod atomic;
pub mod backoff;
pub mod config;
pub mod desired;
pub mod env;
pub mod etc;
pub mod field;
pub mod images;
pub mod lookup;
pub mod network;
pub mod observed;
pub mod pod;
pub mod qos;
pub mod runtime;
pub mod security;
pub mod sources;
pub mod status;
pub mod storage;
pub mod subpath;
pub mod supervisor;
pub mod user;
pub mod volume;

pub use config::Config;
