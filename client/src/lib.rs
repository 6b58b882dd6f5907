//! How a component of Orlop talks to the API: as an ordinary Kubernetes client, and in no other way.
//!
//! ```text
//! watch ─> cache ─> queue of keys ─> reconcile ─> write through the API
//! ```
//!
//! # Absent
//! Nothing here knows whether the API server runs in this process or on another machine.

pub mod cache;
pub mod config;
mod connector;
pub mod controller;
pub mod error;
pub mod events;
pub mod expectations;
pub mod join;
pub mod kubeconfig;
pub mod lease;
pub mod local;
pub mod owner;
pub mod queue;
pub mod servers;
pub mod shown;

pub use cache::{Caches, Change, Key, Object, Reader};
pub use config::Credentials;
pub use controller::{Controller, Next, Reconcile};
pub use error::{During, Error, OrGone};
pub use events::Recorder;
pub use expectations::Expectations;
pub use kube::Client;
