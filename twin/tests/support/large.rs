//! A site of any size in the demo hall's proportions, and jobs that fill it.

use heliostat_models::gpu::WorkloadFamily;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{JobClass, JobId, Site, Timestamp};
use heliostat_twin::JobSpec;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Devices in a rack, as in the demo hall: 4 nodes of 8.
const RACK: usize = 32;
/// Racks under a PDU, PDUs under a UPS, UPSes under a transformer.
const BRANCHES: (usize, usize, usize) = (5, 4, 4);

/// The demo hall.
pub fn demo() -> Arc<Site> {
    let loaded = load("demo.toml", builtin_demo(), LoadOptions::default());
    Arc::new(loaded.site.unwrap())
}

/// The demo hall; where more than its 256 devices are asked for, a site of at
/// least so many: the same nodes, racks and limits for each of them, and above
/// them as many PDUs, UPSes and transformers as that takes.
pub fn site(devices: usize) -> Arc<Site> {
    if devices <= 256 {
        return demo();
    }
    let pdus = devices.div_ceil(RACK * BRANCHES.0);
    let (upses, transformers) = (
        pdus.div_ceil(BRANCHES.1),
        pdus.div_ceil(BRANCHES.1 * BRANCHES.2),
    );
    let total = pdus * BRANCHES.0;
    let demo = builtin_demo();
    // The power tree stands between the first and the hall; the rest is kept.
    let (head, rest) = demo.split_once("[[power]]").unwrap();
    let (_, rest) = rest.split_once("[[hall]]").unwrap();
    let mut text = head.to_owned();
    let mut power = |id: String, kind: &str, feeds: &str, racks: usize, limit: usize| {
        let racks = racks.min(total);
        let (rating, limit) = (racks * limit * 5 / 4, racks * limit);
        writeln!(
            text,
            "[[power]]\nid = \"{id}\"\nkind = \"{kind}\"\nfeeds = [{feeds}]\nrating_watts = {rating}\nlimit_watts = {limit}\n"
        )
        .unwrap();
    };
    // Watts a rack at each level: the demo hall's limits by its 8 racks.
    power("feed".into(), "utility_feed", "", total, 23_750);
    // The last branch may carry less; it gets a whole one's limit all the same,
    // as far as the site has one.
    let (of_pdu, of_ups) = (BRANCHES.0, BRANCHES.0 * BRANCHES.1);
    let of_transformer = of_ups * BRANCHES.2;
    for n in 0..transformers {
        let id = format!("transformer-{n}");
        power(id, "transformer", "\"feed\"", of_transformer, 23_750);
    }
    for n in 0..upses {
        let feeds = format!("\"transformer-{}\"", n / BRANCHES.2);
        power(format!("ups-{n}"), "ups", &feeds, of_ups, 23_000);
    }
    for n in 0..pdus {
        let feeds = format!("\"ups-{}\"", n / BRANCHES.1);
        power(format!("pdu-{n}"), "pdu", &feeds, of_pdu, 24_000);
    }
    let fed_by: Vec<String> = (0..pdus).map(|n| format!("\"pdu-{n}\"")).collect();
    let it_meters: Vec<String> = (0..upses)
        .map(|n| format!("[[meter]]\nid = \"meter-it-{n}\"\nrole = \"it\"\nat = \"ups-{n}\"\npue_category = 1\n"))
        .collect();
    let rest = rest
        .replace(
            "\"pdu-1\", \"pdu-2\", \"pdu-3\", \"pdu-4\"",
            &fed_by.join(", "),
        )
        .replace("racks = 8\n", &format!("racks = {total}\n"))
        .replace("r{rack:02}", "r{rack:04}")
        .replace("racks_per_row = 4\n", "racks_per_row = 20\n")
        .replace("row-{row}", "row-{row:02}")
        .replace("fed_by = \"transformer\"", "fed_by = \"feed\"");
    let (before, meters) = rest.split_once("[[meter]]\nid = \"meter-it-a\"").unwrap();
    let (_, after) = meters
        .split_once("[[meter]]\nid = \"meter-cooling\"")
        .unwrap();
    text += &format!(
        "[[hall]]{before}{}\n[[meter]]\nid = \"meter-cooling\"{after}",
        it_meters.join("\n")
    );
    let loaded = load("large.toml", &text, LoadOptions::default());
    let site = loaded.site.unwrap_or_else(|| panic!("{:?}", loaded.faults));
    Arc::new(site)
}

/// One class's part of the mix.
struct Part {
    class: JobClass,
    /// Share of the devices.
    share: f64,
    /// Gang sizes.
    sizes: &'static [u32],
    /// Least and most work, minutes at full speed.
    minutes: (f64, f64),
}

const PARTS: [Part; 5] = [
    // Services stay; some more come and go.
    Part {
        class: JobClass::Inference,
        share: 0.13,
        sizes: &[16, 16, 8],
        minutes: (6_000.0, 9_000.0),
    },
    Part {
        class: JobClass::Inference,
        share: 0.03,
        sizes: &[8, 8, 4],
        minutes: (4.0, 30.0),
    },
    Part {
        class: JobClass::Training,
        share: 0.50,
        sizes: &[32, 48, 64, 64, 96, 128],
        minutes: (10.0, 90.0),
    },
    Part {
        class: JobClass::FineTuning,
        share: 0.20,
        sizes: &[8, 16, 16, 32],
        minutes: (5.0, 40.0),
    },
    Part {
        class: JobClass::Experiment,
        share: 0.14,
        sizes: &[1, 2, 4, 8, 8],
        minutes: (2.0, 20.0),
    },
];

/// Jobs that keep a site full from `start` on for `span`, and a little more
/// than full: who ends is followed by who waits.
pub fn jobs(site: &Site, start: Timestamp, span: Duration, seed: u64) -> Vec<JobSpec> {
    let mut random = fastrand::Rng::with_seed(seed);
    let devices = site.devices.len() as f64;
    let minutes = span.as_secs_f64() / 60.0;
    let mut jobs: Vec<JobSpec> = Vec::new();
    for part in &PARTS {
        // Device-minutes that this part may offer up to now, and has offered.
        let mut offered = 0.0;
        let mut release = 0.0;
        while release < minutes {
            let gang = part.sizes[random.usize(..part.sizes.len())];
            let work = part.minutes.0 + (part.minutes.1 - part.minutes.0) * random.f64();
            jobs.push(JobSpec {
                id: JobId::from("0"),
                class: part.class,
                owner: "somebody".into(),
                gang_size: gang.min(site.devices.len() as u32),
                hours: work / 60.0,
                release: start + Duration::from_secs_f64(release * 60.0),
                deadline: None,
                family: WorkloadFamily::LlmTraining,
            });
            offered += f64::from(gang);
            // Those of the first share run at once; then as one ends, the next comes.
            if offered > part.share * devices {
                let mean = (part.minutes.0 + part.minutes.1) / 2.0;
                let rate = part.share * devices / mean;
                release += f64::from(gang) / rate * 0.95;
            }
        }
    }
    jobs.sort_by_key(|j| j.release);
    for (number, job) in jobs.iter_mut().enumerate() {
        job.id = JobId::from(format!("job-{number}"));
    }
    jobs
}
