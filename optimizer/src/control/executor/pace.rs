//! How fast the executor lets caps change: what it tells the ramp limits, and what
//! they hold back.

use super::{Agent, Executor};
use crate::control::device::Device;
use crate::control::ramp::View;
use heliostat_models::{DeviceId, Timestamp, Watts};

/// A sum above its room by less than this is above it by rounding.
const OVER: Watts = Watts(1e-6);

impl Executor {
    /// The devices of each job that runs: where caps must not change fast they
    /// change together.
    pub fn set_gangs<'d>(&mut self, gangs: impl Iterator<Item = &'d [DeviceId]>) {
        let Some(ramps) = &mut self.ramps else {
            return;
        };
        let places = |ids: &[DeviceId]| -> Vec<usize> {
            let known = self.site.devices_named(ids);
            known.map(|(place, _)| place).collect()
        };
        ramps.set_gangs(gangs.map(places).collect());
    }

    /// What was heard of a device; `last`: the last command to its agent.
    pub(super) fn pace_heard(&mut self, place: usize, sequence: Option<u64>, last: Option<u64>) {
        if sequence.is_none() {
            self.pace_told(place);
        } else if sequence == last {
            self.pace_answered(place);
        }
    }

    /// What a device may have, and what it says to have, changed by so much.
    pub(super) fn pace_changed(&mut self, place: usize, (worst, reported): (Watts, Watts)) {
        if let Some(ramps) = &mut self.ramps {
            ramps.worst_changed(place, worst);
            ramps.reported_changed(place, reported);
        }
    }

    /// A device spoke of itself: what it has may be other than what was asked.
    pub(super) fn pace_told(&mut self, place: usize) {
        if let (Some(ramps), Some(has)) = (&mut self.ramps, self.reported[place]) {
            let least = least(&self.devices[place]);
            ramps.told(place, has, least, self.targets[place]);
        }
    }

    /// A device answered the last command of its agent.
    fn pace_answered(&mut self, place: usize) {
        if let (Some(ramps), Some(has)) = (&mut self.ramps, self.reported[place]) {
            let obeyed = !self.refusing.contains(&place);
            let least = least(&self.devices[place]);
            ramps.answered(place, has, least, obeyed);
        }
    }

    /// Holds back what would be too fast.
    pub(super) fn hold_back(&mut self, now: Timestamp, wanted: &mut [Option<Watts>]) {
        if self.ramps.is_none() {
            return;
        }
        let left = self.left();
        let Some(ramps) = &mut self.ramps else {
            return;
        };
        let count = self.devices.len();
        let (mut waiting, mut deaf) = (vec![false; count], vec![false; count]);
        for agent in self.agents.values() {
            let is_deaf = agent.is_deaf(now, self.lease);
            for place in &agent.devices {
                waiting[*place] = agent.waiting_since.is_some();
                deaf[*place] = is_deaf;
            }
        }
        let urgent: Vec<bool> = (self.devices.iter().enumerate())
            .map(|(place, device)| {
                let above = self.rows.above(place);
                !device.is_fenced()
                    || self.worst[place] > device.max
                    || above.iter().any(|row| left[*row] < Watts::ZERO - OVER)
            })
            .collect();
        let view = View {
            targets: &self.targets,
            worst: &self.worst,
            reported: &self.reported,
            urgent: &urgent,
            waiting: &waiting,
            deaf: &deaf,
        };
        let safe = |place: usize| self.devices[place].safe;
        let may = wanted.to_vec();
        ramps.limit(now, &view, safe, wanted);
        for ((cap, may), worst) in wanted.iter_mut().zip(may).zip(&self.worst) {
            // What there is room for was settled before, whatever ramps would like.
            *cap = cap.zip(may).map(|(cap, may)| cap.min(may.max(*worst)));
        }
    }
}

/// Found below this, a device is lifted there at once. Below a limit of its node
/// it has no such cap of its own.
fn least(device: &Device) -> Watts {
    match device.is_part() {
        true => Watts::ZERO,
        false => device.min,
    }
}

impl Agent {
    /// Whether the lease that was surely held may have ended: nothing that was
    /// sent since has been answered.
    fn is_deaf(&self, now: Timestamp, lease: std::time::Duration) -> bool {
        self.waiting_since
            .is_some_and(|since| now >= self.held_until.unwrap_or(since + lease))
    }
}
