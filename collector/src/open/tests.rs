use super::encode::{request, series};
use super::*;
use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::query::Selector;
use heliostat_store::{Answer, AppendReceipt, Query, SteppedClock, StoreError, WallClock};
use std::sync::atomic::{AtomicBool, Ordering};

mod recorded;
mod seeded;

/// A store whose disk can be made full.
struct Fragile {
    store: Arc<EmbeddedStore>,
    is_full: AtomicBool,
}

#[async_trait::async_trait]
impl TimeSeriesStore for Fragile {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::DiskFull { path: "x".into() });
        }
        self.store.append(frames).await
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        self.store.query(query).await
    }
    fn stats(&self) -> heliostat_store::query::StoreStats {
        self.store.stats()
    }
}

struct Stage {
    directory: tempfile::TempDir,
    site: Arc<Site>,
    store: Arc<Fragile>,
    open: OpenIngest,
}

impl Stage {
    fn new() -> Self {
        let loaded = config::load("demo.toml", config::builtin_demo(), Default::default());
        let site = Arc::new(loaded.site.unwrap());
        let directory = tempfile::tempdir().unwrap();
        Self::at(site, directory)
    }

    fn at(site: Arc<Site>, directory: tempfile::TempDir) -> Self {
        let store =
            EmbeddedStore::open(directory.path(), Arc::clone(&site), Arc::new(WallClock)).unwrap();
        let store = Arc::new(Fragile {
            store,
            is_full: AtomicBool::new(false),
        });
        let clock = Arc::new(SteppedClock::new(NOW));
        let open = OpenIngest::start(Arc::clone(&site), store.clone(), clock);
        Self {
            directory,
            site,
            store,
            open,
        }
    }

    /// As after a restart: what was in memory is gone.
    async fn restarted(self) -> Self {
        drop(self.open);
        self.store.store.close().await;
        drop(self.store);
        Self::at(self.site, self.directory)
    }

    async fn write(&self, all: &[Vec<u8>]) -> Result<Tally, OpenError> {
        let body = snap::raw::Encoder::new()
            .compress_vec(&request(all))
            .unwrap();
        self.open
            .remote_write(self.open.admit().unwrap(), body)
            .await
    }

    async fn lines(&self, text: &str) -> Tally {
        let leave = self.open.admit().unwrap();
        let body = text.as_bytes().to_vec();
        (self
            .open
            .lines(leave, body, Encoding::Plain, Precision::Seconds))
        .await
        .unwrap()
    }

    /// Instants in seconds after [`NOW`] and readings of a metric.
    async fn stored(&self, metric: &str, device: &str) -> Vec<(f64, Option<f64>)> {
        let query = Query::Range {
            metric: metric.into(),
            select: Selector {
                devices: vec![device.into()],
                labels: vec![],
            },
            from: Timestamp(0),
            to: Timestamp(i64::MAX / 2),
        };
        let series = self.store.query(&query).await.unwrap().series();
        (series.iter().flat_map(|s| &s.points))
            .map(|p| (p.at.seconds_since(NOW), p.value))
            .collect()
    }
}

fn dcgm(metric: &str, gpu: &str, value: f64, at: i64) -> Vec<u8> {
    let labels = [
        ("__name__", metric),
        ("Hostname", "r01-n1"),
        ("UUID", "GPU-aaa"),
        ("gpu", gpu),
    ];
    series(&labels, &[(value, NOW.0 + at)])
}

