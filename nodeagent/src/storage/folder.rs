//! Pods' files in a folder of the node.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Read, Seek, SeekFrom},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};
use rustix::mount::{UnmountFlags, unmount};

use super::{Error, Start, Storage};
use crate::{
    atomic, env, etc,
    field::Place,
    lookup::{Lookup, References},
    network::Network,
    runtime::{Mount, Propagation},
    sources::Sources,
    subpath,
    volume::{self, emptydir, fs_group, hostpath, projected},
};

/// Last words are cut after this many bytes (upstream's MaxContainerTerminationMessageLength).
const LAST_WORDS: u64 = 4096;
/// From a log, this many bytes and lines at most.
const LAST_LOG_BYTES: u64 = 2048;
const LAST_LOG_LINES: usize = 80;

/// The node's disk.
pub struct Folder {
    root: PathBuf,
    node: String,
    place: Place,
    sources: Arc<Sources>,
    network: Arc<dyn Network>,
}

impl Folder {
    /// Pods' files below `root`.
    pub fn new(
        root: impl Into<PathBuf>,
        node: impl Into<String>,
        place: Place,
        sources: Arc<Sources>,
        network: Arc<dyn Network>,
    ) -> Self {
        Self { root: root.into(), node: node.into(), place, sources, network }
    }

    fn pod(&self, uid: &str) -> Result<PathBuf, Error> {
        Ok(self.root.join("pods").join(segment(uid)?))
    }

    fn attempt(&self, pod: &Pod, container: &str, attempt: u32) -> Result<PathBuf, Error> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        Ok(self.pod(uid)?.join("containers").join(segment(container)?).join(attempt.to_string()))
    }

    fn logs(&self, pod: &Pod) -> Result<PathBuf, Error> {
        let meta = &pod.metadata;
        let part = |text: &Option<String>| segment(text.as_deref().unwrap_or_default()).map(ToOwned::to_owned);
        let name = format!("{}_{}_{}", part(&meta.namespace)?, part(&meta.name)?, part(&meta.uid)?);
        Ok(self.root.join("logs").join(name))
    }

    async fn inputs(&self, pod: &Pod, spec: &PodSpec) -> Result<(Lookup, Tokens), Error> {
        let wanted = References::of_volumes(spec);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let lookup = self.sources.lookup(namespace, &wanted, Duration::ZERO);
        let tokens = try_join_all(projected::tokens(spec).into_iter().map(async |(audience, life)| {
            let token = self.sources.token(pod, &audience, life).await?;
            Ok(((audience, life), token))
        }));
        let (lookup, tokens) = tokio::try_join!(lookup, tokens).map_err(|e| Error::Sources(Box::new(e)))?;
        Ok((lookup, tokens.into_iter().collect()))
    }
}

type Tokens = BTreeMap<(String, i64), Arc<str>>;

#[async_trait::async_trait]
impl Storage for Folder {
    async fn prepare(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let Some(spec) = pod.spec.clone() else { return Ok(()) };
        let (lookup, tokens) = self.inputs(pod, &spec).await?;
        let root = self.pod(pod.metadata.uid.as_deref().unwrap_or_default())?;
        let (pod, place) = (Arc::clone(pod), self.place.clone());
        blocking(move || {
            let inputs = volume::Inputs { pod: &pod, lookup: &lookup, place: &place, tokens: &tokens };
            let folder = root.join("volumes");
            fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
            for volume in spec.volumes.iter().flatten() {
                let path = folder.join(segment(&volume.name)?);
                let done = prepare_volume(volume, &path, &spec, &inputs);
                done.map_err(|source| Error::Volume { volume: volume.name.clone(), source })?;
            }
            Ok(())
        })
        .await
    }

    async fn mounts(&self, start: &Start) -> Result<Vec<Mount>, Error> {
        let attempt = self.attempt(&start.pod, &start.container.name, start.attempt)?;
        let root = self.pod(start.pod.metadata.uid.as_deref().unwrap_or_default())?;
        let (start, dns, node) = (start.clone(), self.network.dns(), self.node.clone());
        blocking(move || {
            let Some(spec) = start.pod.spec.clone() else { return Ok(Vec::new()) };
            fs::create_dir_all(&attempt).map_err(failed("make", &attempt))?;
            let mut mounts = Vec::new();
            for (index, wanted) in start.container.volume_mounts.iter().flatten().enumerate() {
                mounts.push(volume_mount(index, wanted, &start, &spec, &root, &attempt)?);
            }
            mounts.sort_by_key(|m| m.target.components().count());
            let taken: HashSet<_> = mounts.iter().map(|m| m.target.clone()).collect();
            let mut files = etc_files(&start, &spec, &root, &dns, &node)?;
            files.push(last_words_file(&start, &attempt)?);
            files.retain(|m| !taken.contains(&m.target));
            files.extend(mounts);
            Ok(files)
        })
        .await
    }

