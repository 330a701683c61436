//! Remote-write bodies as vmagent makes them from what dcgm-exporter shows: one
//! sample a series, at most 10,000 samples a body, snappy. The same bytes go to
//! both servers.

use crate::hall::{METRICS, Row};
use heliostat_models::Site;

/// vmagent's `-remoteWrite.maxRowsPerBlock`.
pub const ROWS_PER_BODY: usize = 10_000;

/// dcgm-exporter's names of [`METRICS`], and what one of our units is in its.
const DCGM: [(&str, f64); METRICS.len()] = [
    ("DCGM_FI_DEV_POWER_USAGE", 1.0),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 1.0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e3),
    ("DCGM_FI_DEV_GPU_TEMP", 1.0),
    ("DCGM_FI_DEV_MEMORY_TEMP", 1.0),
    ("DCGM_FI_DEV_GPU_UTIL", 100.0),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", 100.0),
    ("DCGM_FI_DEV_FB_USED", 1.0 / 1_048_576.0),
    ("DCGM_FI_DEV_SM_CLOCK", 1e-6),
    ("DCGM_FI_DEV_MEM_CLOCK", 1e-6),
];

/// The name under which VictoriaMetrics knows a GPU's power here.
pub const THEIR_POWER: &str = DCGM[0].0;

/// A message whose values and instants are filled in before it is sent.
struct Template {
    bytes: Vec<u8>,
    /// Where the value of each series stands; ten bytes on, its instant.
    values: Vec<usize>,
    /// The first GPU.
    first: usize,
}

/// Writes the bodies of an instant.
pub struct Bodies {
    templates: Vec<Template>,
    encoder: snap::raw::Encoder,
}

impl Bodies {
    /// Of the first so many GPUs of a site.
    pub fn new(site: &Site, gpus: usize) -> Self {
        assert!(site.devices.len() >= gpus, "the site has too few GPUs");
        let places: Vec<usize> = (0..gpus).collect();
        let templates = (places.chunks(ROWS_PER_BODY / METRICS.len()))
            .map(|chunk| template(site, chunk))
            .collect();
        Self {
            templates,
            encoder: snap::raw::Encoder::new(),
        }
    }

    /// The bodies of one instant (milliseconds since 1970).
    pub fn of(&mut self, rows: &[Row], at: i64) -> Vec<Vec<u8>> {
        let mut time = Vec::new();
        varint(&mut time, at.cast_unsigned());
        assert_eq!(time.len(), 6, "an instant of this century");
        let mut bodies = Vec::new();
        for template in &mut self.templates {
            for (series, place) in template.values.iter().enumerate() {
                let row = &rows[template.first + series / METRICS.len()];
                let metric = series % METRICS.len();
                let (_, factor) = DCGM[metric];
                let value = row[metric] * factor;
                // The exporter prints watts with their milliwatts, all else as integers.
                let value = if metric == 0 { value } else { value.round() };
                template.bytes[*place..place + 8].copy_from_slice(&value.to_le_bytes());
                template.bytes[place + 9..place + 15].copy_from_slice(&time);
            }
            let body = self.encoder.compress_vec(&template.bytes);
            bodies.push(body.expect("a body"));
        }
        bodies
    }

    /// Samples of an instant.
    pub fn samples(&self) -> usize {
        self.templates.iter().map(|t| t.values.len()).sum()
    }
}

fn template(site: &Site, gpus: &[usize]) -> Template {
    let mut template = Template {
        bytes: Vec::new(),
        values: Vec::new(),
        first: gpus[0],
    };
    for gpu in gpus {
        let device = &site.devices[*gpu];
        let node = site.nodes[device.node].id.as_str();
        let index = device.index.to_string();
        let uuid = format!(
            "GPU-{:08x}-5a1c-4e7b-9d3f-{gpu:012x}",
            (gpu * 2_654_435_761) & 0xffff_ffff
        );
        let name = format!("nvidia{index}");
        let instance = format!("{node}:9400");
        let rack = site
            .labels(&device.id)
            .expect("a GPU of the site")
            .rack
            .to_string();
        for (metric, _) in DCGM {
            let labels = [
                ("DCGM_FI_DRIVER_VERSION", "550.54.15"),
                ("Hostname", node),
                ("UUID", &uuid),
                ("__name__", metric),
                ("device", &name),
                ("gpu", &index),
                ("instance", &instance),
                ("job", "dcgm"),
                ("modelName", "NVIDIA H100 80GB HBM3"),
                ("rack", &rack),
            ];
            let mut series = labels_of(&labels);
            series.extend([2 << 3 | 2, 16, 1 << 3 | 1]);
            let value = series.len();
            series.extend([0; 8]);
            series.push(2 << 3);
            series.extend([0; 6]);
            template.bytes.push(1 << 3 | 2);
            varint(&mut template.bytes, series.len() as u64);
            template.values.push(template.bytes.len() + value);
            template.bytes.extend(series);
        }
    }
    template
}

/// Bodies of one series, 5,000 samples in each.
pub fn of_one_series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<Vec<u8>> {
    (samples.chunks(5_000))
        .map(|samples| {
            let mut series = labels_of(labels);
            for (at, value) in samples {
                let mut sample = vec![1 << 3 | 1];
                sample.extend(value.to_le_bytes());
                sample.push(2 << 3);
                varint(&mut sample, at.cast_unsigned());
                field(&mut series, 2, &sample);
            }
            let mut message = Vec::new();
            field(&mut message, 1, &series);
            let body = snap::raw::Encoder::new().compress_vec(&message);
            body.expect("a body")
        })
        .collect()
}

fn labels_of(labels: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels {
        let mut label = Vec::new();
        field(&mut label, 1, name.as_bytes());
        field(&mut label, 2, value.as_bytes());
        field(&mut out, 1, &label);
    }
    out
}

fn field(out: &mut Vec<u8>, number: u8, content: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
