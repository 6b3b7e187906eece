//! How far the pod of a mover is, and why it does not start.

use k8s_openapi::api::core::v1::{Event as ClusterEvent, Pod};
use kube::{Api, Client, api::ListParams};

use crate::engine::kubernetes::manifests::mover::{self as manifest, MoverJob};

/// Why a container waits whose image does not come.
const IMAGE_TROUBLES: [&str; 4] = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];
/// Why one waits that cannot be made.
const CONTAINER_TROUBLES: [&str; 2] = ["CreateContainerConfigError", "CreateContainerError"];

/// How far a mover's pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodState {
    /// There is none yet.
    Absent,
    /// It waits, and perhaps says for what.
    Waiting(String),
    /// It waits for something that hardly comes by itself: an image that cannot be pulled.
    Trouble(String),
    /// It works.
    Running,
    /// It has ended: its last words, and how.
    Ended { message: String, how: String },
    /// It was taken away.
    Deleted,
}

/// What the cluster says of a pod.
pub(super) fn state_of(pod: &Pod) -> PodState {
    let Some(status) = &pod.status else { return PodState::Waiting(String::new()) };
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let work = status.container_statuses.iter().flatten().find(|container| container.name == manifest::CONTAINER);
    if let Some(ended) = work.and_then(|container| container.state.as_ref()?.terminated.as_ref()) {
        let reason = ended.reason.as_deref().unwrap_or("no reason");
        let how = format!("exit code {} ({reason})", ended.exit_code);
        return PodState::Ended { message: ended.message.clone().unwrap_or_default(), how };
    }
    if status.phase.as_deref() == Some("Failed") {
        // Evicted, or ended before the container began: the init container, the deadline.
        let mut said = [status.reason.clone(), status.message.clone()].into_iter().flatten().collect::<Vec<_>>();
        let ended = all.filter_map(|container| Some((&container.name, container.state.as_ref()?.terminated.as_ref()?)));
        for (name, ended) in ended.filter(|(_, ended)| ended.exit_code != 0) {
            let words = ended.message.as_deref().unwrap_or_default().trim();
            said.push(format!("container {name} ended with {} {words}", ended.exit_code));
        }
        return PodState::Ended { message: String::new(), how: said.join(": ") };
    }
    if work.is_some_and(|container| container.state.as_ref().is_some_and(|state| state.running.is_some())) {
        return PodState::Running;
    }
    for waiting in all.filter_map(|container| container.state.as_ref()?.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if IMAGE_TROUBLES.contains(&reason) || CONTAINER_TROUBLES.contains(&reason) {
            let message = waiting.message.as_deref().unwrap_or_default();
            return PodState::Trouble(format!("{reason}: {message}"));
        }
    }
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.clone());
    PodState::Waiting(unscheduled.unwrap_or_default())
}

/// What keeps the pod of a run or restore from starting; none: it started, or nothing is known. The words stay the same
/// as long as it is the same obstacle.
pub fn obstacle(pod: &Pod) -> Option<String> {
    match state_of(pod) {
        PodState::Trouble(reason) if IMAGE_TROUBLES.iter().any(|trouble| reason.starts_with(trouble)) => {
            // Between two tries the cluster says it in other words.
            let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
            Some(format!("the image {image} cannot be pulled"))
        }
        PodState::Trouble(reason) | PodState::Waiting(reason) => Some(reason).filter(|reason| !reason.is_empty()),
        PodState::Absent | PodState::Running | PodState::Ended { .. } | PodState::Deleted => None,
    }
}

/// Why a pod does not start, in the words of the cluster.
pub(super) async fn why_not(client: &Client, mover: &MoverJob, state: &PodState) -> String {
    let known = match state {
        PodState::Waiting(reason) | PodState::Trouble(reason) if !reason.is_empty() => Some(reason.clone()),
        PodState::Absent
        | PodState::Waiting(_)
        | PodState::Trouble(_)
        | PodState::Running
        | PodState::Ended { .. }
        | PodState::Deleted => None,
    };
    let told = match known {
        Some(reason) => Some(reason),
        None => newest_warning(client, mover).await,
    };
    match told {
        Some(reason) => format!("{reason} (`kubectl describe pod -n {} -l job-name={}`)", mover.namespace, mover.name),
        None => format!("`kubectl describe job -n {} {}` says more", mover.namespace, mover.name),
    }
}

async fn newest_warning(client: &Client, mover: &MoverJob) -> Option<String> {
    let events: Api<ClusterEvent> = Api::namespaced(client.clone(), &mover.namespace);
    let warnings = events.list(&ListParams::default().fields("type=Warning").limit(500)).await.ok()?;
    let is_ours =
        |event: &&ClusterEvent| event.involved_object.name.as_deref().is_some_and(|name| name.starts_with(&mover.name));
    let newest = warnings
        .items
        .iter()
        .filter(is_ours)
        .max_by_key(|event| event.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    newest.message.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(status: serde_json::Value) -> PodState {
        state_of(&serde_json::from_value(json!({"metadata": {"name": "m"}, "status": status})).unwrap())
    }

    #[test]
    fn a_pod_is_as_far_as_its_status_says() {
        let container = |state: serde_json::Value| json!([{"name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        let running = json!({"containerStatuses": container(json!({"running": {}}))});
        assert_eq!(state(running), PodState::Running);
        let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let PodState::Ended { how, .. } = state(json!({"containerStatuses": container(ended)})) else { panic!() };
        assert_eq!(how, "exit code 137 (OOMKilled)");
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let trouble = state(json!({"phase": "Pending", "containerStatuses": container(waiting.clone())}));
        assert_eq!(trouble, PodState::Trouble("ImagePullBackOff: no such image".into()));
        assert_eq!(state(json!({"initContainerStatuses": container(waiting)})), trouble);
        let tries = [("ErrImagePull", "not found"), ("ImagePullBackOff", "back-off"), ("ErrImagePull", "no such host")];
        let told = tries.map(|(reason, message)| {
            let waiting = json!({"waiting": {"reason": reason, "message": message}});
            let status = json!({"phase": "Pending", "containerStatuses": container(waiting)});
            let spec = json!({"containers": [{"name": "mover", "image": "none:1"}]});
            obstacle(&serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap())
        });
        assert_eq!(told, std::array::from_fn(|_| Some("the image none:1 cannot be pulled".to_owned())));
        let evicted = state(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}));
        assert_eq!(evicted, PodState::Ended { message: String::new(), how: "Evicted: low on memory".into() });
        let condition = json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]);
        assert_eq!(state(json!({"conditions": condition})), PodState::Waiting("0/1 nodes are available".into()));
    }
}
