//! Secrets: from a reference in a document to a value, read from Kubernetes when it is needed.
//!
//! What opens a repository is in Mainstay's own namespace: a repository belongs to the installation, and whoever owns a
//! policy's namespace must not be able to read or replace its keys. What opens a source (a database's password) is in
//! the policy's namespace. `env` and `file` are those of the run's pod.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    labels::{self, FIELD_MANAGER, Kind},
    manifests::mover::REPOSITORY,
};
use crate::{
    engine::local::{
        repositories::{RepositoryError, resolve},
        state::places::PlaceRecord,
    },
    mover::job::{Place, RepositoryAccess},
    policy::document::{SecretReference, repository::Password, source::Database},
    secret::Secret,
};

/// Random bytes of a generated password; written as hex digits.
const GENERATED_BYTES: usize = 32;
/// The key of a generated password where the document names none.
const PASSWORD_KEY: &str = "password";
/// How often a password is made where others write the same Secret.
const MOST_TRIES: u32 = 5;

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The API server refused, or did not answer.
    #[error("{what} cannot be read from Secret {secret} in namespace {namespace}")]
    Api {
        /// Which value.
        what: String,
        /// Where.
        namespace: String,
        /// Which Secret.
        secret: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// It is not there.
    #[error("{what} is not there: create Secret {secret} in namespace {namespace}, with the key {key}")]
    Missing {
        /// Which value.
        what: String,
        /// Where.
        namespace: String,
        /// Which Secret.
        secret: String,
        /// Which key.
        key: String,
    },
    /// A generated password is gone, and a repository needs it.
    #[error(
        "{what} was generated into Secret {secret} in namespace {namespace}, and is gone from there; put it back from a \
         copy under the key {key}: no other password opens the repository"
    )]
    Lost {
        /// Which value.
        what: String,
        /// Where.
        namespace: String,
        /// Which Secret.
        secret: String,
        /// Which key.
        key: String,
    },
    /// It is not text.
    #[error(
        "{what} in Secret {secret} in namespace {namespace} is empty or not text; write the value under the key {key}"
    )]
    Content {
        /// Which value.
        what: String,
        /// Where.
        namespace: String,
        /// Which Secret.
        secret: String,
        /// Which key.
        key: String,
    },
    /// A file or an environment variable of this pod.
    #[error(transparent)]
    Here(#[from] RepositoryError),
    /// The document names no place that pods can write to.
    #[error("repository {name} is not in `s3` or on `nfs`, which is where pods can write to; give it one of the two")]
    NoPlace {
        /// The repository.
        name: String,
    },
    /// A Secret changes all the time.
    #[error(
        "{what} could not be made: Secret {secret} in namespace {namespace} was changed by others {MOST_TRIES} times in a row"
    )]
    Busy {
        /// Which value.
        what: String,
        /// Where.
        namespace: String,
        /// Which Secret.
        secret: String,
    },
}

/// What opens the repository of a place. A password that is to be generated is made now, once.
///
/// # Errors
/// A secret is not there, or pods cannot write to the place.
pub async fn repository(
    client: &Client,
    namespace: &str,
    place: &PlaceRecord,
) -> Result<RepositoryAccess, AccessError> {
    let (spec, name) = (&place.document.spec, &place.repository);
    let location = if let Some(s3) = &spec.s3 {
        let parts = [s3.prefix.as_deref().unwrap_or_default().trim_matches('/'), &place.path];
        let id = format!("the access key id of repository {name}");
        let key = format!("the secret access key of repository {name}");
        Place::S3 {
            endpoint: s3.endpoint.clone(),
            bucket: s3.bucket.clone(),
            prefix: parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
            region: s3.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            access_key_id: value(client, namespace, &id, &s3.access_key_id).await?,
            secret_access_key: value(client, namespace, &key, &s3.secret_access_key).await?,
            certificate_authority: s3.certificate_authority.clone().map(PathBuf::from),
        }
    } else if spec.nfs.is_some() {
        Place::Directory(PathBuf::from(REPOSITORY).join(&place.path))
    } else {
        return Err(AccessError::NoPlace { name: name.clone() });
    };
    let password = password(client, namespace, name, &spec.password, place.initialised).await?;
    Ok(RepositoryAccess { name: name.clone(), place: location, password })
}

/// The share that a mover must mount for a place; none: it needs none.
pub fn nfs(place: &PlaceRecord) -> Option<(String, String)> {
    place.document.spec.nfs.as_ref().map(|nfs| (nfs.server.clone(), nfs.path.clone()))
}

