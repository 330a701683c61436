//! What a relief says: of every job the breaker for whose sake its cap is low.

use super::{Question, Relief};
use crate::check::Excursion;
use heliostat_models::decision::JobCap;

/// So many breakers are named; the others are counted.
const NAMED: usize = 3;

/// The caps of the jobs that are asked for less than was decided, and why.
pub fn caps(asked: &Question, relief: &Relief) -> Vec<JobCap> {
    let worst = worst_by_device(asked, relief);
    let mut caps = Vec::new();
    for job in &asked.jobs {
        let lowered = |place: &&u32| {
            let place = **place as usize;
            relief.caps[place] < asked.devices[place].then
        };
        let places: Vec<usize> = (job.devices.iter().filter(lowered))
            .map(|place| *place as usize)
            .collect();
        let Some(first) = places.first() else {
            continue;
        };
        let cap = relief.caps[*first];
        let breaker = (places.iter().filter_map(|place| worst[*place]))
            .reduce(|a, b| if b.used > a.used { b } else { a });
        let mut reason = match breaker {
            Some(breaker) => format!("Load is taken off at once: {}", bears(asked, breaker)),
            None => "Load is taken off at once".to_owned(),
        };
        reason += if relief.dropped.contains(&job.id) {
            "; the service level gives way."
        } else {
            "; the service level is kept."
        };
        caps.push(JobCap {
            job: Some(job.id.clone()),
            devices: places.len() as u32,
            cap,
            speed: job.curve.speed(cap),
            binding: breaker.map(|b| asked.breakers[b.node].id.clone()),
            marginal: 0.0,
            reason,
        });
    }
    caps
}

/// Of each device the breaker above it that is strained most.
fn worst_by_device<'a>(asked: &Question, relief: &'a Relief) -> Vec<Option<&'a Excursion>> {
    let mut of_breaker: Vec<Option<&Excursion>> = vec![None; asked.breakers.len()];
    for excursion in &relief.breakers {
        of_breaker[excursion.node] = Some(excursion);
    }
    let mut worst = Vec::with_capacity(asked.devices.len());
    for (count, above) in &asked.below {
        let strained = above.iter().filter_map(|place| of_breaker[*place as usize]);
        let most = strained.reduce(|a, b| if b.used > a.used { b } else { a });
        worst.extend(std::iter::repeat_n(most, *count as usize));
    }
    worst
}

/// What a breaker carries and what it bears, in words.
fn bears(asked: &Question, excursion: &Excursion) -> String {
    let borne = if excursion.borne > 0.0 && excursion.borne.is_finite() {
        format!("surely bears that for {:.1} s", excursion.borne)
    } else {
        "does not surely bear that at all".to_owned()
    };
    let late = if asked.devices.iter().any(|d| d.late) {
        format!(", up to {:.0} s where agents are late", asked.late_seconds)
    } else {
        String::new()
    };
    format!(
        "until caps are lowered, for {:.1} s{late}, `{}` may carry {:.1} kW, {:.2} times its rating, and it {borne}",
        asked.seconds,
        asked.breakers[excursion.node].id,
        excursion.load.kilowatts(),
        excursion.multiple
    )
}

/// A relief's summary and reason, for the log.
pub(in crate::control) fn summary(
    asked: &Question,
    relief: Option<&Relief>,
    capped: usize,
) -> (String, String) {
    let Some(relief) = relief else {
        return (
            "Load is no longer taken off; the caps decided hold again.".to_owned(),
            format!(
                "All breakers surely bear what devices may draw until these are in force, within {:.1} s.",
                asked.seconds
            ),
        );
    };
    let names: Vec<&str> = (relief.breakers.iter())
        .map(|b| asked.breakers[b.node].id.as_str())
        .collect();
    let summary = format!(
        "Load is taken off at once below {}: {capped} jobs capped lower, {} of them below their service levels.",
        listed(&names),
        relief.dropped.len()
    );
    let worst = (relief.breakers.iter()).reduce(|a, b| if b.used > a.used { b } else { a });
    let mut reason = match worst {
        Some(worst) => format!("Most strained: {}.", bears(asked, worst)),
        None => String::new(),
    };
    if !relief.is_enough {
        reason += " Even with all that can be commanded at its lowest cap that may be too much.";
    }
    (summary, reason)
}

/// The trouble, for pages.
pub(super) fn trouble(names: &[&str]) -> String {
    format!(
        "What devices may draw until caps are lowered is more than {} surely bears for so long; below, load is taken off at once, by class",
        listed(names)
    )
}

fn listed(names: &[&str]) -> String {
    let mut listed = (names.iter().take(NAMED))
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMED {
        listed += &format!(" and {} more", names.len() - NAMED);
    }
    listed
}
