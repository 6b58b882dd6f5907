//! Images from archives: what is loaded is what was packed, hostile archives leave nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use image::{
    Digest, Error, Limits, Store,
    archive::{self, Content, File, Run},
};

fn quiet(_: image::Progress) {}

/// An OCI layout around one hand-made layer.
fn layout(name: &str, layer: &[u8], plain: &[u8]) -> Vec<u8> {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},"config":{{}},"history":[]}}"#,
        Digest::of(plain)
    );
    let blob = |kind: &str, bytes: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len())
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        blob("config.v1+json", config.as_bytes()),
        blob("layer.v1.tar+gzip", layer)
    );
    let entry = blob("manifest.v1+json", manifest.as_bytes());
    let entry = entry.replace('}', &format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}}}"#));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for bytes in [layer, config.as_bytes(), manifest.as_bytes()] {
        add(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    }
    add("index.json", index.as_bytes());
    tar.into_inner().unwrap()
}

/// One line of a layer: `file PATH`, `dir PATH`, `link PATH TARGET`, `hard PATH TARGET`, `char PATH MAJOR MINOR`, `block …`.
fn layer(lines: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut header = tar::Header::new_gnu();
        header.set_mode(if words[0] == "dir" { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000_000);
        let body: &[u8] = if words[0] == "file" { b"content\n" } else { b"" };
        header.set_size(body.len() as u64);
        header.set_entry_type(match words[0] {
            "file" => tar::EntryType::Regular,
            "dir" => tar::EntryType::Directory,
            "link" => tar::EntryType::Symlink,
            "hard" => tar::EntryType::Link,
            "char" => tar::EntryType::Char,
            "block" => tar::EntryType::Block,
            other => panic!("{other}"),
        });
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..words[1].len()].copy_from_slice(words[1].as_bytes());
        if matches!(words[0], "link" | "hard") {
            gnu.linkname[..words[2].len()].copy_from_slice(words[2].as_bytes());
        }
        if matches!(words[0], "char" | "block") {
            header.set_device_major(words[2].parse().unwrap()).unwrap();
            header.set_device_minor(words[3].parse().unwrap()).unwrap();
        }
        header.set_cksum();
        tar.append(&header, body).unwrap();
    }
    tar.into_inner().unwrap()
}

fn load_layer(store: &Store, lines: &str) -> Result<image::Image, Error> {
    let plain = layer(lines);
    let archive = layout("example.com/hand:made", &plain, &plain);
    Ok(store.load_from("hand.tar".into(), &archive[..], &quiet)?.remove(0))
}

/// All that is below a folder.
fn entries(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    found
}

#[test]
fn what_is_packed_is_loaded_found_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let files = [
        File::new("bin", 0o755, Content::Folder),
        File { uid: 7, gid: 8, ..File::new("/bin/app", 0o4755, Content::Bytes(b"#!/nothing".to_vec())) },
        File::new("bin/sh", 0o777, Content::Link("/bin/app".into())),
    ];
    let run = Run {
        entrypoint: vec!["/bin/app".into()],
        cmd: vec!["serve".into()],
        env: vec!["A=b".into()],
        exposed_ports: vec!["8080/tcp".into()],
        working_dir: Some("/bin".into()),
        user: Some("7:8".into()),
    };
    let mut packed = Vec::new();
    archive::write(&mut packed, "testapp:v1", &files, &run).unwrap();
    let mut again = Vec::new();
    archive::write(&mut again, "testapp:v1", &files, &run).unwrap();
    assert_eq!(packed, again, "packing is reproducible");

    let loaded = store.load_from("x".into(), &packed[..], &quiet).unwrap().remove(0);
    let image = store.get("testapp:v1").unwrap();
    assert_eq!(image.digest, loaded.digest);
    assert_eq!(store.get("docker.io/library/testapp:v1").unwrap().id, image.id);
    assert_eq!(store.get(&image.id.to_string()).unwrap().digest, image.digest);
    assert_eq!(store.get(&format!("testapp@{}", image.digest)).unwrap().id, image.id);
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_ref().unwrap(), &["/bin/app"]);
    assert_eq!(config.exposed_ports().as_ref().unwrap(), &["8080/tcp"]);
    assert_eq!(config.user().as_deref(), Some("7:8"));
    let app = image.layers[0].join("bin/app");
    let meta = fs::metadata(&app).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (7, 8, 0o4755));
    assert_eq!(fs::read_link(image.layers[0].join("bin/sh")).unwrap(), Path::new("/bin/app"));

    // Another process sees it, and a name that goes takes the layers along.
    let other = Store::open(folder.path()).unwrap();
    assert_eq!(other.list().unwrap().len(), 1);
    other.remove("testapp:v1").unwrap();
    assert!(matches!(store.get("testapp:v1"), Err(Error::NotFound { .. })));
    assert_eq!(entries(&folder.path().join("layers")), Vec::<String>::new());
}