#[tokio::test]
async fn units_are_ours_and_the_answer_comes_after_the_disk() {
    let stage = Stage::new();
    let tally = stage
        .write(&[
            dcgm("DCGM_FI_DEV_POWER_USAGE", "0", 612.5, 0),
            dcgm("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0", 5_000_000.0, 0),
            dcgm("DCGM_FI_DEV_FB_USED", "0", 1_024.0, 0),
            dcgm("DCGM_FI_DEV_GPU_UTIL", "0", 80.0, 0),
            dcgm("DCGM_FI_DEV_SM_CLOCK", "0", 1_980.0, 0),
        ])
        .await
        .unwrap();
    assert_eq!(
        tally,
        Tally {
            stored: 5,
            ..Tally::default()
        }
    );
    for (metric, value) in [
        ("gpu_power_watts", 612.5),
        ("gpu_energy_joules_total", 5_000.0),
        ("gpu_memory_used_bytes", 1_073_741_824.0),
        ("gpu_utilization_ratio", 0.8),
        ("gpu_sm_clock_hertz", 1.98e9),
    ] {
        assert_eq!(
            stage.stored(metric, "r01-n1-gpu0").await,
            [(0.0, Some(value))],
            "{metric}"
        );
    }
    // One frame, as an agent would have sent it.
    assert_eq!(stage.store.stats().frames, 1);
}

#[tokio::test]
async fn parts_of_an_instant_come_together_and_doubles_are_known_also_after_a_restart() {
    let mut stage = Stage::new();
    let power = || dcgm("DCGM_FI_DEV_POWER_USAGE", "1", 300.0, 1_000);
    let heat = || dcgm("DCGM_FI_DEV_GPU_TEMP", "1", 60.0, 1_000);
    assert_eq!(stage.write(&[power()]).await.unwrap().stored, 1);
    assert_eq!(stage.write(&[heat(), power()]).await.unwrap().stored, 1);
    let clock = || dcgm("DCGM_FI_DEV_SM_CLOCK", "1", 1_980.0, 1_000);
    for round in 0..2 {
        let tally = stage.write(&[power(), heat()]).await.unwrap();
        assert_eq!((tally.stored, tally.duplicates), (0, 2), "round {round}");
        stage = stage.restarted().await;
    }
    let tally = stage.write(&[clock(), heat(), power()]).await.unwrap();
    assert_eq!((tally.stored, tally.duplicates), (1, 2));
    let at = async |metric: &str| stage.stored(metric, "r01-n1-gpu1").await;
    assert_eq!(at("gpu_power_watts").await, [(1.0, Some(300.0))]);
    assert_eq!(at("gpu_temperature_celsius").await, [(1.001, Some(60.0))]);
    assert_eq!(at("gpu_sm_clock_hertz").await.len(), 1);
    // The same twice in one request is one.
    let later = dcgm("DCGM_FI_DEV_POWER_USAGE", "1", 300.0, 2_000);
    let tally = stage.write(&[later.clone(), later]).await.unwrap();
    assert_eq!((tally.stored, tally.duplicates), (1, 1));
}

#[tokio::test]
async fn an_agents_frame_at_the_same_instant_is_respected() {
    let stage = Stage::new();
    let frame = |at: i64| Frame {
        device: "r01-n1-gpu2".into(),
        at: Timestamp(NOW.0 + at),
        readings: vec![(Catalogue::gpu_power(), Reading::Measured(111.0))],
    };
    stage.store.append(vec![frame(0)]).await.unwrap();
    let both = |at| {
        [
            dcgm("DCGM_FI_DEV_POWER_USAGE", "2", 222.0, at),
            dcgm("DCGM_FI_DEV_GPU_TEMP", "2", 50.0, at),
        ]
    };
    let tally = stage.write(&both(0)).await.unwrap();
    assert_eq!((tally.stored, tally.duplicates), (1, 1));
    // And one that comes behind the back of what is remembered.
    stage.store.append(vec![frame(5_000)]).await.unwrap();
    stage.write(&both(5_000)).await.unwrap();
    let power = stage.stored("gpu_power_watts", "r01-n1-gpu2").await;
    assert_eq!(power, [(0.0, Some(111.0)), (5.0, Some(111.0))]);
    let heat = stage.stored("gpu_temperature_celsius", "r01-n1-gpu2").await;
    assert_eq!(heat, [(0.001, Some(50.0)), (5.001, Some(50.0))]);
}

