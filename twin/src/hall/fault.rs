//! Faults that can be put into a device, and how they are written on a
//! command line.

use super::Hall;
use crate::error::TwinError;
use heliostat_nvml_shim::board;

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has fallen off the bus; its job goes back into the queue.
    Lost,
    /// Setting a limit needs rights that the agent lacks.
    NoPermission,
    /// It knows no limits.
    NoLimits,
    /// It has no energy register.
    NoEnergy,
    /// Its power cannot be read.
    NoPower,
    /// Every call takes so many milliseconds.
    Slow(u32),
    /// Its sensors repeat their last readings.
    Stuck,
    /// Its energy register begins at zero again.
    EnergyReset,
    /// Its limit silently goes back to the default.
    LimitRevert,
    /// Nothing any more.
    Heal,
}

impl std::str::FromStr for Fault {
    type Err = TwinError;
    fn from_str(text: &str) -> Result<Self, TwinError> {
        let fault = |fault: &str| TwinError::Fault {
            text: text.to_owned(),
            fault: fault.to_owned(),
        };
        if let Some(delay) = text.strip_prefix("slow-") {
            let delay = delay.trim_end_matches("ms").parse();
            return delay
                .map(Self::Slow)
                .map_err(|_| fault("write the delay in milliseconds, as in slow-500"));
        }
        Ok(match text {
            "lost" => Self::Lost,
            "no-permission" => Self::NoPermission,
            "no-limits" => Self::NoLimits,
            "no-energy" => Self::NoEnergy,
            "no-power" => Self::NoPower,
            "stuck" => Self::Stuck,
            "energy-reset" => Self::EnergyReset,
            "limit-revert" => Self::LimitRevert,
            "heal" => Self::Heal,
            _ => {
                return Err(fault(
                    "not known; there are lost, no-permission, no-limits, no-energy, no-power, \
                     slow-MILLISECONDS, stuck, energy-reset, limit-revert, heal",
                ));
            }
        })
    }
}

impl Hall {
    /// Puts a fault into a device (index in the site).
    ///
    /// # Errors
    /// When there is no such device, or its board cannot be written.
    pub fn inject(&mut self, device: usize, fault: Fault) -> Result<(), TwinError> {
        let refuse = |why: String| TwinError::Fault {
            text: format!("{fault:?}"),
            fault: why,
        };
        let count = self.gpus.len();
        if device >= count {
            return Err(refuse(format!(
                "there is no device {device}; there are 0 to {}",
                count - 1
            )));
        }
        let io = |e: std::io::Error| refuse(format!("its board cannot be written: {e}"));
        let flag = match fault {
            Fault::Lost => board::FAULT_LOST,
            Fault::NoPermission => board::FAULT_NO_PERMISSION,
            Fault::NoLimits => board::FAULT_NO_LIMITS,
            Fault::NoEnergy => board::FAULT_NO_ENERGY,
            Fault::NoPower => board::FAULT_NO_POWER,
            Fault::Slow(_) => board::FAULT_SLOW,
            Fault::Stuck | Fault::EnergyReset | Fault::LimitRevert | Fault::Heal => 0,
        };
        self.caps
            .set_faults(device, |flags| {
                if fault == Fault::Heal {
                    *flags = board::FaultFlags::default();
                }
                flags.bits |= flag;
                if let Fault::Slow(delay) = fault {
                    flags.delay_ms = delay;
                }
            })
            .map_err(io)?;
        match fault {
            Fault::Lost => {
                self.gpus[device].lost = true;
                self.evict(device);
            }
            Fault::Stuck => self.gpus[device].stuck = true,
            Fault::EnergyReset => self.gpus[device].register_from = self.gpus[device].energy,
            Fault::LimitRevert => {
                let default = self.site.devices[device].max_cap;
                self.caps.revert_limit(device, default).map_err(io)?;
            }
            Fault::Heal => {
                self.gpus[device].lost = false;
                self.gpus[device].stuck = false;
            }
            _ => {}
        }
        self.disturb();
        Ok(())
    }
}
