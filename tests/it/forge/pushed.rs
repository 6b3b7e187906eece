//! What is merged without having been planned: nothing is green there that nobody looked at.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mainstay::{forge::done::TurnReport, git::Revision};

use super::scene::{Scene, policy};
use crate::git::fixture::git;

/// A policy without its repository, which the first document has.
fn weekly() -> String {
    policy("weekly", 7).split("---\n").nth(1).expect("a policy").to_owned()
}

/// The check on a merged commit after a turn in which the policy `shop/weekly` failed.
async fn after_failure(scene: &mut Scene, commit: &Revision) -> (String, String) {
    let failed = BTreeMap::from([("shop/weekly".parse().expect("a name"), "the engine is full".to_owned())]);
    scene.look_after(TurnReport { number: 2, failed, ..TurnReport::default() }, Timestamp::now()).await;
    scene.check(commit)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_right_before_the_merge_is_told_of_too() {
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    scene.look().await;
    let head = scene.open(1, &[("docs.txt", "x"), ("weekly.backup.yaml", &weekly())]);
    // A squash, a merge and a fast-forward bring the same.
    git(scene.documents.path(), &["merge", "--quiet", "--squash", &head.0]);
    git(scene.documents.path(), &["commit", "--quiet", "--message", "squashed"]);
    let commit = scene.documents.head();
    scene.merged(1, &commit);
    let (state, why) = after_failure(&mut scene, &commit).await;
    assert_eq!((state.as_str(), why.as_str()), ("failure", "1 policy did not go through"));
    assert!(scene.comment(1).contains("the engine is full"), "{}", scene.comment(1));
    // Mended: it is told how the policy stands.
    scene.look().await;
    assert_eq!(scene.check(&commit), ("success".to_owned(), "1 policy applied".to_owned()));

    // A merge is told nothing of what others brought meanwhile.
    let mut scene = Scene::new().await;
    scene.open(1, &[("docs.txt", "x")]);
    scene.look().await;
    let head = scene.open(1, &[("docs.txt", "y")]);
    scene.documents.commit(&[("weekly.backup.yaml", &weekly())], "somebody else's change");
    git(scene.documents.path(), &["merge", "--quiet", "--no-ff", "--message", "merged", &head.0]);
    let commit = scene.documents.head();
    scene.merged(1, &commit);
    assert_eq!(after_failure(&mut scene, &commit).await, ("success".to_owned(), "nothing to apply".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_planned_is_not_called_nothing() {
    let mut scene = Scene::new().await;
    scene.hosted.lock().expect("no panic").is_strict = true;
    scene.open(1, &[("weekly.backup.yaml", &weekly())]);
    scene.look().await;
    assert_eq!(scene.comment(1), "");
    scene.hosted.lock().expect("no panic").is_strict = false;
    let commit = scene.documents.commit(&[("weekly.backup.yaml", &weekly())], "merged");
    scene.merged(1, &commit);
    let (state, why) = after_failure(&mut scene, &commit).await;
    assert_eq!((state.as_str(), why.as_str()), ("failure", "1 policy did not go through"));
}

/// Where the branch was before the merge is not known here.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_tell_what_was_merged_anything_held_back_counts() {
    let mut scene = Scene::new().await;
    scene.hosted.lock().expect("no panic").is_strict = true;
    scene.open(1, &[("weekly.backup.yaml", &weekly())]);
    scene.look().await;
    scene.hosted.lock().expect("no panic").is_strict = false;
    let commit = scene.documents.commit(&[("weekly.backup.yaml", &weekly())], "merged");
    scene.eye.memory.judged = None;
    scene.merged(1, &commit);
    let (state, why) = after_failure(&mut scene, &commit).await;
    assert!(
        state == "failure" && why.contains("merged before it was planned; mainstay/status tells"),
        "{state}: {why}"
    );
    scene.look().await;
    let (state, why) = scene.check(&commit);
    assert!(state == "success" && why.ends_with("nothing is held back"), "{state}: {why}");
}
