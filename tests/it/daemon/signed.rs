//! What a daemon does with commits that nobody signed, where the Settings ask for signatures. With the live tests only, for
//! it needs ssh-keygen.

use std::fs;

use super::host::Host;
use crate::git::signature::make_key;

#[test]
fn a_commit_that_is_not_signed_counts_for_nothing() {
    let host = Host::new();
    let key = make_key(&host.path(""), "ada");
    let public = fs::read_to_string(format!("{key}.pub")).expect("a key");
    fs::write(host.path("signers"), format!("ada@example.org namespaces=\"git\" {public}")).expect("a file");
    for (name, value) in [("gpg.format", "ssh"), ("user.signingkey", &key), ("commit.gpgsign", "true")] {
        host.git(&["config", name, value]);
    }
    let settings = format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {{name: settings}}\nspec: {{signatures: \
         {{sshAllowedSigners: {}}}}}\n",
        host.path("signers").display()
    );
    host.commit(&[("settings.backup.yaml", &settings)]);
    let signed = host.commit_policy("");
    let _daemon = host.daemon();
    host.wait_for_status("status/shop/nightly.yaml", &signed);
    // Whoever cannot sign cannot lift the rule either.
    host.git(&["config", "commit.gpgsign", "false"]);
    fs::remove_file(host.documents.path().join("settings.backup.yaml")).expect("the settings");
    let unsigned = host.commit_policy("  retention: {keepLast: 1}");
    let dashboard = host.wait_for_dashboard("is not signed");
    assert!(dashboard.contains(&unsigned[..8]), "{dashboard}");
    let status = host.status("status/shop/nightly.yaml").expect("a status");
    assert!(status.contains(&signed) && !status.contains(&unsigned), "{status}");
    // A signed commit on top says that someone believes in it.
    host.git(&["config", "commit.gpgsign", "true"]);
    let believed = host.commit(&[]);
    host.wait_for_status("status/shop/nightly.yaml", &believed);
    assert!(!host.status("README.md").expect("a dashboard").contains("is not signed"));
}
