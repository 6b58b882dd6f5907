//! Copying a log out: from where the reader wants it, over rotated files, to the end of the container.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Request, line::Lines, notify::Watch};

/// Read at once, bytes.
const CHUNK: usize = 64 * 1024;
/// Rotated files looked for.
const ROTATED: u32 = 1000;

/// Copies until the log's end, or until the container's with `follow`, or until nobody reads.
pub async fn copy(mut request: Request) -> io::Result<()> {
    // the watch is there before the first read: what is written in between wakes it
    let changes = if request.options.follow {
        Some(Watch::folder(request.path.parent().unwrap_or(&request.path))?)
    } else {
        None
    };
    let mut reading = Reading::open(&request.path, request.options.tail_lines)?;
    let mut lines = Lines::new(&request.options);
    loop {
        let over = *request.ended.borrow_and_update();
        loop {
            let chunk = reading.next()?;
            let bytes = match chunk {
                Chunk::Bytes(bytes) => lines.take(&bytes),
                Chunk::NextFile => {
                    lines.next_file();
                    continue;
                }
                Chunk::End => break,
            };
            if !bytes.is_empty() && request.out.send(bytes).await.is_err() || lines.full() {
                return Ok(());
            }
        }
        let Some(changes) = changes.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = changes.changed() => changed?,
            ended = request.ended.changed() => if ended.is_err() { return Ok(()) },
            () = request.out.closed() => return Ok(()),
        }
    }
}

enum Chunk {
    Bytes(Vec<u8>),
    NextFile,
    End,
}

/// A place in the files of a log.
struct Reading {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
}

impl Reading {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut reading = Self { path: path.to_owned(), file: None, inode: 0 };
        let files = reading.files();
        let Some(lines) = tail else {
            if let Some((file, inode)) = files.into_iter().next() {
                (reading.file, reading.inode) = (Some(file), inode);
            }
            return Ok(reading);
        };
        let mut wanted = lines;
        for (mut file, inode) in files.into_iter().rev() {
            let (at, found) = last_lines(&mut file, wanted)?;
            file.seek(SeekFrom::Start(at))?;
            (reading.file, reading.inode) = (Some(file), inode);
            wanted -= found;
            if wanted == 0 {
                break;
            }
        }
        Ok(reading)
    }

    /// All files of the log that are there, oldest first.
    fn files(&self) -> Vec<(File, u64)> {
        let mut all = Vec::new();
        for number in 0..ROTATED {
            let mut name = self.path.as_os_str().to_owned();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(PathBuf::from(name));
            match opened.and_then(|f| Ok((f.metadata()?.ino(), f))) {
                Ok((inode, file)) => all.push((file, inode)),
                Err(_) if number > 0 => break,
                Err(_) => {}
            }
        }
        all.reverse();
        all
    }

    fn next(&mut self) -> io::Result<Chunk> {
        if let Some(file) = &mut self.file {
            let mut bytes = vec![0; CHUNK];
            let read = file.read(&mut bytes)?;
            if read > 0 {
                bytes.truncate(read);
                return Ok(Chunk::Bytes(bytes));
            }
        }
        let current = std::fs::symlink_metadata(&self.path).map(|m| m.ino()).unwrap_or(self.inode);
        if current == self.inode {
            return Ok(Chunk::End);
        }
        let mut files = self.files();
        let next = match files.iter().position(|(_, inode)| *inode == self.inode) {
            Some(at) => at + 1,
            // rotated away and removed: the oldest that is left comes next
            None => 0,
        };
        if next >= files.len() {
            return Ok(Chunk::End);
        }
        // the writer may have written between our last read and the rotation
        if let Some(file) = &mut self.file {
            let mut bytes = vec![0; CHUNK];
            let read = file.read(&mut bytes)?;
            if read > 0 {
                bytes.truncate(read);
                return Ok(Chunk::Bytes(bytes));
            }
        }
        let (file, inode) = files.swap_remove(next);
        (self.file, self.inode) = (Some(file), inode);
        Ok(Chunk::NextFile)
    }
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        return Ok((size, 0));
    }
    let (mut end, mut found) = (size, 0);
    let mut block = vec![0; CHUNK];
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        let length = usize::try_from(end - begin).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev().filter(|at| block[*at] == b'\n') {
            let position = begin + at as u64 + 1;
            // the last byte of the file ends a line, it does not begin one
            if position == size {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((position, found));
            }
        }
        end = begin;
    }
    Ok((0, found + u64::from(size > 0)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use tokio::sync::{mpsc, watch};

    use super::super::Options;
    use super::*;

    fn append(path: &Path, texts: &[&str]) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        for text in texts {
            writeln!(file, "2026-11-22T16:00:00Z stdout F {text}").unwrap();
        }
    }

    fn start(path: &Path, options: Options) -> (watch::Sender<bool>, mpsc::Receiver<Bytes>) {
        let (ended_sender, ended) = watch::channel(false);
        let (out, receiver) = mpsc::channel(8);
        tokio::spawn(copy(Request { path: path.to_owned(), options, ended, out }));
        (ended_sender, receiver)
    }

    async fn all(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut text = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    async fn until(receiver: &mut mpsc::Receiver<Bytes>, text: &mut String, end: &str) {
        let deadline = std::time::Duration::from_secs(10);
        while !text.ends_with(end) {
            let bytes = tokio::time::timeout(deadline, receiver.recv()).await.expect(end).expect("the log goes on");
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    #[tokio::test]
    async fn following_goes_over_rotation_to_the_end_of_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&path, &["1", "2"]);
        let (ended, mut receiver) = start(&path, Options { follow: true, ..Options::default() });
        let mut text = String::new();
        until(&mut receiver, &mut text, "2\n").await;
        append(&path, &["3"]);
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        append(&path, &["4"]);
        until(&mut receiver, &mut text, "4\n").await;
        append(&path, &["5"]);
        ended.send_replace(true);
        text.push_str(&all(receiver).await);
        assert_eq!(text, "1\n2\n3\n4\n5\n");
    }

    #[tokio::test]
    async fn the_tail_reaches_back_into_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&dir.path().join("0.log.2"), &["1", "2"]);
        append(&dir.path().join("0.log.1"), &["3", "4"]);
        append(&path, &["5"]);
        for (lines, expected) in [(0, ""), (1, "5\n"), (2, "4\n5\n"), (3, "3\n4\n5\n"), (99, "1\n2\n3\n4\n5\n")] {
            let options = Options { tail_lines: Some(lines), ..Options::default() };
            let (_running, receiver) = start(&path, options);
            assert_eq!(all(receiver).await, expected, "{lines} lines");
        }
    }
}
