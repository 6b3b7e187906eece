//! The status: what a turn learned, as documents for the status branch.
//!
//! Pure: the same state gives the same bytes, so that nothing changed means no commit.

pub mod ledger;