#[tokio::test]
async fn what_is_not_known_or_cannot_be_is_told_and_the_rest_kept() {
    let stage = Stage::new();
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let other = |name: &str, value: &str| {
        series(
            &[
                ("__name__", "DCGM_FI_DEV_GPU_TEMP"),
                (name, value),
                ("gpu", "0"),
            ],
            &[(50.0, NOW.0)],
        )
    };
    let tally = stage
        .write(&[
            dcgm("DCGM_FI_DEV_POWER_USAGE", "0", 300.0, 0),
            dcgm("DCGM_FI_DEV_GPU_TEMP", "0", stale, 0),
            // DCGM's blank of 64-bit integers.
            dcgm("DCGM_FI_DEV_SM_CLOCK", "0", 9_223_372_036_854_775_794.0, 0),
            dcgm("DCGM_FI_DEV_XID_ERRORS", "0", 31.0, 0),
            dcgm("DCGM_FI_DEV_XID_ERRORS", "1", 43.0, 1),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "1", 30_000.0, 0),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "1", f64::INFINITY, 1),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "1", 300.0, -NOW.0),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "1", 300.0, 3_600_000),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "9", 300.0, 0),
            other("Hostname", "elsewhere"),
            other("rack", "r01"),
            other("GPU_I_ID", "1"),
        ])
        .await
        .unwrap();
    assert_eq!((tally.stored, tally.unknown), (3, 2));
    let refused: Vec<_> = tally
        .refused
        .iter()
        .map(|(r, n)| (r.as_str(), *n))
        .collect();
    assert_eq!(
        refused,
        [
            ("gpu_power_watts: not finite", 1),
            ("gpu_power_watts: out of range", 1),
            ("time before 2000", 1),
            ("time more than 10 min ahead", 1),
        ]
    );
    assert_eq!(tally.faults.len(), 4);
    assert_eq!(tally.faults[0].place, 6);
    let unplaced: Vec<_> = tally.unplaced.keys().map(String::as_str).collect();
    assert_eq!(
        unplaced,
        [
            "about a part of a device (MIG), not the whole",
            "no label names the node",
            "the node has no GPU of this index",
            "unknown node",
        ]
    );
    // Missing is missing, not a number and not nothing.
    for metric in ["gpu_temperature_celsius", "gpu_sm_clock_hertz"] {
        assert_eq!(
            stage.stored(metric, "r01-n1-gpu0").await,
            [(0.0, None)],
            "{metric}"
        );
    }
    let unknown = stage.open.unknown_metrics();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].name, "DCGM_FI_DEV_XID_ERRORS");
    assert_eq!((unknown[0].samples, unknown[0].last_value), (2, Some(43.0)));
    assert_eq!(unknown[0].unit, "unknown");
}

/// A sample of a series that no table knows.
fn load(instance: &str, value: f64, at: i64) -> Vec<u8> {
    let labels = [("__name__", "node_load1"), ("instance", instance)];
    series(&labels, &[(value, NOW.0 + at)])
}

#[tokio::test]
async fn unknown_metrics_are_stored_once_and_survive_a_restart() {
    let mut stage = Stage::new();
    for round in 0..3 {
        let tally = (stage.write(&[load("a:1", 0.5, 0), load("b:1", 0.25, 0)]))
            .await
            .unwrap();
        let expected = if round == 0 { (2, 0) } else { (0, 2) };
        assert_eq!((tally.unknown, tally.duplicates), expected, "round {round}");
        stage = stage.restarted().await;
    }
    // Later, earlier, and not a number.
    let more = [
        load("a:1", 2.0, 1_000),
        load("a:1", 3.0, -1_000),
        load("a:1", f64::NAN, 2_000),
        load("a:1", f64::INFINITY, 3_000),
    ];
    let tally = stage.write(&more).await.unwrap();
    assert_eq!((tally.unknown, tally.stored), (3, 0));
    let unplaced: Vec<_> = tally.unplaced.keys().map(String::as_str).collect();
    assert_eq!(unplaced, ["an unknown metric's value that is infinite"]);
    let device = r#"node_load1{instance="a:1"}"#;
    assert_eq!(
        stage.stored("unknown_value", device).await,
        [
            (-1.0, Some(3.0)),
            (0.0, Some(0.5)),
            (1.0, Some(2.0)),
            (2.0, None)
        ]
    );
    let unknown = stage.open.unknown_metrics();
    assert_eq!((unknown[0].series, unknown[0].samples), (1, 4));
    assert_eq!(unknown[0].last_value, Some(2.0));
    // Only who asks for them is told of them.
    let latest = async |select| {
        let since = Timestamp(0);
        let query = Query::Latest { select, since };
        stage.store.query(&query).await.unwrap().frames().len()
    };
    assert_eq!(latest(Selector::default()).await, 0);
    assert_eq!(latest(Selector::unknown()).await, 2);
}

