//! A pod's place in the network: namespace, address, veth pair, routes.
//!
//! Everything is validated before anything is touched, and a failed step undoes those before it. Taking down is the opposite: it
//! goes on after a failed step and reports the first error.
//!
//! The record of an attachment is written last, so a crash leaves either a whole attachment or a namespace without a record, which
//! the next start drops. Addresses are recorded nowhere else and can therefore neither leak nor be given out twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    ipam::{self, Pool},
    link, netns, route,
    ruleset::Protocol,
    socket::{self, Socket},
    sysctl,
};

/// The longest uid that is accepted, in bytes. The API's own have 36.
const MAX_UID_BYTES: usize = 128;
/// Attachments of different pods go on side by side; those of one pod one after the other.
const LOCKS: usize = 64;

/// The pod that is to be connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: names the attachment.
    pub uid: String,
}

/// A container's port that is published on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Address on the node; `None` or unspecified for all.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// What a pod was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// A file that is the pod's network namespace (a bind mount of nsfs).
    pub netns: PathBuf,
    /// The pod's addresses, primary first.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The uid would not be a safe file name.
    #[error("uid {0:?} is not valid: letters, digits and '-', at most {MAX_UID_BYTES}")]
    Uid(String),
    /// A host port names a protocol that does not exist.
    #[error("host port {port} has unknown protocol {protocol:?}: TCP, UDP or SCTP")]
    Protocol {
        /// The port on the node.
        port: u16,
        /// What was given.
        protocol: String,
    },
    /// There is no address.
    #[error(transparent)]
    Address(#[from] ipam::Error),
    /// The namespace could not be made or dropped.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refused an interface or a route.
    #[error(transparent)]
    Netlink(#[from] socket::Error),
    /// The kernel refused a parameter.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The record could not be read or written.
    #[error("cannot {operation} {path}")]
    Record {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The work was given up, because its thread could not run or panicked.
    #[error("cannot run a thread in a network namespace")]
    Thread(#[source] io::Error),
}

/// One attachment, as written to disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whose it is.
    pub pod: PodId,
    /// Its address.
    pub address: Ipv4Addr,
    /// What it publishes on the node.
    pub host_ports: Vec<HostPort>,
}

/// The attachments of this node.
pub struct Attachments {
    directory: PathBuf,
    bridge: u32,
    mtu: u32,
    pool: Mutex<Pool>,
    records: watch::Sender<Arc<BTreeMap<String, Record>>>,
    locks: Vec<tokio::sync::Mutex<()>>,
    hasher: ahash::RandomState,
}

impl Attachments {
    /// Reads back what is attached, and drops what a crash or a reboot left half done.
    pub fn load(directory: &Path, cidr: Ipv4Net, bridge: u32, mtu: u32) -> Result<Self, Error> {
        for sub in ["netns", "attachments"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).map_err(|source| Error::Record { operation: "create", path, source })?;
        }
        let mut records = BTreeMap::new();
        for name in netns::list(&directory.join("attachments"))? {
            let path = directory.join("attachments").join(&name);
            match read(&path) {
                Ok(record) if netns::exists(&directory.join("netns").join(&record.pod.uid)) => {
                    records.insert(record.pod.uid.clone(), record);
                }
                outcome => {
                    tracing::info!(record = name, error = ?outcome.err(), "dropping an attachment that is not there any more");
                    fs::remove_file(&path).map_err(|source| Error::Record { operation: "remove", path, source })?;
                }
            }
        }
        for uid in netns::list(&directory.join("netns"))? {
            if !records.contains_key(&uid) {
                tracing::info!(uid, "dropping a network namespace without an attachment");
                netns::remove(&directory.join("netns").join(&uid))?;
            }
        }
        let taken: BTreeSet<_> = records.values().map(|record| record.address).collect();
        let last = fs::read_to_string(directory.join("last-address")).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self {
            directory: directory.to_owned(),
            bridge,
            mtu,
            pool: Mutex::new(Pool::new(cidr, &taken, last)?),
            records: watch::Sender::new(Arc::new(records)),
            locks: (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
        })
    }

    /// What is attached, by uid; changes are seen.
    pub fn records(&self) -> watch::Receiver<Arc<BTreeMap<String, Record>>> {
        self.records.subscribe()
    }

    /// Gives the pod a namespace, an address and its routes. The same uid gets what it has.
    pub async fn attach(&self, pod: &PodId, host_ports: &[HostPort]) -> Result<Attachment, Error> {
        validate(&pod.uid, host_ports)?;
        let _turn = self.turn(&pod.uid).await;
        let netns = self.netns(&pod.uid);
        let known = self.records.borrow().get(&pod.uid).cloned();
        let address = match &known {
            Some(record) if record.host_ports == host_ports => {
                return Ok(Attachment { netns, addresses: vec![record.address.into()] });
            }
            Some(record) => record.address,
            None => {
                let address = self.pool.lock().take()?;
                if let Err(error) = self.connect(&netns, address).await {
                    self.undo(&netns, address);
                    return Err(error);
                }
                address
            }
        };
        let record = Record { pod: pod.clone(), address, host_ports: host_ports.to_vec() };
        if let Err(error) = self.write(&record) {
            if known.is_none() {
                self.undo(&netns, address);
            }
            return Err(error);
        }
        self.records.send_modify(|records| {
            Arc::make_mut(records).insert(pod.uid.clone(), record);
        });
        Ok(Attachment { netns, addresses: vec![address.into()] })
    }

    async fn connect(&self, netns: &Path, address: Ipv4Addr) -> Result<(), Error> {
        let (path, bridge, mtu) = (netns.to_owned(), self.bridge, self.mtu);
        let gateway = ipam::gateway(self.pool.lock().cidr());
        netns::on_thread(move || connect(&path, address, gateway, bridge, mtu)).await.map_err(Error::Thread)?
    }

    fn undo(&self, netns: &Path, address: Ipv4Addr) {
        match netns::remove(netns) {
            Ok(()) => self.pool.lock().release(address),
            Err(error) => tracing::warn!(%error, %address, "cannot undo a failed attachment; its address stays taken"),
        }
    }

    /// Takes it all back. No error if there is nothing.
    pub async fn detach(&self, uid: &str) -> Result<(), Error> {
        validate(uid, &[])?;
        let _turn = self.turn(uid).await;
        let path = self.record(uid);
        let unpinned = netns::remove(&self.netns(uid));
        let forgotten = match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { operation: "remove", path, source })
            }
            _ => Ok(()),
        };
        unpinned?;
        forgotten?;
        let mut address = None;
        self.records.send_if_modified(|records| {
            address = records.get(uid).map(|record| record.address);
            address.is_some() && Arc::make_mut(records).remove(uid).is_some()
        });
        if let Some(address) = address {
            self.pool.lock().release(address);
        }
        Ok(())
    }

    /// Detaches whatever belongs to no pod in `live`, and deletes pairs that belong to no attachment.
    pub async fn retain(&self, live: &HashSet<String>) -> Result<(), Error> {
        let known: Vec<_> = self.records.borrow().keys().cloned().collect();
        let mut first = Ok(());
        for uid in known.iter().filter(|uid| !live.contains(*uid)) {
            tracing::info!(uid, "detaching what belongs to no pod");
            first = first.and(self.detach(uid).await);
        }
        let wanted: HashSet<_> = self.records.borrow().values().map(|record| link::port_name(record.address)).collect();
        let swept = netns::on_thread(move || sweep(&wanted)).await.map_err(Error::Thread)?;
        first.and(swept)
    }

    async fn turn(&self, uid: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let slot = usize::try_from(self.hasher.hash_one(uid) % LOCKS as u64).unwrap_or_default();
        self.locks[slot].lock().await
    }

    fn netns(&self, uid: &str) -> PathBuf {
        self.directory.join("netns").join(uid)
    }

    fn record(&self, uid: &str) -> PathBuf {
        self.directory.join("attachments").join(format!("{uid}.json"))
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).expect("invariant: a record has only strings for keys");
        replace(&self.directory.join("last-address"), record.address.to_string().as_bytes(), &record.pod.uid)?;
        replace(&self.record(&record.pod.uid), &text, &record.pod.uid)
    }
}

