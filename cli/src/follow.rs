//! What a user follows goes on when the server that serves it dies.
//!
//! Everything followed is made of steps: a look at an object, or a stream to its end. A step that is lost, since no server
//! answered or the one that did broke off, is taken again, at whichever server answers; what a step must not do twice, its
//! verb remembers. The first step is taken once: a cluster that cannot be reached is said at once.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use tokio::time::{Instant, MissedTickBehavior};

use crate::rest::{Failure, Lost};

/// How long no server may serve before what is followed is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long that lasts before the user is told of it: a moment is nothing to worry about.
const UNTOLD: Duration = Duration::from_secs(3);

/// Between the beginnings of two steps.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a server may take to answer before another is asked.
const ANSWER: Duration = Duration::from_secs(10);

/// What is to be done about a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is taken again.
    Again,
    /// The same, and the user is told.
    Tell,
    /// A server said no, and so would all.
    Refused,
    /// No server has served for too long.
    GiveUp(Duration),
}

/// How long what is followed bears that no server serves.
#[derive(Debug, Default)]
pub struct Patience {
    /// Until when; else for [`PATIENCE`].
    deadline: Option<Instant>,
    /// A server has served.
    begun: bool,
    /// Since when steps are lost.
    lost: Option<Instant>,
    told: bool,
}

impl Patience {
    /// As long as the user said.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// A server serves.
    pub fn served(&mut self) {
        (self.begun, self.lost, self.told) = (true, None, false);
    }

    /// What a server answers, within a time if it is not the first step.
    ///
    /// # Errors
    /// The answer's, or that there was none.
    pub async fn answer<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.begun {
            return answer.await;
        }
        tokio::time::timeout(ANSWER, answer).await.context(Lost::Unreachable)?
    }

    /// Takes steps until one has a result.
    ///
    /// # Errors
    /// That of a step that was refused, or lost for too long.
    pub async fn follow<T>(&mut self, mut step: impl AsyncFnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        let mut pause = tokio::time::interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            let error = match step(self).await {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => {
                    self.served();
                    continue;
                }
                Err(error) => error,
            };
            match self.judge(&error, Instant::now()) {
                Verdict::Again => {}
                Verdict::Tell => tracing::info!("No server serves, trying on: {error:#}"),
                Verdict::Refused => return Err(error),
                Verdict::GiveUp(after) => {
                    return Err(error).context(format!("no server has served for {} s", after.as_secs()));
                }
            }
        }
    }

    /// Looks now and then until a look has a result, or until the deadline: then there is none.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub async fn look<T>(&mut self, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let is_late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| Instant::now() > deadline);
        self.follow(async |patience| {
            let seen = patience.answer(look()).await?;
            Ok((seen.is_some() || is_late(patience.deadline)).then_some(seen))
        })
        .await
    }

    fn judge(&mut self, error: &Error, now: Instant) -> Verdict {
        if !self.begun || !passes(error) {
            return Verdict::Refused;
        }
        let since = *self.lost.get_or_insert(now);
        let lasts = now.duration_since(since);
        match lasts {
            _ if now >= self.deadline.unwrap_or(since + PATIENCE) => Verdict::GiveUp(lasts),
            _ if lasts >= UNTOLD && !std::mem::replace(&mut self.told, true) => Verdict::Tell,
            _ => Verdict::Again,
        }
    }
}

/// Whether another server may do better, or the same one later.
fn passes(error: &Error) -> bool {
    match error.downcast_ref::<Failure>() {
        Some(failure) => matches!(failure.code(), 429 | 500..),
        None => error.downcast_ref::<Lost>().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        anyhow::anyhow!("connection refused").context(Lost::Unreachable).context("list pods")
    }

    fn refused(code: u16) -> Error {
        Error::from(Failure(api::status::failure(code, "", "no"))).context("follow changes")
    }

    #[test]
    fn what_is_lost_is_tried_for_a_while_and_the_user_is_told_once() {
        let begin = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.judge(&lost(), begin), Verdict::Refused, "nothing is followed yet");
        patience.served();
        let at = |patience: &mut Patience, seconds| patience.judge(&lost(), begin + Duration::from_secs(seconds));
        for (seconds, verdict) in [(0, Verdict::Again), (2, Verdict::Again), (3, Verdict::Tell), (59, Verdict::Again)] {
            assert_eq!(at(&mut patience, seconds), verdict, "{seconds}");
        }
        assert_eq!(at(&mut patience, 61), Verdict::GiveUp(Duration::from_secs(61)));
        patience.served();
        assert_eq!(at(&mut patience, 90), Verdict::Again, "it begins anew");
        let mut patience = Patience::until(begin + Duration::from_secs(90));
        patience.served();
        assert_eq!([at(&mut patience, 1), at(&mut patience, 89)], [Verdict::Again, Verdict::Tell]);
        assert_eq!(at(&mut patience, 90), Verdict::GiveUp(Duration::from_secs(89)), "the user said how long");
    }

    #[test]
    fn what_a_server_refuses_is_refused_and_what_it_cannot_do_now_is_tried_again() {
        let mut patience = Patience::default();
        patience.served();
        for code in [400, 401, 403, 404, 409, 410, 422] {
            assert_eq!(patience.judge(&refused(code), Instant::now()), Verdict::Refused, "{code}");
        }
        for code in [429, 500, 503, 504] {
            assert_eq!(patience.judge(&refused(code), Instant::now()), Verdict::Again, "{code}");
        }
        assert_eq!(patience.judge(&anyhow::anyhow!("print"), Instant::now()), Verdict::Refused);
    }
}
