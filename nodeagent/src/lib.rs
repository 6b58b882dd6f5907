//! Runs the pods of one node.
//!
//! ```text
//! API ─ pods of this node ─> worker per pod ─ step() ─> effects ─┬─> Runtime  (supervisor process: owns the containers)
//!                                                                ├─> Network  (netd)
//!                                                                ├─> image::Store
//!                                                                └─> status, through the API
//! ```

pub mod network;
pub mod runtime;
pub mod supervisor;