#[test]
fn unknown_series_are_bounded_and_people_kept_out() {
    let loaded = config::load("demo.toml", config::builtin_demo(), Default::default());
    let mut resolver = Resolver::new(Arc::new(loaded.site.unwrap()));
    // As many as may be, all but one of them in the store since before.
    resolver.has_stored((1..MOST_UNKNOWN).map(|n| DeviceId::from(format!("m{{n=\"{n}\"}}"))));
    let mut read = |name: &str, label: (&str, &str)| {
        let one = series(&[("__name__", name), label], &[(1.0, NOW.0)]);
        let parcel = Parcel::of_remote_write(&request(&[one]), &mut resolver, NOW).unwrap();
        let reason = parcel.tally.unplaced.keys().next().cloned();
        (parcel.parts.len(), reason.unwrap_or_default())
    };
    assert_eq!(read("m", ("n", "new")).0, 1);
    let (parts, reason) = read("m", ("n", "one too many"));
    assert_eq!(parts, 0);
    assert!(reason.contains("beyond the 100,000"), "{reason}");
    // Those that have their place keep it.
    assert_eq!(read("m", ("n", "7")).0, 1);
    let (parts, reason) = read("m", ("user", "alice"));
    assert_eq!(parts, 0);
    assert!(reason.contains("may name a person"), "{reason}");
    let names: Vec<_> = resolver
        .unknown
        .list()
        .into_iter()
        .map(|m| (m.name, m.samples))
        .collect();
    assert_eq!(names, [("m".to_owned(), 4)]);
}

