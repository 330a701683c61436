//! Large sites for benchmarks, and small ones of the same build for tests.

use super::curve;
use heliostat_models::{DeviceId, JobClass, JobId, Watts};
use heliostat_optimizer::allocate::{Contract, DeviceSpec, Group, LimitNode, Problem};

/// How a large site is made.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Devices in all.
    pub devices: usize,
    /// Devices in a rack.
    pub rack: usize,
    /// Racks in a row.
    pub row: usize,
    /// Rows in a hall.
    pub hall: usize,
    /// Corner points of a curve.
    pub corners: usize,
    /// What limits allow on average of what devices could draw.
    pub tight: f64,
}

impl Scale {
    /// Four limited levels: feed, halls, rows, racks; eight stretches a curve.
    pub fn of(devices: usize) -> Self {
        Self {
            devices,
            rack: 40,
            row: 10,
            hall: 25,
            corners: 9,
            tight: 0.6,
        }
    }
}

fn node(id: String, parents: Vec<usize>) -> LimitNode {
    LimitNode {
        id,
        parents,
        limit: Watts::ZERO,
        uncontrolled: Watts::ZERO,
        uncertainty: Watts::ZERO,
        spare: Watts::ZERO,
    }
}

fn device(place: usize, node: usize) -> DeviceSpec {
    DeviceSpec {
        id: DeviceId::from(format!("gpu{place}")),
        min: Watts(100.0),
        max: Watts(700.0),
        node,
        fixed: None,
        step: Watts::ZERO,
    }
}

/// Every device its own job, below feed, halls, rows and racks.
pub fn singles(rng: &mut fastrand::Rng, scale: Scale) -> Problem {
    let mut problem = Problem {
        nodes: vec![node("feed".into(), vec![])],
        devices: Vec::new(),
        groups: Vec::new(),
        contracts: Vec::new(),
        price_of_energy: 0.0,
        step: Watts::ZERO,
    };
    let (mut hall, mut row) = (0, 0);
    let racks = scale.devices.div_ceil(scale.rack);
    for rack in 0..racks {
        if rack % (scale.row * scale.hall) == 0 {
            hall = problem.nodes.len();
            problem.nodes.push(node(format!("hall{hall}"), vec![0]));
        }
        if rack % scale.row == 0 {
            row = problem.nodes.len();
            problem.nodes.push(node(format!("row{row}"), vec![hall]));
        }
        let at = problem.nodes.len();
        problem.nodes.push(node(format!("rack{rack}"), vec![row]));
        for place in rack * scale.rack..((rack + 1) * scale.rack).min(scale.devices) {
            problem.devices.push(device(place, at));
            problem
                .groups
                .push(job(rng, place, vec![place], scale.corners));
        }
    }
    limits(rng, &mut problem, scale.tight);
    problem
}

/// A job with a curve of its own.
pub fn job(rng: &mut fastrand::Rng, place: usize, devices: Vec<usize>, corners: usize) -> Group {
    Group {
        job: JobId::from(format!("job{place}")),
        class: JobClass::ALL[rng.usize(0..4)],
        weight: 0.5 + rng.f64(),
        floor_speed: 0.0,
        curve: curve(rng, 100.0, 700.0, corners),
        devices,
    }
}

/// `gangs` jobs that hold all devices, `mixed` saying how far from rack order
/// devices are handed out. Each rack hangs on one of the A supplies and one of
/// the B supplies, in pairs that cross, and both on their feed: whichever of
/// the two fails, the other carries all.
pub fn gangs(rng: &mut fastrand::Rng, scale: Scale, gangs: usize, mixed: usize) -> Problem {
    let racks = scale.devices.div_ceil(scale.rack);
    let supplies = racks.div_ceil(scale.row).max(2);
    let mut problem = Problem {
        nodes: vec![node("feed-a".into(), vec![]), node("feed-b".into(), vec![])],
        devices: Vec::new(),
        groups: Vec::new(),
        contracts: Vec::new(),
        price_of_energy: 0.0,
        step: Watts::ZERO,
    };
    for supply in 0..supplies {
        problem.nodes.push(node(format!("ups-a{supply}"), vec![0]));
    }
    for supply in 0..supplies {
        problem.nodes.push(node(format!("ups-b{supply}"), vec![1]));
    }
    for rack in 0..racks {
        let at = problem.nodes.len();
        let (a, b) = (rack / scale.row % supplies, rack % supplies);
        let parents = vec![2 + a, 2 + supplies + b];
        problem.nodes.push(node(format!("rack{rack}"), parents));
        for place in rack * scale.rack..((rack + 1) * scale.rack).min(scale.devices) {
            problem.devices.push(device(place, at));
        }
    }
    let mut order: Vec<usize> = (0..scale.devices).collect();
    if mixed > 0 {
        for place in 0..order.len() {
            let other = (place + rng.usize(0..=mixed)).min(order.len() - 1);
            order.swap(place, other);
        }
    }
    // Cuts at random places: sizes vary, and many gangs span two racks or more.
    let mut cuts: Vec<usize> = (1..gangs)
        .map(|_| rng.usize(1..scale.devices.max(2)))
        .collect();
    cuts.extend([0, scale.devices]);
    cuts.sort_unstable();
    cuts.dedup();
    for pair in cuts.windows(2) {
        let held = order[pair[0]..pair[1]].to_vec();
        let gang = job(rng, problem.groups.len(), held, scale.corners);
        problem.groups.push(gang);
    }
    limits(rng, &mut problem, scale.tight);
    problem
}

/// Contracts over random sets of power nodes and of devices.
pub fn contracts(rng: &mut fastrand::Rng, problem: &mut Problem, count: usize, tight: f64) {
    for place in 0..count {
        let nodes: Vec<usize> = (2..problem.nodes.len())
            .filter(|_| rng.f64() < 0.15)
            .collect();
        let devices: Vec<usize> = (0..problem.devices.len())
            .filter(|_| rng.f64() < 0.1)
            .collect();
        let covered = (0..problem.devices.len())
            .filter(|d| {
                let above = super::above(problem, problem.devices[*d].node);
                devices.contains(d) || above.iter().any(|v| nodes.contains(v))
            })
            .count() as f64;
        let share = (tight + 0.2 * (rng.f64() - 0.5)).clamp(0.2, 1.0);
        problem.contracts.push(Contract {
            id: format!("contract{place}"),
            limit: Watts(covered * 700.0 * share + 500.0),
            uncontrolled: Watts(300.0),
            uncertainty: Watts(200.0),
            nodes,
            devices,
        });
    }
}

/// Limits around `tight` of what hangs below; the wider, the nearer to it.
fn limits(rng: &mut fastrand::Rng, problem: &mut Problem, tight: f64) {
    let mut below = vec![0.0f64; problem.nodes.len()];
    for device in &problem.devices {
        for node in super::above(problem, device.node) {
            below[node] += 1.0;
        }
    }
    let all = problem.devices.len() as f64;
    for (node, below) in problem.nodes.iter_mut().zip(below) {
        let depth = (1.0 - (below / all).powf(0.25)).max(0.0);
        let share = tight * (1.0 + depth * (0.15 + 0.6 * (rng.f64() - 0.5)));
        let fans = below * 30.0;
        node.uncontrolled = Watts(fans);
        node.uncertainty = Watts(below * 2.0);
        node.limit = Watts(below * 700.0 * share.clamp(0.2, 1.2) + fans + below * 2.0);
    }
}
