//! The sweep: every gang starts at its floor; then marginal segments are given
//! in descending worth per watt, each until a power node above is full.
//!
//! Where no full node splits a gang this is the greedy algorithm on a
//! polymatroid and exactly optimal. The worth at which a node first refuses a
//! watt is its level; a node's price is its level less the prices of all
//! nodes above it. In O(S log S + S·depth) for S segments.

use super::model::Model;

/// What a sweep found.
#[derive(Clone, Debug)]
pub(super) struct Swept {
    /// One cap a gang.
    pub caps: Vec<f64>,
    /// One price a power node.
    pub prices: Vec<f64>,
}

/// Sweeps from the floors.
pub(super) fn sweep(model: &Model) -> Swept {
    sweep_from(model, model.floors())
}

/// Sweeps from caps that keep every limit; only raises.
pub(super) fn sweep_from(model: &Model, mut caps: Vec<f64>) -> Swept {
    let mut left = model.left(&caps);
    let mut level: Vec<Option<f64>> = vec![None; left.len()];
    for (worth, group, piece) in ordered(model) {
        let gang = &model.groups[group];
        let wanted = gang.pieces[piece].to - caps[group];
        if wanted <= 0.0 {
            continue;
        }
        let mut given = wanted;
        for (node, count) in &gang.rows {
            given = given.min((left[*node] / count).max(0.0));
        }
        // A gang never skips a stretch: what lies before this one was refused.
        if caps[group] < gang.pieces[piece].from {
            given = 0.0;
        }
        for (node, count) in &gang.rows {
            left[*node] -= count * given;
            if left[*node] <= model.slack(*node) && given < wanted {
                left[*node] = 0.0;
                level[*node].get_or_insert(worth);
            }
        }
        caps[group] += given;
    }
    Swept {
        caps,
        prices: prices(model, &level),
    }
}

/// Stretches worth more than λ: worth per watt net of λ, gang, place within
/// the gang. By falling worth, then by gang, so that the order is always the same.
fn ordered(model: &Model) -> Vec<(f64, usize, usize)> {
    let mut all = Vec::new();
    for (group, gang) in model.groups.iter().enumerate() {
        for (place, piece) in gang.pieces.iter().enumerate() {
            let worth = piece.gain / gang.count - model.price;
            if worth > 0.0 {
                all.push((worth, group, place));
            }
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    all
}

fn prices(model: &Model, level: &[Option<f64>]) -> Vec<f64> {
    let mut prices = vec![0.0; level.len()];
    // Parents stand first, so the prices above a node are known when it comes.
    for node in 0..level.len() {
        if let Some(worth) = level[node] {
            let paid: f64 = model.above[node].iter().map(|u| prices[*u]).sum();
            prices[node] = (worth - paid).max(0.0);
        }
    }
    prices
}
