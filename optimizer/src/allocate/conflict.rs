//! Which limits the floors break.

use super::dense::Dense;
use super::rows::NONE;

/// The smallest set of limits in conflict with the floors, by row; empty when
/// the floors fit.
///
/// Every limit by itself is kept or broken by the floors, for nothing can be
/// lower than they are. Of the broken ones those are left out that are kept as
/// soon as the ones below them are: what is below a limit that is named counts
/// with that limit only.
pub(super) fn smallest(dense: &Dense) -> Vec<usize> {
    let broken = |row: usize| dense.left[row] < -dense.slack(row);
    if !(0..dense.rows.count).any(broken) {
        return Vec::new();
    }
    let tree = &dense.rows.tree;
    let mut named = Vec::new();
    // How much less is drawn below each place once the named limits are kept.
    let mut relief = vec![0.0; tree.row.len()];
    for place in (1..tree.row.len()).rev() {
        let row = tree.row[place] as usize;
        let still = dense.left[row] + relief[place];
        if still < -dense.slack(row) {
            named.push(row);
            relief[place] -= still;
        }
        relief[tree.up[place] as usize] += relief[place];
    }
    // Limits that cut across: nothing is known of what the others spare them.
    named.extend(
        (tree.loose.iter())
            .map(|r| *r as usize)
            .filter(|r| broken(*r)),
    );
    named.retain(|row| *row != NONE as usize);
    named.sort_unstable();
    named
}