#[test]
fn layers_are_shared_and_kept_while_one_image_uses_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let files = [File::new("a", 0o644, Content::Bytes(b"same".to_vec()))];
    for name in ["one", "two"] {
        let mut packed = Vec::new();
        let run = Run { cmd: vec![name.into()], ..Run::default() };
        archive::write(&mut packed, name, &files, &run).unwrap();
        store.load_from(name.into(), &packed[..], &quiet).unwrap();
    }
    assert_eq!(store.get("one").unwrap().layers, store.get("two").unwrap().layers);
    store.remove("one").unwrap();
    assert!(store.get("two").unwrap().layers[0].join("a").exists());
}

#[test]
fn docker_archives_and_compressed_ones_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let plain = layer("file etc/hello");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}}"#,
        Digest::of(&plain)
    );
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("abc/layer.tar", &plain);
    add("conf.json", config.as_bytes());
    add("manifest.json", br#"[{"Config":"conf.json","RepoTags":["saved:1"],"Layers":["abc/layer.tar"]}]"#);
    let archive = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    let path = folder.path().join("saved.tar.gz");
    fs::write(&path, gzip.finish().unwrap()).unwrap();
    let image = store.load(&path, &quiet).unwrap().remove(0);
    assert_eq!(fs::read_to_string(image.layers[0].join("etc/hello")).unwrap(), "content\n");
    assert_eq!(store.get("saved:1").unwrap().digest, image.digest);

    let zstd = zstd::encode_all(&archive[..], 1).unwrap();
    assert_eq!(store.load_from("zst".into(), &zstd[..], &quiet).unwrap()[0].digest, image.digest);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = load_layer(
        &store,
        "file etc/.wh.gone
         dir opaque
         file opaque/.wh..wh..opq
         file opaque/kept
         file .wh..wh.plnk
         file .wh.replaced
         dir replaced
         file replaced/new",
    )
    .unwrap();
    let root = &image.layers[0];
    let gone = fs::symlink_metadata(root.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| {
        let mut value = [0; 1];
        rustix::fs::getxattr(root.join(path), "trusted.overlay.opaque", &mut value).is_ok() && value == *b"y"
    };
    assert!(opaque("opaque") && opaque("replaced") && !opaque("etc"));
    assert_eq!(entries(root), ["etc", "opaque", "replaced"]);
    assert!(root.join("opaque/kept").exists() && root.join("replaced/new").exists());
    assert_eq!(fs::metadata(root.join("opaque")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn links_are_followed_inside_the_layer_only() {
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let lines =
        format!("link up ../../../../../..{0}\nfile up/one\nlink abs {0}\nfile abs/two", outside.path().display());
    let image = load_layer(&store, &lines).unwrap();
    assert_eq!(entries(outside.path()), Vec::<String>::new());
    let inside = image.layers[0].join(outside.path().strip_prefix("/").unwrap());
    assert_eq!(entries(&inside), ["one", "two"]);
    let proc = load_layer(&store, "link self /proc/self/root\nfile self/three").unwrap();
    assert!(proc.layers[0].join("proc/self/root/three").exists());
}

#[test]
fn hostile_layers_are_refused_by_name_and_leave_nothing() {
    let table = [
        ("file ../evil", "../evil", "leads out"),
        ("file a/../../evil", "a/../../evil", "leads out"),
        ("hard passwd ../../../../etc/passwd", "passwd", "leads out"),
        ("hard passwd /etc/passwd", "passwd", "not in the layer"),
        ("link etc /usr\nhard passwd etc/passwd", "passwd", "not in the layer"),
        ("block sda 8 0", "sda", "block device 8:0"),
        ("char mem 1 1", "mem", "character device 1:1"),
        ("char forged 0 0", "forged", "character device 0:0"),
        ("link a b\nlink b a\nfile a/x", "a/x", "symbolic link"),
        ("file a\nfile a/b", "a/b", "directory"),
        ("file a/.wh.", "a/.wh.", "whiteout of nothing"),
        ("link . /etc", ".", "root can only be a folder"),
    ];
    for (lines, entry, why) in table {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let error = load_layer(&store, lines).expect_err(lines);
        assert!(matches!(&error, Error::Archive { entry: named, .. } if named == entry), "{lines}: {error}");
        assert!(error.to_string().to_lowercase().contains(why), "{lines}: {error}");
        assert_eq!(entries(&folder.path().join("tmp")), Vec::<String>::new(), "{lines}");
        assert_eq!(entries(&folder.path().join("layers")), Vec::<String>::new(), "{lines}");
        assert!(store.list().unwrap().is_empty());
    }
    // Under /dev, where the runtime mounts its own, devices are left out instead.
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = load_layer(&store, "dir dev\nblock dev/sda 8 0\nfile dev/x").unwrap();
    assert_eq!(entries(&image.layers[0].join("dev")), ["x"]);
}

#[test]
fn bombs_are_stopped_by_size_count_and_ratio() {
    let mut header = tar::Header::new_gnu();
    header.set_size(16 << 20);
    let mut zeros = tar::Builder::new(Vec::new());
    zeros.append_data(&mut header, "zeros", std::io::Read::take(std::io::repeat(0), 16 << 20)).unwrap();
    let plain = zeros.into_inner().unwrap();
    let packed = zstd::encode_all(&plain[..], 3).unwrap();
    let bomb = layout("bomb", &packed, &plain);
    let base = Limits::default();
    let table = [
        (Limits { bytes: 1 << 20, ..base }, "has more than 1048576 bytes unpacked"),
        (Limits { free_bytes: 1 << 20, ratio: 10, ..base }, "unpacks to more than 10 times its size"),
    ];
    for (limits, why) in table {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::with_limits(folder.path(), limits).unwrap();
        let error = store.load_from("bomb.tar".into(), &bomb[..], &quiet).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(entries(&folder.path().join("tmp")), Vec::<String>::new());
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with_limits(folder.path(), Limits { entries: 2, ..base }).unwrap();
    let error = load_layer(&store, "file a\nfile b\nfile c").unwrap_err().to_string();
    assert!(error.contains("has more than 2 entries"), "{error}");
}

#[test]
fn wrong_digests_and_damage_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (good, other) = (layer("file a"), layer("file b"));
    let wrong_diff = store.load_from("x".into(), &layout("x", &good, &other)[..], &quiet).unwrap_err();
    assert!(matches!(&wrong_diff, Error::Digest { expected, .. } if *expected == Digest::of(&other).to_string()));
    let mut flipped = layout("x", &good, &good);
    let at = flipped.windows(8).position(|bytes| bytes == b"content\n").unwrap();
    flipped[at] ^= 1;
    assert!(matches!(store.load_from("x".into(), &flipped[..], &quiet), Err(Error::Digest { .. })));
    let cut = &layout("x", &good, &good)[..2000];
    assert!(matches!(store.load_from("x".into(), cut, &quiet), Err(Error::Archive { .. } | Error::Unsupported { .. })));
    let nothing = store.load_from("x".into(), &b"hello"[..], &quiet).unwrap_err().to_string();
    assert!(nothing.contains("x: entry"), "{nothing}");
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_a_crash_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    fs::create_dir_all(folder.path().join("tmp/half/done")).unwrap();
    fs::set_permissions(folder.path().join("tmp/half"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir_all(folder.path().join("layers").join("0".repeat(64))).unwrap();
    drop(Store::open(folder.path()).unwrap());
    assert_eq!(entries(&folder.path().join("tmp")), Vec::<String>::new());
    assert_eq!(entries(&folder.path().join("layers")), Vec::<String>::new());
}

#[test]
fn two_that_load_the_same_at_once_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let plain = layer("file a");
    let archive = layout("same", &plain, &plain);
    let digests: Vec<Digest> = std::thread::scope(|scope| {
        let load = || {
            Store::open(folder.path()).unwrap().load_from("x".into(), &archive[..], &quiet).unwrap()[0].digest.clone()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(entries(&folder.path().join("layers")).len(), 1);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // In a mount namespace of this test's thread.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("tests of a full disk need root");
    let all = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", all).unwrap();
    rustix::mount::mount("small", folder.path(), "tmpfs", rustix::mount::MountFlags::empty(), c"size=2m").unwrap();
    let store = Store::open(folder.path()).unwrap();
    let files = [File::new("big", 0o644, Content::Bytes(vec![7; 1_500_000]))];
    let mut packed = Vec::new();
    archive::write(&mut packed, "big", &files, &Run::default()).unwrap();
    let error = store.load_from("big.tar".into(), &packed[..], &quiet).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    for left in ["tmp", "layers"] {
        assert_eq!(entries(&folder.path().join(left)), Vec::<String>::new(), "{left}");
    }
    assert!(store.list().unwrap().is_empty());
    let small = [File::new("small", 0o644, Content::Bytes(vec![7; 1000]))];
    let mut packed = Vec::new();
    archive::write(&mut packed, "small", &small, &Run::default()).unwrap();
    store.load_from("small.tar".into(), &packed[..], &quiet).unwrap();
    drop(store);
    rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}
