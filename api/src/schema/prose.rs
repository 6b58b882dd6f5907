//! What Kubernetes' authors wrote about each type and field: the text of `kubectl explain`.
//!
//! `prose.txt.gz` has a line for each line of `facts.txt` (`scripts/schema_facts.py` writes both). It is inflated when a
//! document is made and dropped with it, so that at rest it costs its compressed size in the binary and no memory.

use std::io::{self, BufRead as _, BufReader};

use flate2::bufread::GzDecoder;

use super::{Schema, Type};

static PROSE: &[u8] = include_bytes!("prose.txt.gz");

/// All of it.
pub struct Prose {
    lines: Vec<String>,
    /// For each type of the schema the line that is about it; those about its fields follow.
    starts: Vec<usize>,
}

impl Prose {
    /// Inflates it.
    pub fn read() -> Self {
        let lines = read(PROSE).expect("invariant: the generator wrote JSON strings and compressed them");
        let starts = Schema::types().iter().scan(0, |next, ty| {
            let start = *next;
            *next += 1 + ty.fields.len();
            Some(start)
        });
        Self { lines, starts: starts.collect() }
    }

    /// About a type; empty where nobody wrote anything.
    pub fn of(&self, ty: &Type) -> &str {
        self.line(ty, 0)
    }

    /// About a type's field, by its place in [`Type::fields`].
    pub fn of_field(&self, ty: &Type, field: usize) -> &str {
        self.line(ty, 1 + field)
    }

    fn line(&self, ty: &Type, offset: usize) -> &str {
        let index = Schema::types().binary_search_by(|t| t.name.cmp(ty.name)).ok();
        let line = index.and_then(|index| self.lines.get(self.starts[index] + offset));
        line.map_or("", String::as_str)
    }
}

fn read(compressed: &[u8]) -> io::Result<Vec<String>> {
    let lines = BufReader::new(GzDecoder::new(compressed)).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_has_its_line() {
        let prose = Prose::read();
        let facts: usize = Schema::types().iter().map(|ty| 1 + ty.fields.len()).sum();
        assert_eq!(prose.lines.len(), facts);
        let spec = Schema::named("io.k8s.api.apps.v1.DeploymentSpec").unwrap();
        assert_eq!(prose.of(spec), "DeploymentSpec is the specification of the desired behavior of the Deployment.");
        let paused = spec.fields.iter().position(|f| f.name == "paused").unwrap();
        assert_eq!(prose.of_field(spec, paused), "Indicates that the deployment is paused.");
        let last = Schema::types().last().unwrap();
        assert!(prose.of(last).starts_with("Info contains versioning information."), "{}", prose.of(last));
        assert_eq!(prose.of_field(last, last.fields.len()), "");
    }
}
