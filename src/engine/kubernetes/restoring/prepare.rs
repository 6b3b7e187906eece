//! The compatibility check: everything about a restore that can be refused is refused here, before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, NodeSelector, PersistentVolumeClaim, Toleration};
use kube::{Api, api::DynamicObject};
use serde_json::Value;

use super::{
    borrowed,
    choice::{self, Chosen, Origin},
    databases::{self, Load},
    volumes,
};
use crate::{
    engine::{
        kubernetes::{
            manifests::{
                claim::{self, ClaimShape},
                snapshot::{self as snapshot_manifest, Identity},
            },
            runner::{
                claims::{self, ClaimError},
                no_such_policy,
                quiesce::Workload,
                snapshots,
            },
            site::{Site, SiteError},
            store::restores::Volume,
        },
        local::state::points::StoredPoint,
    },
    policy::{
        CompiledPolicy, PolicyName,
        document::{
            backup_policy::Consistency,
            restore::{Existing, RestoreSpec},
        },
    },
    run::SourceReport,
};

/// Room that a file system takes for itself: a claim that is made for files is larger by this share of them.
const FILE_SYSTEM_SHARE: u64 = 10;
/// The smallest claim that is made where nobody knows what the former one was like.
const LEAST_BYTES: u64 = 1 << 30;

/// A restore that was looked through: nothing about it is left to choose.
#[derive(Debug)]
pub struct Prepared {
    /// The restore point; none: an archive.
    pub point: Option<StoredPoint>,
    /// The policy.
    pub policy: CompiledPolicy,
    /// What is restored, claims first.
    pub items: Vec<Item>,
    /// What is stopped meanwhile.
    pub workloads: Vec<Workload>,
}

/// One part of the restore point, and where it goes.
#[derive(Debug)]
pub struct Item {
    /// The part.
    pub part: crate::restore_point::Part,
    /// Where it is.
    pub origin: Origin,
    /// Where it goes.
    pub destination: Destination,
}

/// Where a part goes.
#[derive(Debug)]
pub enum Destination {
    /// Into a claim.
    Claim(Box<ToClaim>),
    /// Into databases, by programs in this image.
    Programs {
        /// The image.
        image: String,
        /// Each captured stream, and what takes it.
        loads: Vec<Load>,
    },
}

/// A claim that is restored.
#[derive(Debug)]
pub struct ToClaim {
    /// Its name when it was captured, which is the name of its directory in the snapshot.
    pub captured: String,
    /// Where it goes.
    pub namespace: String,
    /// Under which name.
    pub claim: String,
    /// How.
    pub way: Way,
}

/// How a claim is restored.
#[derive(Debug)]
pub enum Way {
    /// It is there and written into.
    Fill {
        /// Whether what differs is overwritten.
        overwrite: bool,
        /// The node where it is mounted; none: any.
        node: Option<String>,
        /// What the pod that mounts it tolerates.
        tolerations: Vec<Toleration>,
    },
    /// There is none, and it is made.
    Make {
        /// Like this.
        shape: ClaimShape,
    },
    /// It is there and gets another volume, which is filled beside it.
    Replace {
        /// Like this.
        shape: ClaimShape,
        /// The claim as its owner made it.
        made: Value,
        /// Its volume; none: the claim is gone.
        old: Option<Volume>,
        /// Where that volume can be mounted; none: anywhere, or the new one's class decides.
        near: Option<NodeSelector>,
        /// The node where it is mounted; none: any.
        node: Option<String>,
        /// What the pod that mounts it tolerates.
        tolerations: Vec<Toleration>,
    },
}

impl ToClaim {
    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        match &self.way {
            Way::Fill { .. } => false,
            Way::Make { shape } | Way::Replace { shape, .. } => shape.block,
        }
    }
}

impl Item {
    /// Its first report.
    pub fn report(&self) -> SourceReport {
        let part = &self.part;
        SourceReport {
            size_bytes: part.size_bytes,
            files: part.files,
            unreadable: part.unreadable,
            snapshot: Some(part.snapshot.clone()).filter(|snapshot| !snapshot.is_empty()),
            ..SourceReport::pending(part.source.clone(), part.repository.clone())
        }
    }

