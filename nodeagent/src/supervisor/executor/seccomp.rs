//! Seccomp: which system calls a container may make.
//!
//! What upstream's runtimes call `RuntimeDefault` (Docker's and containerd's default profile), told from the other side:
//! what is not for containers, and what needs a capability. Such calls fail with EPERM; those that are younger than this
//! table, and `clone3`, whose flags a filter cannot see, fail with ENOSYS, so that programs fall back to what they used
//! before. A program for another architecture, 32-bit x86 included, is killed at its first call.

use std::collections::BTreeMap;

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, EPERM, c_long,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::super::{protocol::Failure, sys};
use crate::runtime::Container;

/// The youngest system call that was looked at: `removexattrat` of Linux 6.13.
const YOUNGEST: c_long = 466;
/// Numbers that no architecture of ours uses: x86 leaves them out to meet the others at 424.
#[cfg(target_arch = "x86_64")]
const UNUSED: std::ops::Range<c_long> = 335..424;
#[cfg(not(target_arch = "x86_64"))]
const UNUSED: std::ops::Range<c_long> = 0..0;
/// Younger than the C library's table.
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;

/// For nobody: keys are not namespaced, io_uring goes around the filter (containerd since 2.0), the rest is the node's or history.
const NEVER: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_pivot_root,
    libc::SYS_request_key,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
];
/// The same, of x86 alone.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_afs_syscall,
    libc::SYS_getpmsg,
    libc::SYS_putpmsg,
    libc::SYS_security,
    libc::SYS_sysfs,
    libc::SYS_tuxcall,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_vserver,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[];

/// Ports of the machine, which x86 alone has.
#[cfg(target_arch = "x86_64")]
const PORTS: &[c_long] = &[libc::SYS_ioperm, libc::SYS_iopl];
#[cfg(not(target_arch = "x86_64"))]
const PORTS: &[c_long] = &[];

/// For those alone that have one of the capabilities.
const WITH: &[(&[&str], &[c_long])] = &[
    (
        &["SYS_ADMIN"],
        &[
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_lookup_dcookie,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_umount2,
            libc::SYS_unshare,
            STATMOUNT,
            LISTMOUNT,
        ],
    ),
    (&["DAC_READ_SEARCH"], &[libc::SYS_open_by_handle_at]),
    (&["SYS_BOOT"], &[libc::SYS_reboot]),
    (&["SYS_CHROOT"], &[libc::SYS_chroot]),
    (&["SYS_MODULE"], &[libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module]),
    (&["SYS_PACCT"], &[libc::SYS_acct]),
    (&["SYS_PTRACE"], &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_madvise]),
    (&["SYS_RAWIO"], PORTS),
    (&["SYS_TIME"], &[libc::SYS_clock_settime, libc::SYS_settimeofday]),
    (&["SYS_TTY_CONFIG"], &[libc::SYS_vhangup]),
    (
        &["SYS_NICE"],
        &[libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_set_mempolicy_home_node],
    ),
    (&["SYSLOG", "SYS_ADMIN"], &[libc::SYS_syslog]),
    (&["BPF", "SYS_ADMIN"], &[libc::SYS_bpf]),
    (&["PERFMON", "SYS_ADMIN"], &[libc::SYS_perf_event_open]),
];

/// Flags of `clone` that need SYS_ADMIN.
const NAMESPACES: [i32; 7] =
    [CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP];
/// What `personality` may be asked: Linux, with 32-bit names, without randomness, both, and what it is now.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Filters all that the calling process, and those that come of it, will ask of the kernel. Needs SYS_ADMIN still.
pub(super) fn confine(container: &Container) -> Result<(), Failure> {
    if !container.seccomp || container.privileged {
        return Ok(());
    }
    let failed = |e: &dyn std::fmt::Display| Failure::system("filter", "system calls", e);
    let has = |capability: &str| {
        let names = container.capabilities.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name));
        names.into_iter().any(|name| name.eq_ignore_ascii_case(capability) || name.eq_ignore_ascii_case("ALL"))
    };
    for program in programs(has).map_err(|e| failed(&e))? {
        sys::filter_system_calls(&program).map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// One that denies what is known, one that knows not what is unknown. The kernel asks all filters; a refusal wins.
fn programs(has: impl Fn(&str) -> bool) -> Result<[BpfProgram; 2], BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let admin = has("SYS_ADMIN");
    let mut denied: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    let bare = WITH.iter().filter(|(capabilities, _)| !capabilities.iter().any(|c| has(c)));
    let always = NEVER.iter().chain(NEVER_HERE);
    denied.extend(bare.flat_map(|(_, calls)| *calls).chain(always).map(|call| (*call, Vec::new())));
    denied.insert(libc::SYS_personality, vec![of_none(0, &PERSONALITIES)?]);
    denied.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Eq, libc::AF_VSOCK.cast_unsigned().into())?]);
    if !admin {
        let flags = NAMESPACES.map(|flag| u64::from(flag.cast_unsigned()));
        let rules = flags.into_iter().map(|flag| rule(0, SeccompCmpOp::MaskedEq(flag), flag));
        denied.insert(libc::SYS_clone, rules.collect::<Result<_, _>>()?);
    }
    let known = (0..=YOUNGEST).filter(|call| !UNUSED.contains(call) && (admin || *call != libc::SYS_clone3));
    let known = known.map(|call| (call, Vec::new())).collect();
    let (allow, refuse) = (SeccompAction::Allow, |errno: i32| SeccompAction::Errno(errno.cast_unsigned()));
    Ok([
        SeccompFilter::new(denied, allow.clone(), refuse(EPERM), arch)?.try_into()?,
        SeccompFilter::new(known, refuse(libc::ENOSYS), allow, arch)?.try_into()?,
    ])
}

fn rule(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?])
}

/// An argument that is none of these.
fn of_none(argument: u8, values: &[u64]) -> Result<SeccompRule, BackendError> {
    let each = values.iter().map(|v| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *v));
    SeccompRule::new(each.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit_the_kernel_whatever_the_capabilities() {
        for all in [false, true] {
            for program in programs(|_| all).unwrap() {
                assert!(program.len() < libc::BPF_MAXINSNS as usize, "{}", program.len());
            }
        }
    }

    #[test]
    fn no_call_is_in_two_places() {
        let mut all: Vec<_> =
            WITH.iter().flat_map(|(_, calls)| *calls).chain(NEVER).chain(NEVER_HERE).copied().collect();
        all.extend([libc::SYS_personality, libc::SYS_socket, libc::SYS_clone, libc::SYS_clone3]);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
