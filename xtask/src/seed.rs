//! The seed of the property tests' random cases: taken from the commit, so that
//! each commit meets other cases and a run on the same commit repeats them.
//! `cargo test` alone takes random ones.

use std::path::Path;
use std::process::Command;

/// What proptest reads its seed from.
pub const VARIABLE: &str = "PROPTEST_RNG_SEED";

/// The seed of a checkout; `None` where somebody set one already or where this is
/// no checkout, and the cases are random then.
pub fn of(root: &Path) -> Option<u64> {
    if std::env::var_os(VARIABLE).is_some() {
        return None;
    }
    let output = Command::new("git")
        .args(["rev-parse", "HEAD^{tree}"])
        .current_dir(root)
        .output()
        .ok()?;
    from_hash(std::str::from_utf8(&output.stdout).ok()?)
}

/// The first 64 bits of a hash.
fn from_hash(hash: &str) -> Option<u64> {
    u64::from_str_radix(hash.get(..16)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_follows_the_hash() {
        assert_eq!(from_hash("00000000000000ff77\n"), Some(255));
        assert_eq!(from_hash("ff"), None);
        assert_eq!(from_hash("fatal: not a git repository"), None);
    }
}
