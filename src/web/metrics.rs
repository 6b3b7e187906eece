//! The metrics. Those of policies are read from the observation after each turn; those of the daemon count by themselves.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    actual::{ActualPolicy, ActualState},
    forge::usage::{Ending, Usage},
    plan::Plan,
    policy::PolicyName,
    run::Phase,
};

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    policy: String,
}

/// The repository on the forge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepositoryLabel {
    repository: String,
}

/// How a turn, a look or a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

type PolicyGauge = Family<PolicyLabel, Gauge<f64, AtomicU64>>;

/// All counters and gauges.
pub struct Metrics {
    registry: Registry,
    turns: Family<ResultLabel, Counter>,
    turn_seconds: Gauge<f64, AtomicU64>,
    plan_seconds: Gauge<f64, AtomicU64>,
    git_errors: Counter,
    refusals: Gauge,
    losses: Gauge,
    findings: Gauge,
    forge_looks: Family<ResultLabel, Counter>,
    forge_requests: Family<ResultLabel, Counter>,
    forge_left: Family<RepositoryLabel, Gauge>,
    forge_open: Family<RepositoryLabel, Gauge>,
    runs: Family<RunLabel, Counter>,
    run_seconds: PolicyGauge,
    run_bytes: PolicyGauge,
    run_added_bytes: PolicyGauge,
    last_success: PolicyGauge,
    restore_points: PolicyGauge,
    restore_point_bytes: PolicyGauge,
    failed_checks: PolicyGauge,
    /// What the gauges of policies say. Those that are still the same are not touched: ten thousand are usual.
    observed: BTreeMap<PolicyName, Arc<ActualPolicy>>,
}

