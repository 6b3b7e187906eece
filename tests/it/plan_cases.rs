//! Golden plans: each directory below `cases/plan` is an edit, an inventory, and the plan that `mainstay plan` shows for
//! it, as text and as Markdown. `UPDATE_EXPECT=1 cargo test --test it plan_cases` writes them anew.

use std::path::Path;

use crate::plan::{World, run};

const NOW: &str = "2026-11-20T12:00:00Z";

fn check(case: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cases/plan").join(case);
    let world = World::new();
    world.copy(&directory.join("before"));
    world.commit("before");
    world.clear();
    world.copy(&directory.join("after"));
    world.commit("after");
    std::fs::copy(directory.join("inventory.json"), world.path().join("inventory.json")).unwrap();
    for (format, file) in [("text", "plan.txt"), ("markdown", "plan.md")] {
        let plan = || {
            let arguments =
                ["plan", "--base=HEAD~1", "--head=HEAD", "--offline=inventory.json", "--now", NOW, "-o", format];
            run(world.path(), &[&arguments[..], &["--detailed-exitcode"]].concat())
        };
        let (exit, output, _) = plan();
        assert_eq!(plan().1, output, "{case}: not repeatable");
        // The ids of commits depend on nothing but the case, but say nothing to a reader.
        let output = output.replace(&world.revision("HEAD~1")[..8], "BASE");
        expect_test::expect_file![directory.join(file)].assert_eq(&format!("exit {exit}\n\n{output}"));
    }
}

macro_rules! cases {
    ($($name:ident: $directory:literal),* $(,)?) => {
        $(#[test] fn $name() { check($directory); })*

        #[test]
        fn every_directory_is_a_case() {
            let mut known = vec![$($directory),*];
            known.sort_unstable();
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cases/plan");
            let mut found: Vec<String> = std::fs::read_dir(root)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort_unstable();
            assert_eq!(found, known);
        }
    };
}

cases! {
    a_tightened_rule_is_refused_with_its_losses: "tightened",
    a_new_policy_shows_what_it_will_do: "created",
    removal_keeps_or_asks: "removed",
    a_renamed_policy_is_removed_and_made: "renamed",
    restores_in_place_ask: "restores",
    unknown_points_block_tighter_rules_only: "incomplete",
    an_incomplete_observation_allows_no_deletion: "unseen",
    freeze_refuses_everything: "freeze",
    a_moved_repository_leaves_its_points_behind: "moved",
    losses_within_the_budget_go_ahead: "budget",
    a_held_point_is_not_lost: "held",
    text_from_documents_stays_text: "edited",
    suspension_changes_no_rule: "suspended",
    a_bad_file_freezes_its_policies: "bad-file",
    an_empty_checkout_deletes_nothing: "emptied",
    nothing_to_do_says_so: "unchanged",
}
