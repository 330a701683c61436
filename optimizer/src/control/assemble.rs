//! From site, jobs and measurements to the allocator's problem, and from its
//! answer to caps by device.

use super::at_feed;
use crate::allocate::{Allocation, Contract, DeviceSpec, Group, Problem};
use crate::check::Facts;
use heliostat_models::site::{ClassPolicy, FINEST_STEP, PowerContract};
use heliostat_models::{DeviceId, JobRecord, Site, SpeedCurve, Watts};
use std::collections::{BTreeMap, HashMap};

/// The jobs that run, made consistent: devices that the site does not know are
/// left out; of two jobs that claim a device the later record holds it; a gang
/// whose devices share no cap is left out, and told.
pub fn running_jobs(
    site: &Site,
    running: impl Iterator<Item = JobRecord>,
    ranges: &BTreeMap<DeviceId, (Watts, Watts)>,
) -> (Vec<JobRecord>, Vec<String>) {
    let mut troubles = Vec::new();
    let mut jobs: Vec<JobRecord> = running.filter(|j| !j.devices.is_empty()).collect();
    jobs.sort_by(|a, b| b.at.cmp(&a.at).then(a.id.cmp(&b.id)));
    let mut held = vec![false; site.devices.len()];
    for job in &mut jobs {
        if let Some(fault) = job.curve.fault() {
            // Kept from before such records were refused: nobody else pays for it.
            troubles.push(format!(
                "the speed curve of job `{}` makes no sense ({fault}); it counts as a job that no cap slows",
                job.id
            ));
            job.curve = SpeedCurve::unaffected();
        } else if !job.curve.is_concave() {
            job.curve = job
                .curve
                .mended()
                .unwrap_or_else(|_| SpeedCurve::unaffected());
        }
        let known = site.devices_named(&job.devices).map(|(place, _)| place);
        let places: Vec<usize> = known.collect();
        if places.len() == job.devices.len() && takes(&mut held, &places) {
            continue;
        }
        let id = job.id.clone();
        job.devices.retain(|device| {
            let Some((place, _)) = site.device(device) else {
                troubles.push(format!(
                    "job `{id}` names `{device}`, which this site does not have"
                ));
                return false;
            };
            if held[place] {
                troubles.push(format!(
                    "job `{id}` claims `{device}`, which a later record gives to another job"
                ));
                return false;
            }
            held[place] = true;
            true
        });
    }
    jobs.retain_mut(|job| {
        let (mut low, mut high) = (0.0f64, f64::INFINITY);
        for (_, device) in site.devices_named(&job.devices) {
            let stated = ranges.get(&device.id).copied();
            let (min, max) = stated.unwrap_or((device.min_cap, device.max_cap));
            low = low.max(min.0);
            high = high.min(max.0);
        }
        let fits = low <= high;
        if !fits {
            troubles.push(format!(
                "the devices of job `{}` share no cap ({low} W to {high} W); they stay at their lowest",
                job.id
            ));
        }
        job.curve = job.curve.clone().stated_from(Watts(low));
        fits && !job.devices.is_empty()
    });
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    (jobs, troubles)
}

/// Marks devices as held, if none of them was before.
fn takes(held: &mut [bool], places: &[usize]) -> bool {
    let mut taken = 0;
    for place in places {
        if held[*place] {
            break;
        }
        held[*place] = true;
        taken += 1;
    }
    let all = taken == places.len();
    if !all {
        places[..taken]
            .iter()
            .for_each(|place| held[*place] = false);
    }
    all
}

/// The problem that these facts pose.
pub fn problem(facts: &Facts<'_>) -> Problem {
    let site = facts.site;
    let terms = facts.terms;
    let nodes = (0..site.power.nodes().len())
        .map(|place| at_feed::limit_node(facts, place))
        .collect();
    let (ranges, pinned) = (site.by_place(facts.ranges), site.by_place(facts.pinned));
    let devices = (site.devices.iter().enumerate())
        .map(|(place, device)| {
            let (min, max) = ranges[place].unwrap_or((device.min_cap, device.max_cap));
            let step = terms.steps.get(&device.id).copied();
            let step = step.unwrap_or(device.cap_step);
            DeviceSpec {
                id: device.id.clone(),
                min,
                max,
                node: site.power_node_of(place),
                fixed: pinned[place],
                // The problem's own step is the finest.
                step: if step > FINEST_STEP {
                    step
                } else {
                    Watts::ZERO
                },
            }
        })
        .collect();
    let groups = (facts.jobs.iter())
        .map(|job| {
            let policy = site.classes.get(&job.class).copied();
            let policy = policy.unwrap_or(ClassPolicy {
                weight: 0.0,
                floor_speed: 0.0,
                interruptible: true,
                pause_minutes: 0.0,
            });
            Group {
                job: job.id.clone(),
                class: job.class,
                weight: policy.weight,
                floor_speed: policy.floor_speed,
                curve: job.curve.clone(),
                devices: (site.devices_named(&job.devices))
                    .map(|(place, _)| place)
                    .collect(),
            }
        })
        .collect();
    Problem {
        nodes,
        devices,
        groups,
        contracts: contracts(facts),
        price_of_energy: facts.price_of_energy,
        step: FINEST_STEP,
    }
}

/// The contracts in force, their members by place.
fn contracts(facts: &Facts<'_>) -> Vec<Contract> {
    let (site, stated) = (facts.site, &facts.terms.contracts);
    let elsewhere = (stated.iter()).any(|term| of_site(site, &term.id).is_none());
    let nodes: HashMap<&str, usize> = (site.power.nodes().iter().enumerate())
        .filter(|_| elsewhere)
        .map(|(place, node)| (node.id.as_str(), place))
        .collect();
    (stated.iter())
        .map(|term| {
            let (nodes, devices) = match of_site(site, &term.id) {
                Some(known) => (known.nodes.clone(), known.devices.clone()),
                None => {
                    let node = |member: &String| nodes.get(member.as_str()).copied();
                    let device = |member: &String| {
                        let found = site.device(&DeviceId::from(member.as_str()));
                        found
                            .map(|(place, _)| place)
                            .filter(|_| node(member).is_none())
                    };
                    let members = &term.members;
                    (
                        members.iter().filter_map(node).collect(),
                        members.iter().filter_map(device).collect(),
                    )
                }
            };
            Contract {
                id: term.id.clone(),
                limit: term.usable(facts.margin),
                uncontrolled: term.uncontrolled,
                uncertainty: term.uncertainty,
                nodes,
                devices,
            }
        })
        .collect()
}

/// A contract of the site file by its name.
fn of_site<'a>(site: &'a Site, id: &str) -> Option<&'a PowerContract> {
    site.power_contracts.iter().find(|known| known.id == id)
}

/// An allocation's caps by device.
pub fn caps(problem: &Problem, allocation: &Allocation) -> BTreeMap<DeviceId, Watts> {
    (problem.devices.iter().zip(&allocation.caps))
        .map(|(d, c)| (d.id.clone(), *c))
        .collect()
}
