//! A change request that is too large to be fetched, beside others; through a real remote.

use jiff::Timestamp;
use mainstay::{
    engine::Engine as _,
    forge::{
        consent::{Consent, Way},
        done::TurnReport,
    },
    git::{
        Revision,
        checkout::CheckoutOptions,
        credentials::{Credentials, SecretSource},
    },
    status::ledger::EventKind,
};

use super::scene::{Scene, policy};
use crate::git::{fixture::git, http::Server};

/// The repository behind a server.
struct Remote {
    root: tempfile::TempDir,
    server: Server,
}

impl Remote {
    fn of(scene: &mut Scene) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        git(root.path(), &["init", "--quiet", "--bare", "policies.git"]);
        let remote = Self { server: Server::start(root.path()), root };
        let token = remote.root.path().join("token");
        std::fs::write(&token, "good-token\n").expect("a file");
        scene.eye.checkout = CheckoutOptions {
            url_or_path: format!("{}/policies.git", remote.server.address),
            cache_directory: remote.root.path().join("cache"),
            credentials: Credentials { token: Some(SecretSource::File(token)), ..Credentials::default() },
            ..scene.eye.checkout.clone()
        };
        remote.push(scene, "main:refs/heads/main");
        remote
    }

    fn push(&self, scene: &Scene, refspec: &str) {
        let bare = self.root.path().join("policies.git");
        git(scene.documents.path(), &["push", "--quiet", "--force", &bare.display().to_string(), refspec]);
    }

    /// Opens a change request over there.
    fn open(&self, scene: &Scene, number: u64, files: &[(&str, &str)]) -> Revision {
        let head = scene.open(number, files);
        self.push(scene, &format!("edit-{number}:refs/pull/{number}/head"));
        head
    }
}

/// Text that cannot be made small.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let letters = (0..bytes).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from((state >> 58) & 63).expect("six bits"))
    });
    letters.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_too_large_to_be_fetched_holds_up_neither_others_nor_consent() {
    let mut scene = Scene::new().await;
    let remote = Remote::of(&mut scene);
    remote.open(&scene, 3, &[("3.txt", "x")]);
    scene.look().await;
    assert!(scene.comment(3).contains("### Mainstay"), "{}", scene.comment(3));
    let effects = ["lose shop/nightly 1".parse().expect("an effect")].into();
    let consent = Consent { effects, by: "bob".to_owned(), way: Way::Comment(99) };
    let merged = scene.documents.commit(&[("3.txt", "x")], "merged");
    remote.push(&scene, "main:refs/heads/main");
    scene.merged(3, &merged);
    // Consent is that of a comment which is there.
    scene
        .hosted
        .lock()
        .expect("no panic")
        .comments
        .entry(3)
        .or_default()
        .push(super::hosted::comment(99, 5, "bob", "yes"));
    scene.eye.memory.requests.get_mut(&3).expect("it is looked after").consents.push(consent);

    let large = remote.open(&scene, 1, &[("large.txt", &noise(3 << 20))]);
    let weekly = policy("weekly", 7).split("---\n").nth(1).expect("a policy").to_owned();
    let small = remote.open(&scene, 2, &[("weekly.backup.yaml", &weekly)]);
    scene.look().await;
    let (state, why) = scene.check(&large);
    assert!(state == "failure" && why.contains("its commits have more than 1 MiB; take large files"), "{state}: {why}");
    assert!(scene.comment(1).contains("cannot be planned"), "{}", scene.comment(1));
    assert_eq!(scene.check(&small).0, "success");
    assert!(scene.comment(2).contains("shop/weekly"), "{}", scene.comment(2));
    let approved = |event: &mainstay::status::ledger::Event| matches!(event.kind, EventKind::Approved { .. });
    let events = scene.engine.history(0).await.expect("events");
    assert_eq!(events.iter().filter(|event| approved(event)).count(), 1, "{events:#?}");
    assert_eq!(scene.check(&merged).0, "pending");

    // The merge is told of, and what is known to be too large is not brought half of the way again.
    scene.documents.commit(&[("4.txt", "x")], "somebody else's change");
    remote.push(&scene, "main:refs/heads/main");
    scene.look_after(TurnReport { number: 1, ..TurnReport::default() }, Timestamp::now()).await;
    assert_eq!(scene.check(&merged).0, "success");
    assert_eq!(scene.eye.memory.requests[&1].too_large.as_ref(), Some(&large));
    assert_eq!(scene.check(&large).0, "failure");

    let mended = remote.open(&scene, 1, &[("1.txt", "x")]);
    scene.look().await;
    assert_eq!(scene.check(&mended).0, "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_one_may_be_too_large_too() {
    let mut scene = Scene::new().await;
    let remote = Remote::of(&mut scene);
    let large = remote.open(&scene, 1, &[("large.txt", &noise(3 << 20))]);
    assert_eq!(scene.look().await.problem, None);
    assert_eq!(scene.check(&large).0, "failure");
}
