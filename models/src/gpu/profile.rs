//! A measured sweep of power limits, made comparable with others.

use crate::curve::SpeedCurve;
use crate::quantity::Watts;

/// Speed against cap as measured, as shares of the highest cap and of the
/// speed of the envelope there.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    envelope: SpeedCurve,
    highest: Watts,
    full: f64,
    lowest: f64,
}

impl Profile {
    /// From points (cap, rate in any unit). `None` with fewer than two caps, or
    /// a rate that is not above zero.
    pub fn new(points: &[(Watts, f64)]) -> Option<Self> {
        let sound = |p: &(Watts, f64)| p.0.is_finite() && p.0.0 > 0.0 && p.1.is_finite();
        if points.iter().any(|p| !sound(p) || p.1 <= 0.0) {
            return None;
        }
        let envelope = SpeedCurve::envelope(points)?;
        let (first, last) = (*envelope.points().first()?, *envelope.points().last()?);
        (first.0 < last.0).then_some(Self {
            highest: last.0,
            full: last.1,
            lowest: first.0 / last.0,
            envelope,
        })
    }

    /// The least concave, non-decreasing curve above the measured points.
    pub fn envelope(&self) -> &SpeedCurve {
        &self.envelope
    }

    /// Lowest cap as a share of the highest.
    pub fn lowest(&self) -> f64 {
        self.lowest
    }

    /// ln of the envelope's speed at a share of the highest cap, relative to that at the highest.
    pub fn log_speed(&self, share: f64) -> f64 {
        (self.envelope.speed(self.highest * share) / self.full).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_relative_to_its_own_top() {
        let points = [(100.0, 3.0), (200.0, 4.0), (250.0, 3.9)].map(|(c, r)| (Watts(c), r));
        let profile = Profile::new(&points).unwrap();
        assert!((profile.lowest() - 0.4).abs() < 1e-12);
        assert_eq!(profile.log_speed(1.0), 0.0);
        assert_eq!(profile.log_speed(0.8), 0.0);
        assert!((profile.log_speed(0.4).exp() - 0.75).abs() < 1e-12);
        assert!(Profile::new(&points[..1]).is_none());
        assert!(Profile::new(&[(Watts(100.0), 0.0), (Watts(200.0), 1.0)]).is_none());
    }
}
