//! The declarative API: what Kubernetes clients speak to, over TLS or called directly as a `tower` service.

pub mod registry;
pub mod strategy;
