//! One file a verb.

pub mod apply;
pub mod delete;
pub mod describe;
pub mod exec;
pub mod get;
pub mod image;
pub mod logs;
pub mod rollout;
pub mod scale;
pub mod server;
pub mod up;
pub mod wait;
