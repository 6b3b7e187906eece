//! What `deploy/` ships and no cluster is needed to check: alerts and the dashboard ask for metrics that there are.

use std::{collections::BTreeSet, fs, path::Path};

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is registered, as Prometheus names it: the unit and `_total` come behind the name.
fn metrics() -> BTreeSet<String> {
    let source = text("src/web/metrics.rs");
    let mut names = BTreeSet::new();
    for piece in source.split("registry.register").skip(1) {
        let name = piece.split('"').nth(1).expect("a name");
        let until = piece.split(';').next().expect("an end");
        let unit = until.split("Unit::").nth(1).map(|rest| rest.split(',').next().expect("a unit").to_lowercase());
        names.extend(match unit {
            Some(unit) => vec![format!("mainstay_{name}_{unit}")],
            None => vec![format!("mainstay_{name}"), format!("mainstay_{name}_total")],
        });
    }
    names
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let known = metrics();
    assert!(known.contains("mainstay_runs_total") && known.contains("mainstay_run_duration_seconds"), "{known:?}");
    for path in ["deploy/kustomize/monitoring/prometheus.yaml", "deploy/kustomize/monitoring/mainstay.json"] {
        let text = text(path);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("mainstay_")).collect();
        assert!(!asked.is_empty());
        for name in asked {
            assert!(known.contains(name), "{path} asks for {name}, which there is not: {known:?}");
        }
    }
}

#[test]
fn both_installations_have_the_same_dashboard() {
    assert_eq!(text("deploy/helm/mainstay/dashboard.json"), text("deploy/kustomize/monitoring/mainstay.json"));
    serde_json::from_str::<serde_json::Value>(&text("deploy/helm/mainstay/dashboard.json")).expect("JSON");
}

/// Wherever the version stands, it is that of the program.
#[test]
fn the_version_is_that_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        ("deploy/helm/mainstay/Chart.yaml", format!("version: {version}\nappVersion: {version}\n")),
        ("deploy/kustomize/base/daemon.yaml", format!("image: mainstay:{version}\n")),
        ("deploy/kustomize/base/daemon.yaml", format!("value: \"mainstay:{version}\"}}\n")),
        ("deploy/kustomize/example/daemon.yaml", format!("mainstay:{version} # yours\n")),
    ] {
        assert!(text(path).contains(&line), "{path} does not say {line}");
    }
}
