//! A cluster on one machine: hosts made of namespaces, `orlop server` and `orlop agent` started in them as they would be
//! on machines of their own.
//!
//! ```text
//!  this machine        underlay (a namespace)           node-1 (network, mounts, processes, ... of its own)
//!  127.0.0.1:6443 ──>  server   172.30.0.1 ── bridge ── eth0 172.30.0.11   init ─ agent ─ supervisor ─ containers
//!  127.0.0.1:30080 ─────────────────────────────────>   a NodePort
//! ```
//!
//! Nothing is made on the machine itself: sockets that listen here are opened here and served from inside.

pub mod cgroups;
pub mod cluster;
pub mod forward;
pub mod host;
pub mod init;

pub use cluster::{API_PORT, Cluster, Node, SERVER, Spec};
pub use host::{Host, Isolation};
