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

pub mod admission;
pub mod adopt;
pub mod agent;
pub mod asker;
pub mod atomic;
pub mod backoff;
pub mod config;
pub mod desired;
pub mod effects;
pub mod env;
pub mod etc;
pub mod exec;
pub mod field;
pub mod hollow;
pub mod hook;
pub mod host;
pub mod images;
pub mod launch;
pub mod logs;
pub mod lookup;
pub mod machine;
pub mod network;
pub mod node;
pub mod observed;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod publish;
pub mod pull;
pub mod qos;
pub mod resident;
pub mod runtime;
pub mod security;
pub mod server;
pub mod sources;
pub mod status;
pub mod storage;
pub mod stream;
pub mod subpath;
pub mod supervisor;
pub mod user;
pub mod volume;
pub mod worker;

pub use agent::{Error, run};
pub use config::Config;
