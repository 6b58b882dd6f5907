//! Where components that must not know each other are introduced.

pub mod identity;
pub mod names;
pub mod network;
