//! What is done to the servers, one story for each.

use std::time::Duration;

use anyhow::Result;
use e2e::rack::Way;

use store::check::Nanos;

use crate::{pouring::Pouring, war::War};

/// What a server must say that cannot write for want of room.
const FULL: &str = "No space left on device";

/// Writes between two deeds.
const QUIET: u64 = 60;

/// How often what depends on the moment is done.
const ROUNDS: usize = 3;

/// How often a network that flaps is lost, and how long at most.
const FLAPS: usize = 10;
const FLAP: Duration = Duration::from_millis(700);

/// Things that are done when everything is, and how long each may hold up all calls.
const DEEDS: usize = 6;
const WHILE: Duration = Duration::from_secs(2);

/// The one that leads is killed, and comes back; while objects are created through the API servers, too.
pub fn leaders_are_killed(war: &mut War) -> Result<()> {
    war.create_objects()?;
    for _ in 0..ROUNDS {
        war.until_written(QUIET)?;
        let leader = war.leader()?;
        let struck = war.note("kill -9 of the leader", leader);
        war.rack.machine(leader).kill()?;
        war.until_written(QUIET)?;
        war.measure("kill -9 of the leader", struck);
        restart(war, leader)?;
    }
    Ok(())
}

/// A follower is killed; then both at once, so that nothing can be written.
pub fn followers_are_killed(war: &mut War) -> Result<()> {
    war.until_written(QUIET)?;
    let followers = war.followers()?;
    let struck = war.note("kill -9", followers[0]);
    war.rack.machine(followers[0]).kill()?;
    war.until_written(QUIET)?;
    war.measure("kill -9 of a follower", struck);
    war.note("kill -9", followers[1]);
    war.rack.machine(followers[1]).kill()?;
    // Without a majority nothing is acknowledged; the calls end, or are given up.
    war.until_answered(QUIET, WHILE);
    restart(war, followers[0])?;
    restart(war, followers[1])
}

/// The one that leads stands still until another leads, and goes on: it must not answer with what it held then.
pub fn leaders_are_frozen(war: &mut War) -> Result<()> {
    for _ in 0..ROUNDS {
        war.until_written(QUIET)?;
        let leader = war.leader()?;
        let struck = war.note("SIGSTOP of the leader", leader);
        war.rack.machine(leader).freeze()?;
        war.until_led_without(leader)?;
        war.until_written(QUIET)?;
        war.measure("SIGSTOP of the leader", struck);
        war.note("SIGCONT", leader);
        war.rack.machine(leader).thaw()?;
        war.until_written(QUIET)?;
    }
    Ok(())
}

/// The one that leads is alone, and then a follower. Clients still reach both.
pub fn servers_are_cut_off(war: &mut War) -> Result<()> {
    let both = [Way::In, Way::Out];
    war.until_written(QUIET)?;
    let leader = war.leader()?;
    cut(war, leader, &both, "partition of the leader")?;
    let follower = war.followers()?[0];
    cut(war, follower, &both, "partition of a follower")
}

/// What the one that leads says is lost, then what is said to it; and the same of a follower.
pub fn servers_are_cut_off_in_one_direction(war: &mut War) -> Result<()> {
    war.until_written(QUIET)?;
    let leader = war.leader()?;
    cut(war, leader, &[Way::Out], "the leader is not heard")?;
    let leader = war.leader()?;
    cut(war, leader, &[Way::In], "the leader hears nothing")?;
    let follower = war.followers()?[0];
    cut(war, follower, &[Way::Out], "a follower is not heard")?;
    let follower = war.followers()?[1];
    cut(war, follower, &[Way::In], "a follower hears nothing")
}

/// Cuts a machine off from the others until much was written without it.
fn cut(war: &mut War, at: usize, ways: &[Way], what: &'static str) -> Result<()> {
    let struck = war.note(what, at);
    war.rack.cut_off(at, ways)?;
    war.until_written(QUIET)?;
    war.measure(what, struck);
    war.note("mended", at);
    war.rack.cut_off(at, &[])?;
    war.until_written(QUIET)
}

/// The network comes and goes, in whichever direction.
pub fn the_network_flaps(war: &mut War) -> Result<()> {
    let struck = war.clients.now();
    for _ in 0..FLAPS {
        let at = war.pick();
        let ways: &[Way] = match war.dice.within(0..4) {
            0 => &[Way::In],
            1 => &[Way::Out],
            _ => &[Way::In, Way::Out],
        };
        war.note(&format!("lost {ways:?}"), at);
        war.rack.cut_off(at, ways)?;
        let calls = war.dice.within(5..60);
        war.until_answered(calls, FLAP);
        war.note("mended", at);
        war.rack.cut_off(at, &[])?;
        let calls = war.dice.within(1..40);
        war.until_answered(calls, FLAP);
    }
    war.until_written(QUIET)?;
    war.measure("a network that flaps", struck);
    Ok(())
}

