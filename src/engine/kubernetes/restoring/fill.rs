//! Claims that a restore fills: one that is there, one that it makes, or a new volume beside one.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Restoring, borrowed,
    choice::Origin,
    prepare::{Destination, ToClaim, Way},
    undo, volumes,
};
use crate::{
    engine::{
        kubernetes::{
            access,
            manifests::{
                claim,
                mover::{MountedClaim, MoverJob},
                snapshot::Identity,
            },
            movers,
            site::SiteError,
            store::restores::{MadeClaim, Swap},
        },
        local::runner::Notice,
        movers::Word,
    },
    mover::job::{Outcome, Task},
};

/// Annotation on a claim that a restore made: its mark, so that only it takes the claim away again.
pub const MADE_BY: &str = "mainstay.dev/restored-by";
/// Annotation on the same: what is in it.
const RESTORED_FROM: &str = "mainstay.dev/restored-from";
/// How long a restore waits for an archive.
const UPLOAD_WITHIN: Duration = Duration::from_secs(3600);

impl Restoring<'_> {
    /// Makes a claim where there is none, and fills it.
    pub(super) async fn make(
        &mut self,
        index: usize,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, u64)>, SiteError> {
        let item = &self.prepared.items[index];
        let Destination::Claim(to) = &item.destination else { return Ok(None) };
        let Way::Make { shape } = &to.way else { return Ok(None) };
        let snapshot = item.origin.is_volume_snapshot().then(|| snapshot_name(&item.part.snapshot));
        let from = match &self.record.report.restore_point {
            Some(point) => format!("{}/{point}", self.record.policy),
            None => "an archive".to_owned(),
        };
        let annotations = BTreeMap::from([(MADE_BY.to_owned(), self.record.mark()), (RESTORED_FROM.to_owned(), from)]);
        let (namespace, name) = (to.namespace.clone(), to.claim.clone());
        let borrowed = self.identity(&undo::second_name(&self.record, index), &namespace);
        let is_foreign = item.origin.is_volume_snapshot() && namespace != self.record.policy.namespace();
        let snapshot = if is_foreign { Some(borrowed.name.as_str()) } else { snapshot };
        // It belongs to whoever asked for it: no label of ours.
        let identity =
            Identity { name: name.clone(), namespace: namespace.clone(), labels: BTreeMap::new(), annotations };
        let manifest = claim::fresh(&identity, shape, snapshot);
        let path = item.part.snapshot.clone();
        self.record.made.push(MadeClaim { namespace: namespace.clone(), claim: name.clone() });
        self.save().await?;
        if is_foreign {
            borrowed::borrow(self.site.client(), &borrowed, &path).await?;
        }
        volumes::make(self.site.client(), &namespace, &manifest).await?;
        let item = &self.prepared.items[index];
        let Destination::Claim(to) = &item.destination else { return Ok(None) };
        let mover = self.mover(index, &namespace);
        let restored = self.fill(index, to, &name, false, mover, notice, warnings).await;
        if is_foreign {
            borrowed::give_back(self.site.client(), &namespace, &[borrowed.name]).await?;
        }
        restored
    }

    /// Makes a new volume beside a claim, and fills it.
    pub(super) async fn beside(
        &mut self,
        index: usize,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, u64)>, SiteError> {
        let item = &self.prepared.items[index];
        let Destination::Claim(to) = &item.destination else { return Ok(None) };
        let Way::Replace { shape, made, old, near, node, tolerations } = &to.way else { return Ok(None) };
        let snapshot = item.origin.is_volume_snapshot().then(|| snapshot_name(&item.part.snapshot));
        let beside = self.object_name(&format!("c{index}"));
        let identity = self.identity(&beside, &to.namespace);
        let manifest = claim::fresh(&identity, shape, snapshot);
        let mut mover = self.mover(index, &to.namespace);
        (mover.node, mover.near, mover.tolerations) = (node.clone(), near.clone(), tolerations.clone());
        let namespace = to.namespace.clone();
        let swap = Swap {
            namespace: namespace.clone(),
            claim: to.claim.clone(),
            beside: beside.clone(),
            made: made.clone(),
            old: old.clone(),
            new: None,
            begun: false,
        };
        self.record.swaps.push(swap);
        self.save().await?;
        volumes::make(self.site.client(), &namespace, &manifest).await?;
        let item = &self.prepared.items[index];
        let Destination::Claim(to) = &item.destination else { return Ok(None) };
        let restored = self.fill(index, to, &beside, false, mover, notice, warnings).await?;
        let (_, volume) = volumes::bound(self.site.client(), &namespace, &beside).await?;
        let volume = volumes::described(&volume);
        for swap in self.record.swaps.iter_mut().filter(|swap| swap.beside == beside) {
            swap.new = Some(volume.clone());
        }
        self.save().await?;
        Ok(restored)
    }

    /// Writes the files of a snapshot into a claim; of one that a volume snapshot filled, it only looks at them.
    #[expect(clippy::too_many_arguments, reason = "one step for three ways, and each is another thing")]
    pub(super) async fn fill(
        &self,
        index: usize,
        to: &ToClaim,
        claim: &str,
        overwrite: bool,
        mut mover: MoverJob,
        notice: &mut dyn FnMut(Notice),
        warnings: &mut Vec<String>,
    ) -> Result<Option<(u64, u64)>, SiteError> {
        let item = &self.prepared.items[index];
        let subject = format!("{} ← {}", item.part.source, item.part.repository);
        let hear = |word: Word| {
            if let Word::Warning(text) = &word {
                warnings.push(text.clone());
            }
            notice(Notice::Word(subject.clone(), word));
        };
        let writable = !item.origin.is_volume_snapshot();
        let mounted = MountedClaim { claim: claim.to_owned(), directory: to.captured.clone(), writable };
        let path = mounted.path();
        mover.claim = Some(mounted);
        let client = self.site.client();
        let usual = ["mover", "--result", "/dev/termination-log"].map(str::to_owned);
        let outcome = match &item.origin {
            Origin::Repository(place) => {
                mover.nfs = access::nfs(place);
                let task = Task::RestoreFiles {
                    snapshot: item.part.snapshot.clone(),
                    into: None,
                    paths: vec![path.into()],
                    overwrite,
                    dry_run: false,
                };
                let work = self.work(place, task).await?;
                movers::carry_out(client, &mover, &work, &self.bounds, hear).await?
            }
            // There are no files to look at; its workload has to tell.
            Origin::VolumeSnapshot if to.is_block() => return Ok(None),
            Origin::VolumeSnapshot => {
                // Its driver made it: that it can be mounted and read is the proof, and what makes it be bound.
                mover.arguments = usual.into_iter().chain(["look".to_owned(), path]).collect();
                movers::carry_out_arguments(client, &mover, &self.bounds, hear).await?
            }
            Origin::Upload => {
                let seconds = UPLOAD_WITHIN.as_secs().to_string();
                let further = ["unpack".to_owned(), path, "--seconds".to_owned(), seconds];
                mover.arguments = usual.into_iter().chain(further).collect();
                mover.arguments.extend(overwrite.then(|| "--overwrite".to_owned()));
                movers::carry_out_arguments(client, &mover, &self.bounds, hear).await?
            }
        };
        if let Outcome::Restored { files, bytes } = outcome {
            return Ok(Some((files, bytes)));
        }
        Ok(None)
    }
}

fn snapshot_name(path: &str) -> &str {
    path.split_once('/').map_or(path, |(_, name)| name)
}
