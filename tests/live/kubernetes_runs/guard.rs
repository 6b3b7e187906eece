//! The guard: the pod of a run is killed in every step, and nothing of Mainstay is alive but what Kubernetes starts.

use super::{Installation, succeed, wait_for};
use crate::kubernetes_faults::matrix::fault;

#[test]
fn killed_in_any_step_a_run_is_led_to_its_end_by_its_job_alone() {
    let installation = Installation::new("guard").with_shop();
    let applied = installation.apply("kubernetes-cold", &[]);
    let points =
        ["stop:intended", "stop:done", "capture:intended", "start:intended", "start:done", "copy:done", "record:done"];
    for (number, point) in points.iter().enumerate() {
        let job = format!("killed-{number}");
        applied.start(&job, &[("MAINSTAY_TEST_PAUSE", &format!("{point}=forever"))]);
        let (step, moment) = point.split_once(':').unwrap();
        wait_for(&format!("the run to stand at {point}"), 300, || {
            let runs = applied.runs();
            let run = runs.iter().find(|run| run["job"] == job)?;
            let last = run["journal"].as_array()?.last()?.clone();
            let is_there = last[0].to_string().contains(step);
            // What was done shows only in the world.
            let replicas = installation.shop.field("deployment/shop", "{.spec.replicas}");
            let is_done = moment == "intended"
                || step == "capture"
                || match step {
                    "stop" => replicas == "0",
                    "start" => replicas == "2",
                    "record" => applied.points().iter().any(|point| point["id"] == run["report"]["id"]),
                    _ => true,
                };
            (is_there && is_done).then_some(())
        });
        let pod = installation
            .system
            .kubectl()
            .args(["get", "pods", "-l", &format!("job-name={job}"), "-o", "name"])
            .output();
        let pod = String::from_utf8(pod.unwrap().stdout).unwrap();
        succeed(installation.system.kubectl().args(["delete", pod.trim(), "--grace-period=0", "--force"]));
        let report = applied.report(&job);
        let recorded = *point == "record:done";
        assert_eq!(report["phase"] == "Succeeded", recorded, "{point}: {report:#}");
        if !recorded {
            fault("the pod of a run is killed, in every step").ended(&report);
        }
        wait_for("the workload to be up again", 300, || {
            let up = installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}");
            (up == "2 2").then_some(())
        });
        let told = installation.shop.field("deployment/shop", "{.metadata.annotations}{.metadata.labels}");
        assert!(!told.contains("mainstay.dev"), "{point}: {told}");
        installation.wait_until_gone("jobs");
    }
    assert_eq!(applied.points().len(), 1, "only what was recorded before its pod was killed");
    applied.run("after");
    assert_eq!(applied.points().len(), 2);
}

#[test]
fn a_run_whose_job_is_deleted_is_ended_by_the_next_one() {
    let installation = Installation::new("vanished").with_shop();
    let applied = installation.apply("kubernetes-cold", &[]);
    applied.start("vanishes", &[("MAINSTAY_TEST_PAUSE", "stop:done=forever")]);
    wait_for("the workload to be scaled to 0", 300, || {
        (installation.shop.field("deployment/shop", "{.spec.replicas}") == "0").then_some(())
    });
    // The Job first, so that it starts no other pod; then the pod, at once.
    let system = &installation.system;
    succeed(system.kubectl().args(["delete", "job", "vanishes", "--cascade=orphan"]));
    let pods = ["delete", "pods", "-l", "job-name=vanishes", "--grace-period=0", "--force"];
    succeed(system.kubectl().args(pods));
    wait_for("the pod to be gone", 300, || {
        let left = succeed(system.kubectl().args(["get", "pods", "-l", "job-name=vanishes", "-o", "name"]));
        left.trim().is_empty().then_some(())
    });
    applied.run("next");
    let runs = applied.runs();
    fault("the pod of a run and its Job are deleted").ended(&runs[0]["report"]);
    assert_eq!(installation.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
}
