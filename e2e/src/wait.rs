//! Waiting: on a condition, with a deadline, and with a picture of what there was instead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at `subject` until `condition` holds; an error of its ends the wait, and `picture` is shown when `patience` does.
pub fn until<S: ?Sized>(
    subject: &mut S,
    what: &str,
    patience: Duration,
    mut condition: impl FnMut(&mut S) -> Result<bool>,
    picture: impl FnOnce(&mut S) -> String,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !condition(subject).with_context(|| format!("wait until {what}"))? {
        if Instant::now() > deadline {
            bail!("not within {patience:?}: {what}\n{}", picture(subject));
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}
