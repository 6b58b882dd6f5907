//! What a machine's packet filter drops: partitions of the network, whole or of one direction.

use std::{
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Which packets are lost, as the machine sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those that it sends.
    Out,
    /// Those that are sent to it.
    In,
}

/// Packets to or from one other machine.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The other.
    pub peer: Ipv4Addr,
    /// Which of them.
    pub way: Way,
}

/// The rules that drop this and nothing else, for `nft -f`. Loaded in one transaction.
pub(super) fn rules(cuts: &[Cut]) -> String {
    let mut rules = "table ip cut\ndelete table ip cut\n".to_owned();
    if cuts.is_empty() {
        return rules;
    }
    let chains = [(Way::In, "input", "saddr"), (Way::Out, "output", "daddr")];
    rules += "table ip cut {\n";
    for (way, hook, side) in chains {
        let dropped = cuts.iter().filter(|cut| cut.way == way).map(|cut| format!("ip {side} {} drop\n", cut.peer));
        rules += &format!("chain {hook} {{\ntype filter hook {hook} priority 0\n{}}}\n", dropped.collect::<String>());
    }
    rules + "}\n"
}

/// Loads rules into the packet filter of the calling thread's network.
pub(super) fn load(rules: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start nft")?;
    let mut stdin = nft.stdin.take().context("a command without input")?;
    stdin.write_all(rules.as_bytes()).context("tell nft the rules")?;
    drop(stdin);
    let said = nft.wait_with_output().context("wait for nft")?;
    ensure!(said.status.success(), "nft refused\n{rules}{}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}
