//! The Job of a mover, and the Secret that holds its work.
//!
//! Pure. The pod follows the restricted profile of the Pod Security Standards, with one exception: a mover that reads
//! the files of others is user 0 with the one capability CAP_DAC_READ_SEARCH, which reads and writes nothing else. One
//! that gives files back to others needs those that set owners and permissions; the baseline profile allows them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde_json::{Value, json};

/// Where claims are mounted in a mover, each below its own name; so also the paths in a snapshot begin.
pub const VOLUMES: &str = "/volumes";
/// Where the directory of a repository is mounted.
pub const REPOSITORY: &str = "/repository";
/// The container that works.
pub const CONTAINER: &str = "mover";
/// The key of the work in its Secret.
pub const WORK_KEY: &str = "job.json";

/// How long a Job that ended is kept for its logs. One that went well is removed at once.
const KEPT_SECONDS: u64 = 3600;
/// A mover's work can be done again, so it is not waited for long.
const FAREWELL_SECONDS: u64 = 5;
/// Whoever owns nothing.
const NOBODY: i64 = 65532;

/// A mover's Job.
#[derive(Debug, Clone)]
pub struct MoverJob {
    /// Name of the Job and of its Secret.
    pub name: String,
    /// Where it runs.
    pub namespace: String,
    /// Labels of the Job, its pod and its Secret.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the same.
    pub annotations: BTreeMap<String, String>,
    /// The image that holds only this program.
    pub image: String,
    /// The image with the programs that the work starts; none: it starts none.
    pub client_image: Option<String>,
    /// The claim that it reads (or, in a restore, writes), and under which name it is mounted below [`VOLUMES`].
    pub claim: Option<MountedClaim>,
    /// An NFS export as the repository: server and path.
    pub nfs: Option<(String, String)>,
    /// What is done; empty: the work in the Secret.
    pub arguments: Vec<String>,
    /// The node on which the claim is mounted now; none: any.
    pub node: Option<String>,
    /// Where the volume that a new one takes the place of can be mounted; none: anywhere.
    pub near: Option<NodeSelector>,
    /// What the workload tolerates, so that its mover may run beside it.
    pub tolerations: Vec<Toleration>,
    /// CPU and memory, as requests and limits.
    pub resources: BTreeMap<String, String>,
    /// When Kubernetes itself ends it.
    pub limit_seconds: u64,
}

/// A claim in a mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedClaim {
    /// Its name.
    pub claim: String,
    /// The name of its directory below [`VOLUMES`]; that of the original claim where this one was made from a snapshot.
    pub directory: String,
    /// Whether it may be written: a restore.
    pub writable: bool,
}

impl MountedClaim {
    /// Where the mover finds it.
    pub fn path(&self) -> String {
        format!("{VOLUMES}/{}", self.directory)
    }
}

/// The Job.
pub fn job(mover: &MoverJob) -> Value {
    let MoverJob {
        name,
        namespace,
        labels,
        annotations,
        image: _,
        client_image: _,
        claim: _,
        nfs: _,
        arguments: _,
        node,
        near,
        tolerations,
        resources: _,
        limit_seconds,
    } = mover;
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": FAREWELL_SECONDS,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": init_containers(mover),
        "containers": [container(mover)],
        "volumes": volumes(mover),
    });
    if let Some(node) = node {
        let this = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [this]}]}}});
    } else if let Some(near) = near {
        pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": near}});
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = json!(tolerations);
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {
            // A second attempt would capture another moment; the run decides, not the Job.
            "backoffLimit": 0,
            "activeDeadlineSeconds": limit_seconds,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": labels, "annotations": pod_annotations(annotations)}, "spec": pod},
        },
    })
}

/// The Secret with the work, removed together with its Job.
pub fn secret(mover: &MoverJob, job_uid: &str, work: &str) -> Value {
    let MoverJob { name, namespace, labels, annotations, .. } = mover;
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid}],
        },
        "immutable": true,
        "stringData": {WORK_KEY: work},
    })
}

/// A mover that is moved to another node for the sake of packing begins anew.
fn pod_annotations(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = annotations.clone();
    all.insert("cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(), "false".to_owned());
    all
}

/// The user's image does not hold this program: it is put in before.
fn init_containers(mover: &MoverJob) -> Value {
    if mover.client_image.is_none() {
        return json!([]);
    }
    json!([{
        "name": "program",
        "image": mover.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["mover", "install", "/program/mainstay"],
        "securityContext": security(Rights::None),
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }])
}

fn container(mover: &MoverJob) -> Value {
    let usual = ["mover", "--job", "/job/job.json", "--result", "/dev/termination-log"];
    let arguments = match mover.arguments.is_empty() {
        true => usual.map(str::to_owned).to_vec(),
        false => mover.arguments.clone(),
    };
    let mut mounts = vec![
        json!({"name": "job", "mountPath": "/job", "readOnly": true}),
        json!({"name": "scratch", "mountPath": "/tmp"}),
    ];
    let mut container = json!({
        "name": CONTAINER,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "TZ", "value": "UTC"}],
        "securityContext": security(match &mover.claim {
            None => Rights::None,
            Some(claim) if claim.writable => Rights::GiveBack,
            Some(_) => Rights::Read,
        }),
    });
    match &mover.client_image {
        Some(image) => {
            container["image"] = json!(image);
            container["command"] = json!(["/program/mainstay"]);
            mounts.push(json!({"name": "program", "mountPath": "/program", "readOnly": true}));
        }
        None => container["image"] = json!(mover.image),
    }
    container["args"] = json!(arguments);
    if let Some(claim) = &mover.claim {
        mounts.push(json!({"name": "claim", "mountPath": claim.path(), "readOnly": !claim.writable}));
    }
    if mover.nfs.is_some() {
        mounts.push(json!({"name": "repository", "mountPath": REPOSITORY}));
    }
    container["volumeMounts"] = json!(mounts);
    if !mover.resources.is_empty() {
        container["resources"] = json!({"requests": mover.resources, "limits": mover.resources});
    }
    container
}

