//! How a component of Orlop talks to the API: as an ordinary Kubernetes client, and in no other way.
//!
//! ```text
//! watch ─> cache ─> queue of keys ─> reconcile ─> write through the API
//! ```
//!
//! # Absent
//! Nothing here knows whether the API server runs in this process or on another machine.

pub mod cache;

pub use cache::{Caches, Change, Key, Object, Reader};
pub use kube::Client;
