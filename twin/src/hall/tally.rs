//! What a hall has used and done so far.

use heliostat_models::{GramsPerKilowattHour, Joules};

/// What the grid was like at an instant; `None` where nobody recorded it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GridPoint {
    /// Carbon intensity.
    pub intensity: Option<GramsPerKilowattHour>,
    /// Share of renewable generation, 0 to 1.
    pub renewable_share: Option<f64>,
}

/// Sums since the beginning, or since [`Hall::reset_tally`](super::Hall::reset_tally).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Energy of the accelerators.
    pub gpu: Joules,
    /// Energy of the IT equipment, accelerators included.
    pub it: Joules,
    /// Energy of the whole site.
    pub site: Joules,
    /// Energy of the site while the grid's intensity was known.
    pub site_with_intensity: Joules,
    /// Energy of the site while the grid's renewable share was known.
    pub site_with_share: Joules,
    /// Energy of the site times renewable share, while that was known.
    pub renewable: Joules,
    /// Carbon of the site's energy while the intensity was known, grams.
    pub carbon_grams: f64,
    /// Work: accelerator-hours at full speed. An hour of a gang of 8 at
    /// relative speed 0.9 is 7.2. All classes count alike.
    pub work_hours: f64,
    /// The same, weighted by the site's policy for each class: what the
    /// optimizer was told to maximise.
    pub weighted_work_hours: f64,
    /// Accelerator-hours in which a job held a device.
    pub held_hours: f64,
    /// Accelerator-hours in all.
    pub device_hours: f64,
    /// Jobs completed.
    pub completed: u64,
}

impl Tally {
    /// Work per energy of the site, accelerator-hours a kilowatt hour; `None`
    /// before any energy was used.
    pub fn work_per_kilowatt_hour(&self) -> Option<f64> {
        let energy = self.site.kilowatt_hours();
        (energy > 0.0).then(|| self.work_hours / energy)
    }

    /// Mean renewable share of the site's energy; `None` where it was never known.
    pub fn renewable_share(&self) -> Option<f64> {
        (self.site_with_share > Joules::ZERO).then(|| self.renewable / self.site_with_share)
    }

    /// Share of time in which devices were held by jobs.
    pub fn utilisation(&self) -> Option<f64> {
        (self.device_hours > 0.0).then(|| self.held_hours / self.device_hours)
    }
}
