//! Who a container runs as: the image's USER, looked up in the image's own passwd and group files.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

/// A passwd or group file is read no further, bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The passwd and group files of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    passwd: String,
    group: String,
}

/// Numbers that the kernel knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups that the image puts it in.
    pub groups: Vec<u32>,
}

/// The image does not know that name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} {name:?} in the image")]
pub struct Unknown {
    what: &'static str,
    name: String,
}

impl Accounts {
    /// Reads the uppermost files of an image's layers (lowest first), never following a link.
    pub fn read(layers: &[PathBuf]) -> Self {
        Self { passwd: uppermost(layers, "etc/passwd"), group: uppermost(layers, "etc/group") }
    }

    /// From texts.
    #[cfg(test)]
    fn of(passwd: &str, group: &str) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    /// What `user[:group]` means; nothing means root.
    pub fn resolve(&self, words: &str) -> Result<User, Unknown> {
        let (user, group) = words.split_once(':').map_or((words, None), |(u, g)| (u, Some(g)));
        let mut found = if user.is_empty() { self.by_id(0) } else { self.by_word(user)? };
        if let Some(group) = group.filter(|g| !g.is_empty()) {
            found.gid = self.group_id(group)?;
            found.groups.clear();
        }
        Ok(found)
    }

    /// A user by number, with the groups that the image gives it.
    pub fn by_id(&self, uid: u32) -> User {
        let entry = rows(&self.passwd).find(|r| r.get(2).and_then(|id| id.parse().ok()) == Some(uid));
        let Some(entry) = entry else { return User { uid, gid: 0, groups: Vec::new() } };
        self.user_of_row(&entry, uid)
    }

    fn by_word(&self, user: &str) -> Result<User, Unknown> {
        if let Some(entry) = rows(&self.passwd).find(|r| r.first() == Some(&user))
            && let Some(uid) = entry.get(2).and_then(|id| id.parse().ok())
        {
            return Ok(self.user_of_row(&entry, uid));
        }
        let uid = user.parse().map_err(|_| Unknown { what: "user", name: user.into() })?;
        Ok(self.by_id(uid))
    }

    fn user_of_row(&self, row: &[&str], uid: u32) -> User {
        let gid = row.get(3).and_then(|id| id.parse().ok()).unwrap_or(0);
        let name = row.first().copied().unwrap_or_default();
        let member = |r: &Vec<&str>| r.get(3).is_some_and(|m| m.split(',').any(|n| n == name));
        let groups = rows(&self.group).filter(member).filter_map(|r| r.get(2)?.parse().ok());
        User { uid, gid, groups: groups.filter(|g| *g != gid).collect() }
    }

    fn group_id(&self, group: &str) -> Result<u32, Unknown> {
        let named = rows(&self.group).find(|r| r.first() == Some(&group));
        let id = named.and_then(|r| r.get(2)?.parse().ok()).or_else(|| group.parse().ok());
        id.ok_or_else(|| Unknown { what: "group", name: group.into() })
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(':').collect())
}

/// The content of a file in the highest layer that has one; a whiteout, a link or anything but a file counts as empty.
fn uppermost(layers: &[PathBuf], path: &str) -> String {
    for layer in layers.iter().rev() {
        if let Some(text) = in_layer(layer, path) {
            return text;
        }
    }
    String::new()
}

fn in_layer(layer: &Path, path: &str) -> Option<String> {
    let root =
        rustix::fs::openat(CWD, layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let handle =
        rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
            .ok()?;
    let stat = rustix::fs::statat(&handle, "", AtFlags::EMPTY_PATH).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Some(String::new());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).ok()?);
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_groups() {
        let accounts = Accounts::of(
            "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/false\n",
            "root:x:0:\nweb:x:102:\nssl:x:103:other,web\n",
        );
        for (words, expected) in [
            ("", (0, 0, vec![])),
            ("web", (101, 102, vec![103])),
            ("101", (101, 102, vec![103])),
            ("web:ssl", (101, 103, vec![])),
            ("1000", (1000, 0, vec![])),
            ("1000:7", (1000, 7, vec![])),
        ] {
            let (uid, gid, groups) = expected;
            assert_eq!(accounts.resolve(words), Ok(User { uid, gid, groups }), "{words:?}");
        }
        assert_eq!(accounts.resolve("nobody").unwrap_err().to_string(), "no user \"nobody\" in the image");
    }

    #[test]
    fn the_uppermost_layer_counts_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<_> = ["low", "mid", "high"].iter().map(|n| dir.path().join(n)).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(layers[0].join("etc/passwd"), "a:x:1:1::/:/\n").unwrap();
        std::fs::write(layers[1].join("etc/passwd"), "b:x:2:2::/:/\n").unwrap();
        assert_eq!(Accounts::read(&layers).resolve("b").unwrap().uid, 2);
        std::os::unix::fs::symlink("/etc/passwd", layers[2].join("etc/passwd")).unwrap();
        assert!(Accounts::read(&layers).resolve("root").is_err(), "the link's target on the node is not read");
    }
}