/// Replaces a file at once. Not synced: whatever it describes is gone after a power failure as well.
fn replace(path: &Path, text: &[u8], unique: &str) -> Result<(), Error> {
    // the parent of `attachments/`, so that no half written file is taken for a record
    let directory = path.ancestors().find(|up| up.join("attachments").is_dir());
    let fresh = directory.unwrap_or(Path::new("/")).join(format!(".new-{unique}"));
    let failed = |operation| move |source| Error::Record { operation, path: path.to_owned(), source };
    fs::write(&fresh, text).map_err(failed("write"))?;
    fs::rename(&fresh, path).map_err(failed("replace"))
}

fn read(path: &Path) -> Result<Record, io::Error> {
    let record: Record = serde_json::from_slice(&fs::read(path)?)?;
    let named = path.file_stem().is_some_and(|stem| stem == record.pod.uid.as_str());
    if named { Ok(record) } else { Err(io::Error::other("the file's name is not the uid that it holds")) }
}

fn validate(uid: &str, host_ports: &[HostPort]) -> Result<(), Error> {
    let letters = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if uid.is_empty() || uid.len() > MAX_UID_BYTES || !letters {
        return Err(Error::Uid(uid.to_owned()));
    }
    for port in host_ports {
        if Protocol::parse(&port.protocol).is_none() {
            return Err(Error::Protocol { port: port.host_port, protocol: port.protocol.clone() });
        }
    }
    Ok(())
}