    async fn last_words(&self, pod: &Pod, container: &Container, attempt: u32, failed: bool) -> String {
        let Ok(folder) = self.attempt(pod, &container.name, attempt) else { return String::new() };
        let Ok(log) = self.log(pod, &container.name, attempt) else { return String::new() };
        let fall_back = failed && container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let read = move || {
            let words = head(&folder.join("termination-log"), LAST_WORDS);
            Ok(if words.is_empty() && fall_back { log_tail(&log) } else { words })
        };
        blocking(read).await.unwrap_or_default()
    }

    fn log(&self, pod: &Pod, container: &str, attempt: u32) -> Result<PathBuf, Error> {
        Ok(self.logs(pod)?.join(segment(container)?).join(format!("{attempt}.log")))
    }

    async fn trim_logs(&self, pod: &Pod, container: &str, oldest: u32) {
        let Ok(log) = self.log(pod, container, 0) else { return };
        let Ok(first) = self.attempt(pod, container, 0) else { return };
        let trim = move || {
            for (folder, of_file) in [(log.parent(), true), (first.parent(), false)] {
                for entry in folder.map(fs::read_dir).into_iter().flatten().flatten().flatten() {
                    let name = entry.file_name();
                    let number = name.to_str().and_then(|n| n.split('.').next()).and_then(|n| n.parse::<u32>().ok());
                    if number.is_some_and(|n| n < oldest) {
                        let path = entry.path();
                        let gone =
                            if of_file { fs::remove_file(&path) } else { remove_tree(&path).map_err(io::Error::other) };
                        if let Err(error) = gone {
                            tracing::debug!(path = %path.display(), %error, "an old log or folder stays");
                        }
                    }
                }
            }
            Ok(())
        };
        if let Err(error) = blocking(trim).await {
            tracing::debug!(%error, "old logs stay");
        }
    }

    async fn remove(&self, uid: &str) -> Result<(), Error> {
        self.sources.forget(uid);
        let root = self.pod(uid)?;
        blocking(move || remove_tree(&root)).await
    }

    async fn remove_logs(&self, pod: &Pod) {
        let Ok(folder) = self.logs(pod) else { return };
        let removed = blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &folder)(error)),
            _ => Ok(()),
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "logs of a deleted pod stay");
        }
    }

    async fn retain(&self, live: &HashSet<String>) -> Result<(), Error> {
        let (root, live) = (self.root.clone(), live.clone());
        blocking(move || {
            let mut first = Ok(());
            for (folder, uid_at) in [("pods", 0), ("logs", 2)] {
                for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    let uid = name.split('_').nth(uid_at).unwrap_or_default();
                    if !live.contains(uid) {
                        first = first.and(remove_tree(&entry.path()));
                    }
                }
            }
            first
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    // invariant: the work does not panic, and the runtime outlives its tasks
    tokio::task::spawn_blocking(work).await.expect("file work ends")
}

/// A name from the API, as one path segment.
fn segment(name: &str) -> Result<&str, Error> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 253 || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::Name { name: name.into() });
    }
    Ok(name)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

fn prepare_volume(
    volume: &Volume,
    path: &Path,
    spec: &PodSpec,
    inputs: &volume::Inputs<'_>,
) -> Result<(), volume::Error> {
    let group = fs_group(spec);
    if let Some(source) = &volume.empty_dir {
        return emptydir::prepare(path, source, group);
    }
    if let Some(source) = &volume.host_path {
        return hostpath::prepare(source).map(drop);
    }
    let Some((files, in_memory)) = volume::files(volume, inputs)? else { return Err(volume::Error::Unsupported) };
    let io = |source| volume::Error::Io { operation: "make", path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(io)?;
    if in_memory && !is_mount(path).map_err(io)? {
        emptydir::memory(path, None)?;
    }
    let stamp = jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    atomic::write(path, &files, group, &stamp)?;
    Ok(())
}

fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().map(fs::metadata).transpose()?;
    Ok(parent.is_none_or(|p| p.dev() != fs::metadata(path).map(|m| m.dev()).unwrap_or(p.dev())))
}

