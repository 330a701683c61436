//! Everything that a relief is worked out from, as one value: the live loop and
//! `heliostat replay` go through the same one, and the log keeps it.

use super::Relief;
use crate::check::{Below, Breaker, Breakers, Facts, Moment, TripCurve};
use crate::control::evidence::EvidenceError;
use heliostat_models::{JobClass, JobId, SpeedCurve, Watts};
use heliostat_store::decisions::{Hash, Inputs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First byte of the content. Forms below 128 are those of allocations.
const FORM: u8 = 128;
/// More devices than any site has: what says so is damaged.
const MOST_DEVICES: usize = 1 << 24;

/// What is asked: do breakers bear this moment, and if not, what must come off?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// By place in the power tree.
    pub(super) breakers: Vec<BreakerAsked>,
    /// The time-current curves of those that have one of their own.
    pub(super) curves: BTreeMap<String, TripCurve>,
    /// Compute nodes: how many devices each has, and the power nodes above.
    pub(super) below: Vec<(u32, Vec<u32>)>,
    /// By place in the site.
    #[serde(with = "runs")]
    pub(super) devices: Vec<DeviceAsked>,
    pub(super) jobs: Vec<JobAsked>,
    /// The lowest relative speed of each class.
    pub(super) floors: BTreeMap<JobClass, f64>,
    /// Seconds until a lowered cap is surely in force.
    pub(super) seconds: f64,
    /// Seconds for which devices of late agents may go on as they are.
    pub(super) late_seconds: f64,
}

/// A breaker and what it carries besides caps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BreakerAsked {
    pub id: String,
    pub rating: Watts,
    pub load: Watts,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeviceAsked {
    /// Range and step of its cap.
    pub min: Watts,
    pub max: Watts,
    pub step: Watts,
    /// Whether it cannot be commanded.
    pub pinned: bool,
    /// Whether its agent is late.
    pub late: bool,
    /// The largest cap that it may have now, and the one decided.
    pub now: Watts,
    pub then: Watts,
}

impl DeviceAsked {
    /// To the last bit, so that runs of the same bring every bit back.
    fn bits(&self) -> ([u64; 5], bool, bool) {
        let watts = [self.min, self.max, self.step, self.now, self.then];
        (watts.map(|w| w.0.to_bits()), self.pinned, self.late)
    }
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct JobAsked {
    pub id: JobId,
    pub class: JobClass,
    /// By place in the site.
    pub devices: Vec<u32>,
    pub curve: SpeedCurve,
}

impl Question {
    /// What is true now. Jobs with devices that the site does not have are left out.
    pub fn new(
        facts: &Facts<'_>,
        curves: &BTreeMap<String, TripCurve>,
        moment: &Moment<'_>,
    ) -> Self {
        let all = Breakers::new(facts, curves);
        let breakers = all.all().iter().map(|breaker| BreakerAsked {
            id: breaker.id.to_owned(),
            rating: breaker.rating,
            load: breaker.load,
        });
        let below = all.below().iter().map(|node| {
            let above = node.above.iter().map(|place| *place as u32);
            (node.devices.len() as u32, above.collect())
        });
        let devices = facts.site.devices.iter().enumerate().map(|(place, d)| {
            let stated = facts.ranges.get(&d.id).copied();
            let (min, max) = stated.unwrap_or((d.min_cap, d.max_cap));
            DeviceAsked {
                min,
                max,
                step: d.cap_step,
                pinned: facts.pinned.contains_key(&d.id),
                late: moment.late.get(place).copied().unwrap_or(false),
                now: moment.now[place],
                then: moment.then[place],
            }
        });
        let jobs = facts.jobs.iter().filter_map(|job| {
            let place = |id| facts.site.device(id).map(|(place, _)| place as u32);
            Some(JobAsked {
                id: job.id.clone(),
                class: job.class,
                devices: job.devices.iter().map(place).collect::<Option<_>>()?,
                curve: job.curve.clone(),
            })
        });
        let classes = facts.site.classes.iter();
        Self {
            breakers: breakers.collect(),
            curves: curves.clone(),
            below: below.collect(),
            devices: devices.collect(),
            jobs: jobs.collect(),
            floors: classes.map(|(class, p)| (*class, p.floor_speed)).collect(),
            seconds: moment.seconds,
            late_seconds: moment.late_seconds,
        }
    }

