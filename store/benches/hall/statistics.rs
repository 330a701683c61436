//! What the hall's readings are like from one second to the next, to be held
//! against recorded GPUs: how often a value stays, how far it goes, how many
//! different values there are.

use super::{GPUS, Hall, METRICS};
use heliostat_models::DeviceId;
use std::collections::HashSet;

/// Of one metric, busy GPUs alone.
pub struct Statistics {
    /// Which.
    pub metric: &'static str,
    /// Share of seconds in which it stays as it was.
    pub unchanged: f64,
    /// Differences from second to second without their sign: median, 90th and 99th percentile.
    pub steps: [f64; 3],
    /// The same over the mean.
    pub relative: [f64; 3],
    /// Different values of a GPU over how many values.
    pub distinct: f64,
}

/// Of so many seconds.
pub fn of(seconds: usize) -> Vec<Statistics> {
    let devices = (0..GPUS).map(|i| DeviceId::from(format!("gpu-{i:03}")));
    let mut hall = Hall::new(devices.collect(), 1);
    let rows: Vec<_> = (0..seconds).map(|_| hall.step()).collect();
    let utilization = METRICS
        .iter()
        .position(|m| *m == "gpu_utilization_ratio")
        .unwrap_or(0);
    (METRICS.iter().enumerate())
        .map(|(place, metric)| {
            let (mut steps, mut distinct, mut sum) = (Vec::new(), 0, 0.0);
            for gpu in 0..GPUS {
                let busy: Vec<f64> = (rows.iter())
                    .map(|row| row[gpu])
                    .filter(|row| row[utilization] > 0.0)
                    .map(|row| row[place])
                    .collect();
                let different: HashSet<u64> = busy.iter().map(|v| v.to_bits()).collect();
                distinct += different.len();
                sum += busy.iter().sum::<f64>();
                steps.extend(busy.windows(2).map(|w| (w[1] - w[0]).abs()));
            }
            steps.sort_by(f64::total_cmp);
            let at = |share: f64| steps[((steps.len() - 1) as f64 * share) as usize];
            let parts = [at(0.5), at(0.9), at(0.99)];
            let mean = sum / steps.len() as f64;
            Statistics {
                metric,
                unchanged: steps.partition_point(|s| *s == 0.0) as f64 / steps.len() as f64,
                steps: parts,
                relative: parts.map(|p| p / mean),
                distinct: distinct as f64 / steps.len() as f64,
            }
        })
        .collect()
}