/// A follower's disk is full, then the leader's, then two. Each says so, writes go on as long as a majority has room, and all
/// come back when there is; also one that is killed while its disk is full.
pub fn disks_are_full(war: &mut War) -> Result<()> {
    war.until_written(QUIET)?;
    let follower = war.followers()?[0];
    let struck = fill(war, &[follower], "a follower's disk is full")?;
    war.until_written(QUIET)?;
    war.measure("a follower's disk is full", struck);
    war.note("kill -9, and restart", follower);
    war.rack.machine(follower).kill()?;
    war.rack.machine(follower).start()?;
    war.until_written(QUIET)?;
    make_room(war, &[follower])?;

    let leader = war.leader()?;
    let struck = fill(war, &[leader], "the leader's disk is full")?;
    war.until_led_without(leader)?;
    war.until_written(QUIET)?;
    war.measure("the leader's disk is full", struck);
    make_room(war, &[leader])?;

    let both = [war.leader()?, war.followers()?[0]];
    fill(war, &both, "two disks are full")?;
    // Without a majority that can write nothing is acknowledged; the calls end, or are given up.
    war.until_answered(QUIET, WHILE);
    make_room(war, &both)
}

/// Fills disks, until the servers say so. The moment when it began.
fn fill(war: &mut War, places: &[usize], what: &str) -> Result<Nanos> {
    let mut struck = war.clients.now();
    let mut said = Vec::new();
    for at in places {
        said.push(war.rack.machines()[*at].log()?.len());
        struck = war.note(what, *at).min(struck);
        war.rack.machine(*at).fill()?;
    }
    // The log has zeros written ahead: there is room in it until they are used up.
    let _pouring = Pouring::begin(&war.clients);
    for (at, said) in places.iter().zip(said) {
        war.rack.until("the server says that its disk is full", |rack| {
            Ok(rack.machines()[*at].log()?[said..].contains(FULL))
        })?;
    }
    Ok(struck)
}

fn make_room(war: &mut War, places: &[usize]) -> Result<()> {
    for at in places {
        war.note("room is made", *at);
        war.rack.machine(*at).make_room()?;
    }
    for at in places {
        war.rack.until_back(*at)?;
    }
    war.until_written(QUIET)
}

/// A fourth server joins while the leader is killed, and is removed while the leader is cut off.
pub fn servers_come_and_go(war: &mut War) -> Result<()> {
    war.until_written(QUIET)?;
    let leader = war.leader()?;
    let through = war.others(leader)[0];
    let joining = war.rack.join(through)?;
    war.note("joins", joining);
    let struck = war.note("kill -9 of the leader", leader);
    war.rack.machine(leader).kill()?;
    war.until_written(QUIET)?;
    war.measure("kill -9 of the leader while a server joins", struck);
    war.rack.until_joined(joining)?;
    restart(war, leader)?;
    let machine = &war.rack.machines()[joining];
    war.clients.admit(machine)?;
    war.until_written(QUIET)?;

    let leader = war.leader()?;
    // Whoever leads then has it removed.
    let leaving = joining;
    let struck = war.note("partition of the leader", leader);
    war.rack.cut_off(leader, &[Way::In, Way::Out])?;
    war.note("is removed", leaving);
    war.clients.dismiss_last();
    war.rack.remove(leaving)?;
    war.until_written(QUIET)?;
    war.measure("partition of the leader while a server is removed", struck);
    war.note("mended", leader);
    war.rack.cut_off(leader, &[])?;
    war.rack.until_ended(leaving)?;
    war.until_written(QUIET)
}

/// Whatever the seed says, while objects are created through the API servers, too.
pub fn everything_at_once(war: &mut War) -> Result<()> {
    war.create_objects()?;
    let struck = war.clients.now();
    for _ in 0..DEEDS {
        let at = war.pick();
        match war.dice.within(0..6) {
            0 | 1 => {
                war.note("kill -9", at);
                war.rack.machine(at).kill()?;
                war.until_answered(QUIET, WHILE);
                restart(war, at)?;
            }
            2 => {
                war.note("SIGSTOP", at);
                war.rack.machine(at).freeze()?;
                war.until_answered(QUIET, WHILE);
                war.note("SIGCONT", at);
                war.rack.machine(at).thaw()?;
            }
            3 => cut(war, at, &[Way::In, Way::Out], "partition")?,
            4 => cut(war, at, &[Way::Out], "one is not heard")?,
            _ => {
                let other = war.pick();
                war.note("kill -9", at);
                war.rack.machine(at).kill()?;
                war.note("partition", other);
                war.rack.cut_off(other, &[Way::In, Way::Out])?;
                war.until_answered(QUIET, WHILE);
                war.note("mended", other);
                war.rack.cut_off(other, &[])?;
                restart(war, at)?;
            }
        }
        war.until_answered(QUIET, WHILE);
    }
    war.until_written(QUIET)?;
    war.measure("all of it", struck);
    Ok(())
}

fn restart(war: &mut War, at: usize) -> Result<()> {
    war.note("restart", at);
    war.rack.machine(at).start()?;
    war.rack.until_ready(at)?;
    war.until_written(QUIET)
}
