//! Deployments and ReplicaSets together, in a world without an API server: scripts that read like stories, and properties.
#![allow(clippy::unwrap_used)]

mod properties;
mod scripts;
mod world;
