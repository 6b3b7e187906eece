//! The label of a snapshot as tags, so that the repository alone tells which restore points exist.

use jiff::{Timestamp, tz::TimeZone};
use rustic_core::SnapshotOptions;

use crate::{mover::job::SnapshotLabel, restore_point::MakerId};

/// Every snapshot of ours has this tag.
const OURS: &str = "mainstay";
/// Snapshots of streams have this tag.
pub const STREAMS: &str = "input=streams";
/// Snapshots of files have this tag.
pub const PATHS: &str = "input=paths";
const POLICY: &str = "policy=";
const RUN: &str = "run=";
const SOURCE: &str = "source=";
const SOURCES: &str = "sources=";
const MAKER: &str = "maker=";

/// What rustic_core is told of a new snapshot. Times are in UTC: retention elsewhere counts by the stored offset.
pub fn options(label: &SnapshotLabel, time: Timestamp, input: &str) -> SnapshotOptions {
    let SnapshotLabel { policy, run, source, sources, host, maker } = label;
    let tags = [
        OURS.to_owned(),
        format!("{POLICY}{policy}"),
        format!("{RUN}{run}"),
        format!("{SOURCE}{source}"),
        format!("{SOURCES}{sources}"),
        input.to_owned(),
    ];
    let mut list = rustic_core::StringList::default();
    for tag in tags {
        list.add(tag);
    }
    if let Some(MakerId(maker)) = maker {
        list.add(format!("{MAKER}{maker}"));
    }
    SnapshotOptions::default()
        .label(format!("{policy}/{source}"))
        .tags(vec![list])
        .time(time.to_zoned(TimeZone::UTC))
        .host(host.clone())
        // By default it would be the whole argument vector of this process.
        .command("mainstay".to_owned())
}

/// The label of a snapshot, if it is one of ours.
pub fn read(tags: &[&str], host: &str) -> Option<SnapshotLabel> {
    if !tags.contains(&OURS) {
        return None;
    }
    let value = |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name));
    Some(SnapshotLabel {
        policy: value(POLICY)?.parse().ok()?,
        run: crate::restore_point::RestorePointId(value(RUN)?.to_owned()),
        source: value(SOURCE)?.to_owned(),
        sources: value(SOURCES)?.parse().ok()?,
        host: host.to_owned(),
        maker: value(MAKER).map(|maker| MakerId(maker.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back() {
        for maker in [None, Some(MakerId("3fa9c10000000000".to_owned()))] {
            let label = SnapshotLabel {
                policy: "shop/nightly".parse().unwrap(),
                run: crate::restore_point::RestorePointId("20261121-020000".to_owned()),
                source: "db, main".to_owned(),
                sources: 2,
                host: "local".to_owned(),
                maker,
            };
            let options = options(&label, Timestamp::UNIX_EPOCH, PATHS);
            let tags: Vec<&str> = options.tags.iter().flat_map(|tags| tags.iter()).map(String::as_str).collect();
            assert_eq!(read(&tags, "local"), Some(label));
        }
    }

    #[test]
    fn foreign_snapshots_are_not_ours() {
        for tags in [&[][..], &["nightly"], &["mainstay", "policy=A B", "run=1", "source=a", "sources=1"]] {
            assert_eq!(read(tags, "local"), None, "{tags:?}");
        }
    }
}
