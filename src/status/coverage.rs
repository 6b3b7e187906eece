//! Coverage: volumes and databases that an engine sees and no applied policy protects.
//!
//! Pure. The annotation `mainstay.dev/ignore` on a claim or a workload says that it need not be: a cache, for instance.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{
    CompiledPolicy,
    document::source::{Source, Volumes},
};

/// What the names of services of a database have behind that of its workload.
const SERVICES: [&str; 6] = ["-rw", "-primary", "-headless", "-hl", "-svc", "-service"];

/// What there is to protect, as an engine sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Database servers.
    pub databases: Vec<DatabaseServer>,
    /// Namespaces that could not be looked into, and why.
    pub unseen: BTreeMap<String, String>,
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The workloads that mount it, as `Deployment/NAME`.
    pub workloads: BTreeSet<String>,
    /// Whether somebody said that it need not be protected.
    pub is_ignored: bool,
}

/// A workload that runs a database server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseServer {
    /// Where it is.
    pub namespace: String,
    /// As `StatefulSet/NAME`.
    pub workload: String,
    /// What it is, such as `PostgreSQL`.
    pub program: &'static str,
    /// Whether somebody said that it need not be protected.
    pub is_ignored: bool,
}

/// What no policy protects, one a line, and what could not be seen.
pub fn uncovered<'a>(sight: &Sight, policies: impl IntoIterator<Item = &'a CompiledPolicy>) -> Vec<String> {
    let mut sources: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for policy in policies {
        sources.entry(policy.name.namespace()).or_default().extend(&policy.document.spec.sources);
    }
    let of = |namespace: &str| sources.get(namespace).map_or(&[][..], Vec::as_slice);
    let means = |volume: &Volume| of(&volume.namespace).iter().any(|source| captures(source, volume));
    let all = || sources.iter().flat_map(|(namespace, sources)| sources.iter().map(|source| (*namespace, *source)));
    let dumps = |server: &DatabaseServer| all().any(|(namespace, source)| reaches(namespace, source, server));

    let servers = |volume: &Volume| {
        let of_server = |server: &&DatabaseServer| {
            server.namespace == volume.namespace && volume.workloads.contains(&server.workload)
        };
        sight.databases.iter().find(of_server)
    };
    // What a dump brings back need not be copied, and where it is missing, it is told of the server.
    let is_bare = |volume: &&Volume| !volume.is_ignored && !means(volume) && servers(volume).is_none();
    let volumes = sight.volumes.iter().filter(is_bare);
    let volumes = volumes.map(|volume| format!("volume {}/{}{}", volume.namespace, volume.claim, users(volume)));
    let is_copied = |server: &DatabaseServer| {
        let mut own = sight.volumes.iter().filter(|volume| {
            volume.namespace == server.namespace && volume.workloads.contains(&server.workload) && !volume.is_ignored
        });
        own.clone().next().is_some() && own.all(means)
    };
    let databases = sight
        .databases
        .iter()
        .filter(|server| !server.is_ignored && !dumps(server) && !is_copied(server))
        .map(|server| format!("{} in {}/{}", server.program, server.namespace, server.workload));
    let unseen =
        sight.unseen.iter().map(|(namespace, why)| format!("namespace {namespace} cannot be looked into: {why}"));
    let mut lines: Vec<String> = volumes.chain(databases).collect();
    lines.sort();
    lines.extend(unseen);
    lines
}

fn users(volume: &Volume) -> String {
    let users: Vec<&str> = volume.workloads.iter().map(String::as_str).collect();
    if users.is_empty() { String::new() } else { format!(" (mounted by {})", users.join(", ")) }
}

/// Whether a source copies a claim.
fn captures(source: &Source, volume: &Volume) -> bool {
    let Some(volumes) = &source.volumes else { return false };
    let Volumes { claims, selector, workload, workloads, snapshot_class: _ } = volumes.as_ref();
    let is_selected = selector
        .as_ref()
        .is_some_and(|selector| selector.iter().all(|(label, value)| volume.labels.get(label) == Some(value)));
    let mut named = workload.iter().chain(workloads);
    claims.contains(&volume.claim) || is_selected || named.any(|workload| is_one_of(&volume.workloads, workload))
}

/// Documents write the kind of a workload in any case.
fn is_one_of(workloads: &BTreeSet<String>, named: &str) -> bool {
    workloads.iter().any(|workload| is_same(workload, named))
}

fn is_same(workload: &str, named: &str) -> bool {
    match (workload.split_once('/'), named.split_once('/')) {
        (Some((kind, name)), Some((named_kind, named))) => kind.eq_ignore_ascii_case(named_kind) && name == named,
        _ => false,
    }
}