    /// What is done with it, for a person who only wants to know.
    pub fn told(&self) -> String {
        match &self.destination {
            Destination::Programs { image: _, loads } => {
                let names: Vec<&str> = loads.iter().map(|load| load.into.as_str()).collect();
                format!("loaded into {}", names.join(", "))
            }
            Destination::Claim(to) => {
                let (claim, namespace) = (&to.claim, &to.namespace);
                match &to.way {
                    Way::Fill { .. } => format!("written into claim {claim} in namespace {namespace}"),
                    Way::Make { shape } => {
                        format!("written into a new claim {claim} of {} in namespace {namespace}", shape.size)
                    }
                    Way::Replace { old: Some(old), .. } => {
                        format!("written into a new volume that takes the place of {} under claim {claim}", old.name)
                    }
                    Way::Replace { old: None, shape, .. } => {
                        format!("written into a new volume of {} for claim {claim}, which is gone", shape.size)
                    }
                }
            }
        }
    }
}

/// Looks a restore through. `upload`: an archive for the claim of this name takes the place of a restore point.
///
/// # Errors
/// There is no such policy, point or source; or it does not fit where it should go.
pub async fn prepare(
    site: &Site,
    name: &PolicyName,
    spec: &RestoreSpec,
    upload: Option<&str>,
) -> Result<Prepared, SiteError> {
    let record = site.store.points(name).await?;
    let policy = match site.store.policy(name).await? {
        Some(policy) => policy,
        None => *record.withdrawn.clone().ok_or_else(|| no_such_policy(site, name))?,
    };
    let (point, chosen) = match upload {
        Some(claim) => (None, vec![choice::upload(claim)]),
        None => {
            let (point, chosen) = choice::parts(name, &record, spec).map_err(SiteError::Refused)?;
            (Some(point), chosen)
        }
    };
    let namespace = spec.into.as_ref().and_then(|into| into.namespace.as_deref());
    if let Some(namespace) = namespace {
        check_namespace(site, namespace).await?;
    }
    let (mut items, mut workloads) = (Vec::new(), BTreeSet::new());
    for chosen in chosen {
        let destination = match &chosen.claim {
            Some(_) if !spec.tables.is_empty() => {
                return Err(SiteError::Refused(format!(
                    "source {} is files, and `tables` chooses from a PostgreSQL dump; choose other `sources`",
                    chosen.part.source
                )));
            }
            Some(captured) => {
                let known = record.claims.get(captured);
                let to = claim(site, name, spec, &chosen, captured, known, &mut workloads).await?;
                Destination::Claim(Box::new(to))
            }
            None => {
                let source = policy.document.spec.sources.iter().find(|source| source.name == chosen.source());
                let (image, loads) = databases::loads(site, name, spec, source, &chosen.part.source).await?;
                Destination::Programs { image, loads }
            }
        };
        items.push(Item { part: chosen.part, origin: chosen.origin, destination });
    }
    items.sort_by_key(|item| matches!(item.destination, Destination::Programs { .. }));
    if spec.into.is_none() && policy.document.spec.consistency == Consistency::Cold {
        // What a run makes still, a restore makes still as well, even where only a database goes back.
        for volumes in policy.document.spec.sources.iter().filter_map(|source| source.volumes.as_ref()) {
            for text in volumes.workload.iter().chain(&volumes.workloads) {
                workloads.insert(text.parse()?);
            }
        }
    }
    Ok(Prepared { point, policy, items, workloads: workloads.into_iter().collect() })
}

async fn check_namespace(site: &Site, namespace: &str) -> Result<(), SiteError> {
    let found = Api::<Namespace>::all(site.client().clone()).get_opt(namespace).await;
    match found.map_err(|error| SiteError::cluster(format!("reading namespace {namespace}"), error))? {
        Some(_) => Ok(()),
        None => Err(SiteError::Refused(format!("there is no namespace {namespace}; create it first"))),
    }
}