    /// The breakers as the checker sees them.
    pub(super) fn as_breakers(&self) -> Breakers<'_> {
        let breakers = self.breakers.iter().map(|b| Breaker {
            id: &b.id,
            rating: b.rating,
            load: b.load,
        });
        let mut begin = 0;
        let below = self.below.iter().map(|(count, above)| {
            let devices = begin..begin + *count as usize;
            begin = devices.end;
            Below {
                devices,
                above: above.iter().map(|place| *place as usize).collect(),
            }
        });
        Breakers::of(breakers.collect(), below.collect(), &self.curves)
    }

    /// As the log keeps it.
    ///
    /// # Errors
    /// When it cannot be encoded, which only a bug could bring about.
    pub fn encode(&self) -> Result<Inputs, EvidenceError> {
        let content = postcard::to_extend(self, vec![FORM]);
        Ok(Inputs {
            whole: true,
            content: content.map_err(|e| EvidenceError::Form(e.to_string()))?,
        })
    }

    /// Whether inputs in the log are those of a relief, whatever else they are.
    pub fn is_one(inputs: &Inputs) -> bool {
        inputs.content.first().is_some_and(|form| *form >= FORM)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub fn decode(inputs: &Inputs) -> Result<Self, EvidenceError> {
        let form = |e: postcard::Error| EvidenceError::Form(e.to_string());
        match inputs.content.split_first() {
            Some((&FORM, content)) => {
                let question: Self = postcard::from_bytes(content).map_err(form)?;
                if question.fits() {
                    Ok(question)
                } else {
                    Err(EvidenceError::Misfit)
                }
            }
            Some((other, _)) => Err(EvidenceError::Version(*other)),
            None => Err(EvidenceError::Form("they are empty".to_owned())),
        }
    }

    /// Whether every place that is named is there.
    fn fits(&self) -> bool {
        let (breakers, devices) = (self.breakers.len(), self.devices.len());
        let has = |place: &u32, count: usize| (*place as usize) < count;
        let below: u64 = self.below.iter().map(|(count, _)| u64::from(*count)).sum();
        below == devices as u64
            && (self.below.iter()).all(|(_, above)| above.iter().all(|p| has(p, breakers)))
            && (self.jobs.iter()).all(|job| {
                job.devices.iter().all(|p| has(p, devices)) && !job.curve.points().is_empty()
            })
    }
}

/// Hash of everything that came out: caps, jobs, breakers, or that nothing must
/// come off.
///
/// # Errors
/// When it cannot be encoded, which only a bug could bring about.
pub fn hash_of(relief: Option<&Relief>) -> Result<Hash, EvidenceError> {
    let bytes = postcard::to_allocvec(&relief).map_err(|e| EvidenceError::Form(e.to_string()))?;
    Ok(Hash::of(&[&bytes]))
}

/// Many devices in a row are the same but for their names.
mod runs {
    use super::{DeviceAsked, MOST_DEVICES};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub fn serialize<S: Serializer>(devices: &[DeviceAsked], out: S) -> Result<S::Ok, S::Error> {
        let runs = devices.chunk_by(|a, b| a.bits() == b.bits());
        let runs: Vec<(u32, DeviceAsked)> = runs.map(|run| (run.len() as u32, run[0])).collect();
        runs.serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<DeviceAsked>, D::Error> {
        let runs = Vec::<(u32, DeviceAsked)>::deserialize(from)?;
        let mut devices = Vec::new();
        for (count, device) in runs {
            if count as usize > MOST_DEVICES - devices.len() {
                return Err(de::Error::custom("more devices than any site has"));
            }
            devices.extend(std::iter::repeat_n(device, count as usize));
        }
        Ok(devices)
    }
}
