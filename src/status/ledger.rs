//! The ledger: what happened, in order, each entry carrying the hash of the one before.
//!
//! JSON lines in `runs/YYYY-MM.jsonl`, then `runs/YYYY-MM-2.jsonl` and so on where a month has more than a file should
//! hold. The chain runs through all files. An entry that is changed, removed or put in between breaks it from there on.
//! Pure. A boundary format (JSON).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Published;
use crate::{
    actual::RestoreReport, git::Revision, plan::Digest, policy::PolicyName, restore_point::RestorePointId,
    run::RunReport,
};

/// Where the files lie.
const DIRECTORY: &str = "runs/";
/// A file that is larger is continued in the next: git stores a whole file anew for each entry.
const FILE_SIZE_BYTES: usize = 1024 * 1024;
/// What the very first entry carries.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Something that happened. The engine numbers them from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number.
    pub sequence: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Whose.
    pub policy: PolicyName,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// A policy was created, updated or withdrawn.
    Applied {
        /// What was done.
        action: crate::plan::Action,
        /// From which commit.
        revision: Option<Revision>,
    },
    /// A run ended.
    RunEnded(Box<RunReport>),
    /// A scheduled time was given up, because its deadline had passed.
    Skipped {
        /// The latest time that was given up.
        scheduled: Timestamp,
        /// How many times passed without a run, this one included.
        missed: u32,
    },
    /// A restore ended.
    RestoreEnded(Box<RestoreReport>),
    /// Somebody consented on a change request to what it does to this policy.
    Approved {
        /// Digest of everything that was consented to.
        digest: Digest,
        /// Who, and how: `bob by review 12`.
        by: String,
        /// The number of the change request.
        request: u64,
    },
    /// Restore points were marked as expired by an edit.
    LostByEdit {
        /// Which.
        points: Vec<RestorePointId>,
        /// The commit that did it.
        revision: Option<Revision>,
        /// The approval that allowed it.
        approval: Option<Digest>,
    },
    /// Restore points were marked as expired by the rules as time went on.
    Expired {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Marks were taken back: the rules keep these again.
    TakenBack {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Expired restore points left the index after their grace time.
    Forgotten {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// The repository was checked.
    Verified {
        /// Which repository.
        repository: String,
        /// Whether it passed; else what is wrong.
        problem: Option<String>,
    },
    /// Restore points were found in a repository that nothing known here made. They stay until they are released.
    Found {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// No repository lists these restore points any more, though nothing here forgot them. They stay known.
    Missing {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Missing restore points are there again.
    Returned {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// Restore points that were missing for long, and that nobody holds, are no longer waited for.
    GivenUp {
        /// Which.
        points: Vec<RestorePointId>,
    },
    /// A restore point was protected from expiry.
    Held(RestorePointId),
    /// That protection was taken away, or the one that a found restore point has.
    Released(RestorePointId),
}

impl EventKind {
    /// The run that ended; none: it is another kind.
    pub fn ended_run(&self) -> Option<&RunReport> {
        if let Self::RunEnded(run) = self { Some(run) } else { None }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Hex SHA-256 of the line before, without its line break; [`GENESIS`] for the first.
    pub previous: String,
}

/// The first entry that does not follow from those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenLedger {
    /// It reads not as an entry.
    #[error("line {line} of the ledger is no entry; compare it with an older commit of the status branch")]
    NoEntry {
        /// Counted from 1 over all files.
        line: usize,
    },
    /// It does not carry the hash of the one before.
    #[error(
        "line {line} of the ledger does not follow line {}; one of them was changed, or one between them is gone. \
         Compare them with an older commit of the status branch", line - 1
    )]
    NoSuccessor {
        /// Counted from 1 over all files.
        line: usize,
    },
}

/// Adds events to the lines of a ledger. Those that are in it already are passed over, so the same events can be sent
/// again after a crash.
pub fn append(existing: &str, events: &[Event]) -> String {
    let known: BTreeSet<String> = lines(existing).filter_map(identity_of_line).collect();
    let mut previous = lines(existing).last().map_or_else(|| GENESIS.to_owned(), hash);
    let mut text = existing.to_owned();
    for event in events.iter().filter(|event| !known.contains(&identity(event))) {
        previous = push(&mut text, event, previous);
    }
    text
}

/// Checks the chain.
///
/// # Errors
/// The first entry that does not follow.
pub fn verify<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<(), BrokenLedger> {
    let mut previous = GENESIS.to_owned();
    for (index, line) in lines.into_iter().enumerate() {
        let line_number = index + 1;
        let entry: Entry = serde_json::from_str(line).map_err(|_| BrokenLedger::NoEntry { line: line_number })?;
        if entry.previous != previous {
            return Err(BrokenLedger::NoSuccessor { line: line_number });
        }
        previous = hash(line);
    }
    Ok(())
}

/// The files that change when events are added to a published ledger.
pub fn extend(events: &[Event], published: &Published<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    if events.is_empty() {
        return BTreeMap::new();
    }
    let names = names(published);
    let read = |name: &FileName| {
        (published.read)(&name.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    // Events that are sent again are recent: they are looked for in the newest files, not in the whole history.
    let months: BTreeSet<String> = events.iter().map(month).collect();
    let recent = names.iter().rev().enumerate().filter(|(age, name)| *age < 2 || months.contains(&name.month));
    let known: BTreeSet<String> =
        recent.flat_map(|(_, name)| lines(&read(name)).filter_map(identity_of_line).collect::<Vec<_>>()).collect();
    let mut newest = names.last().cloned();
    let newest_text = newest.as_ref().map(read).unwrap_or_default();
    let mut size_bytes = newest_text.len();
    let mut previous = lines(&newest_text).last().map_or_else(|| GENESIS.to_owned(), hash);
    for event in events.iter().filter(|event| !known.contains(&identity(event))) {
        let name = file_for(event, newest.as_ref(), size_bytes);
        let text = files.entry(name.path()).or_insert_with(|| read(&name));
        previous = push(text, event, previous);
        size_bytes = text.len();
        newest = Some(name);
    }
    files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect()
}

/// The paths of a published ledger's files, oldest first.
pub fn paths(published: &Published<'_>) -> Vec<String> {
    names(published).iter().map(FileName::path).collect()
}

/// Whether a published ledger has lost this event: somebody deleted the status branch or set it back.
pub fn has_lost(published: &Published<'_>, event: &Event) -> bool {
    let identity = identity(event);
    let is_in = |name: &FileName| {
        let bytes = (published.read)(&name.path()).unwrap_or_default();
        // Usually the very last line is the one.
        let mut lines = bytes.rsplit(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        lines.any(|line| identity_of_line(line).is_some_and(|found| found == identity))
    };
    !names(published).iter().rev().any(is_in)
}

/// One file of the ledger. The order is that of the chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileName {
    month: String,
    part: u32,
}

impl FileName {
    fn path(&self) -> String {
        match self.part {
            1 => format!("{DIRECTORY}{}.jsonl", self.month),
            part => format!("{DIRECTORY}{}-{part}.jsonl", self.month),
        }
    }

    /// From a path that [`FileName::path`] could have made.
    fn of(path: &str) -> Option<Self> {
        let stem = path.strip_prefix(DIRECTORY)?.strip_suffix(".jsonl")?;
        let (month, rest) = stem.split_at_checked(7)?;
        let part = if rest.is_empty() { 1 } else { rest.strip_prefix('-')?.parse().ok()? };
        let name = Self { month: month.to_owned(), part };
        let digits =
            month.bytes().enumerate().all(|(at, byte)| if at == 4 { byte == b'-' } else { byte.is_ascii_digit() });
        (digits && name.path() == path).then_some(name)
    }
}

fn names(published: &Published<'_>) -> Vec<FileName> {
    let mut names: Vec<FileName> = (published.list)(DIRECTORY).iter().filter_map(|path| FileName::of(path)).collect();
    names.sort();
    names
}

/// The file that an event goes to. Files are only ever added at the end: an event of an earlier month (a clock that
/// jumped back) stays in the newest file, for the chain tells the order in which things became known.
fn file_for(event: &Event, newest: Option<&FileName>, size_bytes: usize) -> FileName {
    let month = month(event);
    match newest {
        None => FileName { month, part: 1 },
        Some(newest) if newest.month < month => FileName { month, part: 1 },
        Some(newest) if size_bytes >= FILE_SIZE_BYTES => {
            FileName { month: newest.month.clone(), part: newest.part.saturating_add(1) }
        }
        Some(newest) => newest.clone(),
    }
}

/// Adds one line, and returns its hash.
fn push(text: &mut String, event: &Event, previous: String) -> String {
    let line = serde_json::to_string(&Entry { event: event.clone(), previous }).expect("an event is plain data");
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&line);
    text.push('\n');
    hash(&line)
}

fn month(event: &Event) -> String {
    event.at.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty())
}

fn hash(line: &str) -> String {
    hex::encode(Sha256::digest(line))
}

/// What makes two events the same one.
fn identity(event: &Event) -> String {
    serde_json::to_string(event).expect("an event is plain data")
}

fn identity_of_line(line: &str) -> Option<String> {
    serde_json::from_str::<Entry>(line).ok().map(|entry| identity(&entry.event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, at: &str) -> Event {
        Event {
            sequence,
            at: at.parse().expect("a time"),
            policy: "shop/nightly".parse().expect("a name"),
            kind: EventKind::Held(RestorePointId(format!("point-{sequence}"))),
        }
    }

    /// Publishes events one publication after the other.
    fn publish(files: &mut BTreeMap<String, Vec<u8>>, events: &[Event]) {
        let changed = {
            let list = |directory: &str| files.keys().filter(|path| path.starts_with(directory)).cloned().collect();
            extend(events, &Published { read: &|path| files.get(path).cloned(), list: &list })
        };
        files.extend(changed);
    }

    /// All lines in the order of the chain.
    fn all(files: &BTreeMap<String, Vec<u8>>) -> (Vec<String>, Vec<String>) {
        let paths = paths(&Published { read: &|_| None, list: &|_| files.keys().cloned().collect() });
        let text: String = paths.iter().map(|path| String::from_utf8_lossy(&files[path])).collect();
        (paths, text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn the_chain_runs_through_all_files() {
        let mut files = BTreeMap::new();
        publish(&mut files, &[event(1, "2026-11-30T23:59:59Z"), event(2, "2026-12-01T00:00:00Z")]);
        publish(&mut files, &[event(2, "2026-12-01T00:00:00Z"), event(3, "2027-01-01T00:00:00Z")]);
        // The clock jumped back: what became known last still stands last.
        publish(&mut files, &[event(4, "2026-11-30T12:00:00Z")]);
        let (paths, lines) = all(&files);
        assert_eq!(paths, ["runs/2026-11.jsonl", "runs/2026-12.jsonl", "runs/2027-01.jsonl"]);
        assert_eq!(lines.len(), 4);
        assert_eq!(verify(lines.iter().map(String::as_str)), Ok(()));
        let published =
            Published { read: &|path| files.get(path).cloned(), list: &|_| files.keys().cloned().collect() };
        let there = event(2, "2026-12-01T00:00:00Z");
        assert!(!has_lost(&published, &there));
        assert!(has_lost(&published, &event(5, "2026-12-01T00:00:00Z")));
        // The event with this number is one of another daemon.
        assert!(has_lost(&published, &Event { policy: "shop/other".parse().expect("a name"), ..there.clone() }));
        assert!(has_lost(&Published::NOTHING, &there));
    }

    #[test]
    fn a_large_month_is_continued_in_further_files() {
        let mut files = BTreeMap::new();
        let events: Vec<Event> = (1..=12_000).map(|sequence| event(sequence, "2026-11-01T00:00:00Z")).collect();
        for events in events.chunks(3_000) {
            publish(&mut files, events);
        }
        let (paths, lines) = all(&files);
        assert_eq!(paths[..2], ["runs/2026-11.jsonl", "runs/2026-11-2.jsonl"]);
        assert_eq!(lines.len(), 12_000);
        assert_eq!(verify(lines.iter().map(String::as_str)), Ok(()));
        assert!(files.values().all(|bytes| bytes.len() < FILE_SIZE_BYTES + 1_000));
    }

    #[test]
    fn every_change_by_hand_breaks_the_chain() {
        let text = append("", &[1, 2, 3, 4].map(|sequence| event(sequence, "2026-11-21T02:00:00Z")));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(verify(lines.iter().copied()), Ok(()));
        let edited = lines[1].replace("point-2", "point-9");
        let cases: [(&str, Vec<&str>, BrokenLedger); 5] = [
            ("edited", vec![lines[0], &edited, lines[2]], BrokenLedger::NoSuccessor { line: 3 }),
            ("removed", vec![lines[0], lines[2]], BrokenLedger::NoSuccessor { line: 2 }),
            ("first removed", vec![lines[1]], BrokenLedger::NoSuccessor { line: 1 }),
            ("swapped", vec![lines[0], lines[2], lines[1]], BrokenLedger::NoSuccessor { line: 2 }),
            ("junk", vec![lines[0], "{}"], BrokenLedger::NoEntry { line: 2 }),
        ];
        for (name, lines, expected) in cases {
            assert_eq!(verify(lines), Err(expected), "{name}");
        }
    }

    #[test]
    fn events_that_are_sent_again_are_passed_over() {
        let events = [1, 2, 3].map(|sequence| event(sequence, "2026-11-21T02:00:00Z"));
        let once = append("", &events);
        assert_eq!(append(&once, &events), once);
        assert_eq!(append(&append("", &events[..2]), &events), once);
        // Another daemon numbers its own events from 1, too: they are others.
        let other = Event { policy: "shop/other".parse().expect("a name"), ..events[0].clone() };
        assert_eq!(append(&once, &[other]).lines().count(), 4);
    }
}
