//! The chart and the kustomization are the same installation.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use crate::{
    cluster::kubectl,
    peers::{Peers, said, succeed},
};

fn deploy(below: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(below)
}

/// By kind, namespace and name; without the labels that tell which tool installed them.
fn objects(manifests: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(manifests) {
        let mut object: Value = serde::Deserialize::deserialize(document).expect("an object");
        if object.is_null() {
            continue;
        }
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            for label in [
                "app.kubernetes.io/instance",
                "app.kubernetes.io/version",
                "app.kubernetes.io/managed-by",
                "helm.sh/chart",
            ] {
                labels.remove(label);
            }
        }
        let metadata = &object["metadata"];
        let name = format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"]);
        assert!(all.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    all
}

#[test]
fn the_chart_renders_what_the_kustomization_renders() {
    let kustomize = succeed(kubectl().arg("kustomize").arg(deploy("kustomize/example")));
    let (kustomize, chart) = (objects(&kustomize), objects(&chart(&[])));
    assert_eq!(kustomize.keys().collect::<Vec<_>>(), chart.keys().collect::<Vec<_>>());
    for (name, object) in &kustomize {
        let (mut one, mut other) = (object.clone(), chart[name].clone());
        sort_environment(&mut one);
        sort_environment(&mut other);
        assert_eq!(one, other, "{name}");
    }
}

#[test]
fn the_right_to_restore_across_namespaces_is_the_same_in_both() {
    let kustomize = objects(&succeed(kubectl().arg("kustomize").arg(deploy("kustomize/across"))));
    let without = objects(&chart(&[]));
    let mut chart = objects(&chart(&["--set=restoreAcrossNamespaces=true"]));
    chart.retain(|name, _| !without.contains_key(name));
    assert_eq!(kustomize, chart);
}

/// The chart, with the values that the example of the kustomization has.
fn chart(further: &[&str]) -> String {
    succeed(
        Command::new(Peers::helm())
            .args(["template", "mainstay"])
            .arg(deploy("helm/mainstay"))
            .args(["--namespace=mainstay-system", "--set=image.repository=registry.example.org/mainstay"])
            .args(["--set=git.url=https://git.example.org/backups.git", "--set=namespaces={shop}"])
            .args(["--set=git.secret=mainstay-git", "--set=git.tokenKey=token"])
            .args(["--set=serviceMonitor.enabled=true", "--set=prometheusRule.enabled=true"])
            .arg("--set=dashboard.enabled=true")
            .args(further),
    )
}

/// A patch of kustomize puts what it adds first; the order is of no consequence.
fn sort_environment(object: &mut Value) {
    for list in ["/env", "/volumeMounts"] {
        let path = format!("/spec/template/spec/containers/0{list}");
        if let Some(list) = object.pointer_mut(&path).and_then(Value::as_array_mut) {
            list.sort_by_key(|item| item["name"].to_string());
        }
    }
    if let Some(list) = object.pointer_mut("/spec/template/spec/volumes").and_then(Value::as_array_mut) {
        list.sort_by_key(|item| item["name"].to_string());
    }
}

#[test]
fn helm_finds_no_fault_and_wrong_values_are_refused() {
    let lint = ["lint", "--strict", "--set=git.url=https://git.example.org/backups.git", "--set=namespaces={shop,db}"];
    succeed(Command::new(Peers::helm()).args(lint).arg(deploy("helm/mainstay")));
    for (values, why) in [
        (vec![], "git.url names the git repository"),
        (vec!["--set=git.url=https://x", "--set=namespace={shop}"], "namespace"),
        (vec!["--set=git.url=https://x", "--set=image.tag=latest"], "tag"),
        (vec!["--set=git.url=https://x", "--set=namespaces={Shop}"], "namespaces"),
    ] {
        let output = Command::new(Peers::helm())
            .args(["template", "mainstay"])
            .arg(deploy("helm/mainstay"))
            .args(&values)
            .output();
        let output = output.expect("helm");
        assert!(!output.status.success() && said(&output).contains(why), "{values:?}: {}", said(&output));
    }
}