fn volumes(mover: &MoverJob) -> Value {
    let mut volumes =
        vec![json!({"name": "job", "secret": {"secretName": mover.name}}), json!({"name": "scratch", "emptyDir": {}})];
    if mover.client_image.is_some() {
        volumes.push(json!({"name": "program", "emptyDir": {}}));
    }
    if let Some(MountedClaim { claim, directory: _, writable: _ }) = &mover.claim {
        // Not `readOnly` here: some drivers would attach the volume anew for that. The mount is read-only.
        volumes.push(json!({"name": "claim", "persistentVolumeClaim": {"claimName": claim}}));
    }
    if let Some((server, path)) = &mover.nfs {
        volumes.push(json!({"name": "repository", "nfs": {"server": server, "path": path}}));
    }
    json!(volumes)
}

/// What a mover may do with the files of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// There are none.
    None,
    /// Read them, whatever their permissions say.
    Read,
    /// Write them, and set their owners, permissions and times.
    GiveBack,
}

fn security(rights: Rights) -> Value {
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    let capabilities: &[&str] = match rights {
        Rights::None => {
            security["runAsUser"] = json!(NOBODY);
            security["runAsGroup"] = json!(NOBODY);
            security["runAsNonRoot"] = json!(true);
            return security;
        }
        Rights::Read => &["DAC_READ_SEARCH"],
        // The last keeps set-group-id bits where the group is another.
        Rights::GiveBack => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"],
    };
    // A capability is kept only by user 0; without any other it may do no more than its owner.
    security["runAsUser"] = json!(0);
    security["runAsNonRoot"] = json!(false);
    security["capabilities"]["add"] = json!(capabilities);
    security
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};

    use super::*;

    fn mover() -> MoverJob {
        MoverJob {
            name: "nightly-1a2b3c-20261121-020000-c0".to_owned(),
            namespace: "shop".to_owned(),
            labels: BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "mainstay".to_owned())]),
            annotations: BTreeMap::from([("mainstay.dev/policy".to_owned(), "shop/nightly".to_owned())]),
            image: "mainstay:test".to_owned(),
            client_image: None,
            claim: None,
            nfs: None,
            arguments: Vec::new(),
            node: None,
            near: None,
            tolerations: Vec::new(),
            resources: BTreeMap::new(),
            limit_seconds: 3600,
        }
    }

    /// The pod, after Kubernetes' own types read and wrote the same: no field is misspelt.
    fn pod(mover: &MoverJob) -> Value {
        let job = job(mover);
        let typed: Job = serde_json::from_value(job.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), job);
        job["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn files_of_a_claim_are_read_beside_its_workload_with_one_capability() {
        let claim = MountedClaim { claim: "data".into(), directory: "data".into(), writable: false };
        let pod = pod(&MoverJob { claim: Some(claim), node: Some("n1".into()), ..mover() });
        let container = &pod["containers"][0];
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsUser": 0, "runAsNonRoot": false,
                "capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]},
            })
        );
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&json!({"name": "claim", "mountPath": "/volumes/data", "readOnly": true})));
        let terms =
            &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"], json!(["n1"]));
        assert_eq!(pod["initContainers"], json!([]));
    }

    #[test]
    fn a_dump_runs_in_the_image_of_the_user_under_the_restricted_profile() {
        let resources = BTreeMap::from([("memory".to_owned(), "512Mi".to_owned())]);
        let pod = pod(&MoverJob { client_image: Some("mariadb:11".into()), resources, ..mover() });
        let (before, container) = (&pod["initContainers"][0], &pod["containers"][0]);
        assert_eq!((&before["image"], &container["image"]), (&json!("mainstay:test"), &json!("mariadb:11")));
        assert_eq!(container["command"], json!(["/program/mainstay"]));
        assert_eq!(container["resources"]["limits"], json!({"memory": "512Mi"}));
        for container in [before, container] {
            assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(container["securityContext"]["runAsNonRoot"], true);
        }
        assert_eq!(pod["automountServiceAccountToken"], false);
    }

    #[test]
    fn a_restore_may_set_owners_and_goes_where_the_former_volume_was() {
        let claim = MountedClaim { claim: "beside".into(), directory: "data".into(), writable: true };
        let near =
            json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
        let arguments = ["mover", "look", "/volumes/data"].map(str::to_owned).to_vec();
        let near = serde_json::from_value(near).unwrap();
        let pod = pod(&MoverJob { claim: Some(claim), near: Some(near), arguments, ..mover() });
        let container = &pod["containers"][0];
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]})
        );
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&json!({"name": "claim", "mountPath": "/volumes/data", "readOnly": false})));
        assert_eq!(container["args"], json!(["mover", "look", "/volumes/data"]));
        let terms =
            &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0]["key"], "zone");
    }

    #[test]
    fn the_work_goes_with_its_job() {
        let secret = secret(&mover(), "0f0f", "{}");
        let typed: Secret = serde_json::from_value(secret).unwrap();
        assert_eq!(typed.metadata.owner_references.unwrap()[0].uid, "0f0f");
        assert_eq!(typed.immutable, Some(true));
    }
}
