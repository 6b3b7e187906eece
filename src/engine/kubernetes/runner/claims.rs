//! Claims: which ones a source means, what they are, and where they are mounted just now.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim, Pod, PodSpec, Toleration,
};
use kube::{Api, Client, api::ListParams};

use super::quiesce::{Workload, WorkloadError, WorkloadKind};
use crate::{
    engine::kubernetes::{manifests::claim::ClaimShape, movers::RUN_LABEL},
    policy::document::source::Volumes,
};

/// How many claims one source may mean. More is a selector that went wrong.
const MOST_CLAIMS: usize = 500;

/// A claim of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// The class that made its volume.
    pub storage_class: Option<String>,
    /// How large it is, as Kubernetes writes it.
    pub size: String,
    /// Whether pods on several nodes may mount it at once.
    pub shared: bool,
    /// Whether only a single pod may mount it.
    pub single_pod: bool,
    /// What the claim asks for, so that a restore can ask for the same.
    pub shape: ClaimShape,
}

/// Who mounts a claim.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// The node, where there is a pod that runs.
    pub node: Option<String>,
    /// The pods.
    pub pods: Vec<String>,
    /// What the first of them tolerates.
    pub tolerations: Vec<Toleration>,
}

/// Why claims could not be found or used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The API server refused, or did not answer.
    #[error("{operation} did not go through")]
    Api {
        /// What was tried.
        operation: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A workload could not be looked at.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// There is no such claim.
    #[error("there is no claim {claim} in namespace {namespace}; correct its name in the document")]
    Missing {
        /// Which.
        claim: String,
        /// Where.
        namespace: String,
    },
    /// Nothing was found.
    #[error(
        "source {source_name} means no claim at all in namespace {namespace}; look at its `volumes` with `kubectl get pvc`"
    )]
    Nothing {
        /// The source.
        source_name: String,
        /// Where.
        namespace: String,
    },
    /// Far too many were found.
    #[error("source {source_name} means {count} claims, more than {MOST_CLAIMS}; narrow its selector")]
    TooMany {
        /// The source.
        source_name: String,
        /// How many.
        count: usize,
    },
    /// It is a block device.
    #[error(
        "claim {claim} is a block device (volumeMode: Block) without files to copy; use `method: VolumeSnapshot` for it"
    )]
    Block {
        /// Which.
        claim: String,
    },
    /// It has no volume.
    #[error(
        "claim {claim} is {phase} and not Bound, so there is nothing to capture; look why with `kubectl describe pvc {claim}`"
    )]
    Unbound {
        /// Which.
        claim: String,
        /// What it is.
        phase: String,
    },
    /// A pod has it for itself.
    #[error(
        "claim {claim} is ReadWriteOncePod and mounted by {pod}; use `method: FilesFromSnapshot`, or `consistency: Cold`"
    )]
    SinglePod {
        /// Which.
        claim: String,
        /// By which pod.
        pod: String,
    },
}

impl ClaimError {
    /// For a request that failed.
    pub fn api(operation: String, source: kube::Error) -> Self {
        Self::Api { operation, source: Box::new(source) }
    }
}

