//! The handlers: one file a verb, generic over kinds.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod past;
pub mod patch;
pub mod replace;
pub mod review;
pub mod subresource;
pub mod transaction;
pub mod watch;