/// Where one claim goes, and whether it fits there.
async fn claim(
    site: &Site,
    policy: &PolicyName,
    spec: &RestoreSpec,
    chosen: &Chosen,
    captured: &str,
    known: Option<&ClaimShape>,
    workloads: &mut BTreeSet<Workload>,
) -> Result<ToClaim, SiteError> {
    let client = site.client();
    let (namespace, name) = choice::destination(policy, captured, spec.into.as_ref());
    let in_place = spec.into.is_none();
    let update = spec.existing == Existing::Update;
    let needs = needs(site, chosen).await?;
    let there = volumes::get(client, &namespace, &name).await?;
    let Some(there) = there else {
        let shape = wanted_shape(site, policy, captured, known, &needs).await?;
        check_class(site, &shape).await?;
        if chosen.origin.is_volume_snapshot() && namespace != policy.namespace() {
            borrowed::check_allowed(client, &chosen.part.snapshot, &namespace).await?;
        }
        let way = match in_place {
            false => Way::Make { shape },
            // Its workload may wait for it: it must not start on a claim that is half filled.
            true => {
                let found = claims::workloads_of(client, &namespace, &name).await?;
                workloads.extend(found.map_err(|pod| alone(&pod, &name))?);
                let identity = Identity {
                    name: name.clone(),
                    namespace: namespace.clone(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                };
                let made = claim::fresh(&identity, &shape, None);
                let (near, tolerations) = match is_made_where_used(site, &shape).await? {
                    true => claims::wishes(client, &namespace, &name).await?,
                    false => (None, Vec::new()),
                };
                Way::Replace { shape, made, old: None, near, node: None, tolerations }
            }
        };
        return Ok(ToClaim { captured: captured.to_owned(), namespace, claim: name, way });
    };
    let shape = claims::shape(&there);
    if in_place && !update {
        return Err(SiteError::Refused(format!(
            "claim {name} is there, and what is in it would be replaced; allow it with `existing: Update`, or restore \
             into another claim (`into.claims`)"
        )));
    }
    if shape.block && !chosen.origin.is_volume_snapshot() {
        return Err(ClaimError::Block { claim: name }.into());
    }
    let (node, tolerations, pods) = mounted(site, &namespace, &name, &there).await?;
    if !in_place {
        if chosen.origin.is_volume_snapshot() {
            return Err(SiteError::Refused(format!(
                "claim {name} in namespace {namespace} is there, and a volume snapshot can only become a new claim; name \
                 one that is not there (`into.claims`)"
            )));
        }
        if let (true, Some(pod)) = (update, pods.first()) {
            return Err(SiteError::Refused(format!(
                "claim {name} in namespace {namespace} is used by pod {pod}, which would see its files change; stop it \
                 first, or restore into another claim"
            )));
        }
        check_size(&name, &shape, needs.bytes)?;
        let way = Way::Fill { overwrite: update, node, tolerations };
        return Ok(ToClaim { captured: captured.to_owned(), namespace, claim: name, way });
    }
    let (bound, volume) = volumes::bound(client, &namespace, &name).await?;
    let found = claims::workloads_of(client, &namespace, &name).await?;
    workloads.extend(found.map_err(|pod| alone(&pod, &name))?);
    let shape = ClaimShape { size: needs.at_least(&shape.size), ..shape };
    if !chosen.origin.is_volume_snapshot() {
        check_size(&name, &shape, needs.bytes)?;
    }
    check_class(site, &shape).await?;
    let near = match is_made_where_used(site, &shape).await? {
        true => volume.spec.as_ref().and_then(|spec| spec.node_affinity.clone()?.required),
        // The class decides where its volume is; the mover follows it there.
        false => None,
    };
    let node = node.filter(|_| near.is_some());
    let way = Way::Replace {
        shape,
        made: claim::as_made(&bound),
        old: Some(volumes::described(&volume)),
        near,
        node,
        tolerations,
    };
    Ok(ToClaim { captured: captured.to_owned(), namespace, claim: name, way })
}

/// A pod that nothing can scale.
fn alone(pod: &str, claim: &str) -> SiteError {
    SiteError::Refused(format!(
        "pod {pod} uses claim {claim} and belongs to no Deployment or StatefulSet, so it cannot be stopped; delete it \
         first, or restore into another claim"
    ))
}

/// What a part needs of a claim.
struct Needs {
    bytes: u64,
    /// The least size that a driver asks for.
    restore_size: Option<String>,
}

impl Needs {
    fn at_least(&self, size: &str) -> String {
        match &self.restore_size {
            Some(least) if snapshots::bytes(Some(least)) > snapshots::bytes(Some(size)) => least.clone(),
            Some(_) | None => size.to_owned(),
        }
    }
}

async fn needs(site: &Site, chosen: &Chosen) -> Result<Needs, SiteError> {
    if !chosen.origin.is_volume_snapshot() {
        return Ok(Needs { bytes: chosen.part.size_bytes, restore_size: None });
    }
    let path = &chosen.part.snapshot;
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let api: Api<DynamicObject> =
        Api::namespaced_with(site.client().clone(), namespace, &snapshot_manifest::volume_snapshots());
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| SiteError::cluster(format!("reading the volume snapshot {path}"), error))?;
    let found = found.ok_or_else(|| {
        SiteError::Refused(format!(
            "the volume snapshot {path} is gone; choose another restore point (`mainstay points`)"
        ))
    })?;
    if found.data["status"]["readyToUse"] != true {
        return Err(SiteError::Refused(format!("the volume snapshot {path} is not ready; see `kubectl describe`")));
    }
    let restore_size = found.data["status"]["restoreSize"].as_str().map(str::to_owned);
    Ok(Needs { bytes: snapshots::bytes(restore_size.as_deref()), restore_size })
}

