//! The authorities that certificates are checked against, for a mover in an image that knows none.
//!
//! Mainstay's own image has a bundle where programs look for one. An image of a user need not: `mover install` carries the
//! bundle along, beside the program, and what it holds is trusted in addition to what the image trusts.

use std::path::PathBuf;

/// Where the bundle is in Mainstay's own image, and on most hosts.
pub const OF_IMAGE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What it is called beside the program.
pub const CARRIED: &str = "ca-certificates.crt";

/// The bundle beside this program; none: there is none.
pub fn carried() -> Option<PathBuf> {
    let file = std::env::current_exe().ok()?.with_file_name(CARRIED);
    file.is_file().then_some(file)
}
