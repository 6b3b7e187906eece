//! What there is to protect in the namespaces of the policies: claims, who mounts them, and servers of databases.
//!
//! Listed seldom, and only in a turn: it is for the dashboard, and nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{PersistentVolumeClaim, PodSpec},
};
use kube::{
    Api, Client,
    api::ListParams,
    core::{NamespaceResourceScope, ObjectMeta, Resource},
};
use serde::de::DeserializeOwned;

use super::{
    labels::{IGNORE, MAINSTAY, MANAGED_BY},
    runner::claims::{is_of_template, is_temporary, mounted_by},
    store::is_for_a_person,
};
use crate::status::coverage::{DatabaseServer, Sight, Volume};

/// How long what was seen counts.
const LASTS: SignedDuration = SignedDuration::from_mins(10);
/// How long a look may take.
const LOOK_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Namespaces that are looked into.
const NAMESPACES_LIMIT: usize = 200;
/// Objects of one kind in one namespace that are looked at.
const OBJECTS_LIMIT: u32 = 5_000;
/// Images of database servers, by the last part of their names, and what they are.
const SERVERS: [(&str, &str); 13] = [
    ("postgres", "PostgreSQL"),
    ("postgresql", "PostgreSQL"),
    ("postgis", "PostgreSQL"),
    ("pgvector", "PostgreSQL"),
    ("timescaledb", "PostgreSQL"),
    ("mariadb", "MariaDB"),
    ("mariadb-galera", "MariaDB"),
    ("mysql", "MySQL"),
    ("mysql-server", "MySQL"),
    ("percona-server", "MySQL"),
    ("percona-xtradb-cluster", "MySQL"),
    ("mongo", "MongoDB"),
    ("mongodb", "MongoDB"),
];

/// What was seen last, and where.
#[derive(Debug)]
pub struct Seen {
    at: Timestamp,
    namespaces: BTreeSet<String>,
    /// What it was.
    pub sight: std::sync::Arc<Sight>,
}

impl Seen {
    /// Whether it still counts for these namespaces.
    pub fn holds(&self, namespaces: &BTreeSet<String>, now: Timestamp) -> bool {
        self.namespaces == *namespaces && now.duration_since(self.at).abs() < LASTS
    }
}

/// Looks into these namespaces. None: the API server does not answer now.
pub async fn look(client: &Client, namespaces: BTreeSet<String>, now: Timestamp) -> Option<Seen> {
    // A turn does not wait for what is only told.
    tokio::time::timeout(LOOK_LIMIT, look_into(client, namespaces, now)).await.ok().flatten()
}

async fn look_into(client: &Client, namespaces: BTreeSet<String>, now: Timestamp) -> Option<Seen> {
    let mut sight = Sight::default();
    for namespace in namespaces.iter().take(NAMESPACES_LIMIT) {
        match objects(client, namespace).await {
            Ok(objects) => {
                let (volumes, databases) = protectable(namespace, &objects);
                sight.volumes.extend(volumes);
                sight.databases.extend(databases);
            }
            Err(error) if is_for_a_person(&error) => {
                let why = "Mainstay's service account may not list claims and workloads there".to_owned();
                sight.unseen.insert(namespace.clone(), why);
            }
            Err(error) => {
                tracing::debug!(namespace, reason = crate::engine::chain(&error), "coverage is not known now");
                return None;
            }
        }
    }
    for namespace in namespaces.iter().skip(NAMESPACES_LIMIT) {
        sight.unseen.insert(namespace.clone(), format!("more than {NAMESPACES_LIMIT} namespaces"));
    }
    Some(Seen { at: now, namespaces, sight: std::sync::Arc::new(sight) })
}

/// The objects of one namespace that matter.
#[derive(Debug, Default)]
struct Objects {
    claims: Vec<PersistentVolumeClaim>,
    deployments: Vec<Deployment>,
    sets: Vec<StatefulSet>,
}

async fn objects(client: &Client, namespace: &str) -> Result<Objects, kube::Error> {
    Ok(Objects {
        claims: list(client, namespace).await?,
        deployments: list(client, namespace).await?,
        sets: list(client, namespace).await?,
    })
}

async fn list<K>(client: &Client, namespace: &str) -> Result<Vec<K>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    // From the API server's own memory; what was made in this second is seen the next time.
    let parameters = ListParams::default().match_any().limit(OBJECTS_LIMIT);
    Ok(api.list(&parameters).await?.items)
}

