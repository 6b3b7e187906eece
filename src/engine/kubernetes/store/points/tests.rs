//! What must hold of a policy's record, whatever order processes change it in.

use super::*;

fn id(text: &str) -> RestorePointId {
    RestorePointId(text.to_owned())
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn stored(name: &str, at: &str) -> StoredPoint {
    let point = RestorePoint {
        id: id(name),
        time: time(at),
        size_bytes: 1,
        verified_at: None,
        held: false,
        found: false,
        missing_since: None,
        expired_since: None,
        parts: Vec::new(),
    };
    StoredPoint { point, parts: Vec::new(), forgetting: false }
}

fn record() -> PointsRecord {
    let mut record = PointsRecord::new(&"shop/nightly".parse().unwrap());
    record.record_point(&stored("b", "2026-11-21T02:00:00Z"));
    record.record_point(&stored("a", "2026-11-20T02:00:00Z"));
    record
}

fn compiled(repositories: &str) -> CompiledPolicy {
    let text = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: nightly, namespace: shop}}\n\
         spec:\n  repositories: [offsite]\n  sources:\n    - {{name: files, volumes: {{claims: [data]}}}}\n---\n\
         {repositories}"
    );
    let content = crate::policy::load::FileContent { bytes: text.into_bytes(), blob: None };
    let files = std::collections::BTreeMap::from([(std::path::PathBuf::from("backup.yaml"), content)]);
    let loaded = crate::policy::load::load(
        &files,
        crate::policy::EngineKind::Kubernetes,
        &mut crate::policy::load::ParseCache::default(),
    );
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    loaded.desired.policies.values().next().unwrap().compile(&loaded.desired.settings, None)
}

fn repository(password: &str, prefix: &str, layout: &str) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: offsite}}\nspec:\n  layout: {layout}\n  \
         s3: {{endpoint: 'https://s3.example.org', bucket: b, prefix: {prefix}, accessKeyId: {{secret: s, key: i}}, \
         secretAccessKey: {{secret: s, key: k}}}}\n  password: {{secret: {password}, key: password}}\n"
    )
}

#[test]
fn marks_and_holds_go_by_what_is_there_now() {
    let mut record = record();
    let now = time("2026-11-21T03:00:00Z");
    assert_eq!(record.points[0].point.id, id("a"), "sorted by time");
    assert!(record.set_held(&id("a"), true, now));
    assert_eq!(record.mark(&[id("a"), id("b"), id("gone")], now), [id("b")]);
    assert_eq!(record.mark(&[id("b")], time("2026-11-22T03:00:00Z")), []);
    assert_eq!(record.point(&id("b")).unwrap().expired_since, Some(now));
    // A hold takes the mark away, and then nothing may forget it.
    assert!(record.set_held(&id("b"), true, now));
    assert_eq!(record.set_forgetting(&[id("b")]), []);
    record.set_held(&id("b"), false, now);
    record.mark(&[id("b")], now);
    assert_eq!(record.set_forgetting(&[id("b")]), [id("b")]);
    assert!(!record.set_held(&id("b"), true, now), "too late");
    assert_eq!(record.unmark(&[id("b")]), [], "too late");
}

#[test]
fn an_observation_removes_only_what_it_saw_to_be_gone() {
    let mut record = record();
    let now = time("2026-11-21T03:00:00Z");
    record.mark(&[id("a")], now);
    record.set_forgetting(&[id("a")]);
    let gone = vec![stored("a", "2026-11-20T02:00:00Z")];
    // `b` came to be while the repositories were looked at.
    let fresh = vec![stored("c", "2026-11-19T02:00:00Z")];
    record.set_inventory(now, true, &Merged { fresh, gone, ..Merged::default() });
    let ids: Vec<&str> = record.points.iter().map(|stored| stored.point.id.0.as_str()).collect();
    assert_eq!(ids, ["c", "b"]);
    let kinds: Vec<&EventKind> = record.events.iter().map(|event| &event.kind).collect();
    let (found, forgotten) =
        (EventKind::Found { points: vec![id("c")] }, EventKind::Forgotten { points: vec![id("a")] });
    assert_eq!(kinds, [&found, &forgotten]);
    assert_eq!(record.inventory(now).observed_at, now);
}

