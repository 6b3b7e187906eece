//! The whole story under the shipped rights: install, a commit becomes a schedule, runs, an upgrade, lost daemons,
//! uninstall, and what is left of it.

use super::installed::{Installed, Tool};
use crate::{
    cluster::{image, script},
    kubernetes_faults::{kill, matrix::fault},
    peers::{succeed, wait_for},
};

/// What an upgrade brings: the same program under another name.
const NEXT: &str = "mainstay-next:test";

#[test]
fn installed_with_kustomize() {
    let installed = Installed::new("kustomize", Tool::Kustomize);
    let policies = protect(&installed);
    run_all(&installed, &policies);
    upgrade(&installed);
    check_no_refusals(&installed);
    uninstall_and_come_back(&installed);
}

#[test]
fn installed_by_the_chart() {
    let installed = Installed::new("chart", Tool::Helm);
    let policies = protect(&installed);
    run_all(&installed, &policies);
    upgrade(&installed);
    lose_daemons(&installed);
    check_no_refusals(&installed);
    uninstall_and_come_back(&installed);
}

/// A commit with three policies becomes their schedules. It is there before the daemon: one whose repository is empty is
/// not ready.
fn protect(installed: &Installed) -> Vec<String> {
    installed.commit(&documents(installed, "0 3 * * *"), "protect the shop");
    installed.install(&image(), 1);
    let shop = installed.cluster.shop.name();
    let policies: Vec<String> = ["nightly", "cold", "hot"].iter().map(|name| format!("{shop}/{name}")).collect();
    wait_for("the schedules", 120, || (schedules(installed).len() == 3).then_some(()));
    policies
}

/// Files of a live claim, with a made password; cold, from a snapshot; hot, with a hook.
fn documents(installed: &Installed, cold_schedule: &str) -> String {
    let document = |example: &str| installed.cluster.document(example, &[]);
    let policy = |example: &str| document(example).split("---\n").next().unwrap_or_default().to_owned();
    let cold = policy("kubernetes-cold").replace("0 3 * * *", cold_schedule);
    format!("{}---\n{cold}---\n{}", document("kubernetes-files"), policy("kubernetes-hot"))
}

/// The CronJobs: name, uid, image of their pods.
fn schedules(installed: &Installed) -> Vec<(String, String, String)> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.jobTemplate.spec.template.spec.containers[0].image}{\"\\n\"}{end}";
    let text = succeed(installed.cluster.system.kubectl().args(["get", "cronjobs", "-o", path]));
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    text.lines().filter_map(line).collect()
}

fn run_all(installed: &Installed, policies: &[String]) {
    for policy in policies {
        let applied = installed.cluster.applied(policy);
        applied.run(&format!("first-{}", policy.rsplit('/').next().expect("a name")));
        installed.wait_for_status(policy, applied.points()[0]["id"].as_str().expect("an id"));
    }
    assert_eq!(installed.cluster.shop.field("deployment/shop", "{.spec.replicas} {.status.readyReplicas}"), "2 2");
    let path = format!("/api/v1/namespaces/{}/services/mainstay:http/proxy/metrics", installed.cluster.system.name());
    wait_for("the metrics of all of them", 60, || {
        let metrics = succeed(installed.cluster.system.kubectl().args(["get", "--raw", &path]));
        let told = |policy: &String| {
            let label = format!("{{policy=\"{policy}\"}}");
            metrics.contains(&format!("mainstay_run_last_success_timestamp_seconds{label}"))
                && metrics.contains(&format!("mainstay_restore_points{label} 1"))
        };
        policies.iter().all(told).then_some(())
    });
}

/// Schedules stay the same objects, and a run that is under way goes on.
fn upgrade(installed: &Installed) {
    let (name, tag) = NEXT.split_once(':').expect("NAME:TAG");
    succeed(script("image").args(["--copy", &image(), &format!("{name}:{tag}")]));
    let before = schedules(installed);
    let policy = format!("{}/nightly", installed.cluster.shop.name());
    let applied = installed.cluster.applied(&policy);
    applied.start("during", &[]);
    installed.install(NEXT, 2);
    wait_for("the schedules to start the new image", 120, || {
        schedules(installed).iter().all(|(_, _, image)| image == NEXT).then_some(())
    });
    let identities = |list: &[(String, String, String)]| -> Vec<(String, String)> {
        list.iter().map(|(name, uid, _)| (name.clone(), uid.clone())).collect()
    };
    assert_eq!(identities(&schedules(installed)), identities(&before), "an upgrade made schedules anew");
    assert_eq!(applied.report("during")["phase"], "Succeeded");
    applied.run("after-upgrade");
    assert_eq!(applied.points().len(), 3);
}

