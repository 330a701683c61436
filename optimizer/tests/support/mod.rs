//! Random allocation problems for tests and benchmarks, the same for a seed.
#![allow(dead_code)]

pub mod scale;

use good_lp::solvers::clarabel::clarabel;
use good_lp::{Expression, ProblemVariables, Solution, SolverModel, variable};
use heliostat_models::{DeviceId, JobClass, JobId, SpeedCurve, Watts};
use heliostat_optimizer::allocate::{DeviceSpec, Group, LimitNode, Problem};

/// How large a random problem is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Racks below one feed.
    pub racks: usize,
    /// Nodes in a rack.
    pub nodes: usize,
    /// Devices in a node.
    pub devices: usize,
    /// Largest gang.
    pub gang: usize,
    /// Corner points of a curve.
    pub corners: usize,
}

impl Shape {
    /// 256 devices in 32 nodes and 8 racks.
    pub const DEMO: Self = Self {
        racks: 8,
        nodes: 4,
        devices: 8,
        gang: 48,
        corners: 16,
    };
    /// 10,000 devices in 1,250 nodes and 157 racks.
    pub const LARGE: Self = Self {
        racks: 157,
        nodes: 8,
        devices: 8,
        gang: 512,
        corners: 16,
    };
}

/// Speed against cap like that of an accelerator: steep at first, flat at the end.
pub fn curve(rng: &mut fastrand::Rng, min: f64, max: f64, corners: usize) -> SpeedCurve {
    let knee = 0.35 + 0.6 * rng.f64();
    let power = 0.35 + 0.5 * rng.f64();
    let points: Vec<(Watts, f64)> = (0..corners.max(2))
        .map(|k| {
            let x = k as f64 / (corners.max(2) - 1) as f64;
            let cap = min + (max - min) * x;
            (
                Watts(cap),
                (cap / (min + (max - min) * knee)).powf(power).min(1.0),
            )
        })
        .collect();
    SpeedCurve::envelope(&points).unwrap()
}

/// A problem whose devices are handed out node by node, so that a gang often
/// ends within a rack or goes over into the next. `tight` is the share of what
/// the devices could draw that limits allow on average.
pub fn problem(rng: &mut fastrand::Rng, shape: Shape, tight: f64, shuffle: bool) -> Problem {
    let per_node = shape.devices as f64 * 700.0;
    let mut limit = |devices: f64, spread: f64| {
        Watts(devices * per_node * (tight + spread * (rng.f64() - 0.5)).clamp(0.05, 1.2))
    };
    let (feed, second) = (
        limit((shape.racks * shape.nodes) as f64, 0.1),
        limit((shape.racks * shape.nodes) as f64, 0.1),
    );
    let node = |id: String, parents, limit| LimitNode {
        id,
        parents,
        limit,
        uncontrolled: Watts::ZERO,
        spare: Watts::ZERO,
        uncertainty: Watts::ZERO,
    };
    let mut nodes = vec![node("feed".into(), vec![], feed)];
    let dual = shuffle && second.0 > feed.0;
    if dual {
        nodes.push(node("feed-b".into(), vec![], second));
    }
    let roots: Vec<usize> = (0..nodes.len()).collect();
    let mut devices = Vec::new();
    for rack in 0..shape.racks {
        let at_rack = nodes.len();
        let rack_limit = limit(shape.nodes as f64, 0.5);
        nodes.push(node(format!("rack{rack}"), roots.clone(), rack_limit));
        for n in 0..shape.nodes {
            let at_node = nodes.len();
            nodes.push(node(
                format!("rack{rack}-node{n}"),
                vec![at_rack],
                Watts(per_node * 1.4 + 900.0),
            ));
            for d in 0..shape.devices {
                devices.push(DeviceSpec {
                    id: DeviceId::from(format!("r{rack}n{n}-gpu{d}")),
                    min: Watts(100.0),
                    max: Watts(700.0),
                    node: at_node,
                    fixed: None,
                    step: Watts::ZERO,
                });
            }
        }
    }
    for node in nodes.iter_mut().filter(|n| n.id.contains("node")) {
        node.uncontrolled = Watts(300.0 + 200.0 * rng.f64());
    }
    let mut order: Vec<usize> = (0..devices.len()).collect();
    if shuffle {
        rng.shuffle(&mut order);
    }
    let mut groups = Vec::new();
    let mut next = 0;
    while next < order.len() {
        let size = rng.usize(1..=shape.gang).min(order.len() - next);
        let held = order[next..next + size].to_vec();
        next += size;
        if rng.f64() < 0.1 {
            continue;
        }
        let class = JobClass::ALL[rng.usize(0..4)];
        groups.push(Group {
            job: JobId::from(format!("job{}", groups.len())),
            class,
            weight: [1.0, 0.9, 1.5, 0.5][class as usize % 4] * (0.8 + 0.4 * rng.f64()),
            floor_speed: if rng.bool() { 0.0 } else { 0.3 * rng.f64() },
            curve: curve(rng, 100.0, 700.0, shape.corners),
            devices: held,
        });
    }
    // Whatever stands above must at least bear the lowest caps and the overhead.
    let mut least = vec![0.0; nodes.len()];
    for (place, node) in nodes.iter().enumerate() {
        least[place] += node.uncontrolled.0;
    }
    for device in &devices {
        least[device.node] += device.min.0;
    }
    for place in (0..nodes.len()).rev() {
        for parent in nodes[place].parents.clone() {
            least[parent] += least[place];
        }
    }
    let mut uncontrolled: Vec<f64> = nodes.iter().map(|n| n.uncontrolled.0).collect();
    for place in (0..nodes.len()).rev() {
        for parent in nodes[place].parents.clone() {
            uncontrolled[parent] += uncontrolled[place];
        }
    }
    for ((node, least), below) in nodes.iter_mut().zip(least).zip(uncontrolled) {
        node.uncontrolled = Watts(below);
        node.limit = node.limit.max(Watts(least * 1.02));
    }
    Problem {
        nodes,
        devices,
        groups,
        contracts: Vec::new(),
        price_of_energy: if rng.bool() { 0.0 } else { 0.0012 * rng.f64() },
        step: Watts::ZERO,
    }
}

