//! Times and counts as people read them in the texts of commands.

use jiff::Timestamp;

use crate::plan::wording;

/// A time to the second, in UTC: `2026-11-21 12:40:40Z`.
pub(super) fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1 file`, `2 files`.
pub(super) fn files(number: u64) -> String {
    wording::count(usize::try_from(number).unwrap_or(usize::MAX), "file", "files")
}