#[tokio::test]
async fn line_protocol_keeps_the_good_lines_of_a_body() {
    let stage = Stage::new();
    let at = NOW.0 / 1_000;
    let tally = stage
        .lines(&format!(
            "nvidia_smi,host=r02-n3.example.org,index=4,uuid=GPU-5,name=NVIDIA\\ H100 power_draw=431.2,temperature_gpu=61i,utilization_gpu=97i,memory_used=70000i,pstate=\"P0\" {at}\n\
             cpu,cpu=cpu-total,host=r02-n3 usage_idle=25,usage_user=70 {at}\n\
             cpu,cpu=cpu0,host=r02-n3 usage_idle=99 {at}\n\
             this is no line protocol\n\
             ipmi_sensor,server=r02-n3,name=pwr_consumption,unit=watts value=4100,status=1i {at}\n\
             mem,host=r02-n3 used=1000i,total=2000i\n\
             gpu_power_watts,device=r02-n3-gpu5,quality=estimated value=99 {at}\n\
             prometheus,host=r02-n3,gpu=6 DCGM_FI_DEV_POWER_USAGE=88 {at}\n\
             nvidia_smi,host=r02-n3,index=4 power_draw=1 5\n"
        ))
        .await;
    assert_eq!(tally.stored, 10);
    assert_eq!(tally.texts, 1);
    let unknown = stage.open.unknown_metrics();
    let names: Vec<_> = unknown.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(
        names,
        ["cpu_usage_idle", "cpu_usage_user", "ipmi_sensor_status"]
    );
    assert_eq!(tally.unknown, 3);
    let faults: Vec<_> = (tally.faults.iter())
        .map(|f| (f.place, f.fault.as_str()))
        .collect();
    assert_eq!(
        faults,
        [(4, "a field is not KEY=VALUE"), (9, "time before 2000")]
    );
    for (metric, device, value) in [
        ("gpu_power_watts", "r02-n3-gpu4", 431.2),
        ("gpu_utilization_ratio", "r02-n3-gpu4", 0.97),
        (
            "gpu_memory_used_bytes",
            "r02-n3-gpu4",
            70_000.0 * 1_048_576.0,
        ),
        ("node_cpu_utilization_ratio", "r02-n3", 0.75),
        ("node_power_watts", "r02-n3", 4_100.0),
        ("node_memory_used_bytes", "r02-n3", 1_000.0),
        ("gpu_power_watts", "r02-n3-gpu5", 99.0),
        ("gpu_power_watts", "r02-n3-gpu6", 88.0),
    ] {
        let found = stage.stored(metric, device).await;
        assert_eq!(found, [(0.0, Some(value))], "{metric} of {device}");
    }
    let query = Query::Latest {
        select: Selector {
            devices: vec!["r02-n3-gpu5".into()],
            labels: vec![],
        },
        since: Timestamp(0),
    };
    let frames = stage.store.query(&query).await.unwrap().frames();
    assert_eq!(frames[0].readings[0].1, Reading::Estimated(99.0));
}

#[tokio::test]
async fn a_sum_that_rounding_puts_just_outside_its_range_is_at_its_end() {
    let stage = Stage::new();
    let at = NOW.0 / 1_000;
    let tally = stage
        .lines(&format!(
            "cpu,cpu=cpu-total,host=r02-n3 usage_idle=100.0000001 {at}\n\
             cpu,cpu=cpu-total,host=r02-n4 usage_idle=100.1 {at}\n"
        ))
        .await;
    assert_eq!(tally.refused["node_cpu_utilization_ratio: out of range"], 1);
    let found = stage.stored("node_cpu_utilization_ratio", "r02-n3").await;
    assert_eq!(found, [(0.0, Some(0.0))]);
}

#[tokio::test]
async fn jobs_are_named_by_their_number() {
    let stage = Stage::new();
    let own = |labels: &[(&str, &str)], value: f64| {
        let name = ("__name__", "job_throughput_per_second");
        series(&[&[name], labels].concat(), &[(value, NOW.0)])
    };
    let tally = stage
        .write(&[
            own(
                &[
                    ("instance", "r03-n1:9"),
                    ("job", "train"),
                    ("job_id", "4711_2"),
                ],
                8.0,
            ),
            own(&[("device", "job.4712")], 9.0),
            own(&[("device", "r03-n1:9"), ("job_id", "4713")], 10.0),
            own(&[("job", "train")], 11.0),
            own(&[("job_id", "a/b")], 12.0),
        ])
        .await
        .unwrap();
    assert_eq!(tally.stored, 3, "{tally:?}");
    for (device, value) in [("job.4711_2", 8.0), ("job.4712", 9.0), ("job.4713", 10.0)] {
        let found = stage.stored("job_throughput_per_second", device).await;
        assert_eq!(found, [(0.0, Some(value))], "{device}");
    }
}

#[tokio::test]
async fn our_own_exposition_is_taken_as_it_is() {
    let stage = Stage::new();
    let own = |name: &str, device: &str| {
        let labels = [
            ("__name__", name),
            ("device", device),
            ("kind", "node"),
            ("node", "x"),
        ];
        series(&labels, &[(2_000.0, NOW.0)])
    };
    let tally = stage
        .write(&[
            own("heliostat_node_power_watts", "r03-n1"),
            own("node_power_watts", "r03-n2"),
            own("node_power_watts", "nobody"),
        ])
        .await
        .unwrap();
    assert_eq!((tally.stored, tally.unplaced["unknown device"]), (2, 1));
    assert_eq!(
        stage.stored("node_power_watts", "r03-n1").await,
        [(0.0, Some(2_000.0))]
    );
}

