//! Sandbox: what the containers of a pod share.
//!
//! IPC and UTS namespaces are held open as descriptors; the network namespace is netd's file. `/dev/shm` is one tmpfs for
//! all containers, mounted in the sandbox's folder.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::protocol::Failure;
use crate::runtime::Sandbox as Spec;

/// Size of a pod's `/dev/shm` (containerd's default).
const SHM_SIZE: &std::ffi::CStr = c"mode=1777,size=67108864";
/// Kernel parameters that belong to a namespace (upstream's `sysctl` package, plus all of `net.`).
const SYSCTLS: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];

/// A sandbox that is made.
pub(super) struct Sandbox {
    pub(super) spec: Spec,
    folder: PathBuf,
    ipc: Option<OwnedFd>,
    uts: OwnedFd,
    net: Option<OwnedFd>,
}

impl Sandbox {
    /// Makes the namespaces and `/dev/shm`. The caller has one thread: it enters them for a moment.
    pub(super) fn create(folder: &Path, spec: Spec) -> Result<Sandbox, Failure> {
        let failed = |operation: &'static str| move |e: io::Error| Failure::system(operation, "sandbox", e);
        let shm = folder.join("shm");
        fs::create_dir_all(&shm).map_err(failed("make the folder of"))?;
        let net = spec.netns.as_deref().map(network).transpose()?;
        let (ipc, uts) = namespaces(&spec, net.as_ref())?;
        if !spec.host_ipc {
            release(&shm).map_err(failed("unmount the shm of"))?;
            mount("shm", &shm, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC, SHM_SIZE)
                .map_err(|e| failed("mount the shm of")(e.into()))?;
        }
        let sandbox = Sandbox { spec, folder: folder.to_owned(), ipc, uts, net };
        let record = serde_json::to_vec(&sandbox.spec).map_err(|e| failed("record")(e.into()))?;
        super::container::replace(&folder.join("sandbox.json"), &record).map_err(failed("record"))?;
        Ok(sandbox)
    }

    /// One that an earlier supervisor made, with the namespaces of a process that runs in it.
    pub(super) fn adopt(folder: &Path, spec: Spec, pid: i32) -> Result<Sandbox, Failure> {
        let open = |name: &str| -> Result<OwnedFd, Failure> {
            let path = format!("/proc/{pid}/ns/{name}");
            File::open(&path).map(Into::into).map_err(|e| Failure::system("open", &path, e))
        };
        let net = spec.netns.as_deref().map(network).transpose()?;
        let ipc = (!spec.host_ipc).then(|| open("ipc")).transpose()?;
        Ok(Sandbox { ipc, uts: open("uts")?, net, folder: folder.to_owned(), spec })
    }

    /// What a container enters.
    pub(super) fn namespaces(&self) -> Vec<BorrowedFd<'_>> {
        [self.ipc.as_ref(), Some(&self.uts), self.net.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect()
    }

    /// Where `/dev/shm` is on the node.
    pub(super) fn shm(&self) -> PathBuf {
        if self.spec.host_ipc { "/dev/shm".into() } else { self.folder.join("shm") }
    }
}

/// Opens a network namespace. After the node lost its power the file that one was mounted on is a plain file again.
fn network(path: &Path) -> Result<OwnedFd, Failure> {
    let failed = |e: io::Error| Failure::system("open network namespace", path.display(), e);
    let file = File::open(path).map_err(failed)?;
    if rustix::fs::fstatfs(&file).map_err(|e| failed(e.into()))?.f_type != libc::NSFS_MAGIC {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is none")));
    }
    Ok(file.into())
}

/// Unmounts a `/dev/shm`, also one that an earlier supervisor left.
pub(super) fn release(shm: &Path) -> io::Result<()> {
    loop {
        match unmount(shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn namespaces(spec: &Spec, net: Option<&OwnedFd>) -> Result<(Option<OwnedFd>, OwnedFd), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::system("make namespaces of", "sandbox", e);
    let own = |name: &str| -> Result<OwnedFd, Failure> {
        Ok(File::open(Path::new("/proc/self/ns").join(name)).map_err(|e| failed(&e))?.into())
    };
    let home = [own("ipc")?, own("uts")?, own("net")?];
    let mut flags = CloneFlags::CLONE_NEWUTS;
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    let made = (|| {
        nix::sched::unshare(flags).map_err(|e| failed(&e))?;
        if !spec.hostname.is_empty() {
            nix::unistd::sethostname(&spec.hostname).map_err(|e| failed(&e))?;
        }
        if let Some(net) = net.filter(|_| !spec.sysctls.is_empty()) {
            nix::sched::setns(net, CloneFlags::CLONE_NEWNET).map_err(|e| failed(&e))?;
        }
        for (name, value) in &spec.sysctls {
            set_sysctl(name, value)?;
        }
        Ok((if spec.host_ipc { None } else { Some(own("ipc")?) }, own("uts")?))
    })();
    for namespace in &home {
        nix::sched::setns(namespace, CloneFlags::empty()).map_err(|e| failed(&e))?;
    }
    made
}

fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    let known = name == "kernel.sem" || SYSCTLS.iter().any(|prefix| name.starts_with(prefix));
    let plain = name.split('.').all(|part| !part.is_empty() && !part.contains('/'));
    if !known || !plain {
        return Err(Failure::Start(format!("sysctl {name:?} does not belong to a pod's namespaces")));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).map_err(|e| Failure::Start(format!("sysctl {name:?}: {e}")))
}
