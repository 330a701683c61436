//! Which caps have changed since somebody last asked, at the cost of a look at each.

/// What has been said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Cap of each group in watts; none before somebody asks.
    caps: Vec<f64>,
    /// Units that each slot took; none where all groups must be looked at.
    taken: Vec<f64>,
    /// Groups that have changed themselves since, some of them twice.
    touched: Vec<usize>,
}

impl Told {
    /// Notes a group that changes itself: its cap may be another though it takes as much.
    pub fn note(&mut self, group: usize) {
        if self.touched.len() >= self.caps.len() {
            // Nobody has asked for long: all will be looked at.
            self.forget();
        } else if !self.taken.is_empty() {
            self.touched.push(group);
        }
    }

    /// What slots take no longer compares with what they took: their units are others.
    pub fn forget(&mut self) {
        self.taken.clear();
        self.touched.clear();
    }

    /// Groups whose cap is another than when this was last asked, at first all.
    /// `group` and `taken` go by slot; `cap` gives a group's cap now.
    pub fn changed(
        &mut self,
        group: &[u32],
        taken: &[f64],
        cap: impl Fn(usize) -> f64,
    ) -> Vec<usize> {
        let mut changed = std::mem::take(&mut self.touched);
        if self.taken.len() == taken.len() {
            for ((now, then), group) in taken.iter().zip(&mut self.taken).zip(group) {
                if now.to_bits() != then.to_bits() {
                    *then = *now;
                    changed.push(*group as usize);
                }
            }
            changed.sort_unstable();
            changed.dedup();
        } else {
            self.taken = taken.to_vec();
            self.caps.resize(group.len(), f64::NAN);
            changed = (0..group.len()).collect();
        }
        changed.retain(|group| {
            let cap = cap(*group);
            std::mem::replace(&mut self.caps[*group], cap).to_bits() != cap.to_bits()
        });
        changed
    }
}
