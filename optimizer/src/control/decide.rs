//! The heart of a round: allocate, have it checked, put it in force.

use super::assemble;
use super::measure::Measured;
use super::round::Control;
use crate::allocate::{Outcome, allocate};
use crate::check::{Facts, Proposal, check_allocation};
use heliostat_models::{Certificate, DeviceId, JobId, JobRecord, Timestamp, Watts};
use heliostat_store::jobs::JobEntry;
use std::collections::BTreeMap;

/// Caps that all change by less than this share stay as they are, where limits let them.
const HYSTERESIS: f64 = 0.005;

/// What is in force.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub caps: BTreeMap<DeviceId, Watts>,
    pub certificate: Certificate,
    pub node_prices: Vec<f64>,
    pub outcome: Outcome,
    pub jobs: Vec<JobRecord>,
}

impl Control {
    /// Allocates, has it checked, and puts it in force.
    pub(super) fn decide(
        &mut self,
        now: Timestamp,
        why: &str,
        entries: &[JobEntry],
        measured: &Measured,
        troubles: &mut Vec<String>,
    ) {
        let site = self.deps.site.clone();
        let ranges = self.executor.ranges();
        let (jobs, odd) = assemble::running_jobs(&site, entries, &ranges);
        troubles.extend(odd);
        // While observing nobody obeys; what would be decided is what is shown.
        let pinned = if self.armed() {
            self.executor.pinned(now)
        } else {
            BTreeMap::new()
        };
        if pinned.len() > self.executor.refusals().len() {
            let trouble = "Some devices cannot be commanded, no agent answers for them; they count at the highest cap they may have";
            troubles.push(trouble.to_owned());
        }
        for (device, reason) in self.executor.refusals() {
            troubles.push(format!("`{device}` refuses caps: {reason}"));
        }
        let mut facts = Facts {
            site: &site,
            margin: self.config.policy.margin,
            feed_limit: self.events.limit(now),
            uncontrolled: &[],
            ranges: &ranges,
            pinned: &pinned,
            jobs: &jobs,
            price_of_energy: self.price,
        };
        let nodes = site.power.nodes().len();
        self.limits = (0..nodes).map(|v| facts.limit(v)).collect();
        self.uncontrolled = measured.uncontrolled(&site, &self.limits);
        let uncontrolled = self.uncontrolled.clone();
        facts.uncontrolled = &uncontrolled;
        let problem = assemble::problem(&facts);
        let outcome = match allocate(&problem) {
            Ok(outcome) => outcome,
            Err(error) => {
                troubles.push(format!("No allocation is possible: {error}"));
                self.refused = true;
                return;
            }
        };
        self.allocations += 1;
        let allocation = outcome.allocation();
        let caps = assemble::caps(&problem, allocation);
        let (dropped, beyond) = given_way(&outcome);
        let proposal = Proposal {
            caps: &caps,
            node_prices: &allocation.node_prices,
            certificate: &allocation.certificate,
            dropped: &dropped,
            beyond: &beyond,
        };
        let broken = check_allocation(&facts, &proposal);
        if !broken.is_empty() {
            let proof = Some(&allocation.certificate);
            self.journal.refusal(now, self.armed(), &broken, proof);
            self.refused = true;
            return;
        }
        self.refused = false;
        self.max_gap = self.max_gap.max(allocation.certificate.gap);
        if !self.keeps_last(&facts, &caps, &dropped, &beyond) {
            self.in_force = Some(InForce {
                caps,
                certificate: allocation.certificate.clone(),
                node_prices: allocation.node_prices.clone(),
                outcome,
                jobs: jobs.clone(),
            });
        }
        if let Some(in_force) = &self.in_force {
            self.journal
                .allocation(now, self.armed(), &in_force.outcome, why);
            self.executor.set_targets(&in_force.caps);
        }
        let room = (self.limits.iter().zip(&self.uncontrolled))
            .map(|(limit, load)| *limit - *load)
            .collect();
        self.executor.set_room(room);
    }

    /// Whether the caps in force may stay: no new cap differs much, and the old
    /// ones still keep every limit, range and floor.
    fn keeps_last(
        &self,
        facts: &Facts<'_>,
        caps: &BTreeMap<DeviceId, Watts>,
        dropped: &[JobId],
        beyond: &[String],
    ) -> bool {
        let Some(last) = &self.in_force else {
            return false;
        };
        let same_jobs = last.jobs.len() == facts.jobs.len()
            && (last.jobs.iter().zip(facts.jobs))
                .all(|(a, b)| a.id == b.id && a.devices == b.devices && a.curve == b.curve);
        let near = caps.len() == last.caps.len()
            && (caps.iter().zip(&last.caps)).all(|((a, new), (b, old))| {
                a == b && (*new - *old).0.abs() <= HYSTERESIS * old.0.max(1.0)
            });
        if !same_jobs || !near || !dropped.is_empty() {
            return false;
        }
        let proposal = Proposal {
            caps: &last.caps,
            node_prices: &last.node_prices,
            certificate: &last.certificate,
            dropped,
            beyond,
        };
        // The old proof speaks of the old inputs; only the limits must hold anew.
        check_allocation(facts, &proposal)
            .iter()
            .all(|b| b.rule.is_about_the_proof())
    }
}

fn given_way(outcome: &Outcome) -> (Vec<JobId>, Vec<String>) {
    match outcome {
        Outcome::Allocated(_) => (Vec::new(), Vec::new()),
        Outcome::Infeasible { shed, .. } => (
            shed.dropped.clone(),
            shed.beyond.iter().map(|(node, _)| node.clone()).collect(),
        ),
    }
}
