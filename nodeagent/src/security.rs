//! A container's rights: users, groups, capabilities, from the pod's and the container's security context.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSpec};

use crate::user::{Accounts, Unknown, User};

/// What a container may do when nothing is said: Docker's 14.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Every capability of Linux 5.15 and later.
const ALL_CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// What the runtime is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// User, primary group, and all supplementary groups.
    pub user: User,
    /// Names without `CAP_`, sorted.
    pub capabilities: Vec<String>,
    /// Everything is allowed.
    pub privileged: bool,
    /// The root filesystem cannot be written.
    pub readonly_root: bool,
    /// No setuid program gives more rights.
    pub no_new_privileges: bool,
    /// System calls are filtered.
    pub seccomp: bool,
    /// Parts of `/proc` and `/sys` are hidden.
    pub masked: bool,
}

/// Why the rights cannot be given; a container with one waits as `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `runAsNonRoot`, and it is root.
    #[error("container has runAsNonRoot and {why} (pod: {pod:?}, container: {container})")]
    Root {
        /// Where root comes from.
        why: &'static str,
        /// `name_namespace(uid)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// The image names a user that it does not have.
    #[error("cannot find the image's user {user:?}")]
    User {
        /// As the image says.
        user: String,
        /// Which part.
        #[source]
        source: Unknown,
    },
    /// A profile that is not of ours.
    #[error("seccompProfile.type {0} is not supported on this node: use RuntimeDefault or Unconfined")]
    Seccomp(String),
    /// An id that the kernel does not have.
    #[error("{field} {value} is out of range")]
    Range {
        /// `runAsUser`.
        field: &'static str,
        /// As written.
        value: i64,
    },
}

/// The rights of a container whose image wants to run as `image_user`.
pub fn rights(
    pod: &str,
    spec: &PodSpec,
    container: &Container,
    image_user: &str,
    accounts: &Accounts,
) -> Result<Rights, Error> {
    let own = container.security_context.clone().unwrap_or_default();
    let shared = spec.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(shared.run_as_user);
    let mut user = match run_as_user {
        Some(uid) => accounts.by_id(id("runAsUser", uid)?),
        None => accounts.resolve(image_user).map_err(|source| Error::User { user: image_user.into(), source })?,
    };
    if let Some(gid) = own.run_as_group.or(shared.run_as_group) {
        user.gid = id("runAsGroup", gid)?;
    }
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) && user.uid == 0 {
        let why = if run_as_user.is_some() { "runAsUser breaks it" } else { "image will run as root" };
        return Err(Error::Root { why, pod: pod.into(), container: container.name.clone() });
    }
    if shared.supplemental_groups_policy.as_deref() == Some("Strict") {
        user.groups.clear();
    }
    for group in shared.supplemental_groups.iter().flatten().chain(&shared.fs_group) {
        user.groups.push(id("supplementalGroups", *group)?);
    }
    user.groups.sort_unstable();
    user.groups.dedup();
    let privileged = own.privileged == Some(true);
    let profile = own.seccomp_profile.or(shared.seccomp_profile).map(|p| p.type_);
    let adds_admin = own.capabilities.as_ref().is_some_and(|c| c.add.iter().flatten().any(|n| bare(n) == "SYS_ADMIN"));
    Ok(Rights {
        user,
        capabilities: if privileged {
            ALL_CAPABILITIES.map(Into::into).to_vec()
        } else {
            capabilities(own.capabilities.as_ref())
        },
        privileged,
        readonly_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged && !adds_admin,
        seccomp: !privileged && filtered(profile.as_deref())?,
        masked: !privileged && own.proc_mount.as_deref() != Some("Unmasked"),
    })
}

/// Who says nothing is filtered too, as by Docker and by a kubelet with `seccompDefault`.
fn filtered(profile: Option<&str>) -> Result<bool, Error> {
    match profile {
        None | Some("RuntimeDefault") => Ok(true),
        Some("Unconfined") => Ok(false),
        Some(other) => Err(Error::Seccomp(other.to_owned())),
    }
}

fn id(field: &'static str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Range { field, value })
}

fn bare(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map(ToOwned::to_owned).unwrap_or(upper)
}

/// The default ones, less those dropped, and those added; adding wins.
fn capabilities(asked: Option<&Capabilities>) -> Vec<String> {
    let names = |list: Option<&Vec<String>>| list.into_iter().flatten().map(|n| bare(n)).collect::<BTreeSet<_>>();
    let (add, drop) = asked.map_or_else(Default::default, |c| (names(c.add.as_ref()), names(c.drop.as_ref())));
    let all = |set: &BTreeSet<String>| set.contains("ALL");
    let base: &[&str] = match (all(&add), all(&drop)) {
        (true, _) => &ALL_CAPABILITIES,
        (false, true) => &[],
        (false, false) => &DEFAULT_CAPABILITIES,
    };
    let kept = base.iter().map(|n| (*n).to_owned()).filter(|n| !drop.contains(n));
    let added = add.iter().filter(|n| *n != "ALL").cloned();
    kept.chain(added).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn of(pod: &Value, container: &Value) -> Result<Rights, Error> {
        let spec = from_value(json!({"containers": [], "securityContext": pod})).unwrap();
        let container = from_value(json!({"name": "c", "securityContext": container})).unwrap();
        rights("p_ns(u)", &spec, &container, "", &Accounts::default())
    }

    #[test]
    fn contexts_are_merged_and_the_containers_wins() {
        let pod = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [7]});
        let rights = of(&pod, &json!({"runAsUser": 5, "allowPrivilegeEscalation": false})).unwrap();
        assert_eq!(rights.user, User { uid: 5, gid: 1000, groups: vec![7, 2000] });
        assert!(rights.no_new_privileges && rights.masked && !rights.privileged);
        assert_eq!(rights.capabilities.len(), 14);
    }

    #[test]
    fn capabilities_are_dropped_then_added() {
        let none = json!({});
        let one = of(&none, &json!({"capabilities": {"drop": ["ALL"], "add": ["cap_net_admin"]}})).unwrap();
        assert_eq!(one.capabilities, ["NET_ADMIN"]);
        let less = of(&none, &json!({"capabilities": {"drop": ["NET_RAW"]}})).unwrap();
        assert!(!less.capabilities.contains(&"NET_RAW".to_owned()) && less.capabilities.len() == 13);
        assert_eq!(of(&none, &json!({"privileged": true})).unwrap().capabilities.len(), 41);
    }

    #[test]
    fn system_calls_are_filtered_unless_said_otherwise() {
        let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
        let none = json!({});
        assert!(of(&none, &none).unwrap().seccomp);
        assert!(!of(&profile("Unconfined"), &none).unwrap().seccomp);
        assert!(of(&profile("Unconfined"), &profile("RuntimeDefault")).unwrap().seccomp, "the container's wins");
        assert!(!of(&none, &json!({"privileged": true})).unwrap().seccomp);
        let error = of(&profile("Localhost"), &none).unwrap_err().to_string();
        assert!(error.contains("use RuntimeDefault or Unconfined"), "{error}");
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let error = of(&json!({"runAsNonRoot": true}), &json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
        );
        assert!(of(&json!({"runAsNonRoot": true, "runAsUser": 1}), &json!({})).is_ok());
    }
}
