//! What the two accounts may do, all of it, and some of what they may not.

use std::collections::BTreeSet;

use crate::{
    cluster::{Namespace, kubectl},
    peers::{said, succeed},
    rights::Rights,
};

/// Mainstay's namespace, one that policies protect, and one that nobody named.
const NAMESPACES: [&str; 3] = ["rights-system", "rights-shop", "rights-other"];

fn account(name: &str) -> String {
    format!("--as=system:serviceaccount:{}:{name}", NAMESPACES[0])
}

/// Everything that an account may do in a namespace, one line a resource, without what every account may.
fn all(name: &str, namespace: &str) -> BTreeSet<String> {
    let list = |who: &str| -> BTreeSet<String> {
        let text = succeed(kubectl().args(["auth", "can-i", "--list", "--no-headers", "-n", namespace, who]));
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let anybody = list("--as=system:serviceaccount:rights-other:default");
    list(&account(name)).difference(&anybody).cloned().collect()
}

#[test]
fn the_accounts_may_do_what_is_listed_and_nothing_else() {
    let system = Namespace::new(NAMESPACES[0]);
    let shop = system.second(NAMESPACES[1]);
    let _other = system.second(NAMESPACES[2]);
    let _rights = Rights::grant(&system, &[&shop]);
    let mut text = String::new();
    for name in ["mainstay", "mainstay-run"] {
        for (namespace, place) in
            NAMESPACES.into_iter().zip(["Mainstay's namespace", "a namespace of policies", "any other namespace"])
        {
            text.push_str(&format!("{name} in {place}\n"));
            for line in all(name, namespace) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    expect_test::expect_file!["rights.txt"].assert_eq(&text);

    // What an attacker would want first.
    let [system, shop, other] = NAMESPACES;
    let nobody = [
        ("create", "pods", system),
        ("create", "pods", shop),
        ("delete", "pods", shop),
        ("update", "secrets", shop),
        ("delete", "secrets", system),
        ("list", "secrets", system),
        ("list", "secrets", shop),
        ("get", "secrets", other),
        ("get", "secrets", "kube-system"),
        ("list", "pods", other),
        ("create", "pods/exec", other),
        ("delete", "deployments", shop),
        ("delete", "statefulsets", shop),
        ("delete", "namespaces", shop),
        ("create", "rolebindings", system),
        ("create", "rolebindings", shop),
        ("bind", "roles", system),
        ("escalate", "roles", system),
        ("impersonate", "serviceaccounts", system),
        ("create", "serviceaccounts/token", system),
        ("get", "nodes/proxy", system),
        ("delete", "persistentvolumes", system),
        ("create", "volumesnapshotcontents", system),
    ];
    let daemon = [
        ("get", "secrets", system),
        ("get", "secrets", shop),
        ("create", "secrets", shop),
        ("create", "jobs", shop),
        ("create", "persistentvolumeclaims", shop),
        ("create", "volumesnapshots", shop),
    ];
    let run = [("create", "cronjobs", system), ("patch", "cronjobs", system), ("create", "jobs", other)];
    let denied = nobody.iter().map(|what| ("mainstay", what)).chain(nobody.iter().map(|what| ("mainstay-run", what)));
    let denied = denied.chain(daemon.iter().map(|what| ("mainstay", what)));
    for (name, (verb, resource, namespace)) in denied.chain(run.iter().map(|what| ("mainstay-run", what))) {
        let output = kubectl().args(["auth", "can-i", verb, resource, "-n", namespace, &account(name)]).output();
        let said = said(&output.expect("kubectl"));
        assert!(said.contains("\nno"), "{name} may {verb} {resource} in {namespace}: {said}");
    }
}