#[tokio::test]
async fn a_store_that_cannot_write_pushes_back_and_nothing_is_taken_for_stored() {
    let stage = Stage::new();
    let one = || [dcgm("DCGM_FI_DEV_POWER_USAGE", "3", 300.0, 0)];
    stage.store.is_full.store(true, Ordering::Relaxed);
    assert!(matches!(
        stage.write(&one()).await,
        Err(OpenError::Store(_))
    ));
    assert_eq!(stage.open.totals().stored, 0);
    stage.store.is_full.store(false, Ordering::Relaxed);
    assert_eq!(stage.write(&one()).await.unwrap().stored, 1);
    assert_eq!(stage.open.totals().stored, 1);
    // Too many at once: told to come again.
    let leaves: Vec<_> = (0..IN_WORK).map(|_| stage.open.admit().unwrap()).collect();
    assert_eq!(stage.open.admit().unwrap_err(), OpenError::Busy);
    drop(leaves);
    assert!(stage.open.admit().is_ok());
}

#[tokio::test]
async fn many_senders_at_once_lose_and_double_nothing() {
    let stage = Arc::new(Stage::new());
    let mut tasks = Vec::new();
    // Four senders, two of them saying the same, each metric by itself.
    for sender in 0..4 {
        let stage = Arc::clone(&stage);
        tasks.push(tokio::spawn(async move {
            let metric = [
                "DCGM_FI_DEV_POWER_USAGE",
                "DCGM_FI_DEV_GPU_TEMP",
                "DCGM_FI_DEV_SM_CLOCK",
            ][sender % 3];
            let mut tally = Tally::default();
            for second in 0..50 {
                let all: Vec<_> = (0..8)
                    .map(|gpu| dcgm(metric, &gpu.to_string(), 42.0, second * 1_000))
                    .collect();
                tally.add(&stage.write(&all).await.unwrap());
            }
            tally
        }));
    }
    let mut sum = Tally::default();
    for task in tasks {
        sum.add(&task.await.unwrap());
    }
    assert_eq!((sum.stored, sum.duplicates), (1_200, 400));
    for metric in [
        "gpu_power_watts",
        "gpu_temperature_celsius",
        "gpu_sm_clock_hertz",
    ] {
        for gpu in 0..8 {
            let found = stage.stored(metric, &format!("r01-n1-gpu{gpu}")).await;
            assert_eq!(found.len(), 50, "{metric} {gpu}");
        }
    }
}

#[tokio::test]
async fn gzip_is_undone_within_bounds() {
    use std::io::Write as _;
    let stage = Stage::new();
    let zip = |bytes: &[u8]| {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap()
    };
    let send = async |body: Vec<u8>| {
        let leave = stage.open.admit().unwrap();
        (stage
            .open
            .lines(leave, body, Encoding::Gzip, Precision::Seconds))
        .await
    };
    let good = zip(b"node_power_watts,device=r01-n1 value=5");
    assert_eq!(send(good.clone()).await.unwrap().stored, 1);
    let torn = good[..good.len() - 9].to_vec();
    assert!(matches!(send(torn).await, Err(OpenError::Body(_))));
    assert!(matches!(
        send(b"plain".to_vec()).await,
        Err(OpenError::Body(_))
    ));
    let bomb = zip(&vec![b'#'; MAX_DECODED + 1]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(send(bomb).await, Err(OpenError::TooLong));
}

#[test]
fn tallies_add_up() {
    let mut one = Tally {
        stored: 1,
        ..Tally::default()
    };
    one.unplaced.insert("a".into(), 2);
    let mut sum = one.clone();
    sum.add(&one);
    assert_eq!((sum.stored, sum.unplaced["a"]), (2, 4));
}
