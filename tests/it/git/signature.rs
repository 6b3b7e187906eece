//! Signed commits, with keys that are made here. With the live tests only, for they need ssh-keygen and GnuPG.

use std::path::Path;

use mainstay::{
    git::signature::{SignatureError, Signer, verify},
    policy::document::settings::Signatures,
};

use super::fixture::{WorkTree, git};

/// Runs a program that makes keys.
fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed here ({error}); install openssh-client"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn make_key(directory: &Path, name: &str) -> String {
    let path = directory.join(name).display().to_string();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &path]);
    path
}

fn commit_signed(tree: &WorkTree, key: &str) {
    let signing_key = format!("user.signingkey={key}");
    git(
        tree.path(),
        &[
            "-c",
            "gpg.format=ssh",
            "-c",
            &signing_key,
            "commit",
            "-S",
            "--quiet",
            "--allow-empty",
            "--message",
            "signed",
        ],
    );
}

#[test]
fn only_a_good_signature_of_a_listed_ssh_key_is_believed() {
    let keys = tempfile::tempdir().expect("a directory");
    let (ada, eve) = (make_key(keys.path(), "ada"), make_key(keys.path(), "eve"));
    let list = keys.path().join("allowed_signers");
    let public = std::fs::read_to_string(format!("{ada}.pub")).expect("a public key");
    std::fs::write(&list, format!("ada@example.org namespaces=\"git\" {public}")).expect("a file");
    let allowed = Signatures { ssh_allowed_signers: Some(list.display().to_string()), gpg_home: None };

    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let checkout = tree.checkout();
    let unsigned = verify(&checkout, &tree.head(), &allowed).expect_err("unsigned");
    assert!(matches!(unsigned, SignatureError::Unsigned(_)), "{unsigned:?}");

    commit_signed(&tree, &eve);
    let unknown = verify(&checkout, &tree.head(), &allowed).expect_err("not listed");
    assert!(matches!(unknown, SignatureError::UnknownSigner { .. }), "{unknown:?}");

    commit_signed(&tree, &ada);
    assert_eq!(verify(&checkout, &tree.head(), &allowed).expect("good"), Signer::Ssh("ada@example.org".to_owned()));

    // The same signature over another message.
    let forged = git(tree.path(), &["cat-file", "commit", "HEAD"]).replace("\n\nsigned", "\n\nforged");
    std::fs::write(tree.path().join("forged"), forged).expect("a file");
    let forged = git(tree.path(), &["hash-object", "-t", "commit", "-w", "forged"]);
    let forged = mainstay::git::Revision(forged.trim().to_owned());
    let bad = verify(&checkout, &forged, &allowed).expect_err("forged");
    assert!(matches!(bad, SignatureError::Bad { .. }), "{bad:?}");

    let gpg_only = Signatures { ssh_allowed_signers: None, gpg_home: Some(keys.path().display().to_string()) };
    let kind = verify(&checkout, &tree.head(), &gpg_only).expect_err("another kind");
    assert!(matches!(kind, SignatureError::KindNotAllowed { kind: "SSH", .. }), "{kind:?}");

    let missing = Signatures { ssh_allowed_signers: Some("/nonexistent/signers".to_owned()), gpg_home: None };
    let missing = verify(&checkout, &tree.head(), &missing).expect_err("no list");
    assert!(matches!(missing, SignatureError::ListMissing(_)), "{missing:?}");

    let nobody = Signatures { ssh_allowed_signers: None, gpg_home: None };
    assert!(matches!(verify(&checkout, &tree.head(), &nobody), Err(SignatureError::NobodyAllowed)));
}

#[test]
fn only_a_good_signature_of_a_key_in_the_ring_is_believed() {
    // Short paths: the agent's socket lies in the ring's directory, and a socket's path has at most 107 bytes.
    let (ring, empty) =
        (tempfile::tempdir_in("/tmp").expect("a directory"), tempfile::tempdir_in("/tmp").expect("one"));
    let home = ring.path().display().to_string();
    for directory in [ring.path(), empty.path()] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).expect("permissions");
    }
    let user = "Ada <ada@example.org>";
    let batch = ["--homedir", &home, "--batch", "--passphrase", ""];
    run("gpg", &[&batch[..], &["--quick-generate-key", user, "ed25519", "sign", "never"]].concat());

    let tree = WorkTree::with(&[("backup.yaml", "a")]);
    let wrapper = ring.path().join("gpg-in-ring");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec gpg --homedir '{home}' \"$@\"\n")).expect("a script");
    run("chmod", &["+x", &wrapper.display().to_string()]);
    let program = format!("gpg.program={}", wrapper.display());
    let sign = ["-c", &program, "-c", "user.signingkey=ada@example.org", "commit", "-S", "--quiet", "--allow-empty"];
    git(tree.path(), &[&sign[..], &["--message", "signed"]].concat());

    let allowed = |home: &Path| Signatures { ssh_allowed_signers: None, gpg_home: Some(home.display().to_string()) };
    let signer = verify(&tree.checkout(), &tree.head(), &allowed(ring.path())).expect("good");
    assert!(matches!(&signer, Signer::Gpg(fingerprint) if fingerprint.len() == 40), "{signer:?}");

    let unknown = verify(&tree.checkout(), &tree.head(), &allowed(empty.path())).expect_err("not in the ring");
    assert!(matches!(unknown, SignatureError::UnknownSigner { .. }), "{unknown:?}");

    let forged = git(tree.path(), &["cat-file", "commit", "HEAD"]).replace("\n\nsigned", "\n\nforged");
    std::fs::write(tree.path().join("forged"), forged).expect("a file");
    let forged = git(tree.path(), &["hash-object", "-t", "commit", "-w", "forged"]);
    let forged = mainstay::git::Revision(forged.trim().to_owned());
    let bad = verify(&tree.checkout(), &forged, &allowed(ring.path())).expect_err("forged");
    assert!(matches!(bad, SignatureError::Bad { .. }), "{bad:?}");
    // The agent that gpg started belongs to this ring only.
    run("gpgconf", &["--homedir", &home, "--kill", "all"]);
}
