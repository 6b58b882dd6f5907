//! Recovery: taking over what an earlier supervisor left.
//!
//! # Guarantees
//! * A container that runs goes on: same process, and not one line of its log is lost but the one that the last supervisor
//!   was in the middle of.
//! * One that does not run, or cannot be taken over, is gone as a whole, and its end is recorded.
//!
//! # Caveats
//! * A container with a terminal ends: its other end died with the supervisor.
//! * How a container ended that we are not the parent of, only Linux 6.15 and later tell; elsewhere it counts as killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    event::epoll,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    container::Container,
    protocol::Failure,
    sandbox::{self, Sandbox},
    server::{Server, Source},
    sys,
    verbs::cgroup_path,
};
use crate::runtime::{ContainerState, Exit, Sandbox as SandboxSpec};

impl Server {
    /// Takes over containers that run, with their sandboxes. Everything else of theirs is removed, and sandboxes without a
    /// container are made anew, so that containers can start in them. A sandbox whose network is gone, as after a power cut,
    /// is given up: the agent asks for it again when it has connected the pod.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        let mut left = self.left_containers()?;
        let mut alive: BTreeMap<String, OwnedFd> = BTreeMap::new();
        for container in left.iter().filter(|container| container.state.exit.is_none()) {
            if let Some(process) = self.process_of(&container.state) {
                alive.insert(container.state.id.clone(), process);
            }
        }
        let empty = self.adopt_sandboxes(&left, &alive)?;
        let mut adopted = BTreeSet::new();
        for container in &mut left {
            let Some(process) = alive.remove(&container.state.id) else { continue };
            if !self.sandboxes.contains_key(&container.state.sandbox) {
                continue;
            }
            match container.adopt(process) {
                Ok(()) => drop(adopted.insert(cgroup_path(&container.state))),
                Err(error) => super::note(format_args!("container {} ends: {error}", container.state.id)),
            }
        }
        self.clean_cgroups(&adopted)?;
        for folder in empty {
            self.make_again(&folder)?;
        }
        for container in left {
            self.take_over(container)?;
        }
        Ok(())
    }

    fn left_containers(&mut self) -> io::Result<Vec<Container>> {
        let mut left = Vec::new();
        for entry in fs::read_dir(self.dir.join("containers"))? {
            let folder = entry?.path();
            match Container::restore(&folder) {
                Ok(container) => left.push(container),
                Err(error) => {
                    super::note(format_args!("container {} was not started: {error}", folder.display()));
                    self.discard_folder(&folder).map_err(|failure| io::Error::other(format!("{failure:?}")))?;
                }
            }
        }
        Ok(left)
    }

    /// Its first process, if that still runs: the kernel has it in the container's cgroup, so that it is no other.
    fn process_of(&self, state: &ContainerState) -> Option<OwnedFd> {
        let process = pidfd_open(Pid::from_raw(state.pid)?, PidfdFlags::empty()).ok()?;
        self.cgroups.holds(&cgroup_path(state), state.pid).then_some(process)
    }

    /// Takes over sandboxes in which something runs. Returns the folders of the others.
    fn adopt_sandboxes(&mut self, left: &[Container], alive: &BTreeMap<String, OwnedFd>) -> io::Result<Vec<PathBuf>> {
        let mut empty = Vec::new();
        for entry in fs::read_dir(self.dir.join("sandboxes"))? {
            let folder = entry?.path();
            let uid = entry_name(&folder);
            let runs = left.iter().find(|c| c.state.sandbox == uid && alive.contains_key(&c.state.id));
            let adopted = runs.map(|c| read_spec(&folder).and_then(|spec| Sandbox::adopt(&folder, spec, c.state.pid)));
            match adopted {
                Some(Ok(sandbox)) => drop(self.sandboxes.insert(uid, sandbox)),
                Some(Err(failure)) => {
                    super::note(format_args!("sandbox {uid} is not taken over: {failure:?}"));
                    empty.push(folder);
                }
                None => empty.push(folder),
            }
        }
        Ok(empty)
    }

    /// Kills and removes all that belongs to no container that was taken over.
    fn clean_cgroups(&self, adopted: &BTreeSet<PathBuf>) -> io::Result<()> {
        for pod in self.cgroups.below(Path::new("")) {
            let pod = PathBuf::from(pod);
            if !adopted.iter().any(|path| path.starts_with(&pod)) {
                self.cgroups.remove(&pod)?;
                continue;
            }
            let members = self.cgroups.below(&pod).into_iter().map(|name| pod.join(name));
            members.filter(|path| !adopted.contains(path)).try_for_each(|path| self.cgroups.remove(&path))?;
        }
        Ok(())
    }

    fn make_again(&mut self, folder: &Path) -> io::Result<()> {
        sandbox::release(&folder.join("shm"))?;
        self.sandboxes.remove(&entry_name(folder));
        if let Err(failure) = read_spec(folder).and_then(|spec| self.create_sandbox(spec)) {
            super::note(format_args!("sandbox is given up: {failure:?}"));
        }
        Ok(())
    }

    fn take_over(&mut self, mut container: Container) -> io::Result<()> {
        let state = container.state.clone();
        if let Some(process) = &container.process {
            self.watch(process.as_fd(), Source::Adopted { container: state.id.clone() })?;
            self.watch_outputs(&mut container)?;
            self.containers.insert(state.id, container);
            return Ok(());
        }
        self.containers.insert(state.id.clone(), container);
        if state.exit.is_none() {
            self.exited(&state.id, killed());
        }
        Ok(())
    }

    /// The first process of a container that was taken over has ended, or was reaped.
    pub(super) fn adopted_ended(&mut self, token: u64, id: &str, flags: epoll::EventFlags) -> io::Result<()> {
        let Some(process) = self.containers.get(id).and_then(|container| container.process.as_ref()) else {
            return Ok(());
        };
        let exit = match sys::exit_of(process.as_fd()) {
            Ok(Some(status)) => Exit { code: status.code, signal: status.signal, ..killed() },
            // Its parent has not reaped it yet; then there is one more event, which cannot be turned off.
            Ok(None) if !flags.contains(epoll::EventFlags::HUP) => {
                return self.mute(process.as_fd(), token);
            }
            Ok(None) | Err(_) => killed(),
        };
        self.forget_source(token);
        self.first_ended(id, exit);
        Ok(())
    }
}

/// What is told of an end that nobody saw.
fn killed() -> Exit {
    Exit { code: 128 + libc::SIGKILL, signal: libc::SIGKILL, oom_killed: false, at: SystemTime::now() }
}

fn entry_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_spec(folder: &Path) -> Result<SandboxSpec, Failure> {
    let read = || -> io::Result<SandboxSpec> { Ok(serde_json::from_slice(&fs::read(folder.join("sandbox.json"))?)?) };
    read().map_err(|e| Failure::system("read", folder.display(), e))
}
