//! What a restore uses: the restore point, and for each of its parts that are asked for, where it is and where it goes.
//!
//! Pure.

use std::collections::BTreeSet;

use crate::{
    engine::{
        kubernetes::{inventory::IN_CLUSTER, store::PointsRecord},
        local::{
            restoring::choose,
            state::{
                places::PlaceRecord,
                points::{StoredPart, StoredPoint},
            },
        },
    },
    policy::{
        PolicyName,
        document::restore::{Into, RestoreSpec},
    },
    restore_point::{Part, VOLUME_SNAPSHOT},
};

/// What an archive is called where restore points have their source and repository.
const UPLOAD: &str = "upload";

/// Where a part comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A repository.
    Repository(Box<PlaceRecord>),
    /// A volume snapshot in the cluster.
    VolumeSnapshot,
    /// An archive that a person brings.
    Upload,
}

impl Origin {
    /// The repository; none: it is in no repository.
    pub fn place(&self) -> Option<&PlaceRecord> {
        match self {
            Self::Repository(place) => Some(place),
            Self::VolumeSnapshot | Self::Upload => None,
        }
    }

    /// Whether its driver makes a claim of it.
    pub fn is_volume_snapshot(&self) -> bool {
        match self {
            Self::VolumeSnapshot => true,
            Self::Repository(_) | Self::Upload => false,
        }
    }
}

/// A part of a restore point that is restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The part.
    pub part: Part,
    /// Where it is.
    pub origin: Origin,
    /// The claim that it was captured from; none: it is a dump.
    pub claim: Option<String>,
}

impl Chosen {
    /// The name of the policy's source that it belongs to.
    pub fn source(&self) -> &str {
        source_of(&self.part.source)
    }
}

/// The restore point that is meant, and its parts that are asked for.
///
/// # Errors
/// In words, with what to do: there is no such point or source, or no repository holds it.
pub fn parts(
    policy: &PolicyName,
    record: &PointsRecord,
    spec: &RestoreSpec,
) -> Result<(StoredPoint, Vec<Chosen>), String> {
    let point = choose(policy, &record.points, &spec.restore_point).map_err(|error| error.to_string())?;
    let id = &point.point.id;
    let all: BTreeSet<&str> = point.parts.iter().map(|part| part.part.source.as_str()).collect();
    let listed = || all.iter().copied().collect::<Vec<_>>().join(", ");
    let is_wanted = |part: &str, wanted: &String| part == wanted || source_of(part) == wanted;
    for wanted in &spec.sources {
        if !all.iter().any(|part| is_wanted(part, wanted)) {
            return Err(format!("restore point {id} has no source {wanted}; it has {}", listed()));
        }
    }
    let mut chosen = Vec::new();
    for source in &all {
        if !spec.sources.is_empty() && !spec.sources.iter().any(|wanted| is_wanted(source, wanted)) {
            continue;
        }
        let held: Vec<&StoredPart> = point.parts.iter().filter(|part| part.part.source == *source).collect();
        let found = found(record, &held, spec.repository.as_deref()).ok_or_else(|| {
            let asked =
                spec.repository.as_deref().map_or("no repository".to_owned(), |name| format!("{name} does not"));
            let held: Vec<&str> = held.iter().map(|part| part.part.repository.as_str()).collect();
            let asked = asked.replace("no repository", "no known repository");
            format!("{asked} holds source {source} of restore point {id}; these do: {}", held.join(", "))
        })?;
        let claim = source.split_once('/').map(|(_, claim)| claim.to_owned());
        chosen.push(Chosen { part: found.0, origin: found.1, claim });
    }
    check_destinations(&chosen, spec.into.as_ref(), id.0.as_str())?;
    Ok((point.clone(), chosen))
}

/// An archive that goes into a claim, as if it had been captured from one of this name.
pub fn upload(claim: &str) -> Chosen {
    let part = Part {
        source: format!("{UPLOAD}/{claim}"),
        repository: UPLOAD.to_owned(),
        location: None,
        snapshot: String::new(),
        size_bytes: 0,
        added_bytes: 0,
        files: 0,
        unreadable: 0,
        duration_milliseconds: 0,
    };
    Chosen { part, origin: Origin::Upload, claim: Some(claim.to_owned()) }
}

/// Where a claim goes: its namespace and name.
pub fn destination(policy: &PolicyName, claim: &str, into: Option<&Into>) -> (String, String) {
    let Some(into) = into else { return (policy.namespace().to_owned(), claim.to_owned()) };
    let namespace = into.namespace.clone().unwrap_or_else(|| policy.namespace().to_owned());
    (namespace, into.claims.get(claim).cloned().unwrap_or_else(|| claim.to_owned()))
}

fn found(record: &PointsRecord, held: &[&StoredPart], repository: Option<&str>) -> Option<(Part, Origin)> {
    let is_asked = |name: &str| repository.is_none_or(|asked| asked == name);
    let places = record.places.iter().filter(|place| is_asked(&place.repository));
    let in_place = |place: &PlaceRecord| held.iter().find(|part| part.place == place.id);
    for place in places {
        if let Some(part) = in_place(place) {
            return Some((part.part.clone(), Origin::Repository(Box::new(place.clone()))));
        }
    }
    // A volume snapshot has no copy elsewhere, so it is meant whatever repository the others are to come from.
    let in_cluster = held.iter().find(|part| part.place == IN_CLUSTER && part.part.repository == VOLUME_SNAPSHOT)?;
    Some((in_cluster.part.clone(), Origin::VolumeSnapshot))
}

