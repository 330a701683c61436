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

/// How long a body says that it is once decompressed; 0 where it is no snappy at
/// all, which is soon found out.
pub fn claimed_length(body: &[u8]) -> usize {
    snap::raw::decompress_len(body).unwrap_or(0)
}

/// Undoes the compression, within bounds, into a buffer that may hold anything
/// and is made longer where it must be; the message's length.
pub fn decompress(body: &[u8], buffer: &mut Vec<u8>) -> Result<usize, RequestFault> {
    let snappy = |e: snap::Error| RequestFault::Snappy(e.to_string());
    let claimed = snap::raw::decompress_len(body).map_err(snappy)?;
    if claimed > MAX_DECODED || claimed > body.len().saturating_mul(MOST_EXPANSION) {
        return Err(RequestFault::TooLong { claimed });
    }
    if buffer.len() < claimed {
        // To the next power of two, so that bodies of about one length share a buffer.
        buffer.resize(claimed.next_power_of_two(), 0);
    }
    (snap::raw::Decoder::new())
        .decompress(body, buffer)
        .map_err(snappy)
}

/// The first byte of a label within a series.
const LABEL: u8 = 1 << 3 | 2;

/// One series of a request, borrowed from it.
#[derive(Debug, Default)]
pub struct Series<'a> {
    message: &'a [u8],
    /// Labels stand also behind the first samples.
    pub scattered: bool,
    /// Values and instants in milliseconds since 1970.
    pub samples: Vec<(f64, i64)>,
    /// Native histograms, which are not read.
    pub histograms: u64,
}

/// Where the labels that stand at the beginning of a series end.
pub fn labels_end(message: &[u8]) -> Result<usize, WireFault> {
    let mut fields = Fields::new(message);
    let mut end = 0;
    while message.get(end) == Some(&LABEL) {
        fields.next().transpose()?;
        end = message.len() - fields.left();
    }
    Ok(end)
}

/// Whether a series begins with exactly these labels, which ended where
/// [`labels_end`] says.
pub fn begins_with(message: &[u8], labels: &[u8]) -> bool {
    message.len() >= labels.len()
        && message[..labels.len()] == *labels
        && message.get(labels.len()) != Some(&LABEL)
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

    /// Reads what stands behind the labels, which end at `begin`.
    pub fn read(&mut self, message: &'a [u8], begin: usize) -> Result<(), WireFault> {
        self.message = message;
        self.scattered = false;
        self.samples.clear();
        self.histograms = 0;
        for field in Fields::new(&message[begin..]) {
            match field? {
                (1, Value::Bytes(_)) => self.scattered = true,
                (2, Value::Bytes(sample)) => self.samples.push(read_sample(sample)?),
                (4, Value::Bytes(_)) => self.histograms += 1,
                _ => {}
            }
        }
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
    // As every sender writes it: both fields, in order.
    if let Some(([VALUE, value @ .., TIME], time)) = sample.split_first_chunk::<10>()
        && let Some(at) = whole_varint(time)
    {
        return Ok((f64::from_le_bytes(*value), at.cast_signed()));
    }
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

/// The first byte of a sample's value.
const VALUE: u8 = 1 << 3 | 1;
/// The first byte of its time.
const TIME: u8 = 2 << 3;

/// A varint of at most nine bytes that takes up all of them.
fn whole_varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            return (place + 1 == bytes.len()).then_some(value);
        }
    }
    None
}

/// The series of a decompressed request, one after the other, unread. A fault ends
/// the reading: behind it nothing can be told apart any more.
pub fn each<'a>(
    message: &'a [u8],
    mut visit: impl FnMut(&'a [u8]) -> Result<(), WireFault>,
) -> Result<(), WireFault> {
    for field in Fields::new(message) {
        if let (1, Value::Bytes(series)) = field? {
            visit(series)?;
        }
    }
    Ok(())
}

/// Reads all series of a request.
#[cfg(any(test, fuzzing))]
pub fn read(message: &[u8], mut visit: impl FnMut(&Series<'_>)) -> Result<(), WireFault> {
    each(message, |bytes| {
        let mut series = Series::default();
        series.read(bytes, labels_end(bytes)?)?;
        visit(&series);
        Ok(())
    })
}

#[cfg(test)]
mod tests;
