//! Resident: giving back pages of the program that only its start needed.
//!
//! The kernel maps sixteen pages of a program wherever one is touched, so that starting maps most of a large one. All that is
//! clean and shared page cache, but counts as the process's as long as it is mapped: four fifths of a node agent that rests.
//! What is given back costs nothing any more; what is needed again comes back from the page cache at a microsecond a time.

#![allow(unsafe_code)]

use std::{fs, io, ops::Range, time::Duration};

use rustix::mm::{Advice, madvise};
use tokio_util::sync::CancellationToken;

/// After this long a start is over.
const STARTED: Duration = Duration::from_secs(5);
/// Between later times: what pods that come and go needed is given back too.
const PERIOD: Duration = Duration::from_secs(60);

/// Where the running program and its libraries are mapped, as far as they are as their files are.
#[derive(Debug)]
pub struct Program {
    mappings: Vec<Range<usize>>,
}

impl Program {
    /// Looks at the process.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn mapped() -> io::Result<Self> {
        Ok(Self { mappings: unchanged(&fs::read_to_string("/proc/self/smaps")?) })
    }

    /// Gives all its pages back, for now.
    pub fn release(&self) {
        for range in &self.mappings {
            // SAFETY: the mapping is private, of a file, and neither writable nor changed, so that its pages are read from
            // the file again with the same content: a program that runs cannot be written to, and packages replace files
            // as a whole. Mappings of programs and libraries that were there at the start stay where they are.
            let done = unsafe { madvise(range.start as *mut _, range.len(), Advice::LinuxDontNeed) };
            if let Err(errno) = done {
                tracing::debug!(%errno, "pages of the program stay resident");
            }
        }
    }
}

/// Keeps the process small until shutdown.
pub async fn keep_small(shutdown: CancellationToken) {
    let program = match Program::mapped() {
        Ok(program) => program,
        Err(error) => {
            return tracing::warn!(%error, "the process's mappings cannot be read; it stays as large as it is");
        }
    };
    let mut wait = STARTED;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
        program.release();
        wait = PERIOD;
    }
}

/// Private mappings of files that cannot be written and hold no page of the process's own.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, permissions, _, _, inode, ..] if range.contains('-') => {
                let file = *inode != "0" && permissions.ends_with('p') && !permissions.contains('w');
                current = parse(range).filter(|_| file);
            }
            ["Anonymous:", "0", "kB"] => found.extend(current.take()),
            _ => {}
        }
    }
    found
}

fn parse(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let smaps = "\
5000-6000 r--p 00000000 fe:00 77 /usr/bin/orlop
Rss:                   4 kB
Anonymous:             0 kB
6000-9000 r-xp 00001000 fe:00 77 /usr/bin/orlop (deleted)
Anonymous:             0 kB
9000-a000 r--p 00004000 fe:00 77 /usr/bin/orlop
Anonymous:             4 kB
a000-b000 rw-p 00005000 fe:00 77 /usr/bin/orlop
Anonymous:             0 kB
b000-c000 r--s 00000000 fe:00 78 /shared
Anonymous:             0 kB
c000-d000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
d000-e000 rw-p 00000000 00:00 0
Anonymous:             0 kB";
        assert_eq!(unchanged(smaps), [0x5000..0x6000, 0x6000..0x9000]);
    }

    #[test]
    fn a_program_goes_on_and_is_smaller() {
        let text = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let own = smaps.lines().skip_while(|l| !l.contains(" r-xp ")).find(|l| l.starts_with("Rss:")).unwrap();
            own.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let program = Program::mapped().unwrap();
        assert!(program.mappings.len() > 1);
        let before = text();
        program.release();
        let after = text();
        assert!(after < before, "{before} KiB became {after} KiB");
    }
}
