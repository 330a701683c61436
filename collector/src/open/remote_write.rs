//! Prometheus remote write 1.0: a snappy block around a protobuf `WriteRequest`.
//!
//! ```text
//! WriteRequest { repeated TimeSeries timeseries = 1; repeated MetricMetadata metadata = 3; }
//! TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2; exemplars = 3; histograms = 4; }
//! Label        { string name = 1; string value = 2; }
//! Sample       { double value = 1; int64 timestamp = 2 /* ms */; }
//! ```
//!
//! Source: prometheus.io/docs/specs/prw/remote_write_spec.

use super::protobuf::{Fields, Value, WireFault};

/// Longest request after decompression.
pub const MAX_DECODED: usize = 64 << 20;
/// A snappy element of 3 bytes makes at most 64: more than this is a lie.
const MOST_EXPANSION: usize = 22;

/// Why a request as a whole cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// Too long, or the block claims what it cannot hold.
    #[error(
        "the block claims {claimed} bytes; at most {MAX_DECODED}, and 22 for each byte sent, are taken"
    )]
    TooLong {
        /// What its head says.
        claimed: usize,
    },
    /// Not a snappy block.
    #[error("the body is no snappy block: {0}")]
    Snappy(String),
    /// Not a `WriteRequest`.
    #[error("the body is no WriteRequest of remote write 1.0: {0}")]
    Wire(#[from] WireFault),
}

/// Undoes the compression, within bounds.
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, RequestFault> {
    let snappy = |e: snap::Error| RequestFault::Snappy(e.to_string());
    let claimed = snap::raw::decompress_len(body).map_err(snappy)?;
    if claimed > MAX_DECODED || claimed > body.len().saturating_mul(MOST_EXPANSION) {
        return Err(RequestFault::TooLong { claimed });
    }
    snap::raw::Decoder::new()
        .decompress_vec(body)
        .map_err(snappy)
}

/// One series of a request, borrowed from it.
#[derive(Debug, Default)]
pub struct Series<'a> {
    /// The bytes of its labels, where they stand together: equal bytes, equal labels.
    pub key: Option<&'a [u8]>,
    message: &'a [u8],
    /// Values and instants in milliseconds since 1970.
    pub samples: Vec<(f64, i64)>,
    /// Native histograms, which are not read.
    pub histograms: u64,
}

impl<'a> Series<'a> {
    /// Name and value of each label; those that are damaged or not UTF-8 are a fault.
    pub fn labels(&self) -> Result<Vec<(&'a str, &'a str)>, &'static str> {
        let mut labels = Vec::with_capacity(16);
        for field in Fields::new(self.message) {
            if let Ok((1, Value::Bytes(label))) = field {
                labels.push(read_label(label)?);
            }
        }
        Ok(labels)
    }

    fn read(&mut self, message: &'a [u8]) -> Result<(), WireFault> {
        self.message = message;
        self.samples.clear();
        self.histograms = 0;
        let mut fields = Fields::new(message);
        let (mut labels_end, mut beyond, mut scattered) = (0, false, false);
        while let Some(field) = fields.next() {
            match field? {
                (1, Value::Bytes(_)) => {
                    scattered |= beyond;
                    labels_end = message.len() - fields.left();
                }
                (2, Value::Bytes(sample)) => {
                    beyond = true;
                    self.samples.push(read_sample(sample)?);
                }
                (4, Value::Bytes(_)) => {
                    beyond = true;
                    self.histograms += 1;
                }
                _ => beyond = true,
            }
        }
        self.key = (!scattered).then(|| &message[..labels_end]);
        Ok(())
    }
}

fn read_label(label: &[u8]) -> Result<(&str, &str), &'static str> {
    let (mut name, mut value) = (&b""[..], &b""[..]);
    for field in Fields::new(label) {
        match field {
            Ok((1, Value::Bytes(bytes))) => name = bytes,
            Ok((2, Value::Bytes(bytes))) => value = bytes,
            Ok(_) => {}
            Err(_) => return Err("a label is damaged"),
        }
    }
    match (str::from_utf8(name), str::from_utf8(value)) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err("a label is not UTF-8"),
    }
}

fn read_sample(sample: &[u8]) -> Result<(f64, i64), WireFault> {
    // proto3 leaves zeros out.
    let (mut value, mut at) = (0.0, 0);
    for field in Fields::new(sample) {
        match field? {
            (1, Value::Fixed64(bits)) => value = f64::from_bits(bits),
            (2, Value::Varint(millis)) => at = millis.cast_signed(),
            _ => {}
        }
    }
    Ok((value, at))
}

/// Reads a decompressed request, series by series. A fault ends the reading:
/// behind it nothing can be told apart any more.
pub fn read(message: &[u8], mut visit: impl FnMut(&Series<'_>)) -> Result<(), WireFault> {
    let mut series = Series::default();
    for field in Fields::new(message) {
        if let (1, Value::Bytes(bytes)) = field? {
            series.read(bytes)?;
            visit(&series);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
