//! A GitHub App: a token that it signs itself (RFC 7519, RS256) buys one of its installation, which lasts an hour.

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use reqwest::Method;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::json;

use super::HEADERS;
use crate::{
    forge::{
        ForgeError,
        http::{Client, Scheme},
        usage::Usage,
    },
    secret::Secret,
};

/// How long an own token holds, in seconds; GitHub takes at most ten minutes.
const HOLDS_SECONDS: i64 = 540;
/// A clock that goes ahead of GitHub's by no more than this does no harm, in seconds.
const DRIFT_SECONDS: i64 = 60;

/// An App and its installation.
pub struct App {
    client: Client,
    id: String,
    installation: u64,
    key: KeyPair,
}

impl std::fmt::Debug for App {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "App({}, installation {})", self.id, self.installation)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Secret,
    expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Itself {
    slug: String,
}

impl App {
    /// For the interface at `base`; `key` is the private key in PEM, as GitHub hands it out.
    ///
    /// # Errors
    /// The key is none, or the system's certificates cannot be used.
    pub fn new(base: &str, id: &str, installation: u64, key: &Secret) -> Result<Self, ForgeError> {
        let bad = |why: &str| ForgeError::Credential {
            what: "the private key of the GitHub App".to_owned(),
            why: why.to_owned(),
        };
        let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| bad("it is not a key in PEM"))?;
        let key = if let PrivateKeyDer::Pkcs1(der) = &der {
            KeyPair::from_der(der.secret_pkcs1_der())
        } else if let PrivateKeyDer::Pkcs8(der) = &der {
            KeyPair::from_pkcs8(der.secret_pkcs8_der())
        } else {
            return Err(bad("it is not an RSA key"));
        };
        let key = key.map_err(|_| bad("it is not an RSA key"))?;
        let client = Client::new(base, Scheme::Bearer, Secret::new(""), &HEADERS)?;
        Ok(Self { client, id: id.to_owned(), installation, key })
    }

    /// A token of the installation, and when it ends.
    ///
    /// # Errors
    /// GitHub does not give one.
    pub async fn installation_token(&self, now: Timestamp) -> Result<(Secret, Timestamp), ForgeError> {
        self.client.set_token(self.own_token(now)?);
        let path = format!("/app/installations/{}/access_tokens", self.installation);
        let operation = "asking for a token of the installation";
        let Token { token, expires_at } = self.client.send(operation, Method::POST, &path, &json!({})).await?;
        Ok((token, expires_at))
    }

    /// The name of the App in addresses; its account is this with `[bot]` behind it.
    ///
    /// # Errors
    /// GitHub does not say.
    pub async fn slug(&self, now: Timestamp) -> Result<String, ForgeError> {
        self.client.set_token(self.own_token(now)?);
        Ok(self.client.get::<Itself>("asking who we are", "/app").await?.slug)
    }

    /// What was asked since the last call.
    pub fn take_usage(&self) -> Usage {
        self.client.take_usage()
    }

    fn own_token(&self, now: Timestamp) -> Result<Secret, ForgeError> {
        let header = json!({ "alg": "RS256", "typ": "JWT" });
        let claims = json!({
            "iat": now.as_second() - DRIFT_SECONDS,
            "exp": now.as_second() + HOLDS_SECONDS,
            "iss": self.id,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).map_err(|_| {
            ForgeError::Credential {
                what: "the private key of the GitHub App".to_owned(),
                why: "it does not sign".to_owned(),
            }
        })?;
        Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}
