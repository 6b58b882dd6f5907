//! Identity: user, groups and capabilities of a container's process.
//!
//! As runc does for what containerd asks on behalf of a kubelet: the listed capabilities are bounding, effective and
//! permitted; none are inheritable or ambient (CVE-2022-24769), so a user other than root has none after the exec.

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid};

use super::super::protocol::Failure;
use crate::runtime::Container;

/// Becomes the container's user, for good.
pub(super) fn take(container: &Container) -> Result<(), Failure> {
    let failed = |what: &'static str| move |e: &dyn std::fmt::Display| Failure::system("set", what, e);
    let available = caps::read(None, CapSet::Bounding).map_err(|e| failed("capabilities")(&e))?;
    let wanted: CapsHashSet = if container.privileged {
        available.clone()
    } else {
        // What this machine's own root lacks cannot be given.
        listed(&container.capabilities)?.intersection(&available).copied().collect()
    };
    for capability in available.difference(&wanted) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(|e| failed("bounding capabilities")(&e))?;
    }
    rustix::thread::set_keep_capabilities(true).map_err(|e| failed("keep-capabilities")(&e))?;
    let groups: Vec<Gid> = container.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups).map_err(|e| failed("groups")(&e))?;
    let gid = Gid::from_raw(container.gid);
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| failed("group")(&e))?;
    let uid = Uid::from_raw(container.uid);
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| failed("user")(&e))?;
    rustix::thread::set_keep_capabilities(false).map_err(|e| failed("keep-capabilities")(&e))?;
    caps::clear(None, CapSet::Inheritable).map_err(|e| failed("inheritable capabilities")(&e))?;
    // Permitted and effective shrink in two steps: effective must stay within permitted.
    let held = caps::read(None, CapSet::Permitted).map_err(|e| failed("capabilities")(&e))?;
    let kept: CapsHashSet = wanted.intersection(&held).copied().collect();
    caps::clear(None, CapSet::Effective).map_err(|e| failed("effective capabilities")(&e))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|e| failed("permitted capabilities")(&e))?;
    caps::set(None, CapSet::Effective, &kept).map_err(|e| failed("effective capabilities")(&e))?;
    if container.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(|e| failed("no_new_privs")(&e))?;
    }
    Ok(())
}

fn listed(names: &[String]) -> Result<CapsHashSet, Failure> {
    let mut set = CapsHashSet::new();
    for name in names {
        if name.eq_ignore_ascii_case("ALL") {
            return Ok(caps::all());
        }
        let capability: Capability = caps::to_canonical(name)
            .parse()
            .map_err(|_| Failure::Start(format!("unknown capability to add: {name:?}")))?;
        set.insert(capability);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_without_prefix_in_any_case() {
        let set = listed(&["NET_ADMIN".into(), "chown".into(), "CAP_KILL".into()]).unwrap();
        assert_eq!(set, [Capability::CAP_NET_ADMIN, Capability::CAP_CHOWN, Capability::CAP_KILL].into());
        assert_eq!(listed(&["ALL".into()]).unwrap(), caps::all());
        assert!(listed(&["NOPE".into()]).is_err());
    }
}
