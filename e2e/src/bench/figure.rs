//! A measured figure, and how figures are printed.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The scenario that it belongs to.
    pub scenario: &'static str,
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// Figures as they come, printed at once.
pub struct Figures {
    json: bool,
    scenario: &'static str,
    out: Box<dyn Write>,
}

impl Figures {
    /// Prints to `out`, one JSON object a line or a table.
    pub fn new(json: bool, out: impl Write + 'static) -> Self {
        Self { json, scenario: "", out: Box::new(out) }
    }

    /// What follows belongs to this scenario.
    pub fn scenario(&mut self, name: &'static str) -> Result<()> {
        self.scenario = name;
        if self.json { Ok(()) } else { writeln!(self.out, "\n{name}").context("print") }
    }

    /// Notes a figure.
    pub fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) -> Result<()> {
        let figure = Figure { scenario: self.scenario, name: name.into(), value, unit };
        if self.json {
            serde_json::to_writer(&mut self.out, &figure).context("print")?;
            writeln!(self.out).context("print")?;
        } else {
            writeln!(self.out, "  {:<52} {:>12} {unit}", figure.name, rounded(value)).context("print")?;
        }
        self.out.flush().context("print")
    }

    /// Notes median and 99th percentile of some durations, in milliseconds.
    pub fn spread(&mut self, name: &str, durations: &mut [Duration]) -> Result<()> {
        durations.sort();
        self.note(format!("{name}, p50"), millis(quantile(durations, 0.50)), "ms")?;
        self.note(format!("{name}, p99"), millis(quantile(durations, 0.99)), "ms")
    }
}

/// Three significant digits or so.
fn rounded(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value at this share of sorted durations; zero of none.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let values: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
