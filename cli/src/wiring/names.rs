//! The name server's sockets belong to the supervisor, so that no question is lost while an agent is restarted.

use std::net::SocketAddrV4;

use anyhow::Result;
use netd::{DNS_PORT, dns::Listeners};
use nodeagent::runtime::builtin::Builtin;

use crate::cluster;

/// Under which name they are kept.
const NAME: &str = "dns";

/// Those of an earlier agent, with all that was asked meanwhile; or new ones, which the supervisor keeps from now on.
pub async fn listeners(runtime: &Builtin) -> Result<Listeners> {
    let address = SocketAddrV4::new(cluster::DNS, DNS_PORT);
    match runtime.kept(NAME).await {
        Ok(kept) => {
            if let Some(listeners) = Listeners::adopt(address, kept) {
                return Ok(listeners);
            }
        }
        // one of an earlier release may not know how
        Err(error) => tracing::warn!(%error, "the supervisor keeps no sockets; names may pause at a restart"),
    }
    let listeners = Listeners::open(address)?;
    if let Err(error) = runtime.keep(NAME, listeners.share()?).await {
        tracing::warn!(%error, "the supervisor does not keep the name server's sockets; names may pause at a restart");
    }
    Ok(listeners)
}
