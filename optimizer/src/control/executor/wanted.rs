//! What to ask of each device now: the decided cap where that lowers, and as much
//! of it as fits where it raises.

use super::{Executor, SMALLEST_STEP, whole};
use heliostat_models::Watts;
use heliostat_models::site::FINEST_STEP;

impl Executor {
    /// The cap to ask of each device now: the decided one where that lowers, and
    /// as much of it as fits where it raises.
    pub(super) fn wanted(&self) -> Vec<Option<Watts>> {
        let mut left = self.left();
        let mut wanted = vec![None; self.devices.len()];
        // Behind the devices of the last node that is limited as a whole.
        let mut next = 0;
        for (place, device) in self.devices.iter().enumerate() {
            let node = self.site.devices[place].node;
            let together = &self.site.nodes[node].devices;
            if place == together.start && self.wholes.contains_key(&node) {
                self.wanted_of_whole(node, &mut left, &mut wanted);
                next = together.end;
            }
            if place < next {
                continue;
            }
            let Some(target) = self.targets[place] else {
                continue;
            };
            let target = match device.leaving {
                // What was found need not be a multiple of the step.
                Some(found) if target >= found => whole(found),
                _ => self.settable(place, target.clamp(device.min, device.max)),
            };
            let worst = self.worst[place];
            if !device.is_fenced() {
                wanted[place] = Some(self.unfenced(place, target, &left));
                continue;
            }
            if target <= worst {
                wanted[place] = Some(target);
                continue;
            }
            let above = self.rows.above(place);
            let fits = (above.iter()).fold(target - worst, |fits, row| fits.min(left[*row]));
            let raise = if fits >= target - worst {
                target - worst
            } else if fits.0 >= SMALLEST_STEP {
                (self.settable(place, worst + fits) - worst).max(Watts::ZERO)
            } else {
                Watts::ZERO
            };
            let cap = worst + raise;
            // A device below its settable range waits until it can be lifted into it.
            if cap >= device.min {
                wanted[place] = Some(whole(cap));
                for row in above {
                    left[*row] -= raise;
                }
            }
        }
        wanted
    }

    /// Room that the largest caps leave below each limit; less than nothing where
    /// they exceed it.
    pub(super) fn left(&self) -> Vec<Watts> {
        let mut left = self.room.clone();
        for (place, worst) in self.worst.iter().enumerate() {
            for row in self.rows.above(place) {
                left[*row] -= *worst;
            }
        }
        left
    }

    /// What to ask of a device that counts with its highest cap, because an
    /// earlier controller's orders may still reach it: no more than it was last
    /// said to have, unless there is room for all at their highest.
    pub(super) fn unfenced(&self, place: usize, target: Watts, left: &[Watts]) -> Watts {
        let device = &self.devices[place];
        let above = self.rows.above(place);
        if above.iter().all(|row| left[*row] >= Watts::ZERO) {
            return target;
        }
        let stated = target.min(device.stated());
        self.settable(place, stated.clamp(device.min, device.max))
    }

    /// The highest cap, not above this one, that the device can be set to: a
    /// multiple of its step, or an end of its range.
    pub(super) fn settable(&self, place: usize, cap: Watts) -> Watts {
        let (device, step) = (&self.devices[place], self.site.devices[place].cap_step);
        if step <= FINEST_STEP || cap <= device.min || cap >= device.max {
            return whole(cap);
        }
        // A multiple may have lost its last bit on the way.
        let count = (cap / step + 1e-9).floor();
        whole((step * count).max(device.min))
    }
}
