//! What keeps the state of the servers in stories: the store inside them, or an etcd beside each.
//!
//! What a user sees must not depend on it. So `./test` tells the stories of users a second time with `ORLOP_E2E_STORE=etcd`. A
//! story about one of the two says so by its server's arguments, or is not told again.

use anyhow::{Result, bail};

use crate::server::Etcd;

/// The environment variable that chooses: `embedded`, which is the default, or `etcd`.
const CHOICE: &str = "ORLOP_E2E_STORE";

/// Arguments that settle it: the server keeps its state where these say.
const SETTLED: [&str; 2] = ["--etcd-servers", "--join"];

/// What is to be started beside a server with these arguments, which grow by what leads it there.
pub(crate) fn beside(args: &mut Vec<String>) -> Result<Option<Etcd>> {
    let settled = args.iter().any(|arg| SETTLED.contains(&arg.as_str()));
    match std::env::var(CHOICE).as_deref() {
        Ok("etcd") if !settled => {
            let etcd = Etcd::place()?;
            args.extend(["--etcd-servers".to_owned(), etcd.url()]);
            Ok(Some(etcd))
        }
        Ok("etcd" | "embedded") | Err(_) => Ok(None),
        Ok(other) => bail!("{CHOICE} is {other:?}; it may be embedded or etcd"),
    }
}
