//! Images: named, verified, unpacked once, shared by all containers and agents of a machine.
//!
//! ```text
//! registry ──pull──┐                          ┌─ index.json   references -> images
//! archive  ──load──┴─> verify ─> unpack ─────>┤
//!                       (digest)  (fd-relative)└─ layers/<diff id>/   what overlayfs mounts
//! ```
//!
//! # Invariants
//! * A folder under `layers/` is complete and its content had the digest that names it: it is unpacked under `tmp/`,
//!   synced, and renamed last.
//! * Nothing an archive says is ever joined to a path as a string: see [`tree`].
//! * Several processes may use one store at once: the index and each layer are guarded by `flock`.
//!
//! # Absent
//! No building from Dockerfiles, no signatures, no lazy pulling. Compressed layers are not kept.

pub mod archive;
mod digest;
mod entry;
mod error;
mod index;
mod layer;
mod load;
mod manifest;
mod pull;
pub mod reference;
mod store;
pub mod tree;
mod unpack;

pub use digest::Digest;
pub use error::Error;
pub use oci_spec::image::ImageConfiguration;
pub use pull::{Credentials, PullOptions};
pub use reference::Reference;
pub use store::{Image, Progress, Store};
pub use unpack::Limits;
