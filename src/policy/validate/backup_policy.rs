//! A BackupPolicy by itself: names, schedules, retention, hooks, limits.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::{
    CheckedDocument, CheckedPolicy, EngineKind, Findings, build, document_location, normalise, reference, source,
};
use crate::{
    policy::{
        PolicyContent, PolicyName,
        diagnostic::{Rule, did_you_mean},
        document::{
            BackupPolicyDocument, BackupPolicySpec, Metadata,
            backup_policy::{Consistency, Hook, Limits, Quiesce, Verify},
            quantity,
        },
        is_name,
    },
    schedule::Schedule,
};

/// Checks a policy.
pub fn check(findings: &mut Findings<'_>, mut document: BackupPolicyDocument) -> Option<CheckedDocument> {
    names(findings, &document.metadata);
    let spec = &document.spec;
    let time_zone = schedules(findings, spec);
    repositories(findings, spec);
    sources(findings, spec);
    consistency(findings, spec);
    for (list, hooks) in [("before", &spec.hooks.before), ("after", &spec.hooks.after)] {
        for (index, hook) in hooks.iter().enumerate() {
            check_hook(findings, &format!("/spec/hooks/{list}/{index}"), hook);
        }
    }
    retention(findings, spec);
    if let Some(cleanup) = &spec.cleanup {
        schedule(findings, "/spec/cleanup/schedule", &cleanup.schedule, &time_zone);
    }
    if let Some(verify) = &spec.verify {
        check_verify(findings, verify, &time_zone);
    }
    if let Some(limits) = &spec.limits {
        check_limits(findings, limits);
    }
    if let Some(objectives) = &spec.objectives {
        for (field, value) in [("rpo", objectives.rpo), ("rto", objectives.rto)] {
            not_zero(findings, &format!("/spec/objectives/{field}"), value.map(|value| value.seconds()));
        }
    }
    if spec.stagger.is_some() {
        reference::needs_kubernetes(findings, "/spec/stagger", "stagger", "there are no volumes on one host");
    }
    if !findings.is_empty() {
        return None;
    }
    normalise::policy(&mut document);
    let location = document_location(findings);
    let name = PolicyName::new(document.metadata.namespace.as_deref().unwrap_or("default"), &document.metadata.name);
    let places =
        (0..document.spec.repositories.len()).map(|index| findings.place(&format!("/spec/repositories/{index}")));
    let repositories = places.collect();
    match build::content(name, location, document).map(|content| on(content, findings.engine)) {
        Ok(content) => Some(CheckedDocument::Policy(Box::new(CheckedPolicy {
            policy: std::sync::Arc::new(content),
            name: findings.place("/metadata/name"),
            namespace: namespace_place(findings),
            repositories,
        }))),
        Err(error) => {
            // Everything that can fail here was looked at above; if that is ever not so, it is still a finding.
            findings.error(Rule::WrongValue, "/spec", error.to_string());
            None
        }
    }
}

/// With the times at which this engine starts it.
fn on(policy: PolicyContent, engine: EngineKind) -> PolicyContent {
    match engine {
        EngineKind::Local => policy,
        EngineKind::Kubernetes => policy.by_controller(),
    }
}

/// Checks the name and the namespace of any document.
pub fn names(findings: &mut Findings<'_>, metadata: &Metadata) {
    for (pointer, text) in
        [("/metadata/name", Some(&metadata.name)), ("/metadata/namespace", metadata.namespace.as_ref())]
    {
        if let Some(text) = text.filter(|text| !is_name(text)) {
            let finding =
                findings.error(Rule::Name, pointer, format!("`{}` is not a name", super::structure::shorten(text)));
            finding.hint = Some("use lower-case letters, digits and inner `-`, at most 52 characters".to_owned());
        }
    }
}

/// Where the namespace of a document stands; else the name.
pub fn namespace_place(findings: &Findings<'_>) -> super::Place {
    let pointer =
        if findings.root.find("/metadata/namespace").is_some() { "/metadata/namespace" } else { "/metadata/name" };
    findings.place(pointer)
}

/// Checks one cron expression. None: it is wrong, and the finding is made.
pub fn schedule(
    findings: &mut Findings<'_>,
    pointer: &str,
    expression: &str,
    time_zone: &TimeZone,
) -> Option<Schedule> {
    match Schedule::parse(expression, time_zone) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            let hint = "`mainstay schedule next EXPRESSION` shows when one comes".to_owned();
            findings.error(Rule::Schedule, pointer, error.to_string()).hint = Some(hint);
            None
        }
    }
}

