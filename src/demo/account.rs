//! The account of a run: what the halls, the agents, the store and control
//! counted, put side by side.

use super::Args;
use super::conductor::Event;
use super::pace::Pace;
use super::stage::Stage;
use super::summary::{Summary, peak_memory_mib, ratio};
use heliostat_models::Watts;
use heliostat_twin::Hall;
use tokio::time::Instant;

/// Jobs whose deadline has passed, and how many of them were not done by then.
struct Deadlines {
    jobs: u64,
    missed: u64,
}

fn late(hall: &Hall) -> Deadlines {
    let mut found = Deadlines { jobs: 0, missed: 0 };
    for job in hall.jobs() {
        if let Some(deadline) = job.deadline.filter(|d| *d <= hall.now()) {
            found.jobs += 1;
            found.missed += u64::from(job.ended.is_none_or(|ended| ended > deadline));
        }
    }
    found
}

/// Adds up the run.
pub fn summarise(args: &Args, pace: &Pace, stage: &Stage, event: Event, begun: Instant) -> Summary {
    let hall = stage.hall();
    let ours = hall.tally();
    let (free, flat) = (stage.shadows.uncapped(), stage.shadows.uniform());
    let view = stage.server.control.view().borrow().clone();
    let stats: Vec<_> = stage.agents.iter().map(|a| a.stats()).collect();
    let taken: u64 = stats.iter().map(|s| s.samples_taken).sum();
    // Dropped samples wait for nothing: they are lost.
    let waiting: u64 = stats
        .iter()
        .map(|s| {
            (s.samples_taken + s.samples_found).saturating_sub(s.samples_acknowledged + s.dropped())
        })
        .sum();
    let stored = stage.server.store.store().stats().samples;
    let unstored = taken.saturating_sub(stored);
    let unmet = event.limit.is_some() && event.seconds.is_none();
    let per_joule = |t: &heliostat_twin::Tally| ratio(t.work_hours, t.site.get());
    let weighted = |t: &heliostat_twin::Tally| ratio(t.weighted_work_hours, t.site.get());
    let carbon_per_work = |t: &heliostat_twin::Tally| ratio(t.carbon_grams, t.work_hours);
    let over = |a: Option<f64>, b: Option<f64>| a.zip(b).and_then(|(a, b)| ratio(a, b));
    let mut notes = vec![
        "hall, jobs and weather are simulated; generation is recorded".to_owned(),
        "carbon is life-cycle, average of the zone's own generation".to_owned(),
        "work counts GPU-hours at full speed, all job classes alike; weighted work counts each class as the site's policy does, which is what the optimizer maximises".to_owned(),
    ];
    if unmet {
        notes.push("the hall did not get below the grid event's limit in time; it counts as a limit exceeded".to_owned());
    }
    let ours_late = late(&hall);
    let covered = hall.now().seconds_since(args.start);
    if covered + 1.0 < args.span.as_secs_f64() {
        notes.push("the machine was too slow or the run was stopped: less simulated time was covered than asked for".to_owned());
    }
    Summary {
        zone: args.zone.clone(),
        from: args.start,
        to: hall.now(),
        simulated_hours: covered / 3_600.0,
        requested_hours: args.span.as_secs_f64() / 3_600.0,
        wall_seconds: begun.elapsed().as_secs_f64(),
        control_period_seconds: pace.step.as_secs_f64(),
        gpus: stage.site.devices.len(),
        energy_kwh: ours.site.kilowatt_hours(),
        it_energy_kwh: ours.it.kilowatt_hours(),
        pue: ratio(ours.site.get(), ours.it.get()).unwrap_or(f64::NAN),
        work_gpu_hours: ours.work_hours,
        work_gpu_hours_uncapped: free.work_hours,
        work_gpu_hours_uniform_cap: flat.work_hours,
        energy_kwh_uncapped: free.site.kilowatt_hours(),
        energy_kwh_uniform_cap: flat.site.kilowatt_hours(),
        work_per_joule: per_joule(&ours).unwrap_or_default(),
        work_per_joule_ratio_vs_uncapped: over(per_joule(&ours), per_joule(&free)),
        work_per_joule_ratio_vs_uniform_cap: over(per_joule(&ours), per_joule(&flat)),
        weighted_work_per_joule_ratio_vs_uncapped: over(weighted(&ours), weighted(&free)),
        weighted_work_per_joule_ratio_vs_uniform_cap: over(weighted(&ours), weighted(&flat)),
        carbon_kg: ours.carbon_grams / 1_000.0,
        carbon_ratio_vs_uncapped: over(carbon_per_work(&ours), carbon_per_work(&free)),
        carbon_total_ratio_vs_uncapped: ratio(ours.carbon_grams, free.carbon_grams),
        renewable_share: ours.renewable_share(),
        renewable_share_uncapped: free.renewable_share(),
        grid_data_share: ratio(ours.site_with_intensity.get(), ours.site.get()).unwrap_or_default(),
        grid_event_seconds_to_compliance: event.seconds,
        grid_event_limit_kw: event.limit.map(Watts::kilowatts),
        max_certificate_gap: view.max_gap,
        max_plan_gap: stage.max_plan_gap,
        allocations: view.allocations,
        deadlines: ours_late.jobs,
        deadlines_missed: ours_late.missed,
        deadlines_missed_uncapped: late(stage.shadows.uncapped_hall()).missed,
        deadlines_missed_uniform_cap: late(stage.shadows.uniform_hall()).missed,
        limit_violations: hall.violations().len() as u64 + event.broken + u64::from(unmet),
        samples_taken: taken,
        samples_stored: stored,
        samples_waiting: waiting.min(unstored),
        samples_lost: unstored.saturating_sub(waiting),
        samples_missed: stats
            .iter()
            .map(|s| s.instants_missed + s.sources.values().map(|v| v.skipped).sum::<u64>())
            .sum(),
        peak_memory_mib: peak_memory_mib(),
        notes,
    }
}
