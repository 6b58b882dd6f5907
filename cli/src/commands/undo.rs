//! `orlop undo`: puts a namespace's objects back as they were.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, anyhow, bail, ensure};
use api::{Kind, moment::Moment, transaction::Operation};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

use crate::{
    args::Undo,
    objects::{self, Objects},
    rest::{Rest, refused_with},
    subject,
    undo::{self, Step},
};

/// Who we are in `managedFields`, for what belonged to nobody then.
const FIELD_MANAGER: &str = "orlop-undo";

/// Most objects of one transaction: one less than the store takes, for the namespace.
const MAX_OBJECTS: usize = 127;

/// Most bytes of the objects of one transaction: less than the store's limit, as what is stored may have more fields.
const MAX_BYTES: usize = 1 << 20;

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Undo, out: &mut impl Write) -> Result<()> {
    let moment = rest.moment(&args.to).await?;
    let past = rest.at(&moment.revision.to_string());
    let then = everything(&past).await?;
    let namespace = Kind::of::<Namespace>().context("Namespaces are served")?;
    ensure!(
        then.keys().any(|id| id.kind == namespace),
        "there was no namespace {:?} at revision {}: to remove what came since, delete it",
        rest.namespace,
        moment.revision
    );
    let steps = undo::plan(&then, &everything(rest).await?).map_err(|why| anyhow!(why))?;
    if steps.is_empty() {
        writeln!(out, "namespace/{} is as it was {}", rest.namespace, when(&moment)).context("print")?;
        return Ok(());
    }
    let parts = parts(&steps);
    show(rest, &moment, &steps, parts.len(), out)?;
    if args.dry_run {
        for part in &parts {
            transact(rest, part, true).await?;
        }
        return writeln!(out, "nothing was changed (server dry run)").context("print");
    }
    if !args.yes && !agreed(out)? {
        bail!("nothing was changed");
    }
    for (done, part) in parts.iter().enumerate() {
        let done = || format!("{done} of {} transactions were done before", parts.len());
        transact(rest, part, false).await.with_context(done)?;
    }
    writeln!(out, "namespace/{} undone to {}", rest.namespace, when(&moment)).context("print")
}

fn when(moment: &Moment) -> String {
    let time = moment.time.as_ref().map_or_else(String::new, |time| format!(" ({time})"));
    format!("revision {}{time}", moment.revision)
}

/// The namespace and all that is in it.
async fn everything(rest: &Rest) -> Result<Objects> {
    let mut all = Objects::new();
    let namespace = Kind::of::<Namespace>().context("Namespaces are served")?;
    match rest.get::<Value>(&subject::path(namespace, "", &rest.namespace)).await {
        Ok(object) => all.extend([objects::named(namespace, object)]),
        Err(error) if refused_with(&error, 404) => {}
        Err(error) => return Err(error),
    }
    for kind in objects::wanted_kinds(false) {
        objects::list(rest, kind, Some(&rest.namespace), &mut all).await?;
    }
    Ok(all)
}

fn show(rest: &Rest, moment: &Moment, steps: &[Step], parts: usize, out: &mut impl Write) -> Result<()> {
    writeln!(out, "To put namespace {} back to {}:", rest.namespace, when(moment)).context("print")?;
    for step in steps {
        writeln!(out, "  {:<8} {}", step.change.word(), step.id).context("print")?;
    }
    if parts > 1 {
        writeln!(out, "It takes {parts} transactions; each is done as a whole or not at all.").context("print")?;
    }
    Ok(())
}

fn agreed(out: &mut impl Write) -> Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "say -y to do this without being asked");
    write!(out, "Go ahead? [y/N] ").and_then(|()| out.flush()).context("print")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The steps in as few pieces as fit a transaction each.
fn parts(steps: &[Step]) -> Vec<&[Step]> {
    let size = |step: &Step| step.operations.iter().map(|o| o.object().to_string().len()).max().unwrap_or(0);
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, step) in steps.iter().enumerate() {
        if at - from == MAX_OBJECTS || (at > from && bytes + size(step) > MAX_BYTES) {
            parts.push(&steps[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += size(step);
    }
    parts.push(&steps[from..]);
    parts
}

async fn transact(rest: &Rest, steps: &[Step], dry_run: bool) -> Result<()> {
    let operations: Vec<Operation> = steps.iter().flat_map(|step| step.operations.clone()).collect();
    let options = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Ignore")];
    rest.transact(operations, &options, dry_run).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::undo::Change;

    #[test]
    fn a_long_plan_is_cut_by_number_and_by_size() {
        let kind = Kind::by_manifest("v1", "ConfigMap").unwrap();
        let step = |bytes: usize| {
            let (id, object) = objects::named(kind, json!({"data": {"a": "x".repeat(bytes)}}));
            Step { id, change: Change::Delete, operations: vec![Operation::Delete(object)] }
        };
        let lengths = |steps: Vec<Step>| parts(&steps).into_iter().map(<[Step]>::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..300).map(|_| step(1)).collect()), [127, 127, 46]);
        assert_eq!(lengths((0..5).map(|_| step(MAX_BYTES / 3)).collect()), [2, 2, 1]);
        assert_eq!(lengths(vec![step(3 * MAX_BYTES), step(1)]), [1, 1]);
    }
}