/// Whether a source of a policy in `namespace` dumps a server: its host is the name of the workload, of one of its pods, or
/// of a service as they usually are.
fn reaches(namespace: &str, source: &Source, server: &DatabaseServer) -> bool {
    let hosts = [&source.postgres, &source.mysql, &source.mariadb];
    let hosts = hosts.into_iter().flatten().filter_map(|database| database.host.as_deref());
    let nodes = source.galera.iter().flat_map(|galera| &galera.nodes).map(String::as_str);
    let Some((_, workload)) = server.workload.split_once('/') else { return false };
    let is_its = |host: &str| {
        let host = host.split(':').next().unwrap_or_default();
        let (name, domain) = host.split_once('.').map_or((host, None), |(name, domain)| (name, Some(domain)));
        let is_there = match domain {
            None => namespace == server.namespace,
            Some(domain) => domain.split('.').any(|part| part == server.namespace),
        };
        let is_pod = |rest: &str| rest.strip_prefix('-').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let rest = name.strip_prefix(workload);
        is_there && rest.is_some_and(|rest| rest.is_empty() || SERVICES.contains(&rest) || is_pod(rest))
    };
    hosts.chain(nodes).any(is_its)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::DesiredState,
        policy::{EngineKind, load},
    };

    fn desired(sources: &str) -> DesiredState {
        let text = format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: store}}\nspec:\n  s3: {{endpoint: \
             \"https://s3.example.org\", bucket: b, accessKeyId: {{secret: s, key: a}}, secretAccessKey: {{secret: s, key: b}}}}\n  \
             password: {{secret: s, key: p}}\n---\napiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: \
             nightly, namespace: shop}}\nspec:\n  repositories: [store]\n  sources: [{sources}]\n"
        );
        let content = load::FileContent { bytes: text.into_bytes(), blob: None };
        let files = BTreeMap::from([("backup.yaml".into(), content)]);
        let loaded = load::load(&files, EngineKind::Kubernetes, &mut load::ParseCache::default());
        assert_eq!(loaded.desired.policies.len(), 1, "{sources}: {:?}", loaded.diagnostics);
        loaded.desired
    }

    fn volume(claim: &str, workloads: &[&str]) -> Volume {
        Volume {
            namespace: "shop".to_owned(),
            claim: claim.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), claim.to_owned())]),
            workloads: workloads.iter().map(|workload| (*workload).to_owned()).collect(),
            is_ignored: false,
        }
    }

    fn sight() -> Sight {
        let server = DatabaseServer {
            namespace: "shop".to_owned(),
            workload: "StatefulSet/shop-db".to_owned(),
            program: "MariaDB",
            is_ignored: false,
        };
        Sight {
            volumes: vec![
                volume("uploads", &["Deployment/shop"]),
                volume("data-shop-db-0", &["StatefulSet/shop-db"]),
                volume("old", &[]),
            ],
            databases: vec![server],
            unseen: BTreeMap::new(),
        }
    }

    const UPLOADS: &str = "volume shop/uploads (mounted by Deployment/shop)";
    const OLD: &str = "volume shop/old";
    const SERVER: &str = "MariaDB in shop/StatefulSet/shop-db";

    #[test]
    fn what_a_source_names_is_covered_and_nothing_else() {
        let dump = |host: &str| {
            format!(
                "{{name: db, mariadb: {{host: {host}, databases: [shop], user: b, password: {{secret: s, key: p}}, image: m}}}}"
            )
        };
        for (sources, expected) in [
            ("{name: a, volumes: {claims: [uploads]}}".to_owned(), &[SERVER, OLD][..]),
            ("{name: a, volumes: {workload: deployment/shop}}".to_owned(), &[SERVER, OLD]),
            ("{name: a, volumes: {selector: {app: old}}}".to_owned(), &[SERVER, UPLOADS]),
            // The files of a server count as its copy.
            ("{name: a, volumes: {claims: [data-shop-db-0, uploads, old]}}".to_owned(), &[]),
            (dump("shop-db"), &[OLD, UPLOADS]),
            (dump("shop-db-0.shop-db.shop.svc"), &[OLD, UPLOADS]),
            (dump("shop-db-primary.shop"), &[OLD, UPLOADS]),
            (dump("shop-db.elsewhere.svc"), &[SERVER, OLD, UPLOADS]),
            (dump("shop-db-of-others"), &[SERVER, OLD, UPLOADS]),
        ] {
            let desired = desired(&sources);
            let compiled: Vec<CompiledPolicy> =
                desired.policies.values().map(|policy| policy.compile(&desired.settings, None)).collect();
            assert_eq!(uncovered(&sight(), &compiled), expected, "{sources}");
        }
    }

    #[test]
    fn what_is_ignored_is_not_listed_and_what_cannot_be_seen_is() {
        let mut sight = sight();
        sight.volumes.iter_mut().for_each(|volume| volume.is_ignored = true);
        sight.databases[0].is_ignored = true;
        sight.unseen.insert("prod".to_owned(), "forbidden".to_owned());
        assert_eq!(uncovered(&sight, []), ["namespace prod cannot be looked into: forbidden"]);
    }
}
