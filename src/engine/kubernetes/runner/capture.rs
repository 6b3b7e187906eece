//! Capturing: a piece into a repository by a mover's Job, or into a volume snapshot.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    Notice, Run,
    claims::{self, Claim, ClaimError},
    pieces::{Part, Piece},
    snapshots::{self, Ready},
};
use crate::{
    engine::{
        kubernetes::{
            access,
            inventory::{self, IN_CLUSTER},
            labels::{self, Kind},
            manifests::{
                mover::{MountedClaim, MoverJob},
                snapshot::Identity,
            },
            movers, names,
            site::SiteError,
        },
        local::{
            context::bandwidth,
            state::{places::PlaceRecord, points::StoredPart},
        },
        movers::Word,
    },
    mover::{
        dump::{self, Server},
        job::{Input, Job, Outcome, SnapshotLabel, Task},
    },
    policy::document::{Source, source::Database},
    restore_point::{self, VOLUME_SNAPSHOT},
    run::{Phase, SourceReport},
    secret::Secret,
};

/// The pause between the starts for two claims where nothing is said.
const DEFAULT_STAGGER: Duration = Duration::from_secs(120);
/// The longest beginning of a policy's name in the name of a Job.
const NAME_LENGTH: usize = 30;

impl Run<'_> {
    /// Captures while the workload stands still, if it does.
    pub(super) async fn capture(&mut self, index: usize, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let part = self.pieces.captures.get(index).copied().ok_or_else(no_part)?;
        let result = self.one(part, true, notice).await;
        if result.is_ok() {
            for stopped in &self.stopped {
                let text = format!("{}/{}", stopped.kind, stopped.name);
                let still = match text.parse::<super::quiesce::Workload>() {
                    Ok(workload) => workload.check_still(self.site.client(), &stopped.namespace).await,
                    Err(error) => Err(error),
                };
                still.map_err(|error| SiteError::from(error).chain())?;
            }
        }
        result
    }

    /// Copies from a volume snapshot.
    pub(super) async fn copy(&mut self, index: usize, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let part = self.pieces.copies.get(index).copied().ok_or_else(no_part)?;
        let result = self.one(part, false, notice).await;
        let is_last = !self.pieces.copies.iter().skip(index + 1).any(|other| other.piece == part.piece);
        if is_last || result.is_err() {
            let name = self.object_name(&format!("s{}", part.piece));
            if result.is_err() {
                // The pod of a mover that failed stays for its log, and would keep the claim from going.
                let mover = self.object_name(&mover_suffix(part, false));
                movers::remove(self.site.client(), self.policy.name.namespace(), &mover).await;
            }
            snapshots::remove_claim(self.site.client(), self.policy.name.namespace(), &name).await;
            snapshots::remove(self.site.client(), self.policy.name.namespace(), &name).await;
        }
        result
    }

    async fn one(&mut self, part: Part, first: bool, notice: &mut dyn FnMut(Notice)) -> Result<(), String> {
        let piece = self.pieces.all.get(part.piece).cloned().ok_or_else(no_part)?;
        let place = part.place.and_then(|place| self.places.get(place)).cloned();
        let to = place.as_ref().map_or(VOLUME_SNAPSHOT, |place| place.repository.as_str()).to_owned();
        notice(Notice::Step(format!("capture {} into {to}", piece.name)));
        self.set_source(part, Phase::Running, |_| ());
        self.stagger(&piece, part).await?;
        let began = std::time::Instant::now();
        let mut warnings = Vec::new();
        let result = match (&place, &piece.claim) {
            (Some(place), _) => self.capture_into(&piece, part, place, first, notice, &mut warnings).await.map(Some),
            (None, Some(claim)) => self.volume_snapshot(&piece, part, claim).await,
            (None, None) => Err(SiteError::Refused("a dump has no volume to take a snapshot of".to_owned())),
        };
        let duration_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = crate::engine::movers::told(warnings);
        match result {
            // The snapshot is only the first half of it.
            Ok(None) => Ok(()),
            Ok(Some(mut stored)) => {
                stored.part.duration_milliseconds = duration_milliseconds;
                let captured = stored.part.clone();
                self.parts.push(stored);
                self.set_source(part, Phase::Succeeded, |report| {
                    report.tell_captured(captured);
                    report.message = told;
                });
                Ok(())
            }
            Err(error) => {
                let reason = error.chain();
                self.set_source(part, Phase::Failed, |report| {
                    report.duration_milliseconds = duration_milliseconds;
                    report.message = Some(reason.clone());
                });
                Err(format!("source {} was not captured into {to}: {reason}", piece.name))
            }
        }
    }

    /// Several claims are begun one after the other with a pause, so that not all disks are read at once. A volume
    /// snapshot reads nothing, so it waits for none.
    async fn stagger(&mut self, piece: &Piece, part: Part) -> Result<(), String> {
        let (Some(claim), true) = (&piece.claim, part.place.is_some()) else { return Ok(()) };
        let said = self.policy.document.spec.stagger.map(|stagger| stagger.std());
        let pause = pause_between(self.pieces.claims(), said, !self.stopped.is_empty());
        if let Some((last, began)) = &self.claim_began
            && *last != claim.name
        {
            let until = (*began + pause).min(self.bounds.deadline);
            let stop_asked = async {
                match self.site.stop.clone() {
                    Some(mut stop) => crate::engine::process::stopped(&mut stop).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = stop_asked => {}
            }
            self.may_go_on()?;
        }
        if self.claim_began.as_ref().is_none_or(|(last, _)| *last != claim.name) {
            self.claim_began = Some((claim.name.clone(), Instant::now()));
        }
        Ok(())
    }

    async fn capture_into(
        &mut self,
        piece: &Piece,
        part: Part,
        place: &PlaceRecord,
        first: bool,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<StoredPart, SiteError> {
        if !place.initialised {
            inventory::check_beside(self.site, &self.policy.name, place).await?;
            self.site.job(place, Task::Initialise, &self.bounds, |_| ()).await?;
            let id = place.id;
            let settled = self.site.store.change_points(&self.policy.name, |record| {
                for place in record.places.iter_mut().filter(|place| place.id == id) {
                    place.initialised = true;
                }
            });
            settled.await?;
            for place in self.places.iter_mut().filter(|other| other.id == place.id) {
                place.initialised = true;
            }
        }
        let suffix = mover_suffix(part, first);
        let mut mover = movers::plain(self.identity(Kind::Mover, &suffix), &self.site.image, &self.bounds);
        mover.nfs = access::nfs(place);
        if let Some(limits) = &self.policy.document.spec.limits {
            mover.resources = limits.resources.clone().unwrap_or_default();
        }
        let input = match &piece.claim {
            Some(claim) => self.claim_input(piece, part, claim, first, &mut mover).await?,
            None => self.dump_input(&piece.source, &mut mover).await?,
        };
        let is_stream = matches!(input, Input::Streams(_));
        let work = Job {
            repository: access::repository(self.site.client(), self.site.store.namespace(), place).await?,
            cache_directory: None,
            bandwidth_bytes_per_second: bandwidth(&self.policy),
            task: Task::Capture {
                label: SnapshotLabel {
                    policy: self.policy.name.clone(),
                    run: self.report.id.clone(),
                    source: piece.name.clone(),
                    sources: self.pieces.all.len(),
                    host: self.policy.cluster.clone(),
                    maker: Some(self.maker.clone()),
                },
                time: self.report.started_at,
                input,
            },
        };
        let subject = format!("{} → {}", piece.name, place.repository);
        let outcome = movers::carry_out(self.site.client(), &mover, &work, &self.bounds, |word| {
            if let Word::Warning(text) = &word {
                warnings.push(text.clone());
            }
            notice(Notice::Word(subject.clone(), word));
        })
        .await?;
        let Outcome::Captured { snapshot, size_bytes, added_bytes, files, unreadable } = outcome else {
            let repository = place.repository.clone();
            return Err(crate::engine::movers::MoverError::WrongAnswer { repository }.into());
        };
        if is_stream && size_bytes == 0 {
            // The mover refuses an empty stream, too; a restore point of nothing must not depend on one guard.
            return Err(SiteError::Refused(format!("source {} gave nothing at all; look at its program", piece.name)));
        }
        let part = restore_point::Part {
            source: piece.name.clone(),
            repository: place.repository.clone(),
            location: Some(place.location()),
            snapshot,
            size_bytes,
            added_bytes,
            files,
            unreadable,
            duration_milliseconds: 0,
        };
        Ok(StoredPart { place: place.id, part })
    }

    async fn claim_input(
        &self,
        piece: &Piece,
        part: Part,
        claim: &Claim,
        first: bool,
        mover: &mut MoverJob,
    ) -> Result<Input, SiteError> {
        let client = self.site.client();
        let mounted = if first {
            let mounted = claims::mounted(client, self.policy.name.namespace(), &claim.name).await?;
            if let (true, Some(pod)) = (claim.single_pod, mounted.pods.first()) {
                return Err(ClaimError::SinglePod { claim: claim.name.clone(), pod: pod.clone() }.into());
            }
            if !claim.shared {
                mover.node = mounted.node;
                mover.tolerations = mounted.tolerations;
            }
            MountedClaim { claim: claim.name.clone(), directory: claim.name.clone(), writable: false }
        } else {
            let temporary = self.object_name(&format!("s{}", part.piece));
            // Mounted under the name of the original, so that the next copy is compared with this one.
            MountedClaim { claim: temporary, directory: claim.name.clone(), writable: false }
        };
        let path = mounted.path();
        mover.claim = Some(mounted);
        Ok(Input::Paths { paths: vec![path.into()], exclude: piece.source.exclude.clone(), one_file_system: false })
    }

    async fn dump_input(&self, source: &Source, mover: &mut MoverJob) -> Result<Input, SiteError> {
        let needs_image = |what: &str| {
            SiteError::Refused(format!(
                "source {} names no `image`; on Kubernetes its programs are carried out in the image of {what}",
                source.name
            ))
        };
        if let Some(command) = &source.command {
            let mut environment = BTreeMap::new();
            for (variable, reference) in &command.environment {
                let what = format!("the environment variable {variable} of source {}", source.name);
                environment.insert(variable.clone(), self.secret(&what, reference).await?);
            }
            mover.client_image = Some(command.image.clone().ok_or_else(|| needs_image("your choice"))?);
            return Ok(Input::Streams(vec![dump::command_stream(&source.name, command, environment)]));
        }
        let Some((server, database)) = database(source) else {
            return Err(SiteError::Refused(format!(
                "source {} names nothing that this engine can capture; give it volumes, postgres, mysql, mariadb or \
                 command",
                source.name
            )));
        };
        mover.client_image = Some(database.image.clone().ok_or_else(|| needs_image("the database's client"))?);
        let namespace = self.policy.name.namespace();
        let (database, password) = access::credentials(self.site.client(), namespace, &source.name, database).await?;
        // Whether a program is in that image cannot be seen from here: the usual name is taken.
        Ok(Input::Streams(dump::streams(server, &database, password.as_ref(), &|_| true)))
    }

    async fn secret(
        &self,
        what: &str,
        reference: &crate::policy::document::SecretReference,
    ) -> Result<Secret, SiteError> {
        Ok(access::value(self.site.client(), self.policy.name.namespace(), what, reference).await?)
    }

    /// Takes a volume snapshot: the restore point itself, or (`None`) what is copied from in a later step.
    async fn volume_snapshot(
        &mut self,
        piece: &Piece,
        part: Part,
        claim: &Claim,
    ) -> Result<Option<StoredPart>, SiteError> {
        let later = piece.is_copied_later();
        let kind = if later { Kind::Mover } else { Kind::VolumeSnapshot };
        let mut identity = self.identity(kind, &format!("s{}", part.piece));
        identity.annotations.insert(labels::SOURCE.to_owned(), piece.name.clone());
        identity.annotations.insert(labels::SOURCES.to_owned(), self.pieces.all.len().to_string());
        let class = piece.source.volumes.as_ref().and_then(|volumes| volumes.snapshot_class.as_deref());
        let (client, stop) = (self.site.client(), self.site.stop.as_ref());
        let Ready { name, restore_size } =
            snapshots::take(client, &identity, &claim.name, class, self.remaining(), stop).await?;
        if later {
            let ready = Ready { name, restore_size };
            identity.labels =
                movers::run_labels(labels::labels(Kind::Mover, Some(&self.policy.name)), &self.report.id.0);
            snapshots::temporary_claim(client, &identity, &ready, claim).await?;
            return Ok(None);
        }
        let part = restore_point::Part {
            source: piece.name.clone(),
            repository: VOLUME_SNAPSHOT.to_owned(),
            location: None,
            snapshot: format!("{}/{name}", self.policy.name.namespace()),
            size_bytes: snapshots::bytes(restore_size.as_deref().or(Some(&claim.size))),
            added_bytes: 0,
            files: 0,
            unreadable: 0,
            duration_milliseconds: 0,
        };
        Ok(Some(StoredPart { place: IN_CLUSTER, part }))
    }

    /// What an object of this run is called and carries.
    fn identity(&self, kind: Kind, suffix: &str) -> Identity {
        let policy = &self.policy.name;
        Identity {
            name: self.object_name(suffix),
            namespace: policy.namespace().to_owned(),
            labels: movers::run_labels(labels::labels(kind, Some(policy)), &self.report.id.0),
            annotations: labels::annotations(Some(policy)),
        }
    }

    fn object_name(&self, suffix: &str) -> String {
        let policy = &self.policy.name;
        let short: String = policy.name().chars().take(NAME_LENGTH).collect();
        let hash = names::short_hash(&policy.to_string());
        format!("{}-{hash}-{}-{suffix}", short.trim_end_matches('-'), self.report.id)
    }

    fn set_source(&mut self, part: Part, phase: Phase, change: impl FnOnce(&mut SourceReport)) {
        if let Some(report) = self.report.sources.get_mut(part.report) {
            report.phase = phase;
            change(report);
        }
    }
}

/// The databases of a source; none: it is something else.
pub fn database(source: &Source) -> Option<(Server, &Database)> {
    let postgres = source.postgres.as_deref().map(|database| (Server::Postgres, database));
    let mysql = source.mysql.as_deref().map(|database| (Server::MySql, database));
    let mariadb = source.mariadb.as_deref().map(|database| (Server::MariaDb, database));
    postgres.or(mysql).or(mariadb)
}

/// What tells the movers of one run apart. `first`: it reads the source itself, and no copy of it.
fn mover_suffix(part: Part, first: bool) -> String {
    format!("{}{}-{}", if first { "c" } else { "k" }, part.piece, part.place.unwrap_or(0))
}

fn no_part() -> String {
    "the policy has no source or no repository; apply its document again".to_owned()
}

/// The pause between the starts for two claims. A workload is kept still for it only where the policy says so.
fn pause_between(claims: usize, said: Option<Duration>, stands_still: bool) -> Duration {
    match said {
        _ if claims < 2 => Duration::ZERO,
        Some(pause) => pause,
        None if stands_still => Duration::ZERO,
        None => DEFAULT_STAGGER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_still_for_a_pause_that_nobody_asked_for() {
        let said = Duration::from_secs(3);
        assert_eq!(pause_between(1, Some(said), false), Duration::ZERO);
        assert_eq!(pause_between(2, None, false), DEFAULT_STAGGER);
        assert_eq!(pause_between(2, None, true), Duration::ZERO);
        assert_eq!(pause_between(2, Some(said), true), said);
    }
}
