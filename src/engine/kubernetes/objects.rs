//! Writing the objects of a policy: server-side apply under our field manager, and deletion.
//!
//! What is not ours is never touched, except where a person says so in an annotation of it.

use k8s_openapi::api::{batch::v1::CronJob, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};

use super::{
    index::{Index, Job, Map},
    labels::{ADOPT, FIELD_MANAGER},
    manifests::policy::{Manifest, Sort},
    store::{is, is_for_a_person},
};
use crate::{engine::EngineError, policy::PolicyName};

/// Writes objects in Mainstay's own namespace.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    namespace: String,
}

/// An object as it is after it was written: name, resource version, content.
pub enum Written {
    /// A ConfigMap.
    Map(String, Option<String>, Map),
    /// A CronJob.
    Job(String, Option<String>, Job),
}

/// Refuses to write over an object that is not ours.
///
/// # Errors
/// It is there, and no annotation lets this policy take it over.
pub fn check_foreign(index: &Index, manifest: &Manifest, policy: &PolicyName) -> Result<(), EngineError> {
    let foreign = match manifest.sort {
        Sort::ConfigMap => index.foreign_maps.get(&manifest.name),
        Sort::CronJob => index.foreign_jobs.get(&manifest.name),
    };
    match foreign {
        Some(adopter) if adopter.as_deref() != Some(policy.to_string().as_str()) => Err(EngineError::Permanent {
            operation: format!("applying {} {}", manifest.sort.text(), manifest.name),
            hint: format!("it is not Mainstay's; delete it, rename it, or annotate it with {ADOPT}: {policy}"),
            source: None,
        }),
        Some(_) | None => Ok(()),
    }
}

impl Objects {
    /// In one namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// Makes an object as it should be. Only fields that the manifest has are taken from others.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn apply(&self, manifest: &Manifest) -> Result<Written, EngineError> {
        let Manifest { sort, name, content } = manifest;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(content);
        let failed = |error| failed(format!("applying {} {name}", sort.text()), error);
        match sort {
            Sort::ConfigMap => {
                let map = self.api::<ConfigMap>().patch(name, &parameters, &patch).await.map_err(failed)?;
                Ok(Written::Map(name.clone(), map.metadata.resource_version.clone(), Map::read(&map)))
            }
            Sort::CronJob => {
                let job = self.api::<CronJob>().patch(name, &parameters, &patch).await.map_err(failed)?;
                Ok(Written::Job(name.clone(), job.metadata.resource_version.clone(), Job::read(&job)))
            }
        }
    }

    /// Deletes an object; one that is gone is no error. Jobs that a CronJob started go on to their end.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn delete(&self, sort: Sort, name: &str) -> Result<(), EngineError> {
        let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        let deleted = match sort {
            Sort::ConfigMap => self.api::<ConfigMap>().delete(name, &DeleteParams::default()).await.map(|_| ()),
            Sort::CronJob => self.api::<CronJob>().delete(name, &orphan).await.map(|_| ()),
        };
        match deleted {
            Err(error) if !is(&error, kube::core::Status::is_not_found) => {
                Err(failed(format!("deleting {} {name}", sort.text()), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// What the API server did not do, for the plan's apply.
pub(super) fn failed(operation: String, error: kube::Error) -> EngineError {
    match is_for_a_person(&error) {
        true => EngineError::Permanent {
            operation,
            hint: "see what the API server says; it may be the rights of Mainstay's service account".to_owned(),
            source: Some(error.into()),
        },
        false => EngineError::Transient { operation, source: error.into() },
    }
}