fn schedules(findings: &mut Findings<'_>, spec: &BackupPolicySpec) -> TimeZone {
    let time_zone = match TimeZone::get(&spec.time_zone) {
        Ok(time_zone) => time_zone,
        Err(_) => {
            let known: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
            let hint = match did_you_mean(&spec.time_zone, known.iter().map(String::as_str)) {
                Some(name) => format!("did you mean `{name}`?"),
                None => "write the name of a zone as IANA has it, such as `Europe/Berlin`".to_owned(),
            };
            let message = format!("there is no time zone `{}`", super::structure::shorten(&spec.time_zone));
            findings.error(Rule::TimeZone, "/spec/timeZone", message).hint = Some(hint);
            TimeZone::UTC
        }
    };
    let many = findings.root.find("/spec/schedule/0").is_some();
    let expressions = spec.schedule.as_slice();
    if expressions.is_empty() {
        let hint = "leave `schedule` out for `0 2 * * *`; `suspend: true` pauses it".to_owned();
        findings.error_at_key(Rule::Empty, "/spec/schedule", "the list of schedules is empty").hint = Some(hint);
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (index, expression) in expressions.iter().enumerate() {
        let pointer = if many { format!("/spec/schedule/{index}") } else { "/spec/schedule".to_owned() };
        let Some(schedule) = schedule(findings, &pointer, expression, &time_zone) else { continue };
        if let Some(first) = seen.insert(schedule.normalised(), index) {
            let related = findings.place(&format!("/spec/schedule/{first}")).related("it stands here first");
            let finding =
                findings.error(Rule::DuplicateSchedule, &pointer, format!("`{expression}` is in the list twice"));
            finding.related = Some(related);
            finding.hint = Some("keep one of them".to_owned());
        }
    }
    time_zone
}

fn repositories(findings: &mut Findings<'_>, spec: &BackupPolicySpec) {
    if spec.repositories.is_empty() {
        let hint = "name at least one Repository document".to_owned();
        findings.error_at_key(Rule::Empty, "/spec/repositories", "the list of repositories is empty").hint = Some(hint);
    }
    for (index, name) in spec.repositories.iter().enumerate() {
        let pointer = format!("/spec/repositories/{index}");
        if let Some(first) = spec.repositories[..index].iter().position(|other| other == name) {
            let related = findings.place(&format!("/spec/repositories/{first}")).related("it stands here first");
            let finding =
                findings.error(Rule::DuplicateName, &pointer, format!("repository `{name}` is in the list twice"));
            finding.related = Some(related);
        }
    }
}

fn sources(findings: &mut Findings<'_>, spec: &BackupPolicySpec) {
    if spec.sources.is_empty() {
        let hint = "add what is to be protected, such as `- {name: files, paths: [/srv]}`".to_owned();
        findings.error_at_key(Rule::Empty, "/spec/sources", "the list of sources is empty").hint = Some(hint);
    }
    for (index, one) in spec.sources.iter().enumerate() {
        let pointer = format!("/spec/sources/{index}");
        if let Some(first) = spec.sources[..index].iter().position(|other| other.name == one.name) {
            let related = findings.place(&format!("/spec/sources/{first}/name")).related("it stands here first");
            let message = format!("two sources are called `{}`", one.name);
            let finding = findings.error(Rule::DuplicateName, &format!("{pointer}/name"), message);
            finding.related = Some(related);
            finding.hint = Some("give each source a name of its own: a restore chooses by it".to_owned());
        }
        source::check(findings, &pointer, one);
    }
}

fn consistency(findings: &mut Findings<'_>, spec: &BackupPolicySpec) {
    match (spec.consistency, &spec.quiesce, findings.engine) {
        (Consistency::Cold, None, EngineKind::Local) => {
            let message = "`consistency: Cold` needs `quiesce` on one host: how to stop and start what writes";
            findings.error(Rule::Quiesce, "/spec/consistency", message).hint =
                Some("add `quiesce: {stop: [systemctl, stop, NAME], start: [systemctl, start, NAME]}`".to_owned());
        }
        (Consistency::Hot, Some(_), EngineKind::Local | EngineKind::Kubernetes) => {
            let message = "`quiesce` has no effect with `consistency: Hot`";
            findings.error_at_key(Rule::Misplaced, "/spec/quiesce", message).hint =
                Some("write `consistency: Cold`, or leave `quiesce` out".to_owned());
        }
        (Consistency::Cold, Some(_), EngineKind::Kubernetes) => {
            let message = "`quiesce` needs the local engine; on Kubernetes the workload is scaled down";
            findings.error_at_key(Rule::Engine, "/spec/quiesce", message).hint = Some("leave it out".to_owned());
        }
        (Consistency::Cold, Some(quiesce), EngineKind::Local) => {
            let Quiesce { stop, start, timeout } = quiesce;
            reference::arguments(findings, "/spec/quiesce/stop", stop);
            reference::arguments(findings, "/spec/quiesce/start", start);
            not_zero(findings, "/spec/quiesce/timeout", timeout.map(|timeout| timeout.seconds()));
        }
        (Consistency::Hot, None, _) | (Consistency::Cold, None, EngineKind::Kubernetes) => {}
    }
}

fn check_hook(findings: &mut Findings<'_>, pointer: &str, hook: &Hook) {
    let Hook { command, exec, timeout } = hook;
    reference::exactly_one(findings, pointer, "a hook", &[("command", command.is_some()), ("exec", exec.is_some())]);
    if let Some(command) = command {
        reference::arguments(findings, &format!("{pointer}/command"), command);
    }
    if let Some(exec) = exec {
        let at = format!("{pointer}/exec");
        reference::needs_kubernetes(findings, &at, "exec", "write `command: [PROGRAM, ARGUMENT…]`");
        reference::arguments(findings, &format!("{at}/command"), &exec.command);
    }
    not_zero(findings, &format!("{pointer}/timeout"), timeout.map(|timeout| timeout.seconds()));
}

fn retention(findings: &mut Findings<'_>, spec: &BackupPolicySpec) {
    let rules = &spec.retention;
    let counts = [
        ("keepLast", rules.keep_last),
        ("keepHourly", rules.keep_hourly),
        ("keepDaily", rules.keep_daily),
        ("keepWeekly", rules.keep_weekly),
        ("keepMonthly", rules.keep_monthly),
        ("keepYearly", rules.keep_yearly),
    ];
    for (field, count) in counts {
        if let Some(count) = count.filter(|count| *count < -1) {
            let message = format!("`{field}` cannot be {count}");
            let finding = findings.error(Rule::Retention, &format!("/spec/retention/{field}"), message);
            finding.hint = Some("`-1` keeps all; `0` is the same as leaving the rule out".to_owned());
        }
    }
    let written = counts.iter().any(|(_, count)| count.is_some()) || rules.keep_within.is_some();
    let keeps = counts.iter().any(|(_, count)| count.is_some_and(|count| count != 0))
        || rules.keep_within.is_some_and(|within| !within.is_zero());
    if written && !keeps {
        let message = "these rules keep no restore point at all";
        findings.error_at_key(Rule::KeepsNothing, "/spec/retention", message).hint = Some(
            "give at least one rule a count, such as `keepLast: 7`; to end the backups remove the policy".to_owned(),
        );
    }
}

fn check_verify(findings: &mut Findings<'_>, verify: &Verify, time_zone: &TimeZone) {
    let Verify { schedule: expression, read_data } = verify;
    if let Some(expression) = expression {
        schedule(findings, "/spec/verify/schedule", expression, time_zone);
    }
    percentage(findings, "/spec/verify/readData", read_data.as_deref());
}

/// Checks a share such as `5%`.
pub fn percentage(findings: &mut Findings<'_>, pointer: &str, text: Option<&str>) {
    if let Some(Err(error)) = text.map(quantity::percent) {
        findings.error(Rule::Percentage, pointer, error.to_string());
    }
}

fn check_limits(findings: &mut Findings<'_>, limits: &Limits) {
    let Limits { timeout, bandwidth, resources } = limits;
    not_zero(findings, "/spec/limits/timeout", timeout.map(|timeout| timeout.seconds()));
    if let Some(Err(error)) = bandwidth.as_deref().map(quantity::size_bytes) {
        findings.error(Rule::Bandwidth, "/spec/limits/bandwidth", error.to_string());
    }
    if resources.is_some() {
        let hint = "limit the daemon's service instead, such as with systemd's `MemoryMax=`";
        reference::needs_kubernetes(findings, "/spec/limits/resources", "limits.resources", hint);
    }
}

fn not_zero(findings: &mut Findings<'_>, pointer: &str, seconds: Option<i64>) {
    if seconds == Some(0) {
        let hint = Some("leave it out, or give it some time".to_owned());
        findings.error(Rule::WrongValue, pointer, "no time at all can never be kept to").hint = hint;
    }
}
