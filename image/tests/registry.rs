//! Pulling from a real registry: Debian's `docker-registry`, on loopback, filled by `skopeo`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use image::{
    Credentials, Error, PullOptions, Store,
    archive::{self, Content, File, Run},
};

/// Longest wait for the registry.
const DEADLINE: Duration = Duration::from_secs(30);
/// `htpasswd -nbB user secret`
const HTPASSWD: &str = "user:$2y$05$e0WdY6StHaTh8DV9EFl/wusFp4OAEemN3V5McfOYJHCbx8fxqY772\n";

struct Registry {
    folder: tempfile::TempDir,
    address: String,
    process: Child,
    password: Option<&'static str>,
}

impl Registry {
    fn start(password: Option<&'static str>) -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let path = folder.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\nhttp: {{addr: {address}}}\n"
        );
        if password.is_some() {
            fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {path}/htpasswd}}}}\n");
        }
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Registry { folder, address, process, password };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(registry.folder.path().join("log")).unwrap());
            std::thread::yield_now();
        }
        registry
    }

    /// Packs an image and copies it to the registry; layers are compressed as asked.
    fn push(&self, name: &str, text: &str, compression: &str) {
        let packed = self.folder.path().join("packed.tar");
        let files = [File::new("greeting", 0o644, Content::Bytes(text.as_bytes().to_vec()))];
        let run = Run { cmd: vec!["/greeting".into()], ..Run::default() };
        archive::write(fs::File::create(&packed).unwrap(), "packed", &files, &run).unwrap();
        self.skopeo(&[
            "copy",
            "-q",
            "--dest-compress-format",
            compression,
            "--dest-tls-verify=false",
            &format!("oci-archive:{}", packed.display()),
            &format!("docker://{}/{name}", self.address),
        ]);
    }

    fn skopeo(&self, arguments: &[&str]) {
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(arguments);
        if let Some(password) = self.password {
            command.arg(format!("--dest-creds=user:{password}"));
        }
        let output = command.output().expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// The registry's file of a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

async fn pull(store: &Store, name: &str) -> Result<image::Image, Error> {
    store.pull(name, &[], &PullOptions::default(), |_| ()).await
}

fn greeting(image: &image::Image) -> String {
    fs::read_to_string(image.layers[0].join("greeting")).unwrap()
}

#[tokio::test]
async fn pulls_by_tag_and_digest_with_progress() {
    let registry = Registry::start(None);
    registry.push("team/web:v1", "one", "gzip");
    let (folder, store) = store();
    let seen: Arc<Mutex<Vec<image::Progress>>> = Arc::default();
    let (sink, name) = (seen.clone(), registry.name("team/web:v1"));
    let image =
        store.pull(&name, &[], &PullOptions::default(), move |step| sink.lock().unwrap().push(step)).await.unwrap();
    assert_eq!(greeting(&image), "one");
    assert_eq!(store.get(&name).unwrap().digest, image.digest);
    {
        let seen = seen.lock().unwrap();
        assert!(matches!(&seen[0], image::Progress::Resolved { layers: 1, .. }));
        assert!(seen.iter().any(|step| matches!(step, image::Progress::Layer { done, total, .. } if done == total)));
        assert!(matches!(seen.last(), Some(image::Progress::Unpacked { .. })));
    }
    let by_digest = registry.name(&format!("team/web@{}", image.digest));
    assert_eq!(pull(&store, &by_digest).await.unwrap().digest, image.digest);
    // The tag moves on; the older image keeps its name by digest.
    registry.push("team/web:v1", "two", "zstd");
    assert_eq!(greeting(&pull(&store, &name).await.unwrap()), "two");
    assert_eq!(greeting(&store.get(&by_digest).unwrap()), "one");
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_is_not_allowed() {
    let registry = Registry::start(None);
    registry.push("web:v1", "one", "gzip");
    let (_folder, store) = store();
    for missing in ["web:v2", "nothing:v1"] {
        let error = pull(&store, &registry.name(missing)).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{missing}: {error}");
    }
    let zeros = registry.name(&format!("web@sha256:{}", "0".repeat(64)));
    assert!(matches!(pull(&store, &zeros).await, Err(Error::NotFound { .. })));
    assert!(matches!(pull(&store, "Not A Name").await, Err(Error::Reference { .. })));
    let nobody = format!("127.0.0.1:{}/web", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let error = pull(&store, &nobody).await.unwrap_err();
    assert!(matches!(&error, Error::Network { why, .. } if why.contains("refused")), "{error}");
}

#[tokio::test]
async fn credentials_are_tried_in_turn() {
    let registry = Registry::start(Some("secret"));
    registry.push("web:v1", "one", "gzip");
    let (_folder, store) = store();
    let name = registry.name("web:v1");
    let credentials = |password: &str| Credentials { username: "user".into(), password: password.into() };
    let options = PullOptions::default();
    let tries = [vec![], vec![credentials("wrong")]];
    for wrong in tries {
        let error = store.pull(&name, &wrong, &options, |_| ()).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { tried, .. } if tried == wrong.len()), "{error}");
    }
    let image = store.pull(&name, &[credentials("wrong"), credentials("secret")], &options, |_| ()).await.unwrap();
    assert_eq!(greeting(&image), "one");
    assert!(!format!("{:?}", credentials("secret")).contains("secret"));
}

#[tokio::test]
async fn content_that_is_not_what_its_name_says_is_refused() {
    let registry = Registry::start(None);
    registry.push("web:v1", "one", "gzip");
    let (folder, store) = store();
    let data = registry.folder.path().join("data");
    let layer = largest(&data);
    let mut bytes = fs::read(&layer).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let error = pull(&store, &registry.name("web:v1")).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    fs::remove_file(&layer).unwrap();
    let error = pull(&store, &registry.name("web:v1")).await.unwrap_err();
    assert!(matches!(&error, Error::Registry { why, .. } if why.contains("is missing")), "{error}");
    assert!(store.list().unwrap().is_empty());
    for left in ["layers", "tmp"] {
        assert_eq!(fs::read_dir(folder.path().join(left)).unwrap().count(), 0, "{left}");
    }
}

/// The layer is the one blob that is no JSON.
fn largest(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with("data") && fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[tokio::test]
async fn lists_are_resolved_for_this_machine() {
    let registry = Registry::start(None);
    registry.push("web:amd64", "ours", "gzip");
    registry.push("web:arm64", "theirs", "gzip");
    let (_folder, store) = store();
    let ours = pull(&store, &registry.name("web:amd64")).await.unwrap();
    let theirs = pull(&store, &registry.name("web:arm64")).await.unwrap();
    let entry = |image: &image::Image, architecture: &str| {
        let size = fs::metadata(registry.blob(&image.digest.to_string())).unwrap().len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            image.digest
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
        entry(&theirs, "riscv64"),
        entry(&ours, "amd64")
    );
    put(&registry.address, "/v2/web/manifests/multi", &index);
    let name = registry.name("web:multi");
    let image = pull(&store, &name).await.unwrap();
    assert_eq!((greeting(&image), &image.digest), ("ours".into(), &ours.digest));
    let list = registry.name(&format!("web@{}", image::Digest::of(index.as_bytes())));
    assert_eq!(store.get(&list).unwrap().digest, ours.digest, "a list's digest finds what was chosen from it");
    let options = PullOptions { platform: Some("linux/s390x".into()), ..PullOptions::default() };
    let error = store.pull(&name, &[], &options, |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("is not made for linux/s390x; it has linux/riscv64, linux/amd64"), "{error}");
}

fn put(address: &str, path: &str, body: &str) {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}