/// The nodes at and above a power node, each once.
pub fn above(problem: &Problem, node: usize) -> Vec<usize> {
    let mut path = vec![node];
    let mut at = 0;
    while at < path.len() {
        for parent in &problem.nodes[path[at]].parents {
            if !path.contains(parent) {
                path.push(*parent);
            }
        }
        at += 1;
    }
    path
}

/// The limits above a device, each once: power nodes, then contracts.
pub fn limits_above(problem: &Problem, device: usize) -> Vec<usize> {
    let mut rows = above(problem, problem.devices[device].node);
    for (place, contract) in problem.contracts.iter().enumerate() {
        let named =
            contract.devices.contains(&device) || contract.nodes.iter().any(|v| rows.contains(v));
        if named {
            rows.push(problem.nodes.len() + place);
        }
    }
    rows
}

/// What each limit leaves to caps, in watts: power nodes, then contracts.
pub fn rooms(problem: &Problem) -> Vec<f64> {
    let nodes =
        (problem.nodes.iter()).map(|n| n.limit.0 + n.spare.0 - n.uncontrolled.0 - n.uncertainty.0);
    let contracts =
        (problem.contracts.iter()).map(|c| c.limit.0 - c.uncontrolled.0 - c.uncertainty.0);
    nodes.chain(contracts).collect()
}

/// By how much caps exceed the worst-kept limit, in watts; below zero when all are kept.
pub fn worst_excess(problem: &Problem, caps: &[Watts]) -> f64 {
    let rooms = rooms(problem);
    let mut drawn = vec![0.0; rooms.len()];
    for (device, cap) in caps.iter().enumerate() {
        for row in limits_above(problem, device) {
            drawn[row] += cap.0;
        }
    }
    (drawn.iter().zip(&rooms))
        .map(|(drawn, room)| drawn - room)
        .fold(f64::NEG_INFINITY, f64::max)
}

/// The plain linear program: a variable per stretch of every gang, every limit
/// from the start. `None` when the solver gave up.
pub fn plain_program(problem: &Problem) -> Option<f64> {
    let mut variables = ProblemVariables::new();
    let mut objective = Expression::default();
    let rooms = rooms(problem);
    let mut drawn: Vec<Expression> = vec![Expression::default(); rooms.len()];
    let mut constant = 0.0;
    let mut base = vec![0.0; rooms.len()];
    let mut held = vec![false; problem.devices.len()];
    for group in &problem.groups {
        let size = group.devices.len() as f64;
        let floor = floor_cap(group);
        constant += group.weight * size * group.curve.speed(Watts(floor));
        let mut count = vec![0.0; rooms.len()];
        for device in &group.devices {
            held[*device] = true;
            for node in limits_above(problem, *device) {
                count[node] += 1.0;
            }
        }
        let mut cap = Expression::default();
        for segment in group.curve.segments(Watts(floor), Watts(700.0)) {
            let width = (segment.to - segment.from).0;
            let share = variables.add(variable().min(0.0).max(1.0));
            objective += share * (group.weight * size * segment.slope * width);
            cap += share * width;
        }
        constant -= problem.price_of_energy * size * floor;
        objective -= cap.clone() * (problem.price_of_energy * size);
        for (node, count) in count.iter().enumerate().filter(|(_, c)| **c > 0.0) {
            base[node] += count * floor;
            drawn[node] += cap.clone() * *count;
        }
    }
    for (place, device) in problem
        .devices
        .iter()
        .enumerate()
        .filter(|(d, _)| !held[*d])
    {
        constant -= problem.price_of_energy * device.min.0;
        for node in limits_above(problem, place) {
            base[node] += device.min.0;
        }
    }
    let mut program = variables.maximise(objective.clone()).using(clarabel);
    for ((drawn, base), room) in drawn.into_iter().zip(&base).zip(&rooms) {
        program.add_constraint((drawn * 1e-3).leq((room - base) * 1e-3));
    }
    let solution = program.solve().ok()?;
    Some(solution.eval(objective) + constant)
}

/// Smallest cap that keeps a group's floor, found by bisection.
pub fn floor_cap(group: &Group) -> f64 {
    let (mut low, mut high) = (100.0, 700.0);
    if group.curve.speed(Watts(low)) >= group.floor_speed {
        return low;
    }
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if group.curve.speed(Watts(middle)) >= group.floor_speed {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