#[test]
fn a_point_that_a_listing_misses_keeps_its_hold_and_comes_back() {
    let mut record = record();
    let now = time("2026-11-21T03:00:00Z");
    record.set_held(&id("a"), true, now);
    let points = record.points.clone();
    let missing = || Merged { missing: points.clone(), ..Merged::default() };
    record.set_inventory(now, true, &missing());
    record.set_inventory(time("2026-11-22T03:00:00Z"), true, &missing());
    let known: Vec<(bool, Option<Timestamp>)> =
        record.points.iter().map(|stored| (stored.point.held, stored.point.missing_since)).collect();
    assert_eq!(known, [(true, Some(now)), (false, Some(now))]);
    record.set_inventory(now, true, &Merged { seen: points.clone(), ..Merged::default() });
    assert!(record.points.iter().all(|stored| stored.point.missing_since.is_none()));
    // It was held after the look that gives it up.
    record.set_inventory(now, true, &Merged { gone: points, ..Merged::default() });
    assert_eq!(record.points.len(), 1);
    let both = || vec![id("a"), id("b")];
    let told: Vec<EventKind> = record.events.into_iter().map(|event| event.kind).skip(1).collect();
    let expected = [
        EventKind::Missing { points: both() },
        EventKind::Returned { points: both() },
        EventKind::GivenUp { points: vec![id("b")] },
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_place_is_kept_until_the_policy_is_made_anew_or_moved() {
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        format!("s{number}")
    };
    let mut record = record();
    let first = compiled(&repository("one", "x", "PerPolicy"));
    record.settle_places(&first, &mut fresh);
    record.set_initialised(1);
    // Another password keeps the place.
    record.settle_places(&compiled(&repository("two", "x", "PerPolicy")), &mut fresh);
    assert_eq!(record.places.len(), 1);
    assert_eq!(record.places[0].document.spec.password.secret.as_deref(), Some("two"));
    assert!(record.places[0].path.ends_with("/shop-nightly-s1"), "{}", record.places[0].path);
    // Another prefix is another place; the former one stays.
    record.settle_places(&compiled(&repository("two", "y", "PerPolicy")), &mut fresh);
    let current: Vec<bool> = record.places.iter().map(|place| place.current).collect();
    assert_eq!(current, [true, false]);
    // Deleted and made anew: a fresh suffix.
    record.withdraw(&first);
    assert!(record.places.iter().all(|place| !place.current));
    record.settle_places(&compiled(&repository("two", "y", "PerPolicy")), &mut fresh);
    assert_eq!(record.places[0].path.rsplit_once('-').unwrap().1, "s3");
    assert!(record.withdrawn.is_none());
    // A shared repository is the same one all the time.
    let shared = compiled(&repository("one", "x", "Shared"));
    record.settle_places(&shared, &mut fresh);
    let id = record.places[0].id;
    record.withdraw(&shared);
    record.settle_places(&shared, &mut fresh);
    assert_eq!(record.places[0].id, id);
}

#[test]
fn a_run_ends_once() {
    let mut record = record();
    let now = time("2026-11-21T03:00:00Z");
    let mut report = RunReport {
        policy: record.policy.clone(),
        id: id("20261121-020000"),
        trigger: crate::run::Trigger::Schedule,
        scheduled_at: time("2026-11-21T02:00:00Z"),
        started_at: time("2026-11-21T02:00:01Z"),
        finished_at: None,
        phase: Phase::Running,
        failed_after_record: false,
        interrupted: false,
        message: String::new(),
        sources: Vec::new(),
    };
    record.run_goes_on(&report);
    assert_eq!(record.running, Some(report.id.clone()));
    report.phase = Phase::Succeeded;
    report.finished_at = Some(now);
    record.run_ended(&report, now);
    // The guard comes late, and says that it failed.
    record.run_ended(&RunReport { phase: Phase::Failed, ..report.clone() }, now);
    assert_eq!(record.running, None);
    assert_eq!(record.last_success, Some(now));
    assert_eq!(record.last_run, Some(report));
    assert_eq!(record.events.len(), 1);
}

#[test]
fn a_record_reads_back_as_it_was() {
    let mut before = record();
    before.settle_places(&compiled(&repository("one", "x", "PerPolicy")), || "s".to_owned());
    before.points[0].parts.push(crate::engine::local::state::points::StoredPart {
        place: 1,
        part: crate::restore_point::Part {
            source: "files".to_owned(),
            repository: "offsite".to_owned(),
            location: None,
            snapshot: "0".repeat(64),
            size_bytes: 1,
            added_bytes: 1,
            files: 1,
            unreadable: 0,
            duration_milliseconds: 1,
        },
    });
    let text = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<PointsRecord>(&text).unwrap(), before);
}
