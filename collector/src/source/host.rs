//! This very machine: CPU, memory, network, temperatures, CPU energy.

use super::rapl::{self, Rapl};
use super::{ErrorClass, Source, SourceError};
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use sysinfo::{Components, Networks, System};

/// Reads the machine this program runs on.
pub struct HostSource {
    node: DeviceId,
    rapl: Option<Rapl>,
    state: Option<State>,
}

struct State {
    system: System,
    networks: Networks,
    components: Components,
    /// CPU time is a difference between two readings; the first has none.
    primed: bool,
    received: Growth,
    sent: Growth,
}

impl HostSource {
    /// The machine, under the name of its node.
    pub fn new(node: DeviceId) -> Self {
        Self {
            node,
            rapl: Rapl::open(Path::new(rapl::ROOT)),
            state: None,
        }
    }

    fn state(&mut self) -> Result<&mut State, SourceError> {
        if self.state.is_none() {
            self.state = Some(State::new()?);
        }
        self.state.as_mut().ok_or_else(|| failed("no state"))
    }
}

impl State {
    fn new() -> Result<Self, SourceError> {
        Ok(Self {
            system: System::new().map_err(|e| failed(&format!("{e:?}")))?,
            networks: Networks::new().map_err(|e| failed(&format!("{e:?}")))?,
            components: Components::new().map_err(|e| failed(&format!("{e:?}")))?,
            primed: false,
            received: Growth::default(),
            sent: Growth::default(),
        })
    }
}

fn failed(what: &str) -> SourceError {
    SourceError::new(
        ErrorClass::Fatal,
        format!("this machine's state cannot be read: {what}"),
    )
}

impl Source for HostSource {
    fn name(&self) -> &str {
        "host"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let node = self.node.clone();
        let energy = self.rapl.as_mut().map(Rapl::read);
        let state = self.state()?;
        state.system.refresh_cpu_usage();
        state.system.refresh_memory();
        state.networks.refresh(true);
        state.components.refresh(true);
        let cpu = match state.primed {
            true => measured(f64::from(state.system.global_cpu_usage()) / 100.0),
            false => Reading::Missing,
        };
        state.primed = true;
        let outside = |(name, _): &(&OsString, _)| name.to_str() != Some("lo");
        let networks = || state.networks.iter().filter(outside);
        let received = networks().map(|(n, d)| (n.clone(), d.total_received()));
        let received = state.received.add(received);
        let sent = networks().map(|(n, d)| (n.clone(), d.total_transmitted()));
        let sent = state.sent.add(sent);
        let hottest = (state.components.iter())
            .filter_map(|c| c.temperature())
            .filter(|t| t.is_finite())
            .reduce(f32::max);
        let mut readings = vec![
            (Catalogue::node_cpu_utilization(), cpu),
            (
                Catalogue::node_memory_used(),
                measured(state.system.used_memory() as f64),
            ),
            (
                Catalogue::node_memory_size(),
                measured(state.system.total_memory() as f64),
            ),
            (Catalogue::node_network_receive(), measured(received as f64)),
            (Catalogue::node_network_transmit(), measured(sent as f64)),
            (
                Catalogue::node_temperature(),
                hottest.map_or(Reading::Missing, |t| measured(f64::from(t))),
            ),
        ];
        if let Some(energy) = energy {
            let energy = energy.map_or(Reading::Missing, |e| measured(e.get()));
            readings.push((Catalogue::node_cpu_energy(), energy));
        }
        Ok(vec![Frame {
            device: node,
            at,
            readings,
        }])
    }
}

fn measured(value: f64) -> Reading {
    Reading::Measured(value)
}

/// The sum of counters that come and go: interfaces appear, vanish and restart,
/// the sum only grows. It starts at zero, so that what was counted before this
/// program began is not taken for growth.
#[derive(Default)]
struct Growth {
    total: u64,
    last: HashMap<OsString, u64>,
}

impl Growth {
    fn add(&mut self, counters: impl Iterator<Item = (OsString, u64)>) -> u64 {
        let mut seen = HashMap::new();
        for (name, now) in counters {
            if let Some(last) = self.last.get(&name) {
                // A lower value is a restart at zero.
                self.total += now.checked_sub(*last).unwrap_or(now);
            }
            seen.insert(name, now);
        }
        self.last = seen;
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_time() {
        let mut host = HostSource::new(DeviceId::from("n1"));
        let first = host.sample(Timestamp(1_000)).unwrap();
        assert_eq!(
            first[0].get(Catalogue::node_cpu_utilization()),
            Some(Reading::Missing)
        );
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        let frames = host.sample(Timestamp(2_000)).unwrap();
        let value = |metric| frames[0].get(metric).and_then(Reading::value).unwrap();
        assert_eq!(frames[0].at, Timestamp(2_000));
        assert!((0.0..=1.0).contains(&value(Catalogue::node_cpu_utilization())));
        let (used, size) = (
            value(Catalogue::node_memory_used()),
            value(Catalogue::node_memory_size()),
        );
        assert!(0.0 < used && used < size);
        assert!(value(Catalogue::node_network_receive()) >= 0.0);
    }

    #[test]
    fn a_sum_of_counters_never_falls() {
        let mut growth = Growth::default();
        let mut add = |counters: &[(&str, u64)]| {
            growth.add(counters.iter().map(|(n, v)| (OsString::from(n), *v)))
        };
        assert_eq!(add(&[("a", 1_000)]), 0);
        assert_eq!(add(&[("a", 1_500), ("b", 9_000)]), 500);
        assert_eq!(add(&[("b", 9_100)]), 600);
        assert_eq!(add(&[("a", 1_600), ("b", 40)]), 640);
    }
}
