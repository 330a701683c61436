//! Where limits come from: boards on disk, which agents set through NVML, or
//! memory, for halls that run beside as a comparison.

use crate::boards::NodeBoard;
use heliostat_models::Watts;
use heliostat_nvml_shim::board::{FaultFlags, Readings};

/// Where a hall finds the limits of its devices, and puts their readings.
#[derive(Debug)]
pub enum CapSource {
    /// Board files, one a node, in the order of the site.
    Boards(Vec<NodeBoard>),
    /// Limits in memory, one a device in the order of the site; see
    /// [`Hall::set_cap`](super::Hall::set_cap).
    Memory(Vec<Watts>),
}

impl CapSource {
    /// Writes the limits into `caps`. A board that cannot be read keeps its
    /// devices' limits as they were.
    pub(crate) fn read(&self, caps: &mut [Watts]) {
        match self {
            Self::Memory(own) => {
                for (cap, limit) in caps.iter_mut().zip(own) {
                    *cap = *limit;
                }
            }
            Self::Boards(boards) => {
                let mut first = 0;
                for board in boards {
                    let count = board.board.facts().len();
                    match board.board.limits() {
                        Ok(limits) => {
                            for (cap, limit) in caps[first..].iter_mut().zip(limits) {
                                *cap = Watts::from_milliwatts(limit.limit_mw);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(node = %board.node, %error, "board cannot be read; limits stay");
                        }
                    }
                    first += count;
                }
            }
        }
    }

    /// Writes readings where somebody reads them; devices whose reading is
    /// `None` (stuck sensors) keep what stands there.
    pub(crate) fn write(&self, readings: &[Option<Readings>]) {
        let Self::Boards(boards) = self else { return };
        let mut first = 0;
        for board in boards {
            let count = board.board.facts().len();
            let part = &readings[first..first + count];
            let whole: Vec<Readings> = part.iter().copied().flatten().collect();
            let written = if whole.len() == count {
                board.board.write_readings(0, &whole)
            } else {
                (part.iter().enumerate()).try_for_each(|(index, reading)| match reading {
                    Some(r) => board.board.write_readings(index, &[*r]),
                    None => Ok(()),
                })
            };
            if let Err(error) = written {
                tracing::warn!(node = %board.node, %error, "board cannot be written; readings stay");
            }
            first += count;
        }
    }

    /// The board of a device and its place on it.
    fn place(&self, device: usize) -> Option<(&NodeBoard, usize)> {
        let Self::Boards(boards) = self else {
            return None;
        };
        let mut first = 0;
        for board in boards {
            let count = board.board.facts().len();
            if device < first + count {
                return Some((board, device - first));
            }
            first += count;
        }
        None
    }

    /// Changes the faults that the shim acts out.
    pub(crate) fn set_faults(
        &self,
        device: usize,
        change: impl FnOnce(&mut FaultFlags),
    ) -> std::io::Result<()> {
        let Some((board, index)) = self.place(device) else {
            return Ok(());
        };
        let mut flags = board.board.faults(index)?;
        change(&mut flags);
        board.board.set_faults(index, flags)
    }

    /// Puts a device back to its default limit, as a driver reload does.
    pub(crate) fn revert_limit(&mut self, device: usize, default: Watts) -> std::io::Result<()> {
        match self {
            Self::Memory(own) => {
                if let Some(cap) = own.get_mut(device) {
                    *cap = default;
                }
                Ok(())
            }
            Self::Boards(_) => match self.place(device) {
                Some((board, index)) => {
                    let facts = &board.board.facts()[index];
                    board.board.set_limit(index, facts.default_limit_mw)
                }
                None => Ok(()),
            },
        }
    }
}
