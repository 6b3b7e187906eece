//! Captures of several policies into one repository, and prunes of it, against the real API server.

use jiff::Timestamp;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use mainstay::engine::kubernetes::lease::{Leases, PodIdentity};

use crate::{
    cluster::{Namespace, kubectl},
    peers::succeed,
};

const LEASE: &str = "prune-0a1b2c3d";

async fn client() -> Client {
    let config = succeed(kubectl().args(["config", "view", "--raw", "--minify", "-o", "yaml"]));
    let config = Kubeconfig::from_yaml(&config).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn pod(namespace: &Namespace, name: &str) -> PodIdentity {
    let container = "{name: main, image: \"databases:test\", command: [sleep, infinity]}";
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, \
         spec: {{terminationGracePeriodSeconds: 0, containers: [{container}]}}}}"
    ));
    namespace.wait(&format!("pod/{name}"), "condition=Ready");
    let field = |path: &str| namespace.field(&format!("pod/{name}"), path);
    PodIdentity { namespace: field("{.metadata.namespace}"), name: name.to_owned(), uid: field("{.metadata.uid}") }
}

#[test]
fn captures_go_side_by_side_and_exclude_a_prune_as_long_as_their_pods_live() {
    let namespace = Namespace::new("points-captures");
    let [one, two, pruner] = ["one", "two", "pruner"].map(|name| pod(&namespace, name));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let leases = Leases::new(client().await, "points-captures");
        let now = Timestamp::now;
        leases.enter(LEASE, &one, now()).await.unwrap().unwrap();
        leases.enter(LEASE, &two, now()).await.unwrap().unwrap();
        leases.leave(LEASE, &one, now()).await.unwrap();
        let refused = leases.take_alone(LEASE, &pruner, now()).await.unwrap();
        assert_eq!(refused.err(), Some(two));
        // It leaves without a word.
        succeed(namespace.kubectl().args(["delete", "pod/two", "--force", "--grace-period=0"]));
        let held = leases.take_alone(LEASE, &pruner, now()).await.unwrap().expect("nobody captures");
        assert_eq!(leases.enter(LEASE, &one, now()).await.unwrap(), Err(pruner.clone()));
        held.release().await.unwrap();
        leases.enter(LEASE, &one, now()).await.unwrap().unwrap();
        leases.leave(LEASE, &one, now()).await.unwrap();
        let held = leases.take_alone(LEASE, &pruner, now()).await.unwrap().expect("nobody captures");
        // So does the one that prunes.
        succeed(namespace.kubectl().args(["delete", "pod/pruner", "--force", "--grace-period=0"]));
        leases.enter(LEASE, &one, now()).await.unwrap().unwrap();
        drop(held);
    });
}
