//! A disk that keeps what was synced, and of the rest what it likes.
//!
//! Every operation that changes something burns a fuse, if one is lit; when it is burnt the power is gone: that operation
//! and all later ones fail, until [`SimDisk::restore_power`] has decided what of the unsynced survived: of each write all,
//! nothing, its beginning, or some of its sectors; of changes of names the first few.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dice::Dice;
use crate::replica::disk::{Disk, DiskFile};

/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;

/// One member's disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Platters>>);

struct Platters {
    dice: Dice,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the directory was synced.
    renamed: Vec<Renaming>,
    files: BTreeMap<u64, Content>,
    next: u64,
    /// Operations until the power goes.
    fuse: Option<u64>,
    power: bool,
    full: bool,
}

#[derive(Clone)]
enum Renaming {
    Set(String, u64),
    /// One step, as on a disk with a journal: the old name does not go without the new one being there.
    Move(String, String, u64),
    Remove(String),
}

#[derive(Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl SimDisk {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Platters {
            dice,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            files: BTreeMap::new(),
            next: 0,
            fuse: None,
            power: true,
            full: false,
        })))
    }

    /// The power goes at the so-manieth operation from now on.
    pub(crate) fn light_fuse(&self, operations: u64) {
        self.0.lock().fuse = Some(operations);
    }

    pub(crate) fn has_power(&self) -> bool {
        self.0.lock().power
    }

    /// There is no space for anything new; or there is again.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Every later change fails, as on a disk that is gone.
    pub(crate) fn cut_power(&self) {
        self.0.lock().power = false;
    }

    /// What survives is decided; then everything works again.
    pub(crate) fn restore_power(&self) {
        let mut platters = self.0.lock();
        let platters = &mut *platters;
        for content in platters.files.values_mut() {
            let mut survived = std::mem::take(&mut content.durable);
            for write in std::mem::take(&mut content.unsynced) {
                write.survive(&mut survived, &mut platters.dice);
            }
            content.current.clone_from(&survived);
            content.durable = survived;
        }
        let renamed = std::mem::take(&mut platters.renamed);
        let kept = platters.dice.within(0..renamed.len() as u64 + 1);
        for renaming in renamed.into_iter().take(usize::try_from(kept).unwrap_or(0)) {
            renaming.apply(&mut platters.durable_names);
        }
        platters.names.clone_from(&platters.durable_names);
        let named: Vec<u64> = platters.names.values().copied().collect();
        platters.files.retain(|file, _| named.contains(file));
        (platters.fuse, platters.power) = (None, true);
    }

    /// Flips one bit of what is written down; false when nothing is.
    pub(crate) fn flip_bit(&self) -> bool {
        let mut platters = self.0.lock();
        let platters = &mut *platters;
        let files: Vec<u64> =
            platters.names.values().copied().filter(|file| !platters.files[file].current.is_empty()).collect();
        let Some(file) = platters.dice.pick(&files) else { return false };
        let Some(content) = platters.files.get_mut(&file) else { return false };
        // Most of a log is zeros that wait to be overwritten: where something is, it is more interesting.
        let used = content.current.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let bit = platters.dice.within(0..8);
        let at = usize::try_from(platters.dice.within(0..used)).unwrap_or(0);
        content.current[at] ^= 1 << bit;
        content.durable.clone_from(&content.current);
        true
    }
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, written) => put(bytes, *at, written),
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }

    fn survive(self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        match (dice.within(0..4), &self) {
            (0, _) => {}
            (1, _) | (_, Self::Length(_)) => self.apply(bytes),
            (2, Self::Bytes(at, written)) => {
                let end = usize::try_from(dice.within(0..written.len() as u64 + 1)).unwrap_or(0);
                put(bytes, *at, &written[..end]);
            }
            (_, Self::Bytes(at, written)) => {
                let (mut from, end) = (*at, at + written.len());
                while from < end {
                    let next = end.min((from / SECTOR + 1) * SECTOR);
                    if dice.chance(500) {
                        put(bytes, from, &written[from - at..next - at]);
                    }
                    from = next;
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

impl Renaming {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, file) => drop(names.insert(name, file)),
            Self::Move(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Remove(name) => drop(names.remove(&name)),
        }
    }
}

impl Platters {
    /// Something is about to be changed. True when the power goes amid it.
    fn burn(&mut self) -> io::Result<bool> {
        if !self.power {
            return Err(io::Error::other("the power is gone"));
        }
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(1);
            if *fuse == 0 {
                self.power = false;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.clone().apply(&mut self.names);
        self.renamed.push(renaming);
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn content(&mut self, file: u64) -> &mut Content {
        self.files.entry(file).or_default()
    }
}

/// What an operation says amid which the power went.
fn survived(gone: bool) -> io::Result<()> {
    if gone { Err(io::Error::other("the power went")) } else { Ok(()) }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut platters = self.0.lock();
        if platters.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let gone = platters.burn()?;
        platters.next += 1;
        let file = platters.next;
        platters.content(file);
        platters.rename(Renaming::Set(name.to_owned(), file));
        survived(gone)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.lock().find(name)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platters = self.0.lock();
        let file = platters.find(from)?;
        let gone = platters.burn()?;
        platters.rename(Renaming::Move(from.to_owned(), to.to_owned(), file));
        survived(gone)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platters = self.0.lock();
        platters.find(name)?;
        let gone = platters.burn()?;
        platters.rename(Renaming::Remove(name.to_owned()));
        survived(gone)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut platters = self.0.lock();
        // The power goes before it is done.
        survived(platters.burn()?)?;
        platters.renamed.clear();
        platters.durable_names = platters.names.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().content(self.file).current.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut platters = self.disk.0.lock();
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let bytes = platters.content(self.file).current.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut platters = self.disk.0.lock();
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let full = platters.full;
        if full && platters.content(self.file).current.len() < at + bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let gone = platters.burn()?;
        let content = platters.content(self.file);
        put(&mut content.current, at, bytes);
        content.unsynced.push(Write::Bytes(at, bytes.to_vec()));
        survived(gone)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut platters = self.disk.0.lock();
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let gone = platters.burn()?;
        let content = platters.content(self.file);
        content.current.resize(length, 0);
        content.unsynced.push(Write::Length(length));
        survived(gone)
    }

    fn sync(&self) -> io::Result<()> {
        let mut platters = self.disk.0.lock();
        survived(platters.burn()?)?;
        let content = platters.content(self.file);
        content.durable.clone_from(&content.current);
        content.unsynced.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        for seed in 0..200 {
            let disk = SimDisk::new(Dice::new(seed));
            let file = disk.create("a").unwrap();
            file.write_all_at(&[1; 600], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir().unwrap();
            disk.light_fuse(2);
            file.write_all_at(&[2; 1600], 600).unwrap();
            disk.rename("a", "b").unwrap_err();
            disk.remove("a").unwrap_err();
            disk.cut_power();
            disk.restore_power();
            let names = disk.list().unwrap();
            assert!(names.contains(&"a".to_owned()) || names.contains(&"b".to_owned()), "{names:?}");
            let disk: &dyn Disk = &disk;
            let bytes = disk.read(&names[0]).unwrap();
            assert_eq!(bytes[..600], [1; 600]);
            assert!(bytes[600..].iter().all(|byte| [0, 2].contains(byte)));
        }
    }
}