/// How the runs of a policy ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabel {
    policy: String,
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mainstay");
        let mut metrics = Self {
            turns: Family::default(),
            turn_seconds: Gauge::default(),
            plan_seconds: Gauge::default(),
            git_errors: Counter::default(),
            refusals: Gauge::default(),
            losses: Gauge::default(),
            findings: Gauge::default(),
            forge_looks: Family::default(),
            forge_requests: Family::default(),
            forge_left: Family::default(),
            forge_open: Family::default(),
            runs: Family::default(),
            run_seconds: Family::default(),
            run_bytes: Family::default(),
            run_added_bytes: Family::default(),
            last_success: Family::default(),
            restore_points: Family::default(),
            restore_point_bytes: Family::default(),
            failed_checks: Family::default(),
            observed: BTreeMap::new(),
            registry: Registry::default(),
        };
        registry.register("turns", "Turns, by how they ended", metrics.turns.clone());
        registry.register_with_unit(
            "turn_duration",
            "How long the last turn took",
            Unit::Seconds,
            metrics.turn_seconds.clone(),
        );
        registry.register_with_unit(
            "plan_duration",
            "How long the last turn took until its plan was made",
            Unit::Seconds,
            metrics.plan_seconds.clone(),
        );
        registry.register("git_errors", "Fetches and pushes that did not go through", metrics.git_errors.clone());
        registry.register("plan_refusals", "Changes that a safety rail refuses now", metrics.refusals.clone());
        registry.register("plan_losses", "Restore points that the plan would lose now", metrics.losses.clone());
        registry.register("document_findings", "Findings in the documents now", metrics.findings.clone());
        registry.register("forge_looks", "Looks at the forge, by how they ended", metrics.forge_looks.clone());
        registry.register("forge_requests", "Requests to the forge, by how they ended", metrics.forge_requests.clone());
        registry.register(
            "forge_rate_limit_remaining",
            "How many more requests the forge takes for now, as it said last",
            metrics.forge_left.clone(),
        );
        registry.register(
            "forge_open_change_requests",
            "Change requests that are open for the watched branch",
            metrics.forge_open.clone(),
        );
        registry.register("runs", "Ended runs since the daemon started", metrics.runs.clone());
        registry.register_with_unit(
            "run_duration",
            "How long the last ended run took",
            Unit::Seconds,
            metrics.run_seconds.clone(),
        );
        registry.register_with_unit(
            "run_size",
            "What the last good run captured",
            Unit::Bytes,
            metrics.run_bytes.clone(),
        );
        registry.register_with_unit(
            "run_added",
            "What the last good run added to its repositories",
            Unit::Bytes,
            metrics.run_added_bytes.clone(),
        );
        registry.register_with_unit(
            "run_last_success_timestamp",
            "When a run last succeeded, as Unix time",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register("restore_points", "Restore points", metrics.restore_points.clone());
        registry.register_with_unit(
            "restore_points_size",
            "What restoring each restore point would write, summed up",
            Unit::Bytes,
            metrics.restore_point_bytes.clone(),
        );
        registry.register(
            "failed_checks",
            "Repositories of each policy that did not pass their newest check",
            metrics.failed_checks.clone(),
        );
        metrics.registry = registry;
        metrics
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// A turn ended; `seconds` is how long it took.
    pub fn turn_ended(&self, good: bool, seconds: f64) {
        self.turns.get_or_create(&ResultLabel { result: if good { "success" } else { "failure" } }).inc();
        self.turn_seconds.set(seconds);
    }

    /// A fetch or push did not go through.
    pub fn git_failed(&self) {
        self.git_errors.inc();
    }

    /// There was a look at the forge, which has this repository and so many open change requests.
    pub fn forge_looked(&self, repository: &str, is_good: bool, open: usize, usage: &Usage) {
        let result = if is_good { "success" } else { "failure" };
        self.forge_looks.get_or_create(&ResultLabel { result }).inc();
        for (ending, count) in Ending::ALL.into_iter().zip(usage.requests) {
            self.forge_requests.get_or_create(&ResultLabel { result: ending.text() }).inc_by(count);
        }
        let label = RepositoryLabel { repository: repository.to_owned() };
        self.forge_open.get_or_create(&label).set(open as i64);
        match usage.left {
            Some(left) => {
                self.forge_left.get_or_create(&label).set(i64::try_from(left).unwrap_or(i64::MAX));
            }
            None => {
                self.forge_left.remove(&label);
            }
        }
    }

    /// No forge is looked at any more.
    pub fn forge_left_alone(&self) {
        self.forge_left.clear();
        self.forge_open.clear();
    }

    /// A run ended.
    pub fn run_ended(&self, policy: &str, good: bool) {
        let result = if good { "success" } else { "failure" };
        self.runs.get_or_create(&RunLabel { policy: policy.to_owned(), result }).inc();
    }

    /// What the plan and the documents say now; `seconds` is how long it took to know.
    pub fn planned(&self, plan: &Plan, findings: usize, seconds: f64) {
        self.plan_seconds.set(seconds);
        self.refusals.set(plan.refusals.len() as i64);
        self.losses.set(plan.losses.len() as i64);
        self.findings.set(findings as i64);
    }

    /// What the engine has now. Policies that are gone disappear.
    pub fn observed(&mut self, actual: ActualState) {
        let before = std::mem::replace(&mut self.observed, actual.policies);
        for name in before.keys().filter(|name| !self.observed.contains_key(name)) {
            self.forget(name);
        }
        for (name, policy) in &self.observed {
            if before.get(name).is_some_and(|before| Arc::ptr_eq(before, policy)) {
                continue;
            }
            self.forget(name);
            self.show(name, policy);
        }
    }

    fn forget(&self, name: &PolicyName) {
        let label = PolicyLabel { policy: name.to_string() };
        for family in [
            &self.run_seconds,
            &self.run_bytes,
            &self.run_added_bytes,
            &self.last_success,
            &self.restore_points,
            &self.restore_point_bytes,
            &self.failed_checks,
        ] {
            family.remove(&label);
        }
    }

    fn show(&self, name: &PolicyName, policy: &ActualPolicy) {
        let label = PolicyLabel { policy: name.to_string() };
        self.restore_points.get_or_create(&label).set(policy.inventory.points.len() as f64);
        let bytes: u64 = policy.inventory.points.iter().map(|point| point.size_bytes).sum();
        self.restore_point_bytes.get_or_create(&label).set(bytes as f64);
        self.failed_checks.get_or_create(&label).set(policy.failed_checks.len() as f64);
        if let Some(time) = policy.last_success {
            self.last_success.get_or_create(&label).set(time.as_second() as f64);
        }
        if let Some(run) = &policy.last_run
            && let Some(finished) = run.finished_at
        {
            let seconds = finished.duration_since(run.started_at).as_secs_f64();
            self.run_seconds.get_or_create(&label).set(seconds);
            if run.phase == Phase::Succeeded {
                let size: u64 = run.sources.iter().map(|source| source.size_bytes).sum();
                let added: u64 = run.sources.iter().map(|source| source.added_bytes).sum();
                self.run_bytes.get_or_create(&label).set(size as f64);
                self.run_added_bytes.get_or_create(&label).set(added as f64);
            }
        }
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// A metric cannot be written as text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore_point::Inventory;

    fn policy(points: u64, last_success: Option<&str>) -> Arc<ActualPolicy> {
        let observed_at = jiff::Timestamp::UNIX_EPOCH;
        let points = (0..points).map(|number| crate::restore_point::RestorePoint {
            id: crate::restore_point::RestorePointId(number.to_string()),
            time: observed_at,
            size_bytes: 1,
            verified_at: None,
            held: false,
            found: false,
            missing_since: None,
            expired_since: None,
            parts: Vec::new(),
        });
        Arc::new(ActualPolicy {
            compiled: None,
            schedule: None,
            inventory: Inventory { observed_at, complete: true, points: points.collect() },
            last_run: None,
            last_success: last_success.map(|time| time.parse().unwrap()),
            running: None,
            drift: None,
            failed_checks: Vec::new(),
        })
    }

    #[test]
    fn the_metrics_say_what_the_forge_was_asked() {
        let metrics = Metrics::default();
        let usage = Usage { requests: [5, 1, 0, 2], left: Some(4_990) };
        metrics.forge_looked("https://git.example.org/ada/backups", true, 3, &usage);
        metrics.forge_looked("https://git.example.org/ada/backups", false, 3, &usage);
        let text = metrics.text().unwrap();
        for line in [
            "mainstay_forge_looks_total{result=\"failure\"} 1",
            "mainstay_forge_requests_total{result=\"success\"} 10",
            "mainstay_forge_requests_total{result=\"limited\"} 0",
            "mainstay_forge_requests_total{result=\"failure\"} 4",
            "mainstay_forge_rate_limit_remaining{repository=\"https://git.example.org/ada/backups\"} 4990",
            "mainstay_forge_open_change_requests{repository=\"https://git.example.org/ada/backups\"} 3",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        metrics.forge_left_alone();
        let text = metrics.text().unwrap();
        assert!(!text.contains("git.example.org") && text.contains("mainstay_forge_looks_total"), "{text}");
    }

    #[test]
    fn the_metrics_say_what_was_observed_last() {
        let state = |policies: &[(&str, &Arc<ActualPolicy>)]| ActualState {
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            complete: true,
            policies: policies.iter().map(|(name, policy)| (name.parse().unwrap(), Arc::clone(policy))).collect(),
            restores: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        let (one, two) = (policy(1, None), policy(2, Some("2026-11-21T12:00:00Z")));
        let mut kept = Metrics::default();
        for policies in [
            &[("a/x", &one), ("a/y", &two)][..],
            &[("a/x", &two), ("a/y", &two)],
            &[("a/x", &one), ("a/z", &two)],
            &[],
            &[("a/x", &one)],
        ] {
            kept.observed(state(policies));
            let mut fresh = Metrics::default();
            fresh.observed(state(policies));
            let lines = |metrics: &Metrics| {
                let mut lines: Vec<String> = metrics.text().unwrap().lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(lines(&kept), lines(&fresh), "after {} policies", policies.len());
        }
    }
}