/// Looks whether `into` says where everything goes, and nothing besides.
fn check_destinations(chosen: &[Chosen], into: Option<&Into>, point: &str) -> Result<(), String> {
    let Some(Into { path: _, database, namespace, claims }) = into else { return Ok(()) };
    let all: Vec<&str> = chosen.iter().filter_map(|chosen| chosen.claim.as_deref()).collect();
    for claim in claims.keys() {
        if !all.contains(&claim.as_str()) {
            let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Err(format!("restore point {point} has no claim {claim} among what is asked for; it has {known}"));
        }
    }
    for chosen in chosen {
        let name = &chosen.part.source;
        match &chosen.claim {
            Some(claim) if namespace.is_none() && !claims.contains_key(claim) => {
                return Err(format!(
                    "where claim {claim} of source {name} goes is not said; name it in `into.claims`, name an \
                     `into.namespace`, or choose other `sources`"
                ));
            }
            None if database.is_none() => {
                return Err(format!(
                    "source {name} is a dump, and `into` names no `database` for it; name one, or choose other `sources`"
                ));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn source_of(part: &str) -> &str {
    part.split_once('/').map_or(part, |(source, _)| source)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record() -> PointsRecord {
        let part = |source: &str, place: i64, repository: &str| {
            json!({"place": place, "source": source, "repository": repository, "snapshot": format!("{source}@{place}"),
                "sizeBytes": 1, "addedBytes": 1, "files": 1, "unreadable": 0, "durationMilliseconds": 1})
        };
        let document = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "x"},
            "spec": {"directory": "/backup", "password": {"file": "/key"}}});
        let place = |id: i64, name: &str| json!({"id": id, "repository": name, "document": document, "path": "", "current": true, "initialised": true});
        let point = json!({"id": "20261121-020000", "time": "2026-11-21T02:00:00Z", "sizeBytes": 1, "held": false,
            "parts": [part("files/data", 1, "near"), part("files/data", 2, "far"), part("db", 2, "far"),
                part("disk/raw", IN_CLUSTER, VOLUME_SNAPSHOT)]});
        serde_json::from_value(json!({"policy": "shop/nightly", "complete": true, "points": [point],
            "places": [place(1, "near"), place(2, "far")]}))
        .unwrap()
    }

    fn chosen(spec: serde_json::Value) -> Result<Vec<String>, String> {
        let spec: RestoreSpec = serde_json::from_value(spec).unwrap();
        let (_, chosen) = parts(&"shop/nightly".parse().unwrap(), &record(), &spec)?;
        Ok(chosen
            .iter()
            .map(|chosen| {
                let place = chosen.origin.place().map_or("cluster", |place| &place.repository);
                format!("{} from {place}", chosen.part.source)
            })
            .collect())
    }

    #[test]
    fn each_part_comes_from_the_first_place_that_holds_it() {
        let all = chosen(json!({"policy": "nightly"})).unwrap();
        assert_eq!(all, ["db from far", "disk/raw from cluster", "files/data from near"]);
        assert_eq!(chosen(json!({"policy": "nightly", "sources": ["files"]})).unwrap(), ["files/data from near"]);
        let far = chosen(json!({"policy": "nightly", "sources": ["files/data"], "repository": "far"})).unwrap();
        assert_eq!(far, ["files/data from far"]);
        let near = chosen(json!({"policy": "nightly", "sources": ["db"], "repository": "near"})).unwrap_err();
        assert!(near.contains("near does not") && near.contains("these do: far"), "{near}");
        let unknown = chosen(json!({"policy": "nightly", "sources": ["mail"]})).unwrap_err();
        assert!(unknown.contains("has no source mail; it has db, disk/raw, files/data"), "{unknown}");
    }

    #[test]
    fn where_everything_goes_must_be_said() {
        let into = |into: serde_json::Value| chosen(json!({"policy": "nightly", "into": into}));
        let unsaid = into(json!({"claims": {"data": "copy"}, "database": "copy"})).unwrap_err();
        assert!(unsaid.contains("where claim raw of source disk/raw goes is not said"), "{unsaid}");
        let dump = into(json!({"namespace": "other"})).unwrap_err();
        assert!(dump.contains("source db is a dump"), "{dump}");
        let strange = into(json!({"namespace": "other", "claims": {"date": "copy"}, "database": "copy"})).unwrap_err();
        assert!(strange.contains("has no claim date") && strange.contains("raw, data"), "{strange}");
        assert_eq!(into(json!({"namespace": "other", "database": "copy"})).unwrap().len(), 3);
    }

    #[test]
    fn a_claim_keeps_its_name_where_no_other_is_given() {
        let policy: PolicyName = "shop/nightly".parse().unwrap();
        let pair = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        assert_eq!(destination(&policy, "data", None), pair("shop", "data"));
        let into: Into = serde_json::from_value(json!({"namespace": "other"})).unwrap();
        assert_eq!(destination(&policy, "data", Some(&into)), pair("other", "data"));
        let into: Into = serde_json::from_value(json!({"claims": {"data": "copy"}})).unwrap();
        assert_eq!(destination(&policy, "data", Some(&into)), pair("shop", "copy"));
    }
}
