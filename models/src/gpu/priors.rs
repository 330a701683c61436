//! The priors that this program carries: of the accelerators whose power
//! limits were swept (`models/speed_priors.toml`, fitted), and of all others
//! by the model of [`super::GpuModel`] with measured spreads.

use super::prior::{OWN, SpeedPrior};
use super::profile::Profile;
use super::{GpuModel, WorkloadFamily};
use crate::accelerators::AcceleratorCatalogue;
use crate::curve::SpeedCurve;
use crate::quantity::Watts;
use serde::Deserialize;
use std::sync::LazyLock;

/// Draw of a job relative to the median of its kind: quantiles 5, 25, 50, 75
/// and 95 % of the mean power a GPU over the language-model configurations of
/// the ML.ENERGY leaderboard v3 on H100 (gpqa, lm-arena-chat, sourcegraph-fim;
/// 274 configurations, median 519 W).
pub const DRAW_SPREAD: [f64; 5] = [0.699, 0.884, 1.0, 1.129, 1.282];
/// Sensitivity to the clock relative to the family's, so that with the
/// families' own 0.35 to 0.85 the span 0.3 to 1.0 of the sweeps is covered.
const SENSITIVITY_SPREAD: [f64; 3] = [0.6, 1.0, 1.2];

const BUILTIN_TEXT: &str = include_str!("../../speed_priors.toml");

static BUILTIN: LazyLock<SpeedPriors> = LazyLock::new(|| {
    // A test holds the built-in text to be sound; without it models alone speak.
    SpeedPriors::parse(BUILTIN_TEXT).unwrap_or_default()
});

/// An accelerator whose power limits were swept under many workloads.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    /// Key by which a site names the accelerator.
    pub key: String,
    /// Where the profiles come from.
    pub source: String,
    /// Profiles fitted.
    pub profiles: usize,
    /// Lowest share of the highest cap that was measured.
    pub lowest: f64,
    /// See [`SpeedPrior::mean`].
    pub mean: Vec<f64>,
    /// See [`SpeedPrior::components`].
    pub components: Vec<Vec<f64>>,
    /// Means of the families that were among the workloads.
    #[serde(default)]
    pub family: Vec<SweptFamily>,
}

/// One family on a swept accelerator.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweptFamily {
    /// Which.
    pub name: WorkloadFamily,
    /// Profiles of it.
    pub profiles: usize,
    /// Mean of ln speed, drawn towards the accelerator's.
    pub mean: Vec<f64>,
}

/// All priors that were fitted to sweeps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedPriors {
    #[serde(default)]
    swept: Vec<Swept>,
}

impl SpeedPriors {
    /// Reads a table of priors.
    ///
    /// # Errors
    /// When the text is not TOML of this shape.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Those that this program was built with.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// The accelerators that were swept.
    pub fn swept(&self) -> &[Swept] {
        &self.swept
    }

    /// The prior of a family of jobs on an accelerator, by the accelerator's
    /// key and its settable range of caps.
    pub fn of(
        &self,
        accelerator: &str,
        family: WorkloadFamily,
        range: (Watts, Watts),
    ) -> SpeedPrior {
        if let Some(swept) = self.swept.iter().find(|s| s.key == accelerator) {
            return swept.prior(Some(family));
        }
        let known = AcceleratorCatalogue::builtin().get(accelerator);
        let gpu = known.map_or_else(
            // Of an accelerator nobody knows, the range is all there is to go by.
            || GpuModel {
                tdp: range.1,
                idle: range.1 * 0.1,
                ..GpuModel::h100_sxm()
            },
            GpuModel::from_catalogue,
        );
        SpeedPrior::modelled(&gpu, family, range).unwrap_or_else(SpeedPrior::unaffected)
    }
}

impl Swept {
    /// Its prior; with no family, that of all its profiles.
    pub fn prior(&self, family: Option<WorkloadFamily>) -> SpeedPrior {
        let own = self.family.iter().find(|f| Some(f.name) == family);
        let last = self.mean.len().saturating_sub(1);
        let step = (1.0 - self.lowest) / last.max(1) as f64;
        let knot = |k: usize| {
            if k == last {
                1.0
            } else {
                self.lowest + step * k as f64
            }
        };
        SpeedPrior {
            knots: (0..=last).map(knot).collect(),
            mean: own.map_or(&self.mean, |f| &f.mean).clone(),
            components: self.components.clone(),
            own: OWN,
            profiles: self.profiles,
        }
    }
}

