//! What can go wrong, one kind at a time.

use super::{Manners, Skew, Telemetry, World};
use heliostat_models::Watts;
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock;
use std::time::Duration;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Readings are lost: some, most or all.
    Lost,
    /// Readings come late.
    Late,
    /// Readings come twice.
    Twice,
    /// Sensors say something else than what is.
    Wrong,
    /// Ingest is cut off.
    IntakeCut,
    /// A controller is killed and comes back.
    ControllerKilled,
    /// A controller is cut off.
    ControllerCut,
    /// A controller's clock is wrong.
    ControllerSkewed,
    /// Agents' clocks are wrong.
    AgentsSkewed,
    /// Half of the agents are cut off.
    HalfCut,
    /// The broker is gone, with all that it kept.
    BrokerGone,
    /// An agent is killed and started again.
    AgentKilled,
    /// Other cards are in a node.
    CardsSwapped,
    /// Orders are held back, overtaken and doubled.
    OrdersUnruly,
    /// Answers, hellos and readings are.
    AnswersUnruly,
    /// The whole network is slow.
    NetworkSlow,
    /// Acknowledgements are lost with the connection: what was sent is sent again.
    AcknowledgementsLost,
    /// The grid asks for less, or for less than is possible.
    GridEvent,
    /// All is well again.
    Healed,
}

impl Fault {
    pub const ALL: [Self; 19] = [
        Self::Lost,
        Self::Late,
        Self::Twice,
        Self::Wrong,
        Self::IntakeCut,
        Self::ControllerKilled,
        Self::ControllerCut,
        Self::ControllerSkewed,
        Self::AgentsSkewed,
        Self::HalfCut,
        Self::BrokerGone,
        Self::AgentKilled,
        Self::CardsSwapped,
        Self::OrdersUnruly,
        Self::AnswersUnruly,
        Self::NetworkSlow,
        Self::AcknowledgementsLost,
        Self::GridEvent,
        Self::Healed,
    ];

    /// Strikes, at a moment when everybody is at work; what it was, in words.
    pub async fn strike(self, world: &mut World) -> String {
        world.moment().await;
        let half = world.rng.usize(0..2);
        let seat = world.rng.usize(0..world.seats.len());
        let node = world.rng.usize(0..world.site.nodes.len());
        match self {
            Self::Lost | Self::Late | Self::Twice | Self::Wrong => self.disturb(world),
            Self::ControllerKilled => {
                world.kill_controller(seat).await;
                let seconds = world.rng.u64(1..50);
                world.pass(seconds).await;
                world.moment().await;
                world.start_controller(seat);
                format!("controller {seat} killed, and back after {seconds} s")
            }
            Self::ControllerSkewed => {
                let skew = skew(world);
                world.kill_controller(seat).await;
                world.skew_controller(seat, skew);
                world.start_controller(seat);
                format!("controller {seat} with a clock of {skew:?}")
            }
            Self::AgentsSkewed => {
                let mut told = Vec::new();
                for _ in 0..6 {
                    let node = world.rng.usize(0..world.site.nodes.len());
                    let skew = skew(world);
                    world.skews.insert(node, skew);
                    world.restart_agent(node, false).await;
                    told.push((node, skew));
                }
                format!("agents with clocks {told:?}")
            }
            Self::IntakeCut => {
                let seconds = cut(world, |w| &w.intake).await;
                format!("ingest cut off for {seconds} s")
            }
            Self::ControllerCut => {
                let seconds = cut(world, |w| &w.seats[seat].wire).await;
                format!("controller {seat} cut off for {seconds} s")
            }
            Self::HalfCut => {
                let seconds = cut(world, |w| &w.halves[half]).await;
                format!("half {half} of the agents cut off for {seconds} s")
            }
            Self::BrokerGone => {
                world.change_broker();
                world.reconnect().await;
                "another broker".to_owned()
            }
            Self::AgentKilled => {
                world.restart_agent(node, false).await;
                format!("agent {node} killed and started again")
            }
            Self::CardsSwapped => {
                world.restart_agent(node, true).await;
                format!("other cards in node {node}")
            }
            Self::OrdersUnruly | Self::AnswersUnruly | Self::NetworkSlow => self.unsettle(world),
            Self::AcknowledgementsLost => {
                let deaf = Manners {
                    deaf: true,
                    ..Manners::default()
                };
                world.wires().for_each(|wire| wire.behave(deaf));
                world.pass(4).await;
                world.moment().await;
                let broker = world.broker;
                for wire in world.wires() {
                    wire.behave(Manners::default());
                    wire.lead_to(broker);
                }
                world.reconnect().await;
                "all cut off before they heard of acknowledgements".to_owned()
            }
            Self::GridEvent => {
                let now = world.clock.now();
                let limit = Watts(90_000.0 + 80_000.0 * world.rng.f64());
                let event = GridEvent {
                    id: format!("event-{}", now.millis()),
                    from: now,
                    to: now + Duration::from_secs(world.rng.u64(20..120)),
                    ask: Ask::Limit(limit),
                    reason: "the operator asks".into(),
                };
                for handle in world.seats.iter().filter_map(|seat| seat.handle.as_ref()) {
                    handle.submit_grid_event(event.clone());
                }
                format!("a grid event of {limit:.0}")
            }
            Self::Healed => {
                world.heal().await;
                "all well".to_owned()
            }
        }
    }

