//! Whether a webhook really comes from the forge. What it says is never read: it only wakes.
//!
//! Pure. GitHub and Gitea sign the body with HMAC-SHA-256; GitLab sends the secret itself. Both are compared in constant
//! time. One that is sent again is no more than another wake.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::Secret;

/// The largest body that is taken. What is larger is found out by asking.
pub const BODY_BYTES: usize = 4 << 20;

/// The headers that a forge proves itself by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proof<'a> {
    /// `X-Hub-Signature-256: sha256=HEX`, of GitHub and of Gitea.
    pub hub_signature: Option<&'a str>,
    /// `X-Gitea-Signature: HEX`, also sent by Forgejo under its own name.
    pub gitea_signature: Option<&'a str>,
    /// `X-Gitlab-Token: SECRET`.
    pub gitlab_token: Option<&'a str>,
}

/// Whether the body was sent by someone who knows the secret.
pub fn is_genuine(secret: &Secret, proof: Proof<'_>, body: &[u8]) -> bool {
    let Proof { hub_signature, gitea_signature, gitlab_token } = proof;
    let signature = hub_signature.and_then(|signature| signature.strip_prefix("sha256=")).or(gitea_signature);
    if let Some(signature) = signature {
        let Ok(signature) = hex::decode(signature) else { return false };
        return keyed(secret.expose()).is_some_and(|mac| mac.chain_update(body).verify_slice(&signature).is_ok());
    }
    // Two keyed hashes are compared: how long that takes says nothing about the secret.
    let hash = |text: &str| Some(keyed(text)?.chain_update(b"token").finalize().into_bytes());
    gitlab_token.is_some_and(|token| {
        let expected = keyed(secret.expose()).map(|mac| mac.chain_update(b"token"));
        hash(token).zip(expected).is_some_and(|(sent, expected)| expected.verify_slice(&sent).is_ok())
    })
}

fn keyed(secret: &str) -> Option<Hmac<Sha256>> {
    // An empty key would be known to everybody.
    (!secret.is_empty()).then(|| Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From GitHub's documentation of webhook signatures.
    const BODY: &[u8] = b"Hello, World!";
    const SECRET: &str = "It's a Secret to Everybody";
    const SIGNATURE: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn only_who_knows_the_secret_is_believed() {
        let secret = Secret::new(SECRET);
        let prefixed = format!("sha256={SIGNATURE}");
        let hub = |signature| Proof { hub_signature: Some(signature), ..Proof::default() };
        assert!(is_genuine(&secret, hub(&prefixed), BODY));
        assert!(is_genuine(&secret, Proof { gitea_signature: Some(SIGNATURE), ..Proof::default() }, BODY));
        assert!(is_genuine(&secret, Proof { gitlab_token: Some(SECRET), ..Proof::default() }, BODY));
        assert!(!is_genuine(&secret, hub(&prefixed), b"Hello, World?"), "another body");
        assert!(!is_genuine(&secret, hub(SIGNATURE), BODY), "without its prefix");
        assert!(!is_genuine(&secret, hub(&prefixed[..prefixed.len() - 2]), BODY), "cut");
        assert!(!is_genuine(&secret, hub("sha256="), BODY));
        assert!(!is_genuine(&Secret::new("other"), hub(&prefixed), BODY));
        assert!(!is_genuine(&secret, Proof { gitlab_token: Some("guess"), ..Proof::default() }, BODY));
        assert!(!is_genuine(&secret, Proof::default(), BODY), "no proof at all");
        assert!(!is_genuine(&Secret::new(""), Proof { gitlab_token: Some(""), ..Proof::default() }, BODY));
    }
}
