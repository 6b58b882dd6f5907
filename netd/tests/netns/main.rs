//! A node's network, for real: namespaces as nodes and pods, the kernel's own bridge, VXLAN and nf_tables. Needs root.
#![allow(clippy::unwrap_used)]

mod api;
mod attachments;
mod kernel;
mod names;
mod services;
mod world;