/// What a claim that is made is like: as the one was that was captured.
async fn wanted_shape(
    site: &Site,
    policy: &PolicyName,
    captured: &str,
    known: Option<&ClaimShape>,
    needs: &Needs,
) -> Result<ClaimShape, SiteError> {
    let now: Option<PersistentVolumeClaim> = volumes::get(site.client(), policy.namespace(), captured).await?;
    let like = now.as_ref().map(claims::shape).or_else(|| known.cloned());
    Ok(match like {
        Some(shape) => ClaimShape { size: needs.at_least(&large_enough(&shape.size, needs.bytes)), ..shape },
        None => {
            let bytes = needs.bytes.saturating_add(needs.bytes / FILE_SYSTEM_SHARE).max(LEAST_BYTES);
            ClaimShape { size: needs.at_least(&bytes.to_string()), ..ClaimShape::default() }
        }
    })
}

/// A claim that is smaller now than what was captured then would not do.
fn large_enough(size: &str, bytes: u64) -> String {
    if snapshots::bytes(Some(size)) >= bytes {
        size.to_owned()
    } else {
        (bytes + bytes / FILE_SYSTEM_SHARE).to_string()
    }
}

fn check_size(claim: &str, shape: &ClaimShape, bytes: u64) -> Result<(), SiteError> {
    if snapshots::bytes(Some(&shape.size)) >= bytes {
        return Ok(());
    }
    Err(SiteError::Refused(format!(
        "claim {claim} has {} and the restore point needs {} MiB there; enlarge it, or restore into a new claim \
         (`into.claims`)",
        shape.size,
        bytes.div_ceil(1 << 20)
    )))
}

async fn check_class(site: &Site, shape: &ClaimShape) -> Result<(), SiteError> {
    let Some(class) = shape.storage_class.as_deref().filter(|class| !class.is_empty()) else { return Ok(()) };
    match volumes::class(site.client(), class).await? {
        Some(_) => Ok(()),
        None => Err(SiteError::Refused(format!(
            "there is no StorageClass {class}, which made the claim that was captured; create it, or restore into a claim \
             that you made (`into.claims`)"
        ))),
    }
}

/// Whether a volume of this class is made on the node where its first pod runs.
async fn is_made_where_used(site: &Site, shape: &ClaimShape) -> Result<bool, SiteError> {
    let Some(class) = shape.storage_class.as_deref().filter(|class| !class.is_empty()) else { return Ok(false) };
    let class = volumes::class(site.client(), class).await?;
    Ok(class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")))
}

/// Where a claim that one node can mount is mounted, and by whom.
async fn mounted(
    site: &Site,
    namespace: &str,
    name: &str,
    claim: &PersistentVolumeClaim,
) -> Result<(Option<String>, Vec<Toleration>, Vec<String>), SiteError> {
    let mounted = claims::mounted(site.client(), namespace, name).await?;
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    let shared = modes.iter().any(|mode| mode == "ReadWriteMany");
    Ok((mounted.node.filter(|_| !shared), mounted.tolerations, mounted.pods))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_made_has_room_for_what_was_captured() {
        assert_eq!(large_enough("1Gi", 1 << 20), "1Gi");
        assert_eq!(large_enough("1Mi", 10 << 20), ((10 << 20) + (1 << 20)).to_string());
        let shape = ClaimShape { size: "1Mi".into(), ..ClaimShape::default() };
        let refused = check_size("data", &shape, 5 << 20).unwrap_err().to_string();
        assert!(refused.contains("has 1Mi and the restore point needs 5 MiB"), "{refused}");
        check_size("data", &shape, 1 << 20).unwrap();
        let needs = Needs { bytes: 1, restore_size: Some("2Gi".into()) };
        assert_eq!(needs.at_least("1Gi"), "2Gi");
        assert_eq!(needs.at_least("3Gi"), "3Gi");
    }
}
