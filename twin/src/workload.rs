//! Jobs for a demonstration: a mix that keeps a hall about three quarters
//! busy and leaves room to shift.
//!
//! The shares of device time by class are decided, not measured: services 16 %,
//! training 40 %, fine-tuning 16 %, experiments 3 %. Sizes and lengths follow what
//! the Acme and Philly traces report in kind: many small jobs, few large ones
//! that take most of the device time.

use crate::hall::JobSpec;
use heliostat_models::gpu::WorkloadFamily;
use heliostat_models::{JobClass, JobId, Site, Timestamp};
use std::time::Duration;

/// Who submits; account names, pseudonymised at ingest.
const OWNERS: [&str; 6] = [
    "nlp-lab",
    "vision",
    "materials",
    "assistants",
    "speech",
    "students",
];

/// One class's part of the mix.
struct Part {
    class: JobClass,
    /// Share of the hall's device time over the span.
    share: f64,
    /// Gang sizes for 256 devices; scaled with the hall.
    sizes: &'static [u32],
    /// Shortest and longest work, hours.
    hours: (f64, f64),
    /// Shortest and longest time to the deadline, in multiples of the work.
    slack: Option<(f64, f64)>,
}

const PARTS: [Part; 3] = [
    Part {
        class: JobClass::Training,
        share: 0.40,
        sizes: &[32, 48, 64, 64, 96],
        hours: (6.0, 20.0),
        slack: Some((1.7, 3.2)),
    },
    Part {
        class: JobClass::FineTuning,
        share: 0.16,
        sizes: &[8, 8, 16, 16],
        hours: (4.0, 12.0),
        slack: Some((1.6, 4.0)),
    },
    Part {
        class: JobClass::Experiment,
        share: 0.03,
        sizes: &[1, 2, 4, 8, 8],
        hours: (1.0, 8.0),
        slack: None,
    },
];
/// Services, for 256 devices.
const SERVICES: [u32; 3] = [16, 16, 8];

/// Jobs for `site` from `start` on, released over `span`. The same seed gives
/// the same jobs. About 30 to 50 for 256 devices and 48 h.
pub fn demo_jobs(site: &Site, start: Timestamp, span: Duration, seed: u64) -> Vec<JobSpec> {
    let devices = site.devices.len();
    let mut random = fastrand::Rng::with_seed(seed ^ 0x6a6f_6273);
    let scale = devices as f64 / 256.0;
    let size = |wanted: u32| {
        ((f64::from(wanted) * scale).round() as u32).clamp(1, (devices as u32).max(1))
    };
    let span_hours = span.as_secs_f64() / 3_600.0;
    let capacity = devices as f64 * span_hours;
    let mut jobs: Vec<JobSpec> = Vec::new();
    if devices == 0 || span_hours <= 0.0 {
        return jobs;
    }
    let blank = |class: JobClass, gang: u32, hours: f64| JobSpec {
        id: JobId::from("0"),
        class,
        owner: String::new(),
        gang_size: gang,
        hours,
        release: start,
        deadline: None,
        family: WorkloadFamily::of_class(class),
    };
    for service in SERVICES {
        // Longer than the span, so that they serve all the time.
        jobs.push(blank(JobClass::Inference, size(service), span_hours * 1.5));
    }
    for part in &PARTS {
        let mut left = part.share * capacity;
        // Short spans get short jobs.
        let stretch = (span_hours / 48.0).min(1.0);
        let mut count = 0usize;
        while left > 0.0 {
            let gang = size(part.sizes[random.usize(..part.sizes.len())]);
            let longest = (left / f64::from(gang)).max(0.5);
            let (low, high) = (part.hours.0 * stretch, part.hours.1 * stretch);
            let hours = (low + (high - low) * random.f64())
                .min(longest)
                .max(0.25 * stretch);
            left -= hours * f64::from(gang);
            let mut job = blank(part.class, gang, hours);
            // Two of five wait at the start; the others come over the first part of the span.
            if count % 5 >= 2 {
                let after = random.f64() * 0.6 * span_hours;
                job.release = start + Duration::from_secs((after * 3_600.0) as u64);
            }
            if let Some((least, most)) = part.slack {
                let slack = least + (most - least) * random.f64();
                let due = hours * slack + 1.0;
                job.deadline = Some(job.release + Duration::from_secs((due * 3_600.0) as u64));
            }
            if part.class == JobClass::Training && count % 3 == 2 {
                job.family = WorkloadFamily::CommunicationHeavy;
            }
            jobs.push(job);
            count += 1;
        }
    }
    jobs.sort_by_key(|j| j.release);
    for (index, job) in jobs.iter_mut().enumerate() {
        job.id = JobId::from(format!("job-{}", 1_001 + index));
        job.owner = OWNERS[random.usize(..OWNERS.len())].to_owned();
    }
    jobs
}