impl SpeedPrior {
    /// By the model alone, for accelerators that nobody swept: the mean is the
    /// family's typical workload, the spread comes from draws and
    /// sensitivities as they were measured elsewhere. `None` when the range is empty.
    pub fn modelled(gpu: &GpuModel, family: WorkloadFamily, range: (Watts, Watts)) -> Option<Self> {
        let typical = family.workload();
        let curve = typical.speed_curve(gpu, range.0, range.1)?;
        let mut profiles = Vec::new();
        for draw in DRAW_SPREAD {
            for sensitivity in SENSITIVITY_SPREAD {
                let mut workload = typical.clone();
                for phase in &mut workload.phases {
                    phase.draw = (phase.draw * draw).clamp(0.0, 1.0);
                    phase.sensitivity = (phase.sensitivity * sensitivity).clamp(0.0, 1.0);
                }
                let curve = workload.speed_curve(gpu, range.0, range.1)?;
                profiles.push(Profile::new(curve.points())?);
            }
        }
        let spread = Self::fit(&profiles)?;
        Some(Self {
            profiles: 0,
            ..spread.around(&curve, range.1)
        })
    }

    /// Of jobs that no cap slows: what remains when there is no range at all.
    pub fn unaffected() -> Self {
        let curve = SpeedCurve::unaffected();
        let flat = Self {
            knots: vec![0.0, 1.0],
            mean: vec![0.0, 0.0],
            components: Vec::new(),
            own: OWN,
            profiles: 0,
        };
        flat.around(&curve, Watts(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::prior::KNOTS;

    #[test]
    fn the_builtin_table_is_sound() {
        let priors = SpeedPriors::parse(BUILTIN_TEXT).unwrap();
        let keys: Vec<&str> = priors.swept.iter().map(|s| s.key.as_str()).collect();
        assert_eq!(keys, ["v100", "p100", "rtx6000", "rtx4000-ada"]);
        for swept in &priors.swept {
            assert!(swept.lowest > 0.0 && swept.lowest < 0.6, "{}", swept.key);
            for values in swept.components.iter().chain([&swept.mean]) {
                assert_eq!(values.len(), KNOTS, "{}", swept.key);
                assert!(values.last().unwrap().abs() < 1e-9, "{}", swept.key);
            }
            assert!(swept.mean.windows(2).all(|m| m[0] <= m[1] + 1e-9));
        }
        let vision = WorkloadFamily::VisionFineTuning;
        let (v100, own) = (&priors.swept[0], priors.swept[0].prior(Some(vision)));
        assert_ne!(v100.prior(None).mean, own.mean);
        assert_eq!(priors.of("v100", vision, (Watts(100.0), Watts(250.0))), own);
    }

    #[test]
    fn every_accelerator_of_the_catalogue_has_a_prior_of_its_own_range() {
        for accelerator in AcceleratorCatalogue::builtin().iter() {
            let range = (accelerator.min_cap, accelerator.max_cap);
            for family in WorkloadFamily::ALL {
                let prior = SpeedPriors::builtin().of(&accelerator.key, family, range);
                let lowest = prior.mean_at(range.0 / range.1).exp();
                assert!(
                    (0.05..1.0).contains(&lowest),
                    "{} {lowest}",
                    accelerator.key
                );
                assert!(!prior.components.is_empty(), "{}", accelerator.key);
            }
        }
        let nobody = SpeedPriors::builtin().of(
            "no-such",
            WorkloadFamily::LlmTraining,
            (Watts(100.0), Watts(300.0)),
        );
        assert!(nobody.mean_at(0.4) < -0.1);
        let empty = SpeedPriors::builtin().of(
            "no-such",
            WorkloadFamily::LlmTraining,
            (Watts(300.0), Watts(300.0)),
        );
        assert_eq!(empty.mean_at(1.0), 0.0);
    }
}