/// Runs on a throw-away thread, which this moves into the pod's namespace.
fn connect(path: &Path, address: Ipv4Addr, gateway: Ipv4Addr, bridge: u32, mtu: u32) -> Result<(), Error> {
    let node = Socket::route()?;
    let netns: File = netns::create(path)?;
    sysctl::prepare_pod()?;
    let pod = Socket::route()?;
    link::create_pair(&node, address, &netns, bridge, mtu)?;
    let missing = || socket::Error::Refused {
        operation: format!("find interface {}", link::POD_DEVICE),
        source: nix::errno::Errno::ENODEV,
    };
    let device = link::find(&pod, link::POD_DEVICE)?.ok_or_else(missing)?.index;
    pod.apply(vec![
        link::up("lo"),
        link::up(link::POD_DEVICE),
        route::add_address(device, address.into()),
        route::add_direct(device, gateway.into(), None),
        route::add_default(device, gateway),
    ])?;
    Ok(())
}

fn sweep(wanted: &HashSet<String>) -> Result<(), Error> {
    let node = Socket::route()?;
    let mut first = Ok(());
    for port in link::ports(&node)?.iter().filter(|port| !wanted.contains(&port.name)) {
        tracing::info!(interface = port.name, "deleting an interface without an attachment");
        first = first.and(link::delete(&node, port));
    }
    Ok(first?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_that_is_no_safe_file_name_is_refused() {
        for uid in ["", "..", "a/b", "a.b", "ü", &"a".repeat(129)] {
            assert!(matches!(validate(uid, &[]), Err(Error::Uid(_))), "{uid}");
        }
        assert!(validate("0b7c3d9e-0000-4000-8000-000000000001", &[]).is_ok());
    }

    #[test]
    fn a_host_port_of_an_unknown_protocol_is_refused() {
        let port = HostPort { host_ip: None, host_port: 80, container_port: 8080, protocol: "ICMP".to_owned() };
        let error = validate("a", &[port]).unwrap_err();
        assert_eq!(error.to_string(), "host port 80 has unknown protocol \"ICMP\": TCP, UDP or SCTP");
    }

    #[test]
    fn what_a_crash_left_half_done_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for sub in ["netns", "attachments"] {
            fs::create_dir(path(sub)).unwrap();
        }
        fs::write(path("netns/no-record"), "").unwrap();
        fs::write(path("attachments/torn.json"), "{\"pod\":").unwrap();
        let pod = PodId { namespace: "default".into(), name: "web".into(), uid: "rebooted".into() };
        let record = Record { pod, address: Ipv4Addr::new(10, 42, 0, 2), host_ports: vec![] };
        fs::write(path("attachments/rebooted.json"), serde_json::to_vec(&record).unwrap()).unwrap();

        let loaded = Attachments::load(directory.path(), "10.42.0.0/24".parse().unwrap(), 1, 1500).unwrap();

        assert!(loaded.records().borrow().is_empty());
        assert_eq!(fs::read_dir(path("netns")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(path("attachments")).unwrap().count(), 0);
        assert_eq!(loaded.pool.lock().take().unwrap(), record.address, "its address is free again");
    }
}
