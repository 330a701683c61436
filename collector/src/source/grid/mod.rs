//! The grid, replayed: recorded generation and day-ahead prices of 2018 and
//! 2019, at the instants and the resolution of the recording. What was not
//! recorded is not emitted; gaps stay gaps.

mod generation;
mod prices;

use super::{ErrorClass, Source, SourceError};
use generation::Generation;
use heliostat_models::grid::{EmissionFactors, MixHistory};
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use prices::Prices;
use std::collections::VecDeque;
use std::time::Duration;

/// How much of the recording before the first frame is read to learn the usual
/// shares of the sources, by which gaps are judged.
const LEARNING: Duration = Duration::from_secs(14 * 86_400);

/// First and last year of the recording.
pub const YEARS: (i16, i16) = (2018, 2019);

/// A zone whose grid was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// Germany; prices of Germany/Austria/Luxembourg until September 2018,
    /// then of Germany/Luxembourg.
    De,
    /// Finland.
    Fi,
    /// Greece.
    Gr,
    /// Italy; prices of its northern zone.
    It,
    /// Spain.
    Es,
    /// Sweden; the only Swedish price recorded is that of the southernmost
    /// zone, which is not the price elsewhere, so there is none.
    Se,
}

/// The zone has no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no recording of the grid zone `{0}`; there is one of DE, FI, GR, IT, ES and SE (also named DE-LU, IT-NORD, SE3)"
)]
pub struct UnknownZone(pub String);

impl Zone {
    /// The recording that stands for a zone of this name.
    pub fn parse(name: &str) -> Result<Self, UnknownZone> {
        Ok(match name {
            "DE" | "DE-LU" => Self::De,
            "FI" => Self::Fi,
            "GR" => Self::Gr,
            "IT" | "IT-NORD" => Self::It,
            "ES" => Self::Es,
            "SE" | "SE3" => Self::Se,
            other => return Err(UnknownZone(other.to_owned())),
        })
    }
}

/// Replays the recording of a zone.
pub struct GridReplay {
    zone: Zone,
    device: DeviceId,
    /// Records that begin at or before this instant have been emitted.
    done: Timestamp,
    from: Timestamp,
    opened: Option<Opened>,
}

struct Opened {
    generation: Generation,
    prices: Prices,
    history: MixHistory,
}

impl GridReplay {
    /// Replays the recording of `zone` as `device` from the instant `from` on;
    /// the first sample also emits the `backfill` before it, so that forecasts
    /// have a history. Nothing is read until then.
    pub fn new(
        zone: &str,
        device: DeviceId,
        from: Timestamp,
        backfill: Duration,
    ) -> Result<Self, UnknownZone> {
        let from = from - backfill;
        Ok(Self {
            zone: Zone::parse(zone)?,
            device,
            done: from - Duration::from_millis(1),
            from,
            opened: None,
        })
    }

    fn open(&mut self) -> Result<&mut Opened, SourceError> {
        if self.opened.is_none() {
            let damaged = |e: String| SourceError::new(ErrorClass::Fatal, e);
            let mut opened = Opened {
                generation: Generation::new(self.zone, self.from - LEARNING),
                prices: Prices::read(self.zone).map_err(damaged)?,
                history: MixHistory::default(),
            };
            opened.prices.skip_before(self.from);
            let before = self.from - Duration::from_millis(1);
            while let Some((at, mix)) = opened.generation.next_until(before).map_err(damaged)? {
                opened.history.observe(at, &mix);
            }
            self.opened = Some(opened);
        }
        self.opened
            .as_mut()
            .ok_or_else(|| SourceError::new(ErrorClass::Fatal, "the recording is not open"))
    }
}

impl Source for GridReplay {
    fn name(&self) -> &str {
        "grid"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        if at <= self.done {
            return Ok(Vec::new());
        }
        let device = self.device.clone();
        let opened = self.open()?;
        let damaged = |e: String| SourceError::new(ErrorClass::Fatal, e);
        let mut frames: VecDeque<Frame> = VecDeque::new();
        while let Some((begins, mix)) = opened.generation.next_until(at).map_err(damaged)? {
            let means = opened
                .history
                .indicators(begins, &mix, EmissionFactors::builtin());
            opened.history.observe(begins, &mix);
            frames.push_back(Frame {
                device: device.clone(),
                at: begins,
                readings: vec![
                    (Catalogue::grid_carbon(), means.life_cycle),
                    (Catalogue::grid_carbon_direct(), means.direct),
                    (Catalogue::grid_renewable(), means.renewable_share),
                ],
            });
        }
        let prices = opened.prices.take_until(at);
        self.done = at;
        Ok(with_prices(frames, prices, &device))
    }
}

/// Puts prices into the frames of their instants; where there is none, into one of their own.
fn with_prices(
    mut frames: VecDeque<Frame>,
    prices: Vec<(Timestamp, f64)>,
    device: &DeviceId,
) -> Vec<Frame> {
    let mut all = Vec::with_capacity(frames.len());
    for (at, price) in prices {
        while let Some(frame) = pop_if(&mut frames, |f| f.at < at) {
            all.push(frame);
        }
        let mut frame = pop_if(&mut frames, |f| f.at == at).unwrap_or_else(|| Frame {
            device: device.clone(),
            at,
            readings: Vec::new(),
        });
        frame
            .readings
            .push((Catalogue::grid_price(), Reading::Measured(price)));
        all.push(frame);
    }
    all.extend(frames);
    all
}

/// Takes the first item, if it is of a kind.
fn pop_if<T>(items: &mut VecDeque<T>, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
    if wanted(items.front()?) {
        items.pop_front()
    } else {
        None
    }
}

/// Unpacks a file that was compressed into this program.
fn unpack(name: &str, packed: &[u8]) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .map_err(|e| format!("the recording {name} in this program is damaged: {e}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
