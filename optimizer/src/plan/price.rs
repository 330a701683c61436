//! The price of energy λ: what the planner tells the allocator.
//!
//! The allocator maximises `sum of w·|G|·f(p) − λ·sum of p`, so a watt is
//! given only while it buys more than λ of weighted gang work. λ is in work
//! per hour and watt (a device hour at full speed a watt hour). It is set relative
//! to what watts buy on the mean:
//!
//! ```text
//! λ_t = κ · (mean over jobs of w·f(p_max) / p_max) · index_t · surplus_t
//! ```
//!
//! with the strength κ of the policy, the cost index of the slot (carbon,
//! price and cooling; 1 in the mean, see [`super::outlook`]), and a factor that goes to
//! 0 when renewables have a surplus.
//!
//! The same λ prices slowness in the plan: at cost index 1 a job's work is
//! worth `1 / λ` watt hours, so that the level the planner thinks best is the
//! one to which the allocator will cap.

use super::policy::PlanPolicy;
use heliostat_models::{SpeedCurve, Watts};

/// A job as far as the price is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// Devices.
    pub gang: u32,
    /// Weight of its class.
    pub weight: f64,
    /// Its speed.
    pub curve: &'a SpeedCurve,
}

/// Weighted work per hour that the mean watt buys at full power; `None`
/// without jobs.
pub fn mean_work_per_watt<'a>(jobs: impl Iterator<Item = Worker<'a>>) -> Option<f64> {
    let (mut work, mut watts) = (0.0, 0.0);
    for job in jobs {
        let Some((cap, speed)) = job.curve.points().last() else {
            continue;
        };
        work += f64::from(job.gang) * job.weight * speed;
        watts += f64::from(job.gang) * cap.0;
    }
    (watts > 0.0 && work > 0.0).then(|| work / watts)
}

/// λ of a slot, in work per hour and watt.
pub fn price_of_energy(
    work_per_watt: f64,
    index: f64,
    renewable: Option<f64>,
    policy: &PlanPolicy,
) -> f64 {
    let index = index.clamp(0.0, policy.highest_index);
    policy.strength * work_per_watt * index * surplus(renewable, policy)
}

/// 1 in ordinary hours, falling to 0 as renewables cover all.
fn surplus(renewable: Option<f64>, policy: &PlanPolicy) -> f64 {
    let width = (policy.renewable_to - policy.renewable_from).max(1e-9);
    renewable.map_or(1.0, |share| {
        1.0 - ((share - policy.renewable_from) / width).clamp(0.0, 1.0)
    })
}

/// The cap at which a job's next watt is no longer worth `lambda`: the corner
/// of the curve with the best `w·f(p) − λ·p`, at least `floor` fast and
/// within the settable range.
pub fn economic_cap(
    curve: &SpeedCurve,
    weight: f64,
    lambda: f64,
    floor: f64,
    (low, high): (Watts, Watts),
) -> Watts {
    let floor = cap_for_speed(curve, floor).clamp(low, high);
    let mut best = floor;
    let mut value = weight * curve.speed(floor) - lambda * floor.0;
    for (cap, _) in curve.points() {
        let cap = cap.clamp(floor, high);
        let here = weight * curve.speed(cap) - lambda * cap.0;
        if here > value {
            (best, value) = (cap, here);
        }
    }
    best
}

/// The least cap at which a curve reaches a speed; its last corner where it never does.
pub fn cap_for_speed(curve: &SpeedCurve, speed: f64) -> Watts {
    let points = curve.points();
    let Some(first) = points.first() else {
        return Watts::ZERO;
    };
    if first.1 >= speed {
        return first.0;
    }
    for pair in points.windows(2) {
        let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
        if s1 >= speed {
            return w0 + (w1 - w0) * ((speed - s0) / (s1 - s0));
        }
    }
    points[points.len() - 1].0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> SpeedCurve {
        SpeedCurve::envelope(&[
            (Watts(200.0), 0.4),
            (Watts(400.0), 0.8),
            (Watts(600.0), 0.96),
            (Watts(700.0), 1.0),
        ])
        .unwrap()
    }

    #[test]
    fn the_price_is_a_share_of_the_mean_and_nought_in_surplus() {
        let policy = PlanPolicy::default();
        let curve = curve();
        let worker = Worker {
            gang: 8,
            weight: 1.0,
            curve: &curve,
        };
        let mean = mean_work_per_watt([worker].into_iter()).unwrap();
        assert!((mean - 1.0 / 700.0).abs() < 1e-12);
        let usual = price_of_energy(mean, 1.0, Some(0.4), &policy);
        assert!((usual - policy.strength / 700.0).abs() < 1e-12);
        assert!(price_of_energy(mean, 1.5, Some(0.4), &policy) > usual);
        assert!(price_of_energy(mean, 0.5, Some(0.4), &policy) < usual);
        assert_eq!(price_of_energy(mean, 1.0, Some(0.99), &policy), 0.0);
        assert!(mean_work_per_watt(std::iter::empty()).is_none());
    }

    #[test]
    fn the_economic_cap_gives_up_the_last_watts_only() {
        let range = (Watts(200.0), Watts(700.0));
        // The last 100 W buy 0.0004 a watt, the 200 before 0.0008.
        assert_eq!(economic_cap(&curve(), 1.0, 0.0, 0.3, range), Watts(700.0));
        assert_eq!(
            economic_cap(&curve(), 1.0, 0.0005, 0.3, range),
            Watts(600.0)
        );
        assert_eq!(economic_cap(&curve(), 1.0, 0.001, 0.3, range), Watts(400.0));
        assert_eq!(
            economic_cap(&curve(), 1.0, 1.0, 0.9, range).0.round(),
            525.0
        );
        assert_eq!(cap_for_speed(&curve(), 0.6), Watts(300.0));
        assert_eq!(cap_for_speed(&curve(), 2.0), Watts(700.0));
    }
}
