//! The certificate: what the caps are worth, and what the prices prove.
//!
//! The bound is evaluated at the corners of every curve: a concave piecewise
//! linear function less a linear one is largest at a corner or at an end.

use super::seen::Seen;
use super::{Facts, Findings, PROOF_TOLERANCE, Proposal, Rule};
use heliostat_models::{JobRecord, Watts};

pub(super) fn check(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    findings: &mut Findings,
) {
    let certificate = proposal.certificate;
    let primal = worth(facts, seen);
    let scale = primal.abs().max(1.0);
    if (primal - certificate.primal).abs() > PROOF_TOLERANCE * scale {
        findings.add(
            Rule::Primal,
            format!(
                "the caps are worth {primal}, the certificate says {}",
                certificate.primal
            ),
        );
    }
    let bound = bound(facts, seen, proposal);
    if bound > certificate.dual_bound + PROOF_TOLERANCE * scale {
        findings.add(
            Rule::Dual,
            format!(
                "the node prices prove {bound}, the certificate claims {}",
                certificate.dual_bound
            ),
        );
    }
    if certificate.dual_bound < primal - PROOF_TOLERANCE * scale {
        findings.add(
            Rule::Dual,
            format!(
                "the caps are worth {primal}, more than the bound {} that nothing should beat",
                certificate.dual_bound
            ),
        );
    }
    let gap =
        (certificate.primal - certificate.dual_bound).abs() / certificate.primal.abs().max(1.0);
    if (gap - certificate.gap).abs() > 1e-12 + 1e-9 * gap {
        findings.add(
            Rule::Gap,
            format!("the gap is {gap}, the certificate says {}", certificate.gap),
        );
    }
}

fn weight(facts: &Facts<'_>, job: &JobRecord) -> f64 {
    let class = facts.site.classes.get(&job.class);
    class.map_or(0.0, |c| c.weight) * job.devices.len() as f64
}

fn worth(facts: &Facts<'_>, seen: &Seen) -> f64 {
    let power: f64 = seen.caps.iter().flatten().map(|c| c.0).sum();
    let mut work = 0.0;
    for (job, gang) in facts.jobs.iter().zip(&seen.gangs) {
        if job.devices.is_empty() {
            continue;
        }
        let caps = gang.iter().filter_map(|place| seen.caps[*place]);
        let slowest = caps.fold(Watts(f64::INFINITY), Watts::min);
        work += weight(facts, job) * job.curve.speed(slowest);
    }
    work - facts.price_of_energy * power
}

fn bound(facts: &Facts<'_>, seen: &Seen, proposal: &Proposal<'_>) -> f64 {
    let above = &seen.above;
    // What a watt costs at each device: λ and every limit above it.
    let cost: Vec<f64> = (0..seen.caps.len())
        .map(|place| {
            let prices = above.rows(place).map(|row| proposal.node_prices[row]);
            facts.price_of_energy + prices.sum::<f64>()
        })
        .collect();
    let mut total = 0.0;
    for (row, capped) in seen.capped().into_iter().enumerate() {
        let mut room = facts.room(row);
        if proposal.beyond.iter().any(|b| b == facts.row_name(row)) {
            room = room.max(capped);
        }
        total += proposal.node_prices[row] * room.0;
    }
    let mut in_gang = vec![false; seen.caps.len()];
    for (number, job) in facts.jobs.iter().enumerate() {
        for place in &seen.gangs[number] {
            in_gang[*place] = true;
        }
        total += best_of_gang(facts, seen, proposal, (number, job), &cost);
    }
    for (place, pinned) in seen.pinned.iter().enumerate() {
        if pinned.is_some() || !in_gang[place] {
            let cap = pinned.unwrap_or(seen.range[place].0);
            total -= cost[place] * cap.0;
        }
    }
    total
}

/// The most that a gang can be worth at these costs, floors kept.
fn best_of_gang(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    (number, job): (usize, &JobRecord),
    cost: &[f64],
) -> f64 {
    let (mut low, mut high) = (Watts::ZERO, Watts(f64::INFINITY));
    let (mut slowest, mut per_watt, mut able) = (Watts(f64::INFINITY), 0.0, 0);
    for place in &seen.gangs[number] {
        match seen.pinned[*place] {
            Some(pinned) => slowest = slowest.min(pinned),
            None => {
                let (least, most) = seen.range[*place];
                low = low.max(least);
                high = high.min(most);
                per_watt += cost[*place];
                able += 1;
            }
        }
    }
    let value =
        |cap: Watts| weight(facts, job) * job.curve.speed(cap.min(slowest)) - per_watt * cap.0;
    if able == 0 {
        return if slowest.is_finite() {
            value(slowest)
        } else {
            0.0
        };
    }
    // Caps are whole milliwatts, and multiples of every step in the gang.
    let step = facts.common_step(seen.free(number)) as f64;
    let whole_up = |cap: Watts| Watts(((cap.0 * 1_000.0 - 1e-4) / step).ceil() * step / 1_000.0);
    let whole_down = |cap: Watts| Watts(((cap.0 * 1_000.0 + 1e-4) / step).floor() * step / 1_000.0);
    let low = whole_up(low).min(high);
    let high = whole_down(high.min(slowest.max(low))).max(low);
    let floor = if proposal.dropped.contains(&job.id) {
        0.0
    } else {
        let class = facts.site.classes.get(&job.class);
        class.map_or(0.0, |c| c.floor_speed)
    };
    let low = whole_up(lowest_at_speed(job, floor, low, high))
        .max(low)
        .min(high);
    (job.curve.points().iter())
        .map(|(corner, _)| value(corner.clamp(low, high)))
        .fold(value(low).max(value(high)), f64::max)
}

/// Lowest cap in the range at which the job keeps a speed, by bisection; the
/// highest where it never does.
pub(super) fn lowest_at_speed(job: &JobRecord, speed: f64, low: Watts, high: Watts) -> Watts {
    if job.curve.speed(low) >= speed {
        return low;
    }
    let (mut below, mut above) = (low, high);
    for _ in 0..60 {
        let middle = (below + above) * 0.5;
        if job.curve.speed(middle) >= speed {
            above = middle;
        } else {
            below = middle;
        }
    }
    above
}
