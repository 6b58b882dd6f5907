//! Log: what a container prints, in the format of CRI, rotated by size.
//!
//! A line is `TIME STREAM TAG TEXT`: RFC 3339 with nanoseconds, `stdout` or `stderr`, `F` for a full line and `P` for a
//! piece of one longer than [`LINE_MAX`] (CRI `api.proto`, kubelet `kuberuntime/logs`). `FILE.1` is the newest of the
//! rotated files. While the disk is full nothing is dropped: the pipe is not read, and the container waits when it fills.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// Longest piece of a line, bytes.
const LINE_MAX: usize = 16 * 1024;

/// An open log.
pub(super) struct Log {
    path: PathBuf,
    max_bytes: u64,
    max_files: u32,
    file: File,
    size: u64,
    /// Formatted, not written yet.
    pending: Vec<u8>,
}

/// The line that one stream is in the middle of.
#[derive(Default)]
pub(super) struct Partial(Vec<u8>);

impl Log {
    /// Opens or continues it. 0 bytes means no rotation.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Log> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = open_file(path)?;
        let size = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), max_bytes, max_files: max_files.max(1), file, size, pending: Vec::new() })
    }

    /// Takes what a stream printed; [`Log::flush`] writes it.
    pub(super) fn append(&mut self, stream: &str, partial: &mut Partial, bytes: &[u8], now: Timestamp) {
        format(&mut self.pending, stream, partial, bytes, now);
    }

    /// The stream has ended: its last line needs no newline.
    pub(super) fn end(&mut self, stream: &str, partial: &mut Partial, now: Timestamp) {
        if !partial.0.is_empty() {
            format(&mut self.pending, stream, partial, b"\n", now);
        }
    }

    /// Writes all that is pending.
    ///
    /// # Errors
    /// When the disk is full: what could not be written stays pending.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            if self.max_bytes > 0 && self.size >= self.max_bytes {
                self.rotate()?;
            }
            // Up to where the file is full, at the end of a line.
            let room = usize::try_from(self.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let upto = match self.max_bytes {
                0 => self.pending.len(),
                _ => cut(&self.pending, room),
            };
            let mut written = 0;
            let done = loop {
                if written == upto {
                    break Ok(());
                }
                match self.file.write(&self.pending[written..upto]) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                }
            };
            self.pending.drain(..written);
            self.size += written as u64;
            done?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.max_files.saturating_sub(1)).rev() {
            rename(&numbered(&self.path, number), &numbered(&self.path, number + 1))?;
        }
        if self.max_files > 1 {
            rename(&self.path, &numbered(&self.path, 1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.file = open_file(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The end of the first line that reaches `room`, or of all.
fn cut(lines: &[u8], room: usize) -> usize {
    let from = room.saturating_sub(1).min(lines.len());
    lines[from..].iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| from + at + 1)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn format(out: &mut Vec<u8>, stream: &str, partial: &mut Partial, mut bytes: &[u8], now: Timestamp) {
    let mut line = |tag: &str, head: &[u8], tail: &[u8]| {
        // Writing to memory does not fail.
        drop(write!(out, "{now:.9} {stream} {tag} "));
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
        out.push(b'\n');
    };
    while !bytes.is_empty() {
        let room = LINE_MAX - partial.0.len();
        match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
            Some(end) => {
                line("F", &partial.0, &bytes[..end]);
                partial.0.clear();
                bytes = &bytes[end + 1..];
            }
            None if bytes.len() >= room => {
                line("P", &partial.0, &bytes[..room]);
                partial.0.clear();
                bytes = &bytes[room..];
            }
            None => {
                partial.0.extend_from_slice(bytes);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn formatted(chunks: &[&[u8]]) -> String {
        let (mut out, mut partial) = (Vec::new(), Partial::default());
        for chunk in chunks {
            format(&mut out, "stdout", &mut partial, chunk, NOW);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_tagged_and_put_together() {
        let stamp = "1970-01-01T00:00:00.000000000Z stdout";
        assert_eq!(formatted(&[b"one\ntwo\n"]), format!("{stamp} F one\n{stamp} F two\n"));
        assert_eq!(formatted(&[b"o", b"ne", b"\n\n"]), format!("{stamp} F one\n{stamp} F \n"));
        assert_eq!(formatted(&[b"waits"]), "");
        let long = "x".repeat(LINE_MAX);
        assert_eq!(formatted(&[format!("{long}yz\n").as_bytes()]), format!("{stamp} P {long}\n{stamp} F yz\n"));
        assert_eq!(formatted(&[format!("{long}\n").as_bytes()]), format!("{stamp} F {long}\n"));
    }

    #[test]
    fn rotation_keeps_order_and_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod/0.log");
        let mut log = Log::open(&path, 500, 4).unwrap();
        let mut partial = Partial::default();
        for number in 0..60 {
            log.append("stdout", &mut partial, format!("line {number:02}\n").as_bytes(), NOW);
            log.flush().unwrap();
        }
        let mut all = String::new();
        for number in (1..4).rev() {
            all += &std::fs::read_to_string(numbered(&path, number)).unwrap();
        }
        all += &std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = all.lines().map(|line| line.rsplit("F ").next().unwrap()).collect();
        let last: Vec<String> = (60 - lines.len()..60).map(|number| format!("line {number:02}")).collect();
        assert_eq!(lines, last);
        assert!(lines.len() >= 30, "three full files are kept");
        assert!(!numbered(&path, 4).exists());
    }

    #[test]
    fn what_comes_at_once_is_rotated_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = Log::open(&path, 100, 1000).unwrap();
        let text: String = (0..100).map(|number| format!("{number}\n")).collect();
        log.append("stderr", &mut Partial::default(), text.as_bytes(), NOW);
        log.flush().unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert!(files > 30, "{files}");
    }

    #[test]
    fn a_full_disk_keeps_lines_pending() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        assert!(Log::open(&path, 0, 1).is_err(), "links are not followed");
        std::fs::remove_file(&path).unwrap();
        let mut log = Log::open(&path, 0, 1).unwrap();
        let real = std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.append("stdout", &mut Partial::default(), b"kept\n", NOW);
        assert!(log.flush().is_err());
        log.file = real;
        log.flush().unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("F kept\n"));
    }
}