/// The claims that a source means, sorted by name. Those that are no use to it are errors, never left out silently.
/// `needs_files`: a block device has none.
///
/// # Errors
/// See [`ClaimError`].
pub async fn find(
    client: &Client,
    namespace: &str,
    source: &str,
    volumes: &Volumes,
    needs_files: bool,
) -> Result<Vec<Claim>, ClaimError> {
    let Volumes { claims, selector, workload, workloads, snapshot_class: _ } = volumes;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(&ListParams::default()).await;
    let listed =
        listed.map_err(|error| ClaimError::api(format!("listing the claims of namespace {namespace}"), error))?;
    let there: BTreeMap<String, PersistentVolumeClaim> = listed
        .items
        .into_iter()
        .filter(|claim| !is_temporary(claim))
        .filter_map(|claim| Some((claim.metadata.name.clone()?, claim)))
        .collect();
    let mut wanted: BTreeSet<String> = claims.iter().cloned().collect();
    if let Some(selector) = selector {
        let meant = there.iter().filter(|(_, claim)| has_labels(claim, selector));
        wanted.extend(meant.map(|(name, _)| name.clone()));
    }
    for text in workload.iter().chain(workloads) {
        let workload: Workload = text.parse()?;
        let found = workload.get(client, namespace).await?;
        let template = serde_json::from_value(found.data["spec"]["template"]["spec"].clone()).unwrap_or_default();
        wanted.extend(mounted_by(&template));
        if workload.kind == WorkloadKind::StatefulSet {
            let templates = found.data["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
            let names = templates.iter().filter_map(|template| template["metadata"]["name"].as_str());
            for template in names {
                wanted.extend(there.keys().filter(|name| is_of_template(name, template, &workload.name)).cloned());
            }
        }
    }
    if wanted.is_empty() {
        return Err(ClaimError::Nothing { source_name: source.to_owned(), namespace: namespace.to_owned() });
    }
    if wanted.len() > MOST_CLAIMS {
        return Err(ClaimError::TooMany { source_name: source.to_owned(), count: wanted.len() });
    }
    wanted
        .into_iter()
        .map(|name| {
            let found = there.get(&name);
            let found =
                found.ok_or_else(|| ClaimError::Missing { claim: name.clone(), namespace: namespace.to_owned() })?;
            usable(&name, found, needs_files)
        })
        .collect()
}

/// Who mounts a claim just now.
///
/// # Errors
/// The API server does not say.
pub async fn mounted(client: &Client, namespace: &str, claim: &str) -> Result<Mounted, ClaimError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await;
    let listed =
        listed.map_err(|error| ClaimError::api(format!("listing the pods of namespace {namespace}"), error))?;
    Ok(mounted_in(&listed.items, claim))
}

/// Where the pods that mount a claim, or wait for it, may run, and what they tolerate: a volume that is made for them has
/// to be there.
///
/// # Errors
/// The API server does not say.
pub async fn wishes(
    client: &Client,
    namespace: &str,
    claim: &str,
) -> Result<(Option<NodeSelector>, Vec<Toleration>), ClaimError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await;
    let listed =
        listed.map_err(|error| ClaimError::api(format!("listing the pods of namespace {namespace}"), error))?;
    let pod = listed.items.iter().find(|pod| is_under_way(pod) && mounts(pod, claim));
    let Some(spec) = pod.and_then(|pod| pod.spec.as_ref()) else { return Ok((None, Vec::new())) };
    Ok((nodes_of(spec), spec.tolerations.clone().unwrap_or_default()))
}

/// The nodes that a pod may run on, as it says itself; none: any.
fn nodes_of(spec: &PodSpec) -> Option<NodeSelector> {
    let labels = spec.node_selector.iter().flatten().map(|(key, value)| NodeSelectorRequirement {
        key: key.clone(),
        operator: "In".to_owned(),
        values: Some(vec![value.clone()]),
    });
    let labels: Vec<NodeSelectorRequirement> = labels.collect();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.clone());
    let mut terms = required.map_or_else(Vec::new, |required| required.node_selector_terms);
    if terms.is_empty() {
        if labels.is_empty() {
            return None;
        }
        terms.push(NodeSelectorTerm::default());
    }
    // One of the terms must hold, and the labels in any case.
    for term in &mut terms {
        term.match_expressions.get_or_insert_default().extend(labels.iter().cloned());
    }
    Some(NodeSelector { node_selector_terms: terms })
}

