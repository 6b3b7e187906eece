//! `inventory.json`: what `plan --offline` reads, so that a plan in CI needs no credentials.
//!
//! Pure. The time of observation moves only when something else does: looking again is not news.

use jiff::Timestamp;

use super::Published;
use crate::actual::{ActualState, inventory};

/// The file on the status branch.
pub const PATH: &str = "inventory.json";

/// The file's content; the one that is published stays when nothing but its time would differ.
pub fn render(actual: &ActualState, published: &Published<'_>) -> Vec<u8> {
    if let Some(before) = (published.read)(PATH)
        && let Some(observed_at) = observed_at(&before)
    {
        let same_time = ActualState { observed_at, ..actual.clone() };
        if inventory::write(&same_time).as_bytes() == before {
            return before;
        }
    }
    inventory::write(actual).into_bytes()
}

fn observed_at(bytes: &[u8]) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "observedAt")]
        observed_at: Timestamp,
    }
    serde_json::from_slice::<Header>(bytes).ok().map(|header| header.observed_at)
}
