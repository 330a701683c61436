//! Whether what is declared to give way had to: floors that are dropped, limits
//! that are said to be beyond keeping.
//!
//! A floor may be dropped only where some limit above its gang does not bear it
//! although every job of a lower class is at its lowest caps; those of its own
//! and of higher classes that are not dropped count with their floors, for these
//! come first. A limit is beyond keeping only where the lowest caps exceed it.

use super::limits::lowest;
use super::proof::lowest_at_speed;
use super::seen::Seen;
use super::{Facts, Findings, Proposal, Rule, TOLERANCE};
use heliostat_models::{JobClass, JobId, Watts};
use std::collections::{HashMap, HashSet};

/// Classes from the one whose floors give way last.
const LAST_FIRST: [JobClass; 4] = [
    JobClass::Inference,
    JobClass::Training,
    JobClass::FineTuning,
    JobClass::Experiment,
];

/// Share of a step by which a cap may miss a multiple by rounding.
const EXACT: f64 = 5e-8;

pub(super) fn check(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    findings: &mut Findings,
) {
    if proposal.dropped.is_empty() && proposal.beyond.is_empty() {
        return;
    }
    let least: Vec<Watts> = (lowest(facts, seen).into_iter().zip(&seen.pinned))
        .map(|(least, pinned)| pinned.unwrap_or(least))
        .collect();
    let mut below = Below {
        load: vec![Watts::ZERO; seen.above.count],
        devices: vec![0; seen.above.count],
    };
    for (place, least) in least.iter().enumerate() {
        for row in seen.above.rows(place) {
            below.load[row] += *least;
            below.devices[row] += 1;
        }
    }
    limits(facts, proposal, &below, findings);
    floors(facts, seen, proposal, &least, below, findings);
}

/// What is counted below each limit.
struct Below {
    load: Vec<Watts>,
    devices: Vec<u32>,
}

impl Below {
    /// Whether `more` fits below a limit beside what is counted, sums of so many
    /// numbers being as exact as they are.
    fn has_room_for(&self, facts: &Facts<'_>, row: usize, more: Watts) -> bool {
        let tolerance = TOLERANCE * (1.0 + f64::from(self.devices[row]));
        self.load[row] + more <= facts.room(row) - tolerance
    }
}

fn limits(facts: &Facts<'_>, proposal: &Proposal<'_>, below: &Below, findings: &mut Findings) {
    let places: HashMap<&str, usize> = (0..below.load.len())
        .map(|row| (facts.row_name(row), row))
        .collect();
    for name in proposal.beyond {
        let Some(row) = places.get(name.as_str()) else {
            findings.add(
                Rule::Beyond,
                format!("`{name}`, declared beyond keeping, is no limit of this site"),
            );
            continue;
        };
        if below.has_room_for(facts, *row, Watts::ZERO) {
            findings.add(
                Rule::Beyond,
                format!(
                    "`{name}` is declared beyond keeping, but the lowest caps add up to {:.3} and {:.3} is left to them",
                    below.load[*row],
                    facts.room(*row)
                ),
            );
        }
    }
}

fn floors(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    least: &[Watts],
    mut below: Below,
    findings: &mut Findings,
) {
    let mut unknown: HashSet<&JobId> = proposal.dropped.iter().collect();
    let mut classes: [Vec<usize>; 4] = Default::default();
    for (number, job) in facts.jobs.iter().enumerate() {
        let class = LAST_FIRST.iter().position(|c| *c == job.class);
        classes[class.unwrap_or(0)].push(number);
    }
    let dropped: HashSet<&JobId> = unknown.clone();
    for class in classes {
        let (gone, kept): (Vec<usize>, Vec<usize>) =
            (class.into_iter()).partition(|number| dropped.contains(&facts.jobs[*number].id));
        for number in kept {
            for (row, more) in needed(facts, seen, number, least) {
                below.load[row] += more;
            }
        }
        for number in gone {
            let id = &facts.jobs[number].id;
            unknown.remove(id);
            let mut needs = needed(facts, seen, number, least).into_iter();
            // What needs nothing breaks nothing that was not broken without it.
            let fits = |(row, more)| more <= TOLERANCE || below.has_room_for(facts, row, more);
            if needs.all(fits) {
                findings.add(
                    Rule::Dropped,
                    format!(
                        "the floor of job `{id}` is dropped, but every limit above it bears it with all of lower classes at their lowest caps"
                    ),
                );
            }
        }
    }
    let mut unknown: Vec<&JobId> = unknown.into_iter().collect();
    unknown.sort();
    for id in unknown {
        findings.add(
            Rule::Dropped,
            format!("a floor of `{id}` is dropped, which is no job that runs here"),
        );
    }
}

/// What a job's floor needs above its lowest caps, by limit.
fn needed(facts: &Facts<'_>, seen: &Seen, number: usize, least: &[Watts]) -> Vec<(usize, Watts)> {
    let job = &facts.jobs[number];
    let floor = facts.site.classes.get(&job.class);
    let floor = floor.map_or(0.0, |c| c.floor_speed);
    let slowest = (seen.gangs[number].iter()).filter_map(|place| seen.pinned[*place]);
    let slowest = slowest.fold(Watts(f64::INFINITY), Watts::min);
    let free = seen.free(number);
    let low = (free.clone()).fold(Watts::ZERO, |low, place| low.max(least[place]));
    let high = (free.clone()).fold(slowest.max(low), |high, place| {
        high.min(seen.range[place].1)
    });
    let step = Watts(facts.common_step(free.clone()) as f64 / 1_000.0);
    let at = lowest_at_speed(job, floor, low, high.max(low));
    let cap = (step * (at / step - EXACT).ceil()).min(high).max(low);
    let mut needs: HashMap<usize, Watts> = HashMap::new();
    for place in free {
        for row in seen.above.rows(place) {
            *needs.entry(row).or_default() += cap - least[place];
        }
    }
    let mut needs: Vec<(usize, Watts)> = needs.into_iter().collect();
    needs.sort_by_key(|(row, _)| *row);
    needs
}
