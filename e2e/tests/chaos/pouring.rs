//! Writes that are there to fill logs. They are no part of the history: to it they are what others wrote.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use store::{Backend, Op, Txn};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clients::Clients;

/// Bytes of each value.
const VALUE: usize = 64 << 10;

/// Different keys: what is alive stays small.
const KEYS: usize = 8;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Goes on until it is dropped.
pub struct Pouring {
    _stop: DropGuard,
}

impl Pouring {
    /// Begins, through all servers.
    pub fn begin(clients: &Clients) -> Self {
        let stop = CancellationToken::new();
        let doors = clients.doors();
        let pouring = stop.clone();
        drop(clients.spawn(async move { pouring.run_until_cancelled(pour(doors)).await }));
        Self { _stop: stop.drop_guard() }
    }
}

async fn pour(doors: Vec<Arc<dyn Backend>>) {
    let value = Bytes::from(vec![b'x'; VALUE]);
    for (number, door) in doors.iter().cycle().enumerate() {
        let key = format!("/poured/{}", number % KEYS);
        let put = Op::Put { key: key.into(), value: value.clone(), lease: 0 };
        // A member without space does not answer: the next is asked.
        drop(timeout(PATIENCE, door.txn(Txn { success: vec![put], ..Txn::default() })).await);
    }
}
