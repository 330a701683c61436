//! The jobs in a state file.

use super::read::Reading;
use super::reader::join;
use heliostat_models::accelerators::AcceleratorCatalogue;
use heliostat_models::gpu::{GpuModel, WorkloadFamily};
use heliostat_models::{
    DeviceId, JobClass, JobId, JobRecord, JobState, SpeedCurve, Timestamp, Watts,
};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// What a job's device may be called.
const DEVICES: &str = "a list of names of devices, nodes and racks of the site";

impl Reading<'_> {
    /// All of them, by their ids.
    pub(super) fn jobs(&mut self, file: &Map<String, Value>) -> Vec<JobRecord> {
        let mut jobs = Vec::new();
        let mut holder: HashMap<DeviceId, String> = HashMap::new();
        let listed = file
            .get("jobs")
            .map(|jobs| self.faults.list("jobs", jobs, "a list"));
        for (place, value) in listed.unwrap_or_default().iter().enumerate() {
            let at = format!("jobs[{place}]");
            if let Some(job) = self.job(&at, value) {
                for device in &job.devices {
                    if let Some(first) = holder.insert(device.clone(), job.id.to_string()) {
                        let fault = format!("`{device}` is held by job `{first}` already");
                        self.faults
                            .add(&join(&at, "devices"), fault, "each device once");
                    }
                }
                jobs.push(job);
            }
        }
        let mut names = HashSet::new();
        for job in &jobs {
            if !names.insert(&job.id) {
                self.faults.add(
                    "jobs",
                    format!("two are called `{}`", job.id),
                    "different ids",
                );
            }
        }
        jobs.sort_by(|a, b| a.id.cmp(&b.id));
        jobs
    }

    fn job(&mut self, at: &str, value: &Value) -> Option<JobRecord> {
        let of = self
            .faults
            .fields(at, value, &["id", "class", "devices", "speed"])?;
        let id = self.faults.text(&join(at, "id"), of.get("id"), "a name");
        let classes = JobClass::ALL.map(|c| c.to_string()).join(", ");
        let field = join(at, "class");
        let class = self
            .faults
            .text(&field, of.get("class"), &classes)
            .and_then(|name| {
                let found = JobClass::ALL.into_iter().find(|c| c.to_string() == name);
                if found.is_none() {
                    self.faults.add(&field, format!("is `{name}`"), &*classes);
                }
                found
            });
        let field = join(at, "devices");
        let mut devices = Vec::new();
        for name in self
            .faults
            .list(&field, of.get("devices").unwrap_or(&Value::Null), DEVICES)
        {
            let Some(name) = self.faults.text(&field, Some(name), DEVICES) else {
                continue;
            };
            match self.named_devices(name) {
                Some(found) => devices.extend(found),
                None => self.faults.add(
                    &field,
                    format!("names `{name}`, which is not there"),
                    DEVICES,
                ),
            }
        }
        if devices.is_empty() {
            self.faults.add(&field, "names no device", DEVICES);
            return None;
        }
        let low = self.share_a_cap(&field, &devices);
        let curve = match of.get("speed") {
            Some(points) => self.curve(&join(at, "speed"), points),
            None => class.and_then(|class| self.typical(class, &devices[0])),
        };
        Some(JobRecord {
            id: JobId::from(id?),
            class: class?,
            owner: String::new(),
            gang_size: devices.len() as u32,
            remaining_hours: 0.0,
            total_hours: 0.0,
            release: Timestamp(0),
            deadline: None,
            state: JobState::Running,
            devices,
            curve: curve?.stated_from(low),
            started: None,
            ended: None,
            at: Timestamp(0),
        })
    }

    /// The lowest cap that the devices of a gang have in common; a fault where they
    /// have none.
    fn share_a_cap(&mut self, field: &str, devices: &[DeviceId]) -> Watts {
        let (mut low, mut high) = (Watts::ZERO, Watts(f64::INFINITY));
        for (_, device) in devices.iter().filter_map(|d| self.site.device(d)) {
            if !self.pinned.contains_key(&device.id) {
                let stated = self.ranges.get(&device.id).copied();
                let (min, max) = stated.unwrap_or((device.min_cap, device.max_cap));
                (low, high) = (low.max(min), high.min(max));
            }
        }
        if low > high {
            let fault = format!("one device needs at least {low}, another bears at most {high}");
            self.faults
                .add(field, fault, "devices with a cap in common");
        }
        low
    }

    fn curve(&mut self, field: &str, points: &Value) -> Option<SpeedCurve> {
        let allowed = "a list of [cap in watts, relative speed], at least one";
        let mut read = Vec::new();
        for point in self.faults.list(field, points, allowed) {
            let pair = point
                .as_array()
                .map(|p| p.iter().map(Value::as_f64).collect::<Vec<_>>());
            match pair.as_deref() {
                Some([Some(cap), Some(speed)]) if *cap >= 0.0 && *speed >= 0.0 => {
                    read.push((Watts(*cap), *speed));
                }
                _ => self
                    .faults
                    .add(field, format!("has the point {point}"), allowed),
            }
        }
        let curve = SpeedCurve::envelope(&read);
        if curve.is_none() {
            self.faults.add(field, "has no point", allowed);
        }
        curve
    }

    /// What the accelerator's model says of jobs of a class.
    fn typical(&self, class: JobClass, device: &DeviceId) -> Option<SpeedCurve> {
        let (_, device) = self.site.device(device)?;
        let known = AcceleratorCatalogue::builtin().get(&device.accelerator);
        let gpu = known.map_or_else(GpuModel::h100_sxm, GpuModel::from_catalogue);
        let workload = WorkloadFamily::of_class(class).workload();
        workload.speed_curve(&gpu, device.min_cap, device.max_cap)
    }
}