/// Volumes and servers in the objects of a namespace. Pure.
fn protectable(namespace: &str, objects: &Objects) -> (Vec<Volume>, Vec<DatabaseServer>) {
    let Objects { claims, deployments, sets } = objects;
    let mut workloads: Vec<(String, &ObjectMeta, &PodSpec, Vec<&str>)> = Vec::new();
    for deployment in deployments {
        let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        if let (Some(name), Some(pod)) = (&deployment.metadata.name, pod) {
            workloads.push((format!("Deployment/{name}"), &deployment.metadata, pod, Vec::new()));
        }
    }
    for set in sets {
        let Some(spec) = &set.spec else { continue };
        let templates = spec.volume_claim_templates.iter().flatten();
        let templates = templates.filter_map(|template| template.metadata.name.as_deref()).collect();
        if let (Some(name), Some(pod)) = (&set.metadata.name, &spec.template.spec) {
            workloads.push((format!("StatefulSet/{name}"), &set.metadata, pod, templates));
        }
    }
    let is_mounted = |claim: &str, (text, _, pod, templates): &(String, &ObjectMeta, &PodSpec, Vec<&str>)| {
        let set = text.split_once('/').map_or("", |(_, name)| name);
        mounted_by(pod).any(|mounted| mounted == claim)
            || templates.iter().any(|template| is_of_template(claim, template, set))
    };
    let volumes = claims.iter().filter(|claim| !is_temporary(claim) && !is_ours(&claim.metadata)).filter_map(|claim| {
        let name = claim.metadata.name.clone()?;
        let users = workloads.iter().filter(|workload| is_mounted(&name, workload));
        Some(Volume {
            namespace: namespace.to_owned(),
            labels: claim.metadata.labels.clone().unwrap_or_default(),
            workloads: users.map(|(text, ..)| text.clone()).collect(),
            is_ignored: is_ignored(&claim.metadata),
            claim: name,
        })
    });
    let databases = workloads.iter().filter_map(|(text, metadata, pod, _)| {
        let images = pod.containers.iter().filter_map(|container| container.image.as_deref());
        Some(DatabaseServer {
            namespace: namespace.to_owned(),
            workload: text.clone(),
            program: images.filter_map(program).next()?,
            is_ignored: is_ignored(metadata),
        })
    });
    (volumes.collect(), databases.collect())
}

/// What an image serves; none: no database that is known here.
fn program(image: &str) -> Option<&'static str> {
    let name = image.rsplit('/').next()?.split(['@', ':']).next()?;
    SERVERS.iter().find(|(known, _)| *known == name).map(|(_, program)| *program)
}

fn is_ignored(metadata: &ObjectMeta) -> bool {
    let value = |annotations: &BTreeMap<String, String>| annotations.get(IGNORE).cloned();
    metadata.annotations.as_ref().and_then(value).is_some_and(|value| value != "false")
}

fn is_ours(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MAINSTAY))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(name: &str, metadata: Value) -> PersistentVolumeClaim {
        let mut all = json!({ "name": name });
        all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        serde_json::from_value(json!({ "metadata": all })).unwrap()
    }

    #[test]
    fn claims_know_who_mounts_them_and_servers_are_known_by_their_images() {
        let pod = |image: &str, claim: Option<&str>| {
            let volumes = claim.map(|claim| json!([{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }]));
            json!({ "spec": { "containers": [{ "name": "c", "image": image }], "volumes": volumes } })
        };
        let deployment = |name: &str, image: &str, claim: Option<&str>| -> Deployment {
            let spec = json!({ "selector": {}, "template": pod(image, claim) });
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
        };
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": { "name": "shop-db", "annotations": { "mainstay.dev/ignore": "a copy" } },
            "spec": {
                "serviceName": "shop-db", "selector": {},
                "template": pod("registry.example:5000/bitnami/mariadb:11@sha256:00", None),
                "volumeClaimTemplates": [{ "metadata": { "name": "data" } }],
            },
        }))
        .unwrap();
        let objects = Objects {
            claims: vec![
                claim("uploads", json!({ "labels": { "app": "shop" } })),
                claim("data-shop-db-0", json!({})),
                claim("data-shop-db-x", json!({ "annotations": { "mainstay.dev/ignore": "false" } })),
                claim("cache", json!({ "annotations": { "mainstay.dev/ignore": "" } })),
                claim("of-a-run", json!({ "labels": { "app.kubernetes.io/managed-by": "mainstay" } })),
            ],
            deployments: vec![
                deployment("shop", "shop:1", Some("uploads")),
                deployment("metrics", "prom/postgres-exporter", None),
                deployment("old", "postgres:16", None),
            ],
            sets: vec![set],
        };
        let (volumes, databases) = protectable("shop", &objects);
        let shown: Vec<String> = volumes
            .iter()
            .map(|volume| format!("{} {:?} {}", volume.claim, volume.workloads, volume.is_ignored))
            .collect();
        assert_eq!(
            shown,
            [
                "uploads {\"Deployment/shop\"} false",
                "data-shop-db-0 {\"StatefulSet/shop-db\"} false",
                "data-shop-db-x {} false",
                "cache {} true",
            ]
        );
        assert_eq!(volumes[0].labels["app"], "shop");
        let servers: Vec<(&str, &str, bool)> =
            databases.iter().map(|server| (server.workload.as_str(), server.program, server.is_ignored)).collect();
        assert_eq!(servers, [("Deployment/old", "PostgreSQL", false), ("StatefulSet/shop-db", "MariaDB", true)]);
    }

    #[test]
    fn what_was_seen_counts_for_a_while_and_for_the_same_namespaces() {
        let at = Timestamp::from_second(1_000_000).unwrap();
        let shop = BTreeSet::from(["shop".to_owned()]);
        let seen = Seen { at, namespaces: shop.clone(), sight: Default::default() };
        assert!(seen.holds(&shop, at + SignedDuration::from_mins(9)));
        assert!(!seen.holds(&shop, at + SignedDuration::from_mins(10)));
        assert!(!seen.holds(&BTreeSet::new(), at));
    }
}
