//! What a run captures, piece by piece: each claim of a source is one, each set of databases is one. All of them
//! together are one restore point.

use std::collections::BTreeSet;

use super::{
    claims::{self, Claim},
    quiesce::Workload,
};
use crate::{
    engine::{
        kubernetes::site::{Site, SiteError},
        local::state::places::PlaceRecord,
    },
    policy::{
        CompiledPolicy,
        document::{Source, backup_policy::Consistency, source::Method},
    },
    restore_point::VOLUME_SNAPSHOT,
    run::SourceReport,
};

/// One piece.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Name in the restore point: that of the source, for a claim followed by `/CLAIM`.
    pub name: String,
    /// The source.
    pub source: Source,
    /// The claim; none: a dump.
    pub claim: Option<Claim>,
}

/// Where a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Index of the piece.
    pub piece: usize,
    /// Index of the place; none: it stays a volume snapshot.
    pub place: Option<usize>,
    /// Index of its report.
    pub report: usize,
}

/// Everything that a run captures.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    /// The pieces.
    pub all: Vec<Piece>,
    /// What is captured while the workload stands still. For a piece that is copied from its volume snapshot: the
    /// snapshot alone, for all its places.
    pub captures: Vec<Part>,
    /// What is copied afterwards, from volume snapshots.
    pub copies: Vec<Part>,
    /// What is stopped where the policy is cold.
    pub workloads: Vec<Workload>,
}

impl Pieces {
    /// Looks for everything that a policy means now.
    ///
    /// # Errors
    /// A claim is missing or cannot be captured; what writes to one cannot be stopped; the API server does not say.
    pub async fn find(site: &Site, policy: &CompiledPolicy, places: &[PlaceRecord]) -> Result<Self, SiteError> {
        let namespace = policy.name.namespace();
        let spec = &policy.document.spec;
        let mut all = Vec::new();
        let mut workloads = BTreeSet::new();
        for source in &spec.sources {
            let Some(volumes) = &source.volumes else {
                all.push(Piece { name: source.name.clone(), source: source.clone(), claim: None });
                continue;
            };
            let needs_files = method(source) != Method::VolumeSnapshot;
            let found = claims::find(site.client(), namespace, &source.name, volumes, needs_files).await?;
            if spec.consistency == Consistency::Cold {
                for text in volumes.workload.iter().chain(&volumes.workloads) {
                    workloads.insert(text.parse()?);
                }
            }
            for claim in found {
                if spec.consistency == Consistency::Cold {
                    let of = claims::workloads_of(site.client(), namespace, &claim.name).await?;
                    workloads.extend(of.map_err(|pod| {
                        SiteError::Refused(format!(
                            "pod {pod} mounts claim {} and belongs to no Deployment or StatefulSet, so it cannot be \
                             stopped; use `consistency: Hot`, or stop it with a hook",
                            claim.name
                        ))
                    })?);
                }
                let name = format!("{}/{}", source.name, claim.name);
                all.push(Piece { name, source: source.clone(), claim: Some(claim) });
            }
        }
        Ok(Self::arrange(all, places.len(), workloads.into_iter().collect()))
    }

    fn arrange(all: Vec<Piece>, places: usize, workloads: Vec<Workload>) -> Self {
        let (mut captures, mut copies, mut report) = (Vec::new(), Vec::new(), 0);
        for (index, piece) in all.iter().enumerate() {
            let kind = piece.claim.as_ref().map_or(Method::Files, |_| method(&piece.source));
            let parts = |report: usize| {
                (0..places).map(move |place| Part { piece: index, place: Some(place), report: report + place })
            };
            match kind {
                Method::Files => captures.extend(parts(report)),
                Method::FilesFromSnapshot => {
                    captures.push(Part { piece: index, place: None, report });
                    copies.extend(parts(report));
                }
                Method::VolumeSnapshot => captures.push(Part { piece: index, place: None, report }),
            }
            report += if kind == Method::VolumeSnapshot { 1 } else { places };
        }
        Self { all, captures, copies, workloads }
    }

    /// How many claims there are.
    pub fn claims(&self) -> usize {
        self.all.iter().filter(|piece| piece.claim.is_some()).count()
    }

    /// How many parts the restore point has.
    pub fn expected_parts(&self) -> usize {
        let is_whole = |part: &&Part| self.all.get(part.piece).is_some_and(|piece| !piece.is_copied_later());
        self.captures.iter().filter(is_whole).count() + self.copies.len()
    }

    /// The first reports of all parts, in the order of their indexes.
    pub fn reports(&self, places: &[PlaceRecord]) -> Vec<SourceReport> {
        let mut reports = Vec::new();
        for piece in &self.all {
            let repositories = match &piece.claim {
                Some(_) if method(&piece.source) == Method::VolumeSnapshot => vec![VOLUME_SNAPSHOT.to_owned()],
                Some(_) | None => places.iter().map(|place| place.repository.clone()).collect(),
            };
            reports.extend(
                repositories.into_iter().map(|repository| SourceReport::pending(piece.name.clone(), repository)),
            );
        }
        reports
    }
}

impl Piece {
    /// Whether a volume snapshot is taken first and copied when the workload goes on.
    pub fn is_copied_later(&self) -> bool {
        self.claim.is_some() && method(&self.source) == Method::FilesFromSnapshot
    }
}

fn method(source: &Source) -> Method {
    source.method.unwrap_or(Method::Files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kubernetes::manifests::claim::ClaimShape;

    fn piece(name: &str, yaml: &str, claim: Option<&str>) -> Piece {
        let claim = claim.map(|name| Claim {
            name: name.to_owned(),
            storage_class: None,
            size: "1Gi".to_owned(),
            shared: false,
            single_pod: false,
            shape: ClaimShape::default(),
        });
        Piece { name: name.to_owned(), source: serde_yaml::from_str(yaml).unwrap(), claim }
    }

    #[test]
    fn snapshots_are_taken_while_all_stands_still_and_copied_afterwards() {
        let all = vec![
            piece("files/data", "{name: files, method: FilesFromSnapshot, volumes: {claims: [data]}}", Some("data")),
            piece("db", "{name: db, postgres: {databases: [shop]}}", None),
            piece("disk/raw", "{name: disk, method: VolumeSnapshot, volumes: {claims: [raw]}}", Some("raw")),
        ];
        let pieces = Pieces::arrange(all, 2, Vec::new());
        let part = |piece, place, report| Part { piece, place, report };
        assert_eq!(pieces.captures, [part(0, None, 0), part(1, Some(0), 2), part(1, Some(1), 3), part(2, None, 4)]);
        assert_eq!(pieces.copies, [part(0, Some(0), 0), part(0, Some(1), 1)]);
        assert_eq!(pieces.expected_parts(), 5);
        assert_eq!(pieces.claims(), 2);
    }
}
