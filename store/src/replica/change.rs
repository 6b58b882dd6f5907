//! Whether a change of the members may be proposed now: the leader's judgement, from what it sees.

use crate::members::MemberId;

use super::roster::{Change, Roster};

/// How far a learner may be behind the leader and still get its vote, entries.
pub(crate) const CAUGHT_UP: u64 = 256;

/// What the leader sees.
pub(crate) struct View<'a> {
    pub(crate) leader: MemberId,
    pub(crate) roster: &'a Roster,
    /// Heard of within the last election timeout, the leader itself among them.
    pub(crate) alive: &'a dyn Fn(MemberId) -> bool,
    /// Entries that a member lacks of the leader's log.
    pub(crate) lag: &'a dyn Fn(MemberId) -> u64,
    /// A change is in the log that is not applied yet.
    pub(crate) pending: bool,
}

/// A change as it is to be proposed; or why not, in words for an operator.
pub(crate) fn judge(change: Change, view: &View) -> Result<Change, String> {
    change.check().map_err(str::to_owned)?;
    let roster = view.roster;
    if change.configures().is_some() && view.pending {
        return Err("another change of the members is under way; try again when it is done".to_owned());
    }
    let known = |id: MemberId| roster.get(id).ok_or_else(|| format!("there is no member {id:x}"));
    match change {
        Change::Add(member) => {
            let taken = |url: &String| roster.members().any(|other| other.peer_urls.contains(url));
            if let Some(url) = member.peer_urls.iter().find(|url| taken(url)) {
                return Err(format!("peer URL {url} already exists"));
            }
            let (voters, alive) = votes(view, None);
            // A member alone may take a second; from then on a new voter that never starts must not cost the majority.
            if !member.learner && voters > 1 && alive < majority(voters + 1) {
                return Err(format!("{alive} voters are alive, too few of {} with the new one", voters + 1));
            }
            Ok(Change::Add(crate::members::Member { id: roster.next_id(), ..member }))
        }
        Change::Promote(id) => {
            if !known(id)?.learner {
                return Err(format!("member {id:x} is not a learner"));
            }
            let lag = (view.lag)(id);
            if !(view.alive)(id) || lag > CAUGHT_UP {
                return Err(format!("learner {id:x} has not caught up with the leader; try again later"));
            }
            Ok(Change::Promote(id))
        }
        Change::Remove(id) => {
            let learner = known(id)?.learner;
            let (voters, alive) = votes(view, Some(id));
            if !learner && voters == 0 {
                return Err("it is the only member with a vote: the store would be gone".to_owned());
            }
            if !learner && alive < majority(voters) {
                return Err(format!(
                    "{alive} of the {voters} voters that would be left are alive, and that is no majority: start those that \
                     are down, or remove one of them first"
                ));
            }
            Ok(Change::Remove(id))
        }
        Change::Move(id, urls) => {
            known(id)?;
            Ok(Change::Move(id, urls))
        }
        Change::Present(id, name, urls) => {
            known(id)?;
            Ok(Change::Present(id, name, urls))
        }
    }
}

/// All voters but one, and how many of them are alive.
fn votes(view: &View, without: Option<MemberId>) -> (usize, usize) {
    let voters: Vec<_> = view.roster.voters().filter(|id| Some(*id) != without).collect();
    let alive = voters.iter().filter(|id| **id == view.leader || (view.alive)(**id)).count();
    (voters.len(), alive)
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Member;

    fn member(id: MemberId, learner: bool) -> Member {
        Member { id, peer_urls: vec![format!("https://m{id}")], learner, ..Member::default() }
    }

    fn judged(voters: u64, dead: &[MemberId], change: Change) -> Result<Change, String> {
        let mut roster = Roster::new((1..=voters).map(|id| member(id, false)));
        roster.apply(&Change::Add(member(9, true)));
        let alive = |id| !dead.contains(&id);
        let view = View { leader: 1, roster: &roster, alive: &alive, lag: &|_| 0, pending: false };
        judge(change, &view)
    }

    #[test]
    fn nothing_is_done_that_would_cost_the_majority() {
        assert!(judged(3, &[2], Change::Remove(2)).is_ok(), "the dead one");
        assert!(judged(3, &[2], Change::Remove(3)).is_err(), "a living one while another is dead");
        assert!(judged(1, &[], Change::Remove(1)).is_err());
        assert!(judged(1, &[], Change::Add(member(0, false))).is_ok(), "alone, it may take a second");
        assert!(judged(2, &[2], Change::Add(member(0, false))).is_err());
        assert!(
            judged(2, &[2], Change::Add(Member { peer_urls: vec!["https://n".into()], ..member(0, true) })).is_ok()
        );
    }

    #[test]
    fn a_learner_is_promoted_when_it_has_caught_up() {
        let mut roster = Roster::new([member(1, false)]);
        roster.apply(&Change::Add(member(2, true)));
        let promoted = |lag: u64, alive: bool, pending: bool| {
            let view = View { leader: 1, roster: &roster, alive: &|_| alive, lag: &|_| lag, pending };
            judge(Change::Promote(2), &view).is_ok()
        };
        assert!(promoted(CAUGHT_UP, true, false));
        assert!(!promoted(CAUGHT_UP + 1, true, false));
        assert!(!promoted(0, false, false), "it may have caught up before it died");
        assert!(!promoted(0, true, true));
    }
}
