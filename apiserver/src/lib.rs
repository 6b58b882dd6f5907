//! The declarative API: what Kubernetes clients speak to, over TLS or called directly as a `tower` service.
//!
//! ```text
//!  request ─ listen ─ service ─ authn ─ authz ─┬─ handlers/{get,list,watch} ── cache ◄─ watch ─┐
//!  (TLS)     local ───┘                        ├─ handlers/{create,replace,patch,…} ─ write ─► store
//!                                              ├─ connect ─► node agent (logs, exec)
//!                                              └─ discovery, join
//! ```
//!
//! # Invariants
//! * Handlers are one file a verb and generic over kinds; what a kind does differently is in its one [`strategy`].
//! * An object is encoded once, when it is written; GET, LIST and every watcher are sent those bytes ([`item`]).
//! * Nobody who is slow is waited for, and nothing is buffered without bound ([`cache`]).
//! * What was acknowledged is seen by every later read through this server.
//!
//! # Absent
//! No controller runs here, and nothing but this crate opens the store. No kind is named in a route.

pub mod admission;
pub mod allocate;
mod ask;
pub mod authn;
pub mod authz;
pub mod backup;
mod body;
mod bootstrap;
pub mod cache;
mod clock;
mod connect;
mod discovery;
mod expiry;
mod handlers;
mod history;
pub mod item;
mod join;
mod kubeconfig;
mod listen;
pub mod members;
mod meta;
mod negotiate;
mod parts;
pub mod pki;
mod policy;
mod presence;
mod query;
pub mod registry;
mod reply;
mod server;
mod service;
mod services;
mod staging;
mod storage;
pub mod strategies;
pub mod strategy;
mod table;
mod target;
mod token;
mod user;
mod write;

pub use server::{Config, Error, Server};
pub use service::Local;
pub use user::User;
