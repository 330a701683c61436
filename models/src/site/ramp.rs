//! How fast the power that caps allow may change: at the site, or below a power node.
//!
//! Grid operators limit how fast a large load may come and go; so do generators,
//! batteries and cooling plants behind one power node. What is limited is the sum
//! of the largest caps that devices may have. Rates are in watts a second.

use crate::quantity::Watts;
use std::time::Duration;

/// How many seconds' worth of a rate may come at once where a file does not say.
pub const USUAL_WINDOW: Duration = Duration::from_secs(5);

/// All ramp limits of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct RampPolicy {
    /// At most the rate times this may come at once: no burst is larger.
    pub window: Duration,
    /// The limits, the site's own first.
    pub limits: Vec<RampLimit>,
}

/// One ramp limit.
#[derive(Clone, Debug, PartialEq)]
pub struct RampLimit {
    /// Below which power node: index into
    /// [`PowerTree::nodes`](super::power::PowerTree::nodes); `None`: the whole site.
    pub at: Option<usize>,
    /// Most that the caps may rise in a second; `None`: as fast as limits let them.
    pub up: Option<Watts>,
    /// Most that the caps may fall in a second where no limit demands more.
    pub down: Option<Watts>,
}

impl Default for RampPolicy {
    fn default() -> Self {
        Self {
            window: USUAL_WINDOW,
            limits: Vec::new(),
        }
    }
}

impl RampPolicy {
    /// Keeps a limit if it says anything.
    pub(crate) fn add(&mut self, limit: RampLimit) {
        if limit.up.is_some() || limit.down.is_some() {
            self.limits.push(limit);
        }
    }
}
