//! The further doors to an object: one file a door.

pub mod binding;
pub mod eviction;
pub mod finalize;
pub mod scale;
pub mod token;
