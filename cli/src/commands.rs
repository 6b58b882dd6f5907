//! One file a verb.

pub mod agent;
pub mod apply;
pub mod backup;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod exec;
pub mod get;
pub mod hollow;
pub mod image;
pub mod logs;
pub mod members;
pub mod restore;
pub mod rollout;
pub mod scale;
pub mod server;
pub mod undo;
pub mod up;
pub mod wait;
