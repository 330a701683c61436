//! Series of somebody else's: a metric that is in no catalogue, with the labels
//! it came with. Written as text it is the name of a device of kind
//! [`KIND`], whose only metric is [`Catalogue::unknown_value`]; so it lies in
//! log, files and rollups like everything else, and no unit is pretended.
//!
//! ```text
//! node_load1{instance="r01-n1:9100",job="node"}
//! {"name of another form","label of another form"="a \"quoted\" value"}
//! ```
//!
//! The form is that of PromQL with UTF-8 names
//! (prometheus.io/docs/guides/utf8). Labels are sorted, none is empty, none stands
//! twice: equal series, equal texts. No name of a site's own can look like it,
//! because those have no braces.

use crate::ids::DeviceId;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

#[cfg(doc)]
use crate::metrics::Catalogue;

/// The kind of these devices.
pub const KIND: &str = "unknown";
/// Longest text of a series, bytes.
pub const LONGEST: usize = 2_048;
/// Labels of a series, at most.
pub const MOST_LABELS: usize = 64;
/// The label that holds the name in Prometheus' protocols.
const NAME: &str = "__name__";

/// A metric's name with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSeries<'a> {
    name: Cow<'a, str>,
    /// Sorted by name.
    labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Why a name and labels are no series that can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignFault {
    /// The name is empty.
    #[error("an unknown metric without a name")]
    NoName,
    /// A label without a name.
    #[error("a label of an unknown metric has no name")]
    NoLabelName,
    /// A label stands twice.
    #[error("a label of an unknown metric stands twice")]
    Twice,
    /// More than [`MOST_LABELS`] labels.
    #[error("an unknown metric with more than 64 labels")]
    TooMany,
    /// Longer than [`LONGEST`] bytes.
    #[error("an unknown metric whose name and labels are longer than 2,048 bytes")]
    TooLong,
}

impl<'a> ForeignSeries<'a> {
    /// Of labels in any order; those that are empty, or hold the name, are passed over.
    pub fn new(
        name: &'a str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ForeignFault> {
        if name.is_empty() {
            return Err(ForeignFault::NoName);
        }
        let mut all: Vec<(Cow<'a, str>, Cow<'a, str>)> = (labels.into_iter())
            .filter(|(name, value)| *name != NAME && !value.is_empty())
            .take(MOST_LABELS + 1)
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        if all.len() > MOST_LABELS {
            return Err(ForeignFault::TooMany);
        }
        if all.iter().any(|(name, _)| name.is_empty()) {
            return Err(ForeignFault::NoLabelName);
        }
        all.sort();
        if all.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(ForeignFault::Twice);
        }
        Ok(Self {
            name: name.into(),
            labels: all,
        })
    }

    /// Reads what [`ForeignSeries::device`] wrote; none of another form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let body = text.strip_suffix('}')?;
        let (plain, mut rest) = body.split_once('{')?;
        let mut name = Cow::Borrowed(plain);
        let mut labels = Vec::new();
        if plain.is_empty() {
            (name, rest) = quoted(rest)?;
        } else if !is_plain_name(plain) {
            return None;
        }
        let mut first = !plain.is_empty();
        while !rest.is_empty() {
            if !std::mem::take(&mut first) {
                rest = rest.strip_prefix(',')?;
            }
            let (label, behind) = if rest.starts_with('"') {
                quoted(rest)?
            } else {
                let end = rest.find('=')?;
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            };
            let (value, behind) = quoted(behind.strip_prefix('=')?)?;
            labels.push((label, value));
            rest = behind;
        }
        Some(Self { name, labels })
    }

    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names and values of the labels, by rising name.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        (self.labels.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// The device that stands for this series.
    pub fn device(&self) -> Result<DeviceId, ForeignFault> {
        let text = self.to_string();
        if text.len() > LONGEST {
            return Err(ForeignFault::TooLong);
        }
        Ok(DeviceId::from(text))
    }
}

/// Whether a device stands for a series of somebody else's.
pub fn is_foreign(device: &DeviceId) -> bool {
    device.as_str().ends_with('}')
}

/// Whether a device stands for a series of the metric `name`; quicker than to read it.
pub fn is_of(device: &DeviceId, name: &str) -> bool {
    let text = device.as_str();
    if is_plain_name(name) {
        return (text.strip_prefix(name)).is_some_and(|rest| rest.starts_with('{'));
    }
    text.starts_with('{') && ForeignSeries::parse(text).is_some_and(|s| s.name == name)
}