fn volume_mount(
    index: usize,
    wanted: &VolumeMount,
    start: &Start,
    spec: &PodSpec,
    root: &Path,
    attempt: &Path,
) -> Result<Mount, Error> {
    let volume = spec
        .volumes
        .iter()
        .flatten()
        .find(|v| v.name == wanted.name)
        .ok_or_else(|| Error::NoVolume { volume: wanted.name.clone(), container: start.container.name.clone() })?;
    let whole = match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => root.join("volumes").join(segment(&volume.name)?),
    };
    let part = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (_, Some(text)) if !text.is_empty() => env::expand(text, &start.env),
        (Some(path), _) => path.clone(),
        (None, _) => String::new(),
    };
    let source = if part.is_empty() {
        whole
    } else {
        let target = attempt.join(format!("subpath-{index}"));
        let bound = subpath::bind(&whole, &part, &target);
        bound.map_err(|source| Error::SubPath { volume: volume.name.clone(), source })?
    };
    let of_texts = volume.empty_dir.is_none() && volume.host_path.is_none();
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    };
    let target = PathBuf::from(&wanted.mount_path);
    Ok(Mount { source, target, readonly: wanted.read_only == Some(true) || of_texts, propagation })
}

fn etc_files(
    start: &Start,
    spec: &PodSpec,
    root: &Path,
    dns: &crate::network::Dns,
    node: &str,
) -> Result<Vec<Mount>, Error> {
    let meta = &start.pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let hostname = etc::hostname(meta.name.as_deref().unwrap_or_default(), spec, node);
    let full = etc::domain_name(&hostname, namespace, spec, &dns.domain);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let hosts = if spec.host_network == Some(true) {
        etc::host_network_hosts(&head(Path::new("/etc/hosts"), 1 << 20), aliases)
    } else {
        etc::hosts(&start.network.addresses, &hostname, full.as_deref(), aliases)
    };
    let node_resolver = head(Path::new("/etc/resolv.conf"), 1 << 20);
    let readonly = start.container.security_context.as_ref().is_some_and(|s| s.read_only_root_filesystem == Some(true));
    let texts = [
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", etc::resolv_conf(namespace, spec, dns, &node_resolver)),
    ];
    texts
        .into_iter()
        .map(|(name, text)| {
            let source = root.join(name);
            if !source.exists() {
                make_file(&source, text.as_bytes(), 0o644)?;
            }
            let target = Path::new("/etc").join(name);
            Ok(Mount { source, target, readonly, propagation: Propagation::None })
        })
        .collect()
}

fn last_words_file(start: &Start, attempt: &Path) -> Result<Mount, Error> {
    let source = attempt.join("termination-log");
    make_file(&source, b"", 0o666)?;
    let target = start.container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let target = PathBuf::from(target.unwrap_or("/dev/termination-log"));
    Ok(Mount { source, target, readonly: false, propagation: Propagation::None })
}

/// Complete under its name or not there at all: another container of the pod may look at the same moment.
fn make_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    let mut file = tempfile_in(parent)?;
    io::Write::write_all(&mut file.1, bytes).map_err(failed("write", &file.0))?;
    file.1.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("chmod", &file.0))?;
    fs::rename(&file.0, path).map_err(failed("rename", &file.0))
}

fn tempfile_in(folder: &Path) -> Result<(PathBuf, fs::File), Error> {
    let path = folder.join(format!(".{}", uuid::Uuid::new_v4()));
    let file = fs::File::create_new(&path).map_err(failed("make", &path))?;
    Ok((path, file))
}

fn head(path: &Path, limit: u64) -> String {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The last lines of a log, without their CRI prefixes.
fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        // twice as much, as every line carries a time
        file.seek(SeekFrom::Start(size.saturating_sub(LAST_LOG_BYTES * 2)))?;
        let mut bytes = Vec::new();
        file.take(LAST_LOG_BYTES * 2).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
    let mut tail = lines[lines.len().saturating_sub(LAST_LOG_LINES)..].join("\n");
    if !tail.is_empty() {
        tail.push('\n');
    }
    let limit = usize::try_from(LAST_LOG_BYTES).unwrap_or(usize::MAX);
    let cut = (tail.len().saturating_sub(limit)..=tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(0);
    tail.split_off(cut)
}

/// Unmounts what is mounted below, then removes the folder; never removes anything while something is still mounted.
fn remove_tree(root: &Path) -> Result<(), Error> {
    for target in mounts_below(root)?.into_iter().rev() {
        unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|e| failed("unmount", &target)(e.into()))?;
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", root)(error)),
        _ => Ok(()),
    }
}

fn mounts_below(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).map_err(failed("read", table))?;
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let targets = text.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Ok(targets.map(unescape).filter(|t| t.starts_with(&root) && *t != root).collect())
}

/// `\040` and the like, as the kernel writes blanks in paths.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}
