//! Verbs: what an agent may ask of the supervisor.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::sched::CloneFlags;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

use super::{
    container::{Container, born},
    executor,
    protocol::{Failure, KEPT_MAX, Reply, Request},
    sandbox::{self, Sandbox},
    server::{Asker, Removal, Server, What},
};
use crate::runtime::{Container as Spec, ContainerState, Exec, Sandbox as SandboxSpec};

/// Longest id of a sandbox or container, bytes (a file name).
const ID_MAX: usize = 255;

/// Where a container's cgroup is, below the supervisor's.
pub(super) fn cgroup_path(state: &ContainerState) -> PathBuf {
    Path::new(&state.sandbox).join(&state.id)
}

/// One path segment that needs no quoting anywhere.
fn check(id: &str) -> Result<(), Failure> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if id.is_empty() || id.len() > ID_MAX || id.starts_with('.') || !plain {
        return Err(Failure::Start(format!("{id:?} is no id: letters, digits, '-', '_' and '.' only")));
    }
    Ok(())
}

impl Server {
    pub(super) fn asked(&mut self, asker: Asker, request: Request, descriptors: Vec<OwnedFd>) {
        let reply = match request {
            Request::List => {
                Ok(Reply::Containers(self.containers.values().map(|container| container.state.clone()).collect()))
            }
            Request::Sandboxes => Ok(Reply::Sandboxes(self.known_sandboxes())),
            Request::CreateSandbox(spec) => self.create_sandbox(spec),
            Request::Signal { id, signal } => self.signal(&id, signal),
            Request::Remove { id } => self.remove(&id),
            Request::Usage { id } => self.usage(&id),
            Request::Keep { name } => self.keep(name, descriptors),
            Request::Kept { name } => match self.kept(&name) {
                Ok(descriptors) => return self.reply(asker, Ok(Reply::Kept), descriptors),
                Err(failure) => Err(failure),
            },
            // These answer later, unless they fail at once.
            Request::Start(spec) => match self.start(&spec, asker) {
                Ok(None) => return,
                Ok(Some(state)) => Ok(Reply::Started(state)),
                Err(failure) => Err(failure),
            },
            Request::Exec { id, exec } => match self.exec(&id, &exec, descriptors, asker) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Request::RemoveSandbox(uid) => {
                return self.remove_when_dead(Removal { sandbox: Some(uid), asker: Some(asker) });
            }
            Request::Shutdown => return self.remove_when_dead(Removal { sandbox: None, asker: Some(asker) }),
        };
        self.reply(asker, reply, Vec::new());
    }