/// The workloads whose pods mount a claim; `Err` in the result: a pod that nothing scales.
///
/// # Errors
/// The API server does not say.
pub async fn workloads_of(
    client: &Client,
    namespace: &str,
    claim: &str,
) -> Result<Result<BTreeSet<Workload>, String>, ClaimError> {
    let api_error = |operation: String| |error| ClaimError::api(operation, error);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await;
    let listed = listed.map_err(api_error(format!("listing the pods of namespace {namespace}")))?;
    let mut found = BTreeSet::new();
    for pod in of_others(&listed.items, claim) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let owners = pod.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.clone().find(|owner| owner.controller == Some(true)) else { return Ok(Err(name)) };
        match owner.kind.as_str() {
            "StatefulSet" => {
                found.insert(Workload { kind: WorkloadKind::StatefulSet, name: owner.name.clone() });
            }
            "ReplicaSet" => {
                let sets: Api<k8s_openapi::api::apps::v1::ReplicaSet> = Api::namespaced(client.clone(), namespace);
                let set = sets.get_opt(&owner.name).await;
                let set = set.map_err(api_error(format!("reading ReplicaSet {}", owner.name)))?;
                let owners = set.into_iter().flat_map(|set| set.metadata.owner_references.unwrap_or_default());
                match owners.into_iter().find(|owner| owner.kind == "Deployment") {
                    Some(owner) => {
                        found.insert(Workload { kind: WorkloadKind::Deployment, name: owner.name });
                    }
                    None => return Ok(Err(name)),
                }
            }
            _ => return Ok(Err(name)),
        }
    }
    Ok(Ok(found))
}

fn usable(name: &str, claim: &PersistentVolumeClaim, needs_files: bool) -> Result<Claim, ClaimError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    if needs_files && spec.volume_mode.as_deref() == Some("Block") {
        return Err(ClaimError::Block { claim: name.to_owned() });
    }
    let phase = status.phase.unwrap_or_else(|| "Pending".to_owned());
    if phase != "Bound" {
        return Err(ClaimError::Unbound { claim: name.to_owned(), phase });
    }
    let modes = spec.access_modes.unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|other| other == mode);
    let shape = shape(claim);
    Ok(Claim {
        name: name.to_owned(),
        storage_class: shape.storage_class.clone(),
        size: shape.size.clone(),
        shared: has("ReadWriteMany") || has("ReadOnlyMany"),
        single_pod: has("ReadWriteOncePod"),
        shape,
    })
}

/// What a claim is like.
pub fn shape(claim: &PersistentVolumeClaim) -> ClaimShape {
    let spec = claim.spec.clone().unwrap_or_default();
    let requested = spec.resources.and_then(|resources| resources.requests?.get("storage").cloned());
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage").cloned());
    ClaimShape {
        storage_class: spec.storage_class_name,
        size: capacity.or(requested).map_or_else(|| "1Gi".to_owned(), |size| size.0),
        access_modes: spec.access_modes.unwrap_or_default(),
        block: spec.volume_mode.as_deref() == Some("Block"),
    }
}

fn mounted_in(pods: &[Pod], claim: &str) -> Mounted {
    let mut mounted = Mounted::default();
    for pod in pods.iter().filter(|pod| is_under_way(pod) && mounts(pod, claim)) {
        let spec = pod.spec.clone().unwrap_or_default();
        if mounted.node.is_none() {
            mounted.node = spec.node_name;
            mounted.tolerations = spec.tolerations.unwrap_or_default();
        }
    }
    mounted.pods = of_others(pods, claim).filter_map(|pod| pod.metadata.name.clone()).collect();
    mounted
}

/// The pods that mount a claim, without movers: one that a run before this one left is on its way out.
fn of_others<'a>(pods: &'a [Pod], claim: &'a str) -> impl Iterator<Item = &'a Pod> {
    let is_mover = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(RUN_LABEL));
    pods.iter().filter(move |pod| is_under_way(pod) && mounts(pod, claim) && !is_mover(pod))
}

fn is_under_way(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn mounts(pod: &Pod, claim: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| mounted_by(spec).any(|name| name == claim))
}

pub(in crate::engine::kubernetes) fn mounted_by(spec: &PodSpec) -> impl Iterator<Item = String> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
}

