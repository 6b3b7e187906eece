//! Two daemons: one works, the other waits, and takes over when the first is gone.

use super::{Installation, wait_for_with};
use crate::peers::succeed;

fn holder(installation: &Installation) -> String {
    installation.namespace.field("lease/mainstay-daemon", "{.spec.holderIdentity}")
}

#[test]
fn of_two_daemons_one_works_and_the_other_takes_over() {
    let installation = Installation::new("k1-leaders");
    installation.document("shop/nightly", "");
    installation.commit("first");
    let mut first = installation.daemon("first");
    installation.wait_for_cron_jobs(&["shop-nightly-0"], &first);
    let second = installation.daemon("second");
    second.wait_for_log("another daemon is at work");
    let held_by_first = holder(&installation);

    // No warning, no goodbye: the lease runs out.
    first.process.kill();
    installation.document("shop/nightly", "  schedule: '0 6 * * *'");
    installation.commit("second");
    wait_for_with("the takeover", 90, || installation.schedule("shop-nightly-0") == "0 6 * * *", &second);
    assert_ne!(holder(&installation), held_by_first);
    // What the first one left came along: its memory says what was applied.
    let memory = installation.namespace.field("configmap/mainstay-memory", r"{.data.record\.json}");
    assert!(memory.contains("applied"), "{memory}");
}

#[test]
fn a_daemon_that_lost_its_lease_ends_and_writes_nothing_more() {
    let installation = Installation::new("k1-fence");
    installation.document("shop/nightly", "");
    installation.commit("first");
    let mut daemon = installation.daemon("daemon");
    installation.wait_for_cron_jobs(&["shop-nightly-0"], &daemon);
    // Someone else took it, as after a pause of this process that was longer than the lease.
    let other = r#"{"spec":{"holderIdentity":"/elsewhere/0"}}"#;
    succeed(installation.namespace.kubectl().args(["patch", "lease/mainstay-daemon", "--type=merge", "-p", other]));
    daemon.wait_for_log("lost its lease");
    wait_for_with("its end", 30, || daemon.log().contains("cannot go on"), &daemon);
    let status = daemon.process.child.wait().expect("our child");
    assert_eq!(status.code(), Some(1));
    installation.document("shop/nightly", "  schedule: '0 6 * * *'");
    installation.commit("second");
    assert_eq!(installation.schedule("shop-nightly-0"), "0 2 * * *");
}
