//! Real clusters on one machine, and the stories that users live on them.
//!
//! A test binary is a list of [`story::Story`]: all are told on one cluster, each in a namespace of its own; afterwards the
//! cluster is taken down and the machine must be as it was ([`footprint`]).
//!
//! # Absent
//! Mocks; sleeps: a story waits on conditions with a deadline.

mod backing;
pub mod bench;
pub mod footprint;
pub mod joined;
pub mod manifest;
pub mod rack;
pub mod server;
pub mod stage;
pub mod story;
pub mod upstream;
pub mod wait;

pub use rack::Rack;
pub use server::Server;
pub use stage::Stage;
