//! What agents tell the executor: hellos and answers.

use super::{Executor, outcome, sense};
use heliostat_models::lease::{AgentHello, CapAnswer};

impl Executor {
    /// An agent said who it is and what its devices have.
    pub fn on_hello(&mut self, hello: &AgentHello) {
        let mut mine = Vec::new();
        for said in &hello.devices {
            let Some((place, device)) = self.site.device(&said.device) else {
                continue;
            };
            // An agent speaks for the devices of its own node only.
            if self.site.nodes[device.node].id.as_str() != hello.agent.as_str() {
                continue;
            }
            let fenced = hello.fence >= self.fence;
            if let Some(fault) = sense::fault(said, device.max_cap) {
                self.devices[place].on_nonsense(fault, fenced, hello.at);
                self.refresh(place);
                self.pace_told(place);
                continue;
            }
            mine.push(place);
            self.devices[place].on_hello(said, fenced, hello.at);
            let leaving = hello.leaving.then(|| said.found.clamp(said.min, said.max));
            if self.devices[place].leaving != leaving {
                self.devices[place].leaving = leaving;
                self.version += 1;
            }
            self.refresh(place);
            self.pace_told(place);
        }
        let node = self.site.node(hello.agent.as_str()).map(|(node, _)| node);
        let mut whole = None;
        if let Some(node) = node {
            if mine.is_empty() {
                mine = self.hello_of_whole(node, hello);
                whole = Some(node).filter(|_| !mine.is_empty());
            } else {
                self.is_not_whole(node);
            }
        }
        mine.sort_unstable();
        let agent = self.agents.entry(hello.agent.clone()).or_default();
        if agent.devices != mine || agent.whole != whole {
            agent.last = None;
            agent.devices = mine;
            agent.whole = whole;
        }
        agent.stale = true;
    }

    /// An agent answered a command, or told that leases ended.
    pub fn on_answer(&mut self, answer: &CapAnswer) {
        let Some(agent) = self.agents.get(&answer.agent) else {
            return;
        };
        let mine = agent.devices.clone();
        let last = agent.last.as_ref().map(|(sequence, _, _)| *sequence);
        let ours = answer.controller.as_deref() == Some(self.controller.as_str());
        let sequence = answer.sequence.filter(|_| ours);
        let fenced = answer.fence >= self.fence;
        let whole = agent.whole;
        for report in &answer.reports {
            if let Some(node) = self.whole_named(&report.device) {
                if whole == Some(node) {
                    let (command, when) = ((sequence, last), (fenced, answer.at));
                    self.whole_answered(node, report, command, when);
                }
                continue;
            }
            let Some((place, device)) = self.site.device(&report.device) else {
                continue;
            };
            if !mine.contains(&place) {
                continue;
            }
            let (now_has, refused) = outcome(report);
            let now_has = sense::believed(now_has, device.max_cap);
            self.devices[place].on_report(now_has, refused, sequence, fenced, answer.at);
            self.refresh(place);
            self.pace_heard(place, sequence, last);
        }
        let Some(agent) = self.agents.get_mut(&answer.agent) else {
            return;
        };
        match sequence {
            Some(sequence) => {
                agent.answered = agent.answered.max(sequence);
                if let Some((_, at, _)) = agent.last.as_ref().filter(|(s, _, _)| *s <= sequence) {
                    agent.waiting_since = None;
                    agent.held_until = Some(*at + self.lease);
                }
            }
            // Leases ended, or another controller was obeyed: say again what we want.
            None => agent.stale = true,
        }
    }
}
