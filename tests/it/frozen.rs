//! `Settings.freeze` holds for everyone: for the daemon, and for `run` and `apply` by hand, which say where it stands and
//! how to go on. Restores are needed most when something is wrong: they go on.

use std::fs;

use crate::folder_host::Host;

const FREEZE: &str =
    "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {name: settings}\nspec: {freeze: true}\n";

/// A host with a policy of one file.
fn host() -> Host {
    let host = Host::new();
    host.write("data/file", "content");
    host.write("documents/backup.yaml", documents(&host));
    host
}

fn documents(host: &Host) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: nightly, namespace: shop}}\nspec:\n  \
         repositories: [disk]\n  sources: [{{name: files, paths: [{}]}}]\n---\n\
         apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: disk}}\n\
         spec: {{directory: {}, password: {{generate: true}}}}\n",
        host.text("data"),
        host.text("disk")
    )
}

#[test]
fn a_freeze_of_the_daemon_holds_for_run_and_apply_by_hand_and_not_for_restores() {
    let host = host();
    host.apply();
    host.good(&["run", "shop/nightly"]);
    host.write("documents/settings.backup.yaml", FREEZE);
    host.commit("freeze");
    let _daemon = host.daemon(&[]);
    host.wait_for("the freeze", |host| {
        host.read("state/last-turn.json").contains("settings.backup.yaml").then_some(())
    });
    let said = host.wait_for("a run that is refused", |host| {
        let output = host.mainstay(&["run", "shop/nightly"]);
        (output.status.code() == Some(3)).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    });
    let place = "everything is frozen by `freeze: true` in settings.backup.yaml:3:18, so no run is started";
    assert!(said.contains(place) && said.contains("--despite-freeze"), "{said}");
    let before = host.ids("shop/nightly").len();
    let said = host.good(&["run", "shop/nightly", "--despite-freeze"]);
    assert!(said.contains("nothing expires, because `Settings.freeze` is on"), "{said}");
    assert_eq!(host.ids("shop/nightly").len(), before + 1);

    // Documents of another place, in which there is no freeze.
    host.write("others/backup.yaml", documents(&host).replace("name: nightly", "name: other"));
    let said = host.bad(&["apply", "--path", "others"], 3);
    assert!(said.contains("nothing is applied") && said.contains("--despite-freeze"), "{said}");
    let both = format!("{}---\n{}", documents(&host), documents(&host).replace("name: nightly", "name: other"));
    host.write("others/backup.yaml", both.rsplit_once("---").expect("two repositories").0);
    host.good(&["apply", "--path", "others", "--despite-freeze"]);
    assert!(host.good(&["status"]).contains("shop/other"));

    host.restored("shop/nightly", &[]);
    let document = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Restore\nmetadata: {{name: rescue, namespace: shop}}\n\
         spec: {{policy: shop/nightly, into: {{path: {}}}}}\n",
        host.text("rescued")
    );
    host.write("documents/rescue.backup.yaml", document);
    host.commit("rescue");
    host.wait_for("the restore", |host| {
        host.good(&["status"]).contains("restore shop/rescue: Succeeded").then_some(())
    });
}

#[test]
fn without_a_daemon_the_documents_that_were_applied_last_freeze() {
    let host = host();
    host.write("documents/settings.backup.yaml", FREEZE);
    let said = host.bad(&["apply", "--path", "documents"], 3);
    let place = "frozen by `freeze: true` in settings.backup.yaml:3:18";
    assert!(said.contains(place) && said.contains("--despite-freeze"), "{said}");
    host.good(&["apply", "--path", "documents", "--despite-freeze"]);
    let said = host.bad(&["run", "shop/nightly"], 3);
    assert!(said.contains("in the Settings document, so no run is started"), "{said}");
    fs::remove_file(host.path("documents/settings.backup.yaml")).expect("the settings");
    host.apply();
    host.good(&["run", "shop/nightly"]);
}