    /// What happens to readings where they are taken.
    fn disturb(self, world: &World) -> String {
        let mut rng = fastrand::Rng::with_seed(world.clock.now().0 as u64);
        let calm = Telemetry::default();
        let how = match self {
            Self::Lost => Telemetry {
                lost: [0.1, 0.5, 0.9, 1.0][rng.usize(0..4)],
                ..calm
            },
            Self::Late => Telemetry {
                late: (rng.f64(), rng.u32(1..20)),
                ..calm
            },
            Self::Twice => Telemetry {
                twice: rng.f64(),
                ..calm
            },
            _ => Telemetry {
                wrong: [(0.3, 0.0), (0.3, 0.5), (1.0, 0.8), (0.3, 1.6)][rng.usize(0..4)],
                ..calm
            },
        };
        *world.telemetry.lock().unwrap() = how;
        format!("{how:?}")
    }

    /// What happens to messages on their way.
    fn unsettle(self, world: &World) -> String {
        let mut rng = fastrand::Rng::with_seed(world.clock.now().0 as u64);
        let span = |most: u64, rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(5..most));
        let unruly = Manners {
            held: (rng.f64(), span(400, &mut rng)),
            twice: (rng.f64(), span(400, &mut rng)),
            ..Manners::default()
        };
        match self {
            Self::OrdersUnruly => world.seats.iter().for_each(|s| s.wire.behave(unruly)),
            Self::AnswersUnruly => world.halves.iter().for_each(|half| half.behave(unruly)),
            _ => {
                let slow = Manners {
                    late: span(200, &mut rng),
                    ..Manners::default()
                };
                world.wires().for_each(|wire| wire.behave(slow));
                return format!("{slow:?}");
            }
        }
        format!("{self:?} {unruly:?}")
    }
}

/// Up to five minutes wrong, and up to a hundredth faster or slower.
fn skew(world: &mut World) -> Skew {
    Skew {
        ahead: world.rng.i64(-300_000..=300_000),
        drift: 0.02 * (world.rng.f64() - 0.5),
    }
}

/// Cuts a wire for a while; for how many seconds.
async fn cut(world: &mut World, wire: impl Fn(&World) -> &super::Wire) -> u64 {
    wire(world).cut();
    let seconds = world.rng.u64(5..60);
    world.pass(seconds).await;
    world.moment().await;
    let broker = world.broker;
    wire(world).lead_to(broker);
    world.reconnect().await;
    seconds
}

impl World {
    /// Everything as it should be; what was cut off finds back by itself.
    pub async fn heal(&mut self) {
        *self.telemetry.lock().unwrap() = Telemetry::default();
        self.wires()
            .for_each(|wire| wire.behave(Manners::default()));
        for number in 0..self.seats.len() {
            if self.skew_controller(number, Skew::default()) || self.seats[number].handle.is_none()
            {
                self.kill_controller(number).await;
                self.start_controller(number);
            }
        }
        for node in std::mem::take(&mut self.skews).into_keys() {
            self.restart_agent(node, false).await;
        }
        self.reconnect().await;
    }
}
