//! All controllers against the real API in this process, over a store in memory, with pretended nodes.
#![allow(clippy::unwrap_used)]

mod nodes;
mod stories;
mod world;
