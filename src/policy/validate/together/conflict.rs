//! Restores that write into one place at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::Everything;
use crate::policy::{
    PolicyName,
    diagnostic::{Diagnostic, Rule},
    document::{Source, source::Database},
    validate::{CheckedPolicy, CheckedRestore},
};

/// Finds restores whose places overlap.
pub fn check(
    everything: &Everything<'_>,
    policies: &BTreeMap<&PolicyName, &CheckedPolicy>,
    findings: &mut Vec<Diagnostic>,
) {
    let mut taken: BTreeMap<PathBuf, &CheckedRestore> = BTreeMap::new();
    for checked in &everything.restores {
        let places = places(checked, policies);
        if let Some((place, other)) = places.iter().find_map(|place| overlap(&taken, place).map(|other| (place, other)))
        {
            let message = format!(
                "two restores write into {} at once: `{}` here and `{}` at {}",
                shown(place),
                checked.restore.name,
                other.restore.name,
                other.name.location
            );
            let mut finding = checked.into.diagnostic(Rule::RestoreConflict, message);
            finding.related = Some(other.into.related("the other one"));
            finding.hint = Some("remove the one that is carried out, or restore into another place".to_owned());
            findings.push(finding);
        }
        taken.extend(places.into_iter().map(|place| (place, *checked)));
    }
}

fn overlap<'a>(taken: &BTreeMap<PathBuf, &'a CheckedRestore>, place: &Path) -> Option<&'a CheckedRestore> {
    if let Some(other) = place.ancestors().find_map(|above| taken.get(above)) {
        return Some(other);
    }
    let (next, other) =
        taken.range::<Path, _>((std::ops::Bound::Excluded(place), std::ops::Bound::Unbounded)).next()?;
    next.starts_with(place).then_some(*other)
}

/// Everything that a restore writes into: paths as they are, databases as `database:KIND/SERVER/NAME`.
fn places(checked: &CheckedRestore, policies: &BTreeMap<&PolicyName, &CheckedPolicy>) -> Vec<PathBuf> {
    let spec = &checked.restore.document.spec;
    if let Some(path) = spec.into.as_ref().and_then(|into| into.path.as_ref()) {
        return vec![PathBuf::from(path)];
    }
    let Some(policy) = policies.get(&checked.restore.policy) else {
        return vec![PathBuf::from(format!("policy:{}", checked.restore.policy))];
    };
    let other_database = spec.into.as_ref().and_then(|into| into.database.as_deref());
    let chosen = |source: &&Source| spec.sources.is_empty() || spec.sources.contains(&source.name);
    let mut places = Vec::new();
    for source in policy.policy.document.spec.sources.iter().filter(chosen) {
        for (kind, database) in [("postgres", &source.postgres), ("mysql", &source.mysql), ("mariadb", &source.mariadb)]
        {
            if let Some(database) = database {
                databases(kind, database, other_database, &mut places);
            }
        }
        if other_database.is_none() {
            places.extend(source.paths.iter().flatten().map(PathBuf::from));
            if source.command.is_some() {
                places.push(PathBuf::from(format!("policy:{}/{}", checked.restore.policy, source.name)));
            }
        }
    }
    places
}

fn databases(kind: &str, database: &Database, other: Option<&str>, places: &mut Vec<PathBuf>) {
    let host = database.host.as_deref().unwrap_or("localhost").trim_start_matches('/');
    let server = format!("{host}:{}", database.port.unwrap_or_default());
    let names = database.databases.iter().map(|name| other.unwrap_or(name));
    places.extend(names.map(|name| PathBuf::from(format!("database:{kind}/{server}/{name}"))));
}

fn shown(place: &Path) -> String {
    format!("`{}`", place.display())
}
