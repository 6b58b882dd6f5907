//! What was, and several objects at once, as a user meets them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use e2e::{Server, stage::Said};

/// ConfigMaps of one transaction.
const MANY: usize = 100;

/// How often the server is killed while one is under way.
const CRASHES: usize = 8;

fn maps(round: usize) -> String {
    let map = |i| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{i}, namespace: many}}\ndata: {{round: r{round}}}\n"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: many}\n".to_owned();
    std::iter::once(namespace).chain((0..MANY).map(map)).collect::<Vec<_>>().join("---\n")
}

fn fine(said: &Said, words: &str) -> Result<()> {
    ensure!(said.ok && said.out.contains(words), "expected {words:?}:\n{}{}", said.out, said.err);
    Ok(())
}

#[test]
fn a_killed_server_has_applied_all_of_a_hundred_objects_or_none() -> Result<()> {
    let mut server = Server::start(&[])?;
    let round = |server: &Server| -> Result<(usize, String)> {
        let path = "jsonpath={range .items[*]}{.data.round}{\"\\n\"}{end}";
        let said = server.kubectl(&["get", "configmaps", "--namespace=many", "-o", path])?;
        let rounds: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
        ensure!(rounds.windows(2).all(|pair| pair[0] == pair[1]), "a part of a transaction is there: {rounds:?}");
        Ok((rounds.len(), rounds.first().copied().unwrap_or_default().to_owned()))
    };
    let mut acknowledged = None;
    for crash in 0..CRASHES {
        let over = Arc::new(AtomicBool::new(false));
        let applying = {
            let (mut command, over) = (server.orlop(&["apply", "--atomic", "-f", "-"])?, over.clone());
            thread::spawn(move || {
                let mut last = None;
                for attempt in 0.. {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    let number = crash * 1000 + attempt;
                    let said = e2e::stage::run(&mut command, &maps(number));
                    if !said.ok {
                        break;
                    }
                    last = Some(number);
                }
                last
            })
        };
        let wanted = crash * 1000 + crash % 3;
        server.until("some were applied", |s| {
            let is = round(s).ok().and_then(|(_, is)| is.trim_start_matches('r').parse::<usize>().ok());
            Ok(is.is_some_and(|is| is >= wanted))
        })?;
        server.kill()?;
        over.store(true, Ordering::Release);
        let last = applying.join().expect("the writer does not panic");
        acknowledged = last.or(acknowledged);
        server.resume()?;
        let (count, is) = round(&server)?;
        ensure!(count == MANY, "{count} of {MANY} are there");
        if let (Some(at_least), Ok(is)) = (acknowledged, is.trim_start_matches('r').parse::<usize>()) {
            ensure!(is >= at_least, "round {at_least} was acknowledged, and {is} is there");
        }
    }
    Ok(())
}

#[test]
fn a_mistake_is_seen_and_undone() -> Result<()> {
    let server = Server::start(&[])?;
    let orlop = |words: &[&str], input: &str| Ok::<_, anyhow::Error>(e2e::stage::run(&mut server.orlop(words)?, input));
    server.kubectl(&["create", "namespace", "shop"])?;
    let shop = |words: &[&str], input: &str| orlop(&[&["-n", "shop"], words].concat(), input);
    let map = |name: &str, value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: {value}}}\n")
    };
    let both = map("prices", "one") + "---\n" + &map("stock", "one");
    fine(&shop(&["apply", "--atomic", "-f", "-"], &both)?, "configmap/prices created\nconfigmap/stock created")?;
    let then =
        server.kubectl(&["get", "configmap", "stock", "-n", "shop", "-o", "jsonpath={.metadata.resourceVersion}"])?;
    fine(&shop(&["apply", "-f", "-"], &(map("prices", "two") + "---\n" + &map("new", "one")))?, "created")?;
    server.kubectl(&["delete", "configmap", "-n", "shop", "stock"])?;

    fine(&shop(&["get", "cm", "--at", &then], "")?, "prices")?;
    fine(&shop(&["get", "cm/stock", "--at", &then, "-o", "yaml"], "")?, "a: one")?;
    let diff = shop(&["diff", "--at", &then], "")?;
    ensure!(diff.code == Some(1), "{diff:?}");
    for line in ["-  a: one", "+  a: two", "--- configmap/prices in shop", "--- configmap/stock", "--- configmap/new"] {
        ensure!(diff.out.contains(line), "{line:?} is not in\n{}", diff.out);
    }
    ensure!(shop(&["diff", "--at", "999999", "cm"], "")?.code == Some(2), "it could not be found out");

    fine(&shop(&["undo", "--to", &then, "--dry-run"], "")?, "restore  configmap/prices")?;
    let unasked = shop(&["undo", "--to", &then], "")?;
    ensure!(!unasked.ok && unasked.err.contains("say -y"), "{unasked:?}");
    fine(&shop(&["undo", "--to", &then, "-y"], "")?, "namespace/shop undone to revision")?;
    let diff = shop(&["diff", "--at", &then, "cm/prices"], "")?;
    ensure!(diff.code == Some(0), "{}", diff.out);
    fine(&shop(&["get", "cm/stock", "-o", "yaml"], "")?, "a: one")?;
    ensure!(!shop(&["get", "cm/new"], "")?.ok, "what came since is gone");
    fine(&shop(&["undo", "--to", &then, "-y"], "")?, "is as it was")?;
    // whose fields they were, they are: applying again finds no conflict
    fine(&shop(&["apply", "-f", "-"], &(map("prices", "three") + "---\n" + &map("stock", "three")))?, "configured")?;

    // a whole namespace that is gone
    server.kubectl(&["delete", "namespace", "shop"])?;
    let undone = shop(&["undo", "--to", &then, "-y"], "")?;
    fine(&undone, "create   namespace/shop")?;
    fine(&shop(&["get", "cm/prices", "-o", "yaml"], "")?, "a: one")
}
