//! Captures beside each other, or one prune alone: a Lease whose holder prunes, and whose annotation names the pods that
//! capture.
//!
//! Both are in one object, so that of two that exclude each other the API server lets one through.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;

use super::{Held, LeaseError, Leases, PodIdentity, is_alive};
use crate::engine::kubernetes::{
    labels::CAPTURES,
    store::{is, post},
};

/// How often a change is tried while other pods are quicker.
const MOST_TRIES: usize = 12;

impl Leases {
    /// Notes that this pod captures into what a lease guards; `Err` in the result: who prunes it just now.
    ///
    /// # Errors
    /// The API server does not say, or does not do it.
    pub async fn enter(
        &self,
        name: &str,
        own: &PodIdentity,
        now: Timestamp,
    ) -> Result<Result<(), PodIdentity>, LeaseError> {
        for _ in 0..MOST_TRIES {
            let found = self.get(name).await?;
            if let Some(spec) = found.as_ref().and_then(|found| found.spec.as_ref()) {
                let other = spec.holder_identity.as_deref().and_then(PodIdentity::parse).filter(|other| other != own);
                if let Some(other) = other
                    && self.holds(&other, spec, now).await.map_err(|error| self.failed("judging", name, error))?
                {
                    return Ok(Err(other));
                }
            }
            let mut inside = found.as_ref().map(captures).unwrap_or_default();
            inside.retain(|other| other != own);
            inside.push(own.clone());
            if self.put(name, found, &inside, None, now).await? {
                return Ok(Ok(()));
            }
        }
        Err(self.busy(name))
    }

    /// Notes that this pod captures no more.
    ///
    /// # Errors
    /// The API server does not do it. A pod that is gone captures nothing, whatever is noted.
    pub async fn leave(&self, name: &str, own: &PodIdentity, now: Timestamp) -> Result<(), LeaseError> {
        for _ in 0..MOST_TRIES {
            let Some(found) = self.get(name).await? else { return Ok(()) };
            let mut inside = captures(&found);
            if !inside.contains(own) {
                return Ok(());
            }
            inside.retain(|other| other != own);
            if self.put(name, Some(found), &inside, None, now).await? {
                return Ok(());
            }
        }
        Err(self.busy(name))
    }

    /// Takes a lease while no pod that lives captures into what it guards; `Err` in the result: who does, or who has it.
    ///
    /// # Errors
    /// The API server does not say, or does not do it.
    pub async fn take_alone(
        &self,
        name: &str,
        own: &PodIdentity,
        now: Timestamp,
    ) -> Result<Result<Held, PodIdentity>, LeaseError> {
        for _ in 0..MOST_TRIES {
            let found = self.get(name).await?;
            if let Some(spec) = found.as_ref().and_then(|found| found.spec.as_ref()) {
                let other = spec.holder_identity.as_deref().and_then(PodIdentity::parse).filter(|other| other != own);
                if let Some(other) = other
                    && self.holds(&other, spec, now).await.map_err(|error| self.failed("judging", name, error))?
                {
                    return Ok(Err(other));
                }
            }
            for other in found.as_ref().map(captures).unwrap_or_default() {
                // One outside of the cluster cannot be looked up; runs are carried out in pods.
                let lives = other.is_pod()
                    && is_alive(&self.client, &other).await.map_err(|error| self.failed("judging", name, error))?;
                if lives {
                    return Ok(Err(other));
                }
            }
            if self.put(name, found, &[], Some(own), now).await? {
                return Ok(Ok(Held { leases: self.clone(), name: name.to_owned(), holder: own.clone() }));
            }
        }
        Err(self.busy(name))
    }

    /// Writes the lease on top of what was found. False: another pod was quicker.
    async fn put(
        &self,
        name: &str,
        found: Option<LeaseObject>,
        inside: &[PodIdentity],
        holder: Option<&PodIdentity>,
        now: Timestamp,
    ) -> Result<bool, LeaseError> {
        let version = found.and_then(|found| found.metadata.resource_version);
        let nobody = PodIdentity { namespace: String::new(), name: String::new(), uid: String::new() };
        let mut object = self.object(name, holder.unwrap_or(&nobody), now, 0);
        if let (None, Some(spec)) = (holder, &mut object.spec) {
            spec.holder_identity = None;
        }
        let texts: Vec<String> = inside.iter().map(PodIdentity::text).collect();
        object.metadata.annotations = Some([(CAPTURES.to_owned(), texts.join(" "))].into());
        let written = match version {
            Some(_) => {
                object.metadata.resource_version = version;
                self.api().replace(name, &post(), &object).await
            }
            None => self.api().create(&post(), &object).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if is(&error, |s| s.is_conflict() || s.is_already_exists() || s.is_not_found()) => Ok(false),
            Err(source) => Err(self.failed("writing", name, source)),
        }
    }

    fn busy(&self, name: &str) -> LeaseError {
        let source = std::io::Error::other(format!("other pods changed it {MOST_TRIES} times in a row"));
        self.failed("writing", name, kube::Error::Service(source.into()))
    }
}

/// The pods that capture, as a lease notes them.
fn captures(object: &LeaseObject) -> Vec<PodIdentity> {
    let noted = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CAPTURES));
    noted.map(|text| text.split(' ').filter_map(PodIdentity::parse).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_that_capture_are_read_as_they_were_written() {
        let pod = |name: &str| PodIdentity { namespace: "shop".into(), name: name.into(), uid: "1-2".into() };
        let mut object = LeaseObject::default();
        assert_eq!(captures(&object), []);
        let pods = [pod("a"), pod("b")];
        let texts: Vec<String> = pods.iter().map(PodIdentity::text).collect();
        object.metadata.annotations = Some([(CAPTURES.to_owned(), texts.join(" "))].into());
        assert_eq!(captures(&object), pods);
        object.metadata.annotations = Some([(CAPTURES.to_owned(), String::new())].into());
        assert_eq!(captures(&object), []);
    }
}