/// The StatefulSet controller names them TEMPLATE-SET-NUMBER.
pub(in crate::engine::kubernetes) fn is_of_template(claim: &str, template: &str, set: &str) -> bool {
    let number =
        claim.strip_prefix(template).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(set)?.strip_prefix('-'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn has_labels(claim: &PersistentVolumeClaim, wanted: &BTreeMap<String, String>) -> bool {
    let labels = claim.metadata.labels.clone().unwrap_or_default();
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Made by a run from a volume snapshot, only to be read once.
pub(in crate::engine::kubernetes) fn is_temporary(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(RUN_LABEL))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data"}, "spec": spec, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn a_claim_that_cannot_be_captured_is_refused_and_says_why() {
        let block = claim(json!({"volumeMode": "Block"}), "Bound");
        assert!(usable("data", &block, true).unwrap_err().to_string().contains("block device"));
        assert!(usable("data", &block, false).is_ok());
        let pending = usable("data", &claim(json!({}), "Pending"), true).unwrap_err().to_string();
        assert!(pending.contains("Pending and not Bound"), "{pending}");
        let shared = usable("data", &claim(json!({"accessModes": ["ReadWriteMany"]}), "Bound"), true).unwrap();
        assert!(shared.shared && !shared.single_pod);
    }

    #[test]
    fn a_mover_goes_where_the_claim_is_mounted_by_a_pod_that_runs() {
        let pod = |name: &str, node: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": phase}, "spec": {
                "nodeName": node, "containers": [], "tolerations": [{"key": node}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}))
            .unwrap()
        };
        let mounted = mounted_in(&[pod("old", "n1", "Succeeded"), pod("new", "n2", "Running")], "data");
        assert_eq!((mounted.node.as_deref(), mounted.pods), (Some("n2"), vec!["new".to_owned()]));
        assert_eq!(mounted.tolerations[0].key.as_deref(), Some("n2"));
        assert_eq!(mounted_in(&[pod("new", "n2", "Running")], "other").node, None);
        // What a run before left is where the claim is, and keeps nobody from it.
        let mut left = pod("mover", "n2", "Running");
        left.metadata.labels = Some(BTreeMap::from([(RUN_LABEL.to_owned(), "20261121-020000".to_owned())]));
        let mounted = mounted_in(&[left], "data");
        assert_eq!((mounted.node.as_deref(), mounted.pods), (Some("n2"), vec![]));
    }

    #[test]
    fn a_new_volume_is_made_where_its_pods_may_run() {
        let spec = |value: Value| serde_json::from_value::<PodSpec>(value).unwrap();
        assert_eq!(nodes_of(&spec(json!({"containers": []}))), None);
        let labels = nodes_of(&spec(json!({"containers": [], "nodeSelector": {"disk": "fast"}}))).unwrap();
        let fast = json!({"key": "disk", "operator": "In", "values": ["fast"]});
        assert_eq!(json!(labels.node_selector_terms), json!([{"matchExpressions": [fast]}]));
        let zone = |name: &str| json!({"key": "zone", "operator": "In", "values": [name]});
        let both =
            nodes_of(&spec(json!({"containers": [], "nodeSelector": {"disk": "fast"}, "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [zone("a")]}, {"matchExpressions": [zone("b")]}]}}}})))
            .unwrap();
        let terms = json!([{"matchExpressions": [zone("a"), fast]}, {"matchExpressions": [zone("b"), fast]}]);
        assert_eq!(json!(both.node_selector_terms), terms);
    }

    #[test]
    fn claims_of_a_stateful_set_are_known_by_their_names() {
        assert!(is_of_template("data-db-0", "data", "db"));
        assert!(is_of_template("data-db-12", "data", "db"));
        for name in ["data-db-old", "data-db-", "data-dbx-0", "other-db-0", "data-db-0-1"] {
            assert!(!is_of_template(name, "data", "db"), "{name}");
        }
    }
}
