//! `orlop server members|remove|lead`: the servers of the control plane, asked about through any of them.

use std::io::Write;

use anyhow::{Context, Result};
use api::members::{Condition, Member, ROOT};
use http::Method;

use crate::{args::ServerAction, output::Columns, rest::Rest};

const JSON: &str = "application/json";

/// Does what is asked, and shows the members.
pub async fn run(rest: &Rest, action: &ServerAction, out: &mut impl Write) -> Result<()> {
    let (method, path) = match action {
        ServerAction::Members => (Method::GET, ROOT.to_owned()),
        ServerAction::Remove { id } => (Method::DELETE, format!("{ROOT}/{id}")),
        ServerAction::Lead { id } => (Method::POST, format!("{ROOT}/{id}/lead")),
    };
    let members: Vec<Member> = rest.call(method, &path, JSON, None).await?;
    let mut rows = vec![["ID", "NAME", "STATUS", "ROLE", "PEERS", "ETCD"].map(str::to_owned).to_vec()];
    rows.extend(members.into_iter().map(|member| {
        let role = match (member.leader, member.learner) {
            (true, _) => "leader",
            (false, true) => "learner",
            (false, false) => "follower",
        };
        let status = match member.condition() {
            Condition::NotStarted => "NotStarted",
            Condition::Ready => "Ready",
            Condition::NotReady => "NotReady",
        };
        let name = if member.name.is_empty() { "<none>".to_owned() } else { member.name };
        vec![
            member.id,
            name,
            status.to_owned(),
            role.to_owned(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
        ]
    }));
    Columns::default().print(out, &rows).context("print")
}