impl fmt::Display for ForeignSeries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        if is_plain_name(&self.name) {
            f.write_str(&self.name)?;
            f.write_char('{')?;
        } else {
            f.write_char('{')?;
            write_quoted(f, &self.name)?;
            first = false;
        }
        for (name, value) in &self.labels {
            if !std::mem::take(&mut first) {
                f.write_char(',')?;
            }
            if is_plain_label(name) {
                f.write_str(name)?;
            } else {
                write_quoted(f, name)?;
            }
            f.write_char('=')?;
            write_quoted(f, value)?;
        }
        f.write_char('}')
    }
}

fn is_plain_name(name: &str) -> bool {
    is_plain(name, |b| b == b'_' || b == b':')
}

fn is_plain_label(name: &str) -> bool {
    is_plain(name, |b| b == b'_')
}

fn is_plain(name: &str, also: impl Fn(u8) -> bool) -> bool {
    (name.bytes().next()).is_some_and(|b| b.is_ascii_alphabetic() || also(b))
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || also(b))
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '"' => f.write_str("\\\"")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

/// A text in quotes at the beginning, and what stands behind it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(out), &text[at + 1..])),
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                other => other,
            }),
            other => out.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_as_people_expect() {
        let series = ForeignSeries::new(
            "node_load1",
            [
                ("job", "node"),
                ("instance", "r01-n1:9100"),
                ("empty", ""),
                ("__name__", "node_load1"),
            ],
        );
        assert_eq!(
            series.unwrap().to_string(),
            r#"node_load1{instance="r01-n1:9100",job="node"}"#
        );
        let odd = ForeignSeries::new("room temp", [("a b", "\"x\"\n")]).unwrap();
        assert_eq!(odd.to_string(), r#"{"room temp","a b"="\"x\"\n"}"#);
        assert_eq!(ForeignSeries::new("up", []).unwrap().to_string(), "up{}");
        let up = DeviceId::from("up{}");
        assert!(is_foreign(&up) && is_of(&up, "up") && !is_of(&up, "u"));
        assert!(is_of(&odd.device().unwrap(), "room temp"));
        assert!(!is_foreign(&DeviceId::from("r01-n1-gpu0")));
    }

    #[test]
    fn bounds_are_told() {
        let fault = |name: &str, labels: &[(&str, &str)]| {
            (ForeignSeries::new(name, labels.iter().copied())).and_then(|s| s.device())
        };
        assert_eq!(fault("", &[]), Err(ForeignFault::NoName));
        assert_eq!(fault("a", &[("", "x")]), Err(ForeignFault::NoLabelName));
        let twice = [("b", "1"), ("b", "2")];
        assert_eq!(fault("a", &twice), Err(ForeignFault::Twice));
        let long = "x".repeat(LONGEST);
        assert_eq!(fault("a", &[("b", &long)]), Err(ForeignFault::TooLong));
        let names: Vec<String> = (0..=MOST_LABELS).map(|n| format!("l{n}")).collect();
        let many: Vec<_> = names.iter().map(|n| (n.as_str(), "1")).collect();
        assert_eq!(fault("a", &many), Err(ForeignFault::TooMany));
        assert!(fault("a", &many[1..]).is_ok());
    }

    proptest! {
        /// What was written is read back, whatever it consists of.
        #[test]
        fn what_was_written_is_read_back(
            name in "[a-z_:]{1,4}|.{1,6}",
            labels in prop::collection::btree_map("[a-z_]{1,3}|.{1,4}", "[\"\\\\nr{}=,\n\r]{1,4}|.{1,8}", 0..5),
        ) {
            let labels = labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            let series = ForeignSeries::new(&name, labels).unwrap();
            let text = series.to_string();
            prop_assert_eq!(ForeignSeries::parse(&text), Some(series));
            prop_assert!(!text.contains(['\n', '\r']));
            prop_assert!(!crate::ids::is_valid_name(&text));
            prop_assert!(is_of(&DeviceId::from(text), &name));
        }

        #[test]
        fn noise_is_no_series_or_one_and_never_a_panic(text in "[a{}\"\\\\=,nü]{0,12}") {
            let _ = ForeignSeries::parse(&text);
        }
    }
}