    /// Also those of which nothing but ended containers is left.
    fn known_sandboxes(&self) -> Vec<String> {
        let of_containers = self.containers.values().map(|container| &container.state.sandbox);
        self.sandboxes.keys().chain(of_containers).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn create_sandbox(&mut self, spec: SandboxSpec) -> Result<Reply, Failure> {
        check(&spec.uid)?;
        if self.sandboxes.contains_key(&spec.uid) {
            return Ok(Reply::Done);
        }
        let uid = spec.uid.clone();
        let folder = self.dir.join("sandboxes").join(&uid);
        let resources = spec.resources;
        let made = self
            .cgroups
            .create(Path::new(&uid), &resources)
            .map_err(|e| Failure::system("limit", &uid, e))
            .and_then(|()| Sandbox::create(&folder, spec));
        match made {
            Ok(sandbox) => {
                self.sandboxes.insert(uid, sandbox);
                Ok(Reply::Done)
            }
            Err(failure) => {
                // Nothing is left behind; the first failure is the one to tell.
                drop(self.remove_sandbox_files(&uid));
                Err(failure)
            }
        }
    }

    fn start(&mut self, spec: &Spec, asker: Asker) -> Result<Option<ContainerState>, Failure> {
        check(&spec.id)?;
        if let Some(container) = self.containers.get(&spec.id) {
            return Ok(Some(container.state.clone()));
        }
        if self.on_their_way().any(|state| state.id == spec.id) {
            return Err(Failure::system("start", &spec.id, "it is being started"));
        }
        if self.removals.iter().any(|removal| removal.takes(&spec.sandbox)) {
            return Err(Failure::system("start", &spec.id, "its sandbox is being removed"));
        }
        let sandbox = self.sandboxes.get(&spec.sandbox);
        let sandbox = sandbox.ok_or_else(|| Failure::NotFound { sandbox: true, id: spec.sandbox.clone() })?;
        let folder = self.dir.join("containers").join(&spec.id);
        let started = Container::start(&folder, &self.dir.join("root"), &self.cgroups, sandbox, spec);
        let (container, born) = match started {
            Ok(started) => started,
            Err(failure) => {
                self.discard_files(&spec.id, &Path::new(&spec.sandbox).join(&spec.id));
                return Err(failure);
            }
        };
        self.started(born, What::Container(Box::new(container)), asker)
            .map_err(|e| Failure::system("watch", &spec.id, e))?;
        Ok(None)
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<Reply, Failure> {
        let state = self.state(id)?;
        if state.exit.is_none() {
            if signal == libc::SIGKILL {
                self.kill(&state);
            } else {
                let named = Signal::from_named_raw(signal)
                    .ok_or_else(|| Failure::system("signal", id, format!("{signal} is no signal")))?;
                self.send_signal(&state, named).map_err(|e| Failure::system("signal", id, e))?;
            }
        }
        Ok(Reply::Done)
    }

    /// Kills its first process, with which its PID namespace dies, and all others in its cgroup.
    pub(super) fn kill(&self, state: &ContainerState) {
        self.send_signal(state, Signal::KILL).ok();
        self.cgroups.kill(&cgroup_path(state));
    }

    /// A signal for its first process.
    fn send_signal(&self, state: &ContainerState, signal: Signal) -> Result<(), Errno> {
        match self.containers.get(&state.id).and_then(|container| container.process.as_ref()) {
            Some(process) => match pidfd_send_signal(process, signal) {
                // Its end has not been noticed yet.
                Err(Errno::SRCH) => Ok(()),
                sent => sent,
            },
            // It is our child and not reaped, so the pid is still its own.
            None => Pid::from_raw(state.pid).map_or(Ok(()), |pid| kill_process(pid, signal)),
        }
    }

    fn usage(&self, id: &str) -> Result<Reply, Failure> {
        let state = self.state(id)?;
        let usage = self.cgroups.usage(&cgroup_path(&state));
        usage.map(Reply::Usage).map_err(|e| Failure::system("measure", id, e))
    }

    fn keep(&mut self, name: String, descriptors: Vec<OwnedFd>) -> Result<Reply, Failure> {
        if !self.kept.contains_key(&name) && self.kept.len() >= KEPT_MAX {
            return Err(Failure::system("keep", name, format_args!("{KEPT_MAX} names are kept already")));
        }
        self.kept.insert(name, descriptors);
        Ok(Reply::Done)
    }

    fn kept(&self, name: &str) -> Result<Vec<OwnedFd>, Failure> {
        let copies = self.kept.get(name).into_iter().flatten().map(OwnedFd::try_clone);
        copies.collect::<io::Result<_>>().map_err(|e| Failure::system("share", name, e))
    }

    fn state(&self, id: &str) -> Result<ContainerState, Failure> {
        let container = self.containers.get(id);
        container.map(|c| c.state.clone()).ok_or_else(|| Failure::NotFound { sandbox: false, id: id.to_owned() })
    }

    fn exec(&mut self, id: &str, exec: &Exec, descriptors: Vec<OwnedFd>, asker: Asker) -> Result<(), Failure> {
        let state = self.state(id)?;
        if state.exit.is_some() {
            return Err(Failure::system("execute in", id, "it is not running"));
        }
        let failed = |operation: &'static str| move |e: io::Error| Failure::system(operation, id, e);
        let spec = self.containers[id].spec().map_err(failed("read the record of"))?;
        let stdio = if exec.tty { None } else { Some(streams(descriptors).map_err(failed("take streams for"))?) };
        let pid = Pid::from_raw(state.pid).ok_or_else(|| failed("find")(io::ErrorKind::NotFound.into()))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed("find")(e.into()))?;
        let joins = self.cgroups.joins(&cgroup_path(&state));
        // Children are born into the container's PID namespace; the supervisor itself never is in it.
        let home = File::open("/proc/self/ns/pid").map_err(failed("open the namespace for"))?;
        nix::sched::setns(&process, CloneFlags::CLONE_NEWPID).map_err(|e| failed("enter")(e.into()))?;
        let child = born(0, stdio, |stdio, channel| {
            executor::join(&spec, exec, &joins, std::os::fd::AsFd::as_fd(&process), stdio, channel)
        });
        nix::sched::setns(&home, CloneFlags::CLONE_NEWPID).map_err(|e| failed("leave")(e.into()))?;
        let child = child.map_err(failed("clone into"))?;
        let number = self.next_exec;
        self.next_exec += 1;
        self.started(child, What::Exec(number), asker).map_err(failed("watch a process of"))
    }

    fn remove(&mut self, id: &str) -> Result<Reply, Failure> {
        match self.containers.get(id) {
            None => return Ok(Reply::Trash(Vec::new())),
            Some(container) if container.state.exit.is_none() => {
                return Err(Failure::system("remove", id, "it is running"));
            }
            Some(_) => {}
        }
        let trash = self.forget(id)?;
        Ok(Reply::Trash(trash.into_iter().collect()))
    }

    /// Takes an exited container out of everything; its folder is left for the agent to delete.
    fn forget(&mut self, id: &str) -> Result<Option<String>, Failure> {
        let state = self.state(id)?;
        self.cgroups.remove(&cgroup_path(&state)).map_err(|e| Failure::system("remove the cgroup of", id, e))?;
        let trash = self.discard_folder(&self.dir.join("containers").join(id))?;
        self.containers.remove(id);
        Ok(trash)
    }

    /// Removes what a start that failed has made.
    pub(super) fn discard(&mut self, state: &ContainerState) {
        self.discard_files(&state.id, &cgroup_path(state));
    }

    fn discard_files(&mut self, id: &str, cgroup: &Path) {
        let removed = self.cgroups.remove(cgroup).map_err(|e| Failure::system("remove the cgroup of", id, e));
        let folder = self.dir.join("containers").join(id);
        if let Err(failure) = removed.and_then(|()| self.discard_folder(&folder).map(drop)) {
            super::note(format_args!("{failure:?}"));
        }
    }

    /// Moves a folder out of the way; deleting it may take long, which is the agent's time.
    pub(super) fn discard_folder(&self, folder: &Path) -> Result<Option<String>, Failure> {
        let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // Names may be as long as a file name may be.
        let short: String = name.chars().take(200).collect();
        let target = self.dir.join("trash").join(format!("{short}-{stamp}"));
        match fs::rename(folder, &target) {
            Ok(()) => Ok(Some(target.display().to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::system("move away", folder.display(), error)),
        }
    }

    /// Kills all containers of a removal, and finishes it when they have ended.
    pub(super) fn remove_when_dead(&mut self, removal: Removal) {
        let running = self.containers.values().map(|container| &container.state).filter(|state| state.exit.is_none());
        for state in running.chain(self.on_their_way()).filter(|state| removal.takes(&state.sandbox)) {
            self.kill(state);
        }
        self.removals.push(removal);
        self.finish_removals();
    }

    pub(super) fn finish_removals(&mut self) {
        let (ready, waiting): (Vec<Removal>, Vec<Removal>) =
            std::mem::take(&mut self.removals).into_iter().partition(|removal| {
                let known = self.containers.values().map(|container| &container.state);
                known.chain(self.on_their_way()).all(|state| !removal.takes(&state.sandbox) || state.exit.is_some())
            });
        self.removals = waiting;
        for removal in ready {
            let done = self.finish(&removal);
            if let Some(asker) = removal.asker {
                self.reply(asker, done.map(Reply::Trash), Vec::new());
            }
            if removal.sandbox.is_none() {
                self.end();
            }
        }
    }

    /// Goes on after a failed step and reports the first failure.
    fn finish(&mut self, removal: &Removal) -> Result<Vec<String>, Failure> {
        let mut trash = Vec::new();
        let mut first = None;
        let mut step = |done: Result<Option<String>, Failure>| match done {
            Ok(path) => trash.extend(path),
            Err(failure) => drop(first.get_or_insert(failure)),
        };
        let concerned = self.containers.values().filter(|c| removal.takes(&c.state.sandbox));
        for id in concerned.map(|c| c.state.id.clone()).collect::<Vec<_>>() {
            step(self.forget(&id));
        }
        let uids: Vec<String> = match &removal.sandbox {
            Some(uid) => vec![uid.clone()],
            None => self.known_sandboxes(),
        };
        for uid in uids {
            if check(&uid).is_ok() {
                step(self.remove_sandbox_files(&uid));
                self.sandboxes.remove(&uid);
            }
        }
        if removal.sandbox.is_none() {
            step(
                self.cgroups.remove(Path::new("")).map(|()| None).map_err(|e| Failure::system("remove", "cgroups", e)),
            );
        }
        first.map_or(Ok(trash), Err)
    }

    fn remove_sandbox_files(&mut self, uid: &str) -> Result<Option<String>, Failure> {
        let folder = self.dir.join("sandboxes").join(uid);
        sandbox::release(&folder.join("shm")).map_err(|e| Failure::system("unmount the shm of", uid, e))?;
        self.cgroups.remove(Path::new(uid)).map_err(|e| Failure::system("remove the cgroup of", uid, e))?;
        self.discard_folder(&folder)
    }
}

impl Removal {
    fn takes(&self, sandbox: &str) -> bool {
        self.sandbox.as_deref().is_none_or(|uid| uid == sandbox)
    }
}

/// Standard input (or nothing), output and error, as the agent sent them.
fn streams(mut descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; 3]> {
    if descriptors.len() == 2 {
        descriptors.insert(0, File::open("/dev/null")?.into());
    }
    descriptors.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "two or three streams are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_plain_path_segment() {
        for good in ["a", "0b1c-web-0", "x_y.z"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
