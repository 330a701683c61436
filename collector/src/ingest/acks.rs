//! How far an agent's batches are in the store without a break.
//!
//! A run begins at a marker (a batch without frames), by which the agent says
//! that nothing up to it will be sent any more. Until one came nothing can be
//! acknowledged: what was sent before this ingest began is not known here.

use std::collections::BTreeSet;

/// Sequences beyond a break that are remembered; an agent has far fewer on the way.
const REMEMBERED: usize = 4096;

/// The run of one agent.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Everything up to here is durable or will never come; none before a marker.
    upto: Option<u64>,
    /// Durable sequences beyond a break.
    beyond: BTreeSet<u64>,
}

impl Run {
    /// A marker came. It begins the run anew: an agent whose spool was lost
    /// counts from one again, and what was known of the old one is void.
    pub(super) fn marker(&mut self, sequence: u64) {
        self.upto = Some(sequence);
        self.beyond.clear();
    }

    /// A batch is durable.
    pub(super) fn durable(&mut self, sequence: u64) {
        let Some(upto) = &mut self.upto else { return };
        if sequence <= *upto {
            return;
        }
        self.beyond.insert(sequence);
        while self.beyond.first() == Some(&(*upto + 1)) {
            self.beyond.pop_first();
            *upto += 1;
        }
        // What is forgotten is sent again by the agent; this only bounds memory.
        while self.beyond.len() > REMEMBERED {
            self.beyond.pop_last();
        }
    }

    /// What may be acknowledged.
    pub(super) fn upto(&self) -> Option<u64> {
        self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever order batches come in, nothing is acknowledged that is not
        /// durable, and in the end everything is.
        #[test]
        fn acknowledges_exactly_the_unbroken_run(start in 0u64..1_000, order in Just((1u64..40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut run = Run::default();
            run.marker(start);
            let mut seen = BTreeSet::new();
            for offset in order {
                run.durable(start + offset);
                seen.insert(start + offset);
                let upto = run.upto().unwrap();
                prop_assert!((start + 1..=upto).all(|s| seen.contains(&s)));
                prop_assert!(!seen.contains(&(upto + 1)));
            }
            prop_assert_eq!(run.upto(), Some(start + 39));
        }
    }

    #[test]
    fn nothing_before_a_marker_and_a_marker_begins_anew() {
        let mut run = Run::default();
        run.durable(7);
        assert_eq!(run.upto(), None);
        run.marker(6);
        run.durable(7);
        assert_eq!(run.upto(), Some(7));
        run.marker(0);
        assert_eq!(run.upto(), Some(0));
    }
}
