//! One start of a container, whose log is followed: it may be over, and another running, when a server answers again.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Where users name the container that is meant when none is named.
const DEFAULT: &str = "kubectl.kubernetes.io/default-container";

/// The start.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    pod: Option<String>,
    container: String,
    id: String,
}

/// Where its log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was the last.
    Current,
    /// There was one more.
    Previous,
}

impl Start {
    /// The last start of the pod's container of this name, or of the one that is meant without a name; none when there was
    /// none yet.
    pub fn last(pod: &Pod, container: Option<&str>) -> Option<Self> {
        let named = pod.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT)).map(String::as_str);
        let first = || Some(pod.spec.as_ref()?.containers.first()?.name.as_str());
        let container = container.or(named).or_else(first)?;
        let id = status(pod, container)?.container_id.clone()?;
        Some(Self { pod: pod.metadata.uid.clone(), container: container.to_owned(), id })
    }

    /// Where its log is, in the pod as it is now; none when it is nowhere any more.
    pub fn place(&self, pod: &Pod) -> Option<Place> {
        let status = status(pod, &self.container).filter(|_| pod.metadata.uid == self.pod)?;
        if status.container_id.as_ref() == Some(&self.id) {
            return Some(Place::Current);
        }
        let before = status.last_state.as_ref()?.terminated.as_ref()?.container_id.as_ref();
        (before == Some(&self.id)).then_some(Place::Previous)
    }
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == container)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, id: &str, before: &str) -> Pod {
        let status = |name: &str, id: &str, before: &str| {
            json!({"name": name, "containerID": id, "lastState": {"terminated": {"exitCode": 0, "containerID": before, "startedAt": null, "finishedAt": null}},
                "image": "", "imageID": "", "ready": true, "restartCount": 0})
        };
        let pod = json!({
            "metadata": {"uid": uid}, "spec": {"containers": [{"name": "main"}, {"name": "side"}]},
            "status": {"containerStatuses": [status("main", id, before), status("side", "s", "r")]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_start_is_found_again_until_there_were_two_more_or_the_pod_is_another() {
        let start = Start::last(&pod("u", "b", "a"), None).unwrap();
        assert_eq!(start.place(&pod("u", "b", "a")), Some(Place::Current));
        assert_eq!(start.place(&pod("u", "c", "b")), Some(Place::Previous));
        assert_eq!(start.place(&pod("u", "d", "c")), None);
        assert_eq!(start.place(&pod("v", "b", "a")), None);
    }

    #[test]
    fn the_container_is_the_one_that_is_named_or_meant() {
        let mut pod = pod("u", "b", "a");
        let id = |pod: &Pod, name| Start::last(pod, name).map(|start| start.id);
        assert_eq!(id(&pod, Some("side")).as_deref(), Some("s"));
        assert_eq!(id(&pod, Some("none")), None);
        pod.metadata.annotations = Some([(DEFAULT.to_owned(), "side".to_owned())].into());
        assert_eq!(id(&pod, None).as_deref(), Some("s"));
        pod.status = None;
        assert_eq!(id(&pod, None), None, "it has not started");
    }
}
