//! Measures a cluster beside the floors of the machine that it runs on.
//!
//! Every scenario speaks plain Kubernetes API with a kubeconfig, so that the same command measures any API server. Figures
//! are printed; they decide nothing.

pub mod api;
pub mod binds;
pub mod cost;
pub mod figure;
pub mod floor;
pub mod pods;
pub mod rest;
pub mod subject;
pub mod watch;

pub use figure::Figures;
pub use subject::Subject;
