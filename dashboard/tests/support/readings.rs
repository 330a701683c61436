//! Made-up readings: smooth waves with a little noise, one GPU silent, one only estimated.
#![allow(
    dead_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "support of tests and of an example; not every user needs all of it"
)]

use heliostat_models::metrics::MetricId;
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Site, Timestamp};

fn noise(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x ^= x >> 31;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 29;
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

fn busy(index: usize) -> bool {
    index < 208
}

pub fn gpu_watts(index: usize, at: Timestamp) -> (f64, f64) {
    let limit = if busy(index) { 560.0 } else { 400.0 };
    let wobble = noise(index as u64 * 7_919 + at.0 as u64 / 60_000);
    let watts = if busy(index) {
        let wave = (at.seconds() / 5_400.0 + (index / 32) as f64).sin();
        limit * (0.88 + 0.07 * wave + 0.05 * wobble)
    } else {
        78.0 + 20.0 * wobble
    };
    (watts, limit)
}

pub fn carbon(at: Timestamp) -> (f64, f64, f64) {
    let hour = at.seconds() / 3_600.0;
    let day = ((hour % 24.0 - 13.0) / 24.0 * std::f64::consts::TAU).cos();
    let slow = (hour / 17.0).sin();
    let intensity = 390.0 - 110.0 * day - 60.0 * slow;
    (
        intensity,
        (0.42 + 0.18 * day + 0.1 * slow).clamp(0.0, 1.0),
        41.0 - 14.0 * day - 8.0 * slow,
    )
}

pub fn frames(site: &Site, at: Timestamp) -> Vec<Frame> {
    let frame = |device: DeviceId, readings: Vec<(MetricId, f64)>| Frame {
        device,
        at,
        readings: readings
            .into_iter()
            .map(|(m, v)| (m, Reading::Measured(v)))
            .collect(),
    };
    let mut out = Vec::new();
    let mut it = 0.0;
    let mut halves = [0.0, 0.0];
    for (index, node) in site.nodes.iter().enumerate() {
        let mut sum = 0.0;
        for i in node.devices.clone() {
            let device = &site.devices[i];
            // One GPU is silent, one says its power only as an estimate.
            if i == 77 {
                continue;
            }
            let (watts, limit) = gpu_watts(i, at);
            sum += watts;
            let mut readings = frame(
                device.id.clone(),
                vec![
                    (Catalogue::gpu_power_limit(), limit),
                    (Catalogue::gpu_temperature(), 34.0 + watts / 14.0),
                    (
                        Catalogue::gpu_utilization(),
                        if busy(i) { 0.96 } else { 0.0 },
                    ),
                    (
                        Catalogue::gpu_memory_utilization(),
                        if busy(i) { 0.55 } else { 0.0 },
                    ),
                    (Catalogue::gpu_sm_clock(), 1.2e9 + watts * 1e6),
                ],
            );
            let power = if i == 78 {
                Reading::Estimated(watts)
            } else {
                Reading::Measured(watts)
            };
            readings.readings.push((Catalogue::gpu_power(), power));
            out.push(readings);
        }
        let whole = sum + 900.0;
        it += whole;
        halves[index * 2 / site.nodes.len()] += whole;
        out.push(frame(
            DeviceId::from(node.id.as_str()),
            vec![
                (Catalogue::node_power(), whole),
                (Catalogue::node_cpu_utilization(), 0.21),
                (Catalogue::node_inlet_temperature(), 31.8),
            ],
        ));
    }
    let hour = at.seconds() / 3_600.0;
    let outdoor = 7.0 + 4.0 * ((hour % 24.0 - 15.0) / 24.0 * std::f64::consts::TAU).cos();
    let pue = 1.105 + 0.002 * outdoor;
    // Registers that grow with a plausible mean power: enough for ratios.
    let register = |share: f64| (at.seconds() - 1.55e9) * 150_000.0 * share;
    for meter in &site.meters {
        use heliostat_models::site::MeterRole as Role;
        let (watts, share) = match (meter.role, meter.at.as_deref()) {
            (Role::DataCentre, _) => (it * pue, 1.118),
            (Role::It, Some("ups-b")) => (halves[1], 0.47),
            (Role::It, _) => (halves[0], 0.53),
            (Role::Cooling, _) => (it * (pue - 1.03), 0.09),
            _ => continue,
        };
        out.push(frame(
            meter.id.clone(),
            vec![
                (Catalogue::meter_power(), watts),
                (Catalogue::meter_energy(), register(share)),
            ],
        ));
    }
    out.push(frame(
        site.cooling.id.clone(),
        vec![
            (Catalogue::outdoor_temperature(), outdoor),
            (Catalogue::cooling_supply(), 32.0),
            (Catalogue::cooling_return(), 41.5 + 0.3 * outdoor),
        ],
    ));
    let (intensity, renewable, price) = carbon(at);
    out.push(frame(
        site.grid_device(),
        vec![
            (Catalogue::grid_carbon(), intensity),
            (Catalogue::grid_carbon_direct(), intensity * 0.9),
            (Catalogue::grid_renewable(), renewable),
            (Catalogue::grid_price(), price),
        ],
    ));
    out
}
