//! Random moments at the demonstration site, as the checker's facts.
#![allow(dead_code)]

#[path = "site.rs"]
mod sites;

use heliostat_models::{
    DeviceId, JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts,
};
use heliostat_optimizer::allocate::{Outcome, allocate};
use heliostat_optimizer::check::{AtFeed, ContractTerm, Facts, Terms};
use heliostat_optimizer::control::assemble;
use heliostat_optimizer::state;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Caps by device.
pub type Caps = BTreeMap<DeviceId, Watts>;

/// A moment at the demonstration site.
pub struct Scene {
    pub site: Arc<Site>,
    pub uncontrolled: Vec<Watts>,
    pub ranges: BTreeMap<DeviceId, (Watts, Watts)>,
    pub pinned: BTreeMap<DeviceId, Watts>,
    pub jobs: Vec<JobRecord>,
    pub feed_limit: Option<Watts>,
    pub idle: BTreeMap<DeviceId, Watts>,
    pub starting: usize,
    pub price: f64,
    pub terms: Terms,
}

/// Contracts over some racks and devices, steps of some nodes' devices, and
/// loads that may be more than stated.
fn terms(rng: &mut fastrand::Rng, site: &Site) -> Terms {
    let contracts = (0..rng.usize(1..4)).map(|place| {
        let mut members: Vec<String> = (site.racks.iter())
            .filter(|_| rng.f64() < 0.3)
            .map(|rack| site.power.nodes()[rack.power_node].id.clone())
            .collect();
        let single = site.devices.iter().filter(|_| rng.f64() < 0.1);
        members.extend(single.map(|d| d.id.to_string()));
        let covered = (site.devices.iter().enumerate())
            .filter(|(place, d)| {
                let above = site.power.path_up(site.power_node_of(*place));
                let named = |v: &usize| members.contains(&site.power.nodes()[*v].id);
                members.contains(&d.id.to_string()) || above.iter().any(named)
            })
            .count() as f64;
        ContractTerm {
            id: format!("contract{place}"),
            in_full: false,
            limit: Watts(covered * (330.0 + 250.0 * rng.f64()) + 500.0),
            uncontrolled: Watts(200.0),
            uncertainty: Watts(100.0),
            members,
        }
    });
    let contracts = contracts.collect();
    let mut steps = BTreeMap::new();
    for node in &site.nodes {
        let step = [0.0, 0.0, 1.0, 5.0, 25.0][rng.usize(0..5)];
        for device in site.devices[node.devices.clone()]
            .iter()
            .filter(|_| step > 0.0)
        {
            steps.insert(device.id.clone(), Watts(step));
        }
    }
    let mut uncertainty = vec![Watts::ZERO; site.power.nodes().len()];
    for node in &site.nodes {
        let more = Watts(60.0 * rng.f64());
        for up in site.power.path_up(node.power_node) {
            uncertainty[up] += more;
        }
    }
    Terms {
        contracts,
        steps,
        uncertainty,
    }
}

impl Scene {
    pub fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let site = sites::demo();
        let mut uncontrolled = vec![Watts::ZERO; site.power.nodes().len()];
        for node in &site.nodes {
            let load = node.overhead * (0.4 + 0.6 * rng.f64());
            for up in site.power.path_up(node.power_node) {
                uncontrolled[up] += load;
            }
        }
        let mut jobs = Vec::new();
        let mut next = 0;
        while next + 60 < site.devices.len() {
            let size = [4, 8, 16, 48][rng.usize(0..4)];
            let devices: Vec<DeviceId> = (site.devices[next..next + size].iter())
                .map(|d| d.id.clone())
                .collect();
            next += size;
            let (knee, bend) = (0.5 + 0.4 * rng.f64(), 0.3 + 0.5 * rng.f64());
            let points: Vec<(Watts, f64)> = (0..=12)
                .map(|k| {
                    let cap = 200.0 + 500.0 * f64::from(k) / 12.0;
                    (Watts(cap), (cap / (700.0 * knee)).powf(bend).min(1.0))
                })
                .collect();
            jobs.push(JobRecord {
                id: JobId::from(format!("job{:02}", jobs.len())),
                class: JobClass::ALL[rng.usize(0..4)],
                owner: "p".into(),
                gang_size: size as u32,
                remaining_hours: 5.0,
                total_hours: 9.0,
                release: Timestamp(0),
                deadline: None,
                state: JobState::Running,
                devices,
                curve: SpeedCurve::envelope(&points).unwrap(),
                started: None,
                ended: None,
                at: Timestamp(0),
            });
        }
        let pinned = (0..rng.usize(0..3))
            .map(|_| (site.devices[rng.usize(0..256)].id.clone(), Watts(650.0)))
            .collect();
        Self {
            uncontrolled,
            ranges: BTreeMap::new(),
            pinned,
            jobs,
            feed_limit: rng.bool().then(|| Watts(110_000.0 + 60_000.0 * rng.f64())),
            idle: BTreeMap::new(),
            starting: 0,
            price: if rng.bool() { 0.0 } else { 0.001 * rng.f64() },
            terms: Terms::default(),
            site,
        }
    }

    /// The same under terms besides the site file.
    pub fn with_terms(seed: u64) -> Self {
        let mut scene = Self::random(seed);
        scene.terms = terms(&mut fastrand::Rng::with_seed(!seed), &scene.site);
        scene
    }

    pub fn facts(&self) -> Facts<'_> {
        Facts {
            site: &self.site,
            margin: 0.02,
            grid: self.feed_limit.map(|limit| AtFeed {
                limit,
                uncontrolled: &self.uncontrolled,
                idle: &self.idle,
                starting: self.starting,
            }),
            uncontrolled: &self.uncontrolled,
            ranges: &self.ranges,
            pinned: &self.pinned,
            jobs: &self.jobs,
            price_of_energy: self.price,
            terms: &self.terms,
        }
    }

    pub fn solve(&self) -> (Outcome, BTreeMap<DeviceId, Watts>) {
        let problem = state::problem(&self.facts());
        let outcome = allocate(&problem).unwrap();
        let caps = assemble::caps(&problem, outcome.allocation());
        (outcome, caps)
    }
}

/// Prices of the power nodes, then of the contracts.
pub fn prices(outcome: &Outcome) -> Vec<f64> {
    let allocation = outcome.allocation();
    [&allocation.node_prices[..], &allocation.contract_prices].concat()
}

pub fn declared(outcome: &Outcome) -> (Vec<JobId>, Vec<String>) {
    match outcome {
        Outcome::Allocated(_) => Default::default(),
        Outcome::Infeasible { shed, .. } => (
            shed.dropped.clone(),
            shed.beyond.iter().map(|b| b.0.clone()).collect(),
        ),
    }
}
