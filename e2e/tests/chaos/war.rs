//! One story's war: servers that are broken while clients ask, the peace after it, and the judgement of the history.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::Rack;
use store::{
    check::{Nanos, Rules},
    sim::dice::Dice,
};

use crate::{agreement, clients::Clients, figures, objects::Objects, strangers};

/// Servers at the beginning.
const SERVERS: usize = 3;

/// A lease may end this much early: members count milliseconds, and take one moment for all that arrives together.
const EARLY: Duration = Duration::from_millis(500);

/// How long so many writes may take that a story waits for.
const WRITING: Duration = Duration::from_secs(30);

/// Between two looks at how many there are.
const LOOK: Duration = Duration::from_millis(5);

/// A story that goes on.
pub struct War {
    /// The servers.
    pub rack: Rack,
    /// Who asks them.
    pub clients: Clients,
    /// What the seed decides beside the load.
    pub dice: Dice,
    /// What was broken and mended, and when.
    happened: Vec<(Nanos, String)>,
    /// Of which faults it is to be told how long nobody could write.
    outages: Vec<(&'static str, Nanos, Nanos)>,
    objects: Option<Objects>,
}

impl War {
    /// Starts servers and clients.
    pub fn begin(seed: u64) -> Result<Self> {
        let rack = Rack::raise(SERVERS)?;
        let mut dice = Dice::new(seed);
        let mut clients = Clients::connect(&rack)?;
        clients.begin(dice.roll());
        Ok(Self { rack, clients, dice, happened: Vec::new(), outages: Vec::new(), objects: None })
    }

    /// Something is broken or mended at this machine. The moment.
    pub fn note(&mut self, what: &str, at: usize) -> Nanos {
        let now = self.clients.now();
        self.happened.push((now, format!("{what}: {}", self.rack.machines()[at].name())));
        now
    }

    /// How long nobody could write is to be told, from a moment until now.
    pub fn measure(&mut self, what: &'static str, from: Nanos) {
        self.outages.push((what, from, self.clients.now()));
    }

    /// Who leads, as those tell that run.
    pub fn leader(&mut self) -> Result<usize> {
        let running = self.rack.running();
        self.rack.until_led(&running, |_| true)
    }

    /// Who does not lead.
    pub fn followers(&mut self) -> Result<Vec<usize>> {
        let leader = self.leader()?;
        Ok(self.others(leader))
    }

    /// Any machine.
    pub fn pick(&mut self) -> usize {
        let count = self.rack.machines().len() as u64;
        usize::try_from(self.dice.within(0..count)).unwrap_or(0)
    }

    /// Waits until the others have a leader that is not this one.
    pub fn until_led_without(&mut self, at: usize) -> Result<()> {
        let others = self.others(at);
        self.rack.until_led(&others, |leader| leader != at).map(drop)
    }

    /// From now on objects are created through all API servers, too.
    pub fn create_objects(&mut self) -> Result<()> {
        self.objects = Some(Objects::begin(&self.rack, &self.clients)?);
        Ok(())
    }

    /// All machines but this.
    pub fn others(&self, at: usize) -> Vec<usize> {
        (0..self.rack.machines().len()).filter(|other| *other != at).collect()
    }

    /// Waits until so many more writes were acknowledged.
    pub fn until_written(&mut self, more: u64) -> Result<()> {
        let (enough, deadline) = (self.clients.written() + more, Instant::now() + WRITING);
        while self.clients.written() < enough {
            let missing = enough - self.clients.written();
            ensure!(Instant::now() < deadline, "{missing} of {more} writes were not acknowledged within {WRITING:?}");
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Waits until so many more calls were answered, or were given up for so long.
    pub fn until_answered(&mut self, more: u64, patience: Duration) {
        let (enough, deadline) = (self.clients.answered() + more, Instant::now() + patience);
        while self.clients.answered() < enough && Instant::now() < deadline {
            std::thread::park_timeout(LOOK);
        }
    }

    /// Peace: every member answers, all hold the same, and what clients were told and saw is possible. What is worth telling.
    pub fn end(&mut self) -> Result<String> {
        self.clients.stop()?;
        let objects = self.objects.take().map(|objects| objects.end(&self.clients)).transpose()?;
        let recorded = self.clients.recorded_doors();
        let newest = self.clients.run(agreement::writes_and_reads(recorded))??;
        let history = self.clients.history();
        self.clients.run(agreement::on_one_state(self.clients.doors(), newest))??;
        let strangers = self.clients.run(strangers::of(self.clients.doors(), newest, self.clients.now()))??;
        let mut told = String::new();
        let [answered, refused, failed, unknown] = figures::outcomes(&history);
        write!(
            told,
            "{} calls ({answered} answered, {refused} refused, {failed} not done, {unknown} unknown), {} watches, {newest} revisions",
            history.records.len(),
            history.watches.len()
        )?;
        for (what, from, until) in &self.outages {
            let gap = figures::outage(figures::written(&history), *from, *until);
            write!(told, "\n    {what}: no write for {} ms", gap.as_millis())?;
            if let Some(objects) = &objects {
                let gap = figures::outage(objects.iter().copied(), *from, *until);
                write!(told, ", no object created for {} ms ({} were)", gap.as_millis(), objects.len())?;
            }
        }
        let mut whole = history;
        whole.records.extend(strangers);
        let rules = Rules { early: Nanos::try_from(EARLY.as_nanos()).unwrap_or(0), ..Rules::default() };
        let checking = Instant::now();
        whole.check(&rules).context("the history is not possible")?;
        write!(told, "\n    checked in {:.1} s", checking.elapsed().as_secs_f64())?;
        Ok(told)
    }

    /// What a person would look at first when a story fails.
    pub fn picture(&self) -> String {
        let happened: String = self.happened.iter().map(|(at, what)| format!("[{at}] {what}\n")).collect();
        format!("{happened}{}", self.rack.logs())
    }
}
