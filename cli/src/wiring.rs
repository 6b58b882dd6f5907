//! Where components that must not know each other are introduced.

pub mod network;