/// `kill -9` of the one at work, and then its pod deleted by force: runs and schedules are none the worse.
fn lose_daemons(installed: &Installed) {
    let system = &installed.cluster.system;
    let holder = || {
        let text = system.field("lease/mainstay-daemon", "{.spec.holderIdentity}");
        text.split('/').nth(1).unwrap_or_default().to_owned()
    };
    wait_for("two daemons, one of them at work", 120, || {
        (installed.daemons().len() == 2
            && !holder().is_empty()
            && installed.log().contains("another daemon is at work"))
        .then_some(())
    });
    let restarts = |pod: &str| system.field(pod, "{.status.containerStatuses[0].restartCount}");
    let pod = format!("pod/{}", holder());
    let (applied, before) = (restarts(&pod), schedule_of_cold(installed));
    kill(system, &pod);
    wait_for("its container to start again", 120, || (restarts(&pod) != applied).then_some(()));
    installed.commit(&documents(installed, "0 4 * * *"), "later");
    wait_for("the commit to be applied", 120, || (schedule_of_cold(installed) != before).then_some(()));
    fault("the daemon is killed (`kill -9`)").told(&installed.log());

    let pod = holder();
    succeed(system.kubectl().args(["delete", "pod", &pod, "--grace-period=0", "--force"]));
    installed.commit(&documents(installed, "0 5 * * *"), "later still");
    wait_for("the other one to take over", 120, || {
        (holder() != pod && schedule_of_cold(installed) == "0 5 * * *").then_some(())
    });
    fault("two daemons; the one at work is deleted by force").told(&installed.log());
    let policy = format!("{}/cold", installed.cluster.shop.name());
    installed.cluster.applied(&policy).run("after-daemons");
}

fn schedule_of_cold(installed: &Installed) -> String {
    let (name, _, _) = schedules(installed).into_iter().find(|(name, ..)| name.contains("cold")).expect("a schedule");
    installed.cluster.system.field(&format!("cronjob/{name}"), "{.spec.schedule}")
}

/// Nothing that Mainstay does needs more than it has.
fn check_no_refusals(installed: &Installed) {
    let mut said = installed.log();
    let jobs = ["logs", "-l", "batch.kubernetes.io/job-name", "--tail=-1"];
    said.push_str(&succeed(installed.cluster.system.kubectl().args(jobs)));
    for refusal in ["forbidden", "Forbidden", "violates PodSecurity"] {
        assert!(!said.contains(refusal), "{said}");
    }
    let events = ["get", "events", "-o", "jsonpath={.items[*].message}"];
    let events = succeed(installed.cluster.system.kubectl().args(events));
    assert!(!events.contains("violates PodSecurity"), "{events}");
}

/// Restore points, the passwords of repositories and the inventory outlive Mainstay, and a new installation knows them.
fn uninstall_and_come_back(installed: &Installed) {
    let policy = format!("{}/nightly", installed.cluster.shop.name());
    let applied = installed.cluster.applied(&policy);
    let (points, schedules_before) = (applied.points(), schedules(installed));
    installed.uninstall();
    let left = ["get", "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies", "-o", "name"];
    let left = succeed(installed.cluster.system.kubectl().args(left));
    assert!(!left.contains("mainstay"), "{left}");
    assert_eq!(applied.points(), points);
    assert_eq!(applied.restic().len(), points.len(), "the repository opens with the password that was kept");
    assert_eq!(schedules(installed), schedules_before);

    installed.install(NEXT, 1);
    wait_for("the new daemon to know what there is", 120, || installed.log().contains("is at work").then_some(()));
    applied.run("come-back");
    assert_eq!(applied.points().len(), points.len() + 1);
    assert_eq!(schedules(installed), schedules_before);
}