/// The value of a reference.
///
/// # Errors
/// It is not there.
pub async fn value(
    client: &Client,
    namespace: &str,
    what: &str,
    reference: &SecretReference,
) -> Result<Secret, AccessError> {
    match reference {
        SecretReference { secret: Some(secret), key, file: _, env: _ } => {
            let key = key.as_deref().unwrap_or(PASSWORD_KEY);
            read(client, namespace, what, secret, key).await?.ok_or_else(|| AccessError::Missing {
                what: what.to_owned(),
                namespace: namespace.to_owned(),
                secret: secret.clone(),
                key: key.to_owned(),
            })
        }
        SecretReference { secret: None, key: _, file: _, env: _ } => Ok(resolve(what, reference)?),
    }
}

/// A source's database with the name of its user, and the password. Secrets are in the policy's namespace.
///
/// # Errors
/// One of them is not there.
pub async fn credentials(
    client: &Client,
    namespace: &str,
    source: &str,
    database: &Database,
) -> Result<(Database, Option<Secret>), AccessError> {
    let mut found = database.clone();
    if let Some(reference) = &database.user_from {
        let user = value(client, namespace, &format!("the user name of source {source}"), reference).await?;
        found.user = Some(user.expose().to_owned());
    }
    let password = match &database.password {
        Some(reference) => {
            Some(value(client, namespace, &format!("the password of source {source}"), reference).await?)
        }
        None => None,
    };
    Ok((found, password))
}

/// `is_used`: a repository was made with it, so that none is generated in its place.
async fn password(
    client: &Client,
    namespace: &str,
    name: &str,
    password: &Password,
    is_used: bool,
) -> Result<Secret, AccessError> {
    let what = format!("the password of repository {name}");
    let Password { secret, key, file, env, generate } = password;
    if !generate {
        let reference =
            SecretReference { secret: secret.clone(), key: key.clone(), file: file.clone(), env: env.clone() };
        return value(client, namespace, &what, &reference).await;
    }
    let secret = secret.clone().unwrap_or_else(|| format!("repository-{name}"));
    let key = key.as_deref().unwrap_or(PASSWORD_KEY);
    if is_used && read(client, namespace, &what, &secret, key).await?.is_none() {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        return Err(AccessError::Lost { what, namespace, secret, key });
    }
    generate_once(client, namespace, &what, &secret, key).await
}

/// Reads a password, or makes it where there is none. Two pods that do this at once agree: the first one's counts.
async fn generate_once(
    client: &Client,
    namespace: &str,
    what: &str,
    secret: &str,
    key: &str,
) -> Result<Secret, AccessError> {
    let api: Api<SecretObject> = Api::namespaced(client.clone(), namespace);
    let failed = |source| AccessError::Api {
        what: what.to_owned(),
        namespace: namespace.to_owned(),
        secret: secret.to_owned(),
        source: Box::new(source),
    };
    for _ in 0..MOST_TRIES {
        if let Some(value) = read(client, namespace, what, secret, key).await? {
            return Ok(value);
        }
        let random: [u8; GENERATED_BYTES] = rand::random();
        let password = hex::encode(random);
        let result = match api.get_opt(secret).await.map_err(failed)? {
            None => {
                let object = SecretObject {
                    metadata: kube::core::ObjectMeta {
                        name: Some(secret.to_owned()),
                        labels: Some(labels::labels(Kind::Policy, None)),
                        ..Default::default()
                    },
                    string_data: Some(BTreeMap::from([(key.to_owned(), password)])),
                    ..SecretObject::default()
                };
                api.create(&PostParams::default(), &object).await
            }
            Some(found) => {
                let version = found.metadata.resource_version;
                let patch = json!({"metadata": {"resourceVersion": version}, "stringData": {key: password}});
                let parameters =
                    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                api.patch(secret, &parameters, &Patch::Merge(&patch)).await
            }
        };
        match result {
            // Read again: what is stored counts.
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(AccessError::Busy { what: what.to_owned(), namespace: namespace.to_owned(), secret: secret.to_owned() })
}

async fn read(
    client: &Client,
    namespace: &str,
    what: &str,
    secret: &str,
    key: &str,
) -> Result<Option<Secret>, AccessError> {
    let api: Api<SecretObject> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(secret).await.map_err(|source| AccessError::Api {
        what: what.to_owned(),
        namespace: namespace.to_owned(),
        secret: secret.to_owned(),
        source: Box::new(source),
    })?;
    let Some(bytes) = found.and_then(|found| found.data?.remove(key)) else { return Ok(None) };
    let text = String::from_utf8(bytes.0).unwrap_or_default();
    // As in a file: one line break at the end is no part of the value.
    let value = text.strip_suffix('\n').unwrap_or(&text);
    match value.is_empty() {
        false => Ok(Some(Secret::new(value))),
        true => Err(AccessError::Content {
            what: what.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            key: key.to_owned(),
        }),
    }
}
