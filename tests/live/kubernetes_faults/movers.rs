//! Movers and runs that are killed, or that never come to work.

use super::{Installation, SLOWLY, STILL_ALL_THE_TIME, kill, matrix::fault, pod_of};
use crate::peers::succeed;

#[test]
fn killed_movers_and_runs_leave_nothing_half() {
    let installation = Installation::new("killed").with_shop();
    installation.fill(8);
    let applied = installation.apply("kubernetes-cold", &[SLOWLY, STILL_ALL_THE_TIME]);
    let mover = applied.start_and_catch("mover");
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas}"), "0");
    kill(&installation.shop, &mover);
    fault("a mover is killed (`kill -9`) in an upload").ended(&applied.report("mover"));
    applied.settled(&["mover"]);

    applied.start_and_catch("run");
    kill(&installation.system, &pod_of(&installation.system, "run"));
    fault("a run is killed (`kill -9`) in an upload, its workload still").ended(&applied.report("run"));
    applied.settled(&["mover", "run"]);
    applied.goes_on(&["mover", "run"]);
}

#[test]
fn a_missing_image_and_expired_credentials_are_told() {
    let installation = Installation::new("image").with_shop();
    installation.shop.apply(
        "{apiVersion: v1, kind: Secret, metadata: {name: db}, stringData: {username: postgres, password: geheim}}",
    );
    let missing = installation.apply("kubernetes-postgres", &[("postgres:17", "nowhere.invalid/none:1")]);
    missing.start("image", &[]);
    fault("a mover's image is missing").ended(&missing.report("image"));
    missing.settled(&["image"]);

    let applied = installation.apply("kubernetes-files", &[]);
    applied.run("before");
    let patch = |secret: &str| {
        let patch = format!(r#"{{"stringData":{{"secret":"{secret}"}}}}"#);
        succeed(installation.system.kubectl().args(["patch", "secret", "offsite", "--type=merge", "-p", &patch]));
    };
    patch("expired");
    applied.start("expired", &[]);
    let report = applied.report("expired");
    patch("mainstay-secret");
    fault("the credentials of the repository have expired").ended(&report);
    applied.settled(&["before", "expired"]);
    applied.goes_on(&["before", "expired"]);
}
