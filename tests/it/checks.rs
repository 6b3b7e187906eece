//! Checks of repositories that find damage: whoever made them, the policy says so until a check is good, and nothing is
//! lost.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use jiff::{SignedDuration, Timestamp};
use mainstay::{
    engine::{Engine as _, local::LocalEngine},
    notify::judge::{Trouble, troubles},
    policy::document::SettingsSpec,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::host::{Host, bad, good};

const VERIFY: [&str; 4] = ["verify", "shop/nightly", "--read-data", "100%"];

/// A host whose data makes the largest pack, and cannot be compressed.
fn host() -> Host {
    let host = Host::new();
    let data = (0..100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]);
    fs::write(host.path("data/file"), data.collect::<Vec<u8>>()).unwrap();
    host
}

/// The largest pack of the repository.
struct Pack {
    path: PathBuf,
    good: Vec<u8>,
}

impl Pack {
    fn of(host: &Host) -> Self {
        let data = host.engine().context().state.places(&Host::name()).unwrap().remove(0).path;
        let folders = fs::read_dir(host.path("disk").join(data).join("data")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        let path = files.map(|file| file.unwrap().path()).max_by_key(|path| fs::metadata(path).unwrap().len());
        let path = path.expect("a pack");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self { good: fs::read(&path).unwrap(), path }
    }

    fn damage(&self) {
        let mut bytes = self.good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&self.path, bytes).unwrap();
    }

    fn mend(&self) {
        fs::write(&self.path, &self.good).unwrap();
    }
}

/// What `mainstay status` says of the policy: its condition, and the whole text for people.
fn status(host: &Host) -> (Value, String) {
    let json: Value = serde_json::from_str(&good(host.mainstay(&["status", "-o", "json"]))).unwrap();
    (json["policies"]["shop/nightly"]["condition"].clone(), good(host.mainstay(&["status"])))
}

fn is_stalled(host: &Host) {
    let (condition, text) = status(host);
    assert_eq!(condition, "Stalled", "{text}");
    for part in
        ["Repository disk did not pass its check", "`mainstay verify shop/nightly --repository disk --read-data"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn is_ready(host: &Host) {
    let (condition, text) = status(host);
    assert_eq!(condition, "Ready", "{text}");
}

/// Lets the daemon do what is due at a time, to its end.
async fn turn(engine: &LocalEngine, ended: &mut mpsc::Receiver<mainstay::policy::PolicyName>, now: Timestamp) {
    let turn = engine.schedule_turn(now, &SettingsSpec::default()).unwrap();
    assert_eq!(turn.maintenance.len(), 1, "{turn:?}");
    ended.recv().await.unwrap();
}

#[tokio::test]
async fn a_scheduled_check_that_finds_a_corrupted_pack_stalls_its_policy_until_one_is_good() {
    let host = host();
    let maintenance = json!({"maintenance": {"check": "0 5 * * *", "readData": "100%"}});
    let engine = host.engine();
    engine.put(&host.policy_in(&["disk"], maintenance, json!({"schedule": "0 1 1 1 *"}))).await.unwrap();
    good(host.mainstay(&["run", "shop/nightly"]));
    let (sender, mut ended) = mpsc::channel(8);
    engine.tell_ended(sender);
    let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
    assert_eq!(engine.schedule_turn(now, &SettingsSpec::default()).unwrap().maintenance, []);
    is_ready(&host);

    let pack = Pack::of(&host);
    pack.damage();
    turn(&engine, &mut ended, now + day).await;
    is_stalled(&host);
    let there = host.actual().await;
    assert!(troubles(&there, now, now).contains_key(&Trouble::CheckFailed), "nobody is told");
    // Neither a run that goes well nor a check that reads no data proves that what was read is whole.
    good(host.mainstay(&["run", "shop/nightly"]));
    good(host.mainstay(&["verify", "shop/nightly"]));
    is_stalled(&host);

    pack.mend();
    turn(&engine, &mut ended, now + day + day).await;
    is_ready(&host);
    let there = host.actual().await;
    assert_eq!((there.inventory.points.len(), troubles(&there, now, now).len()), (2, 0));
    good(host.mainstay(&["restore", "shop/nightly", "--into", &host.text("restored")]));
}

#[tokio::test]
async fn so_do_a_verification_after_a_run_and_one_by_hand() {
    let host = host();
    host.put(json!({"verify": {"readData": "100%"}})).await;
    good(host.mainstay(&["run", "shop/nightly"]));
    let pack = Pack::of(&host);
    pack.damage();
    good(host.mainstay(&["run", "shop/nightly"]));
    is_stalled(&host);
    pack.mend();
    good(host.mainstay(&VERIFY));
    is_ready(&host);

    // That it cannot be looked at says nothing about it.
    fs::rename(host.path("disk"), host.path("away")).unwrap();
    bad(host.mainstay(&VERIFY));
    is_ready(&host);
    fs::rename(host.path("away"), host.path("disk")).unwrap();

    pack.damage();
    bad(host.mainstay(&VERIFY));
    is_stalled(&host);
    pack.mend();
    good(host.mainstay(&["run", "shop/nightly"]));
    is_ready(&host);
}
