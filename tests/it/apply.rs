//! `plan --out FILE` and `apply --plan FILE` through the real binary: what was reviewed is what is carried out, or
//! nothing is.

use crate::{
    daemon::host::Host,
    plan::{self, World},
};

/// A policy, and the repository where it is `nightly`.
fn documents(name: &str, retention: &str) -> String {
    let policy = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         repositories: [disk]\n  sources: [{{name: files, paths: [/srv/shop]}}]\n  retention: {{{retention}}}\n"
    );
    match name {
        "nightly" => format!(
            "{policy}---\napiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: disk}}\n\
             spec: {{directory: /backup, password: {{generate: true}}}}\n"
        ),
        _ => policy,
    }
}

fn world() -> World {
    let world = World::new();
    world.write("backup.yaml", &documents("nightly", "keepDaily: 30"));
    world.commit("first");
    world
}

/// Runs `mainstay` with a state of this world's own.
fn run(world: &World, arguments: &[&str]) -> (i32, String, String) {
    plan::run(world.path(), &[arguments, &["--state", ".git/mainstay"]].concat())
}

fn save(world: &World) {
    let (exit, _, errors) = run(world, &["plan", "--out", ".git/plan.json"]);
    assert_eq!(exit, 0, "{errors}");
}

fn apply(world: &World) -> (i32, String, String) {
    run(world, &["apply", "--plan", ".git/plan.json"])
}

/// What a plan of now would do: proof of what was, and was not, carried out.
fn open_changes(world: &World) -> Vec<String> {
    let (_, output, errors) = run(world, &["plan", "-o", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {errors}"));
    plan["changes"].as_array().unwrap().iter().map(|change| change["policy"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_saved_plan_is_carried_out_once() {
    let world = world();
    save(&world);
    assert_eq!(open_changes(&world), ["shop/nightly"], "a plan changes nothing");
    let (exit, output, errors) = apply(&world);
    assert_eq!(exit, 0, "{errors}");
    assert!(output.contains("+ shop/nightly") && output.ends_with("Applied: 1 change.\n"), "{output}");
    assert!(open_changes(&world).is_empty());
    let (exit, _, errors) = apply(&world);
    assert_eq!(exit, 1);
    assert!(errors.contains("is stale; nothing was changed. What moved:"), "{errors}");
    assert!(errors.contains("shop/nightly: there is nothing to create any more"), "{errors}");
}

#[test]
fn a_stale_plan_is_refused_and_names_what_moved() {
    let world = world();
    save(&world);
    world.write("backup.yaml", &documents("nightly", "keepDaily: 7"));
    world.write("other.backup.yaml", &documents("other", "keepDaily: 7"));
    world.commit("after the review");
    let (exit, output, errors) = apply(&world);
    assert_eq!((exit, output.as_str()), (1, ""), "{errors}");
    for part in [
        "the plan .git/plan.json is stale; nothing was changed",
        "shop/nightly: its document is another than when the plan was saved",
        "shop/other: to create it was not in the plan",
        "help: plan again, review, and apply that plan",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert_eq!(open_changes(&world), ["shop/nightly", "shop/other"], "nothing of it was carried out");
}

#[test]
fn a_plan_made_before_the_engine_moved_is_refused() {
    let world = world();
    assert_eq!(run(&world, &["apply"]).0, 0);
    world.write("backup.yaml", &documents("nightly", "keepDaily: 31"));
    world.commit("reviewed");
    save(&world);
    world.write("backup.yaml", &documents("nightly", "keepDaily: 32"));
    assert_eq!(run(&world, &["apply"]).0, 0, "somebody else applies something");
    world.write("backup.yaml", &documents("nightly", "keepDaily: 31"));
    let (exit, _, errors) = apply(&world);
    assert_eq!(exit, 1);
    assert!(errors.contains("shop/nightly: what the engine has is another than when the plan was saved"), "{errors}");
}

#[test]
fn what_is_not_a_saved_plan_is_refused() {
    let world = world();
    let (exit, _, errors) = apply(&world);
    assert_eq!(exit, 1);
    assert!(errors.contains("cannot read the plan .git/plan.json"), "{errors}");
    world.write(".git/plan.json", "{}");
    let (exit, _, errors) = apply(&world);
    assert_eq!(exit, 1);
    assert!(errors.contains("this is not a plan that `mainstay plan --out` wrote"), "{errors}");
    assert_eq!(open_changes(&world), ["shop/nightly"]);
}

#[test]
fn consent_is_used_up_by_what_is_applied_by_hand() {
    let host = Host::new();
    let keep = |count: u32| format!("  retention: {{keepLast: {count}, keepDaily: 0, keepWeekly: 0, grace: 24h}}");
    host.commit_policy(&keep(2));
    host.good(&["apply"]);
    (0..2).for_each(|_| host.run_by_hand());
    let refused = || {
        let output = host.mainstay(&["apply"]);
        assert!(!output.status.success(), "it lost something without consent");
        let output = String::from_utf8(output.stdout).expect("a text");
        let digest = output.split("mainstay approve ").nth(1).and_then(|rest| rest.get(..64)).expect("a digest");
        digest.to_owned()
    };
    host.commit_policy(&keep(1));
    host.good(&["approve", &refused()]);
    host.good(&["apply"]);
    host.commit_policy(&keep(2));
    host.good(&["apply"]);

    host.commit_policy(&keep(1));
    let digest = refused();
    // Consent that is given anew counts, though it is to the same.
    host.good(&["approve", &digest]);
    assert!(host.good(&["apply"]).contains("Applied: 1 change."));
}
