//! The declarative API: what Kubernetes clients speak to, over TLS or called directly as a `tower` service.

pub mod admission;
pub mod allocate;
pub mod policy;
pub mod registry;
pub mod strategies;
pub mod strategy;
