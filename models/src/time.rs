//! Instants as milliseconds since 1970-01-01T00:00:00Z. This module formats
//! and computes; it never asks what time it is (clocks are injected, see
//! `heliostat-store`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant, UTC, to the millisecond. Written as RFC 3339 for people and in
/// JSON, as an integer on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }
    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds * 1_000)
    }
    /// Seconds since the epoch.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
    /// Seconds from `earlier` to here; negative when `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1_000.0
    }
    /// The last multiple of `step` since the epoch that is not after this instant.
    pub fn floor_to(self, step: Duration) -> Self {
        let step = (step.as_millis() as i64).max(1);
        Self(self.0.div_euclid(step) * step)
    }
    /// The first multiple of `step` since the epoch that is after this instant.
    pub fn next_multiple_of(self, step: Duration) -> Self {
        self.floor_to(step) + step
    }
    /// Reads RFC 3339 with an offset (`2018-03-01T00:00:00Z`) or a bare date
    /// (midnight UTC); `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(t) = text.parse::<jiff::Timestamp>() {
            return Some(Self(t.as_millisecond()));
        }
        // ENTSO-E and ISO 8601 basic forms leave the seconds out.
        if let Some(body) = text.strip_suffix('Z')
            && let Ok(t) = format!("{body}:00Z").parse::<jiff::Timestamp>()
        {
            return Some(Self(t.as_millisecond()));
        }
        let date: jiff::civil::Date = text.parse().ok()?;
        let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Self(zoned.timestamp().as_millisecond()))
    }
}

/// Reads a span of time in whole seconds, minutes, hours or days: `90s`, `15m`,
/// `6h`, `2d`; `None` when it is none, or longer than time is counted here.
pub fn span(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    count.checked_mul(seconds).map(Duration::from_secs)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

/// Whole milliseconds; of a span longer than time is counted here, all there are.
fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(millis(d)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(millis(d)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            Self::parse(&text).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "`{text}` is no instant; write it like 2018-03-01T00:00:00Z"
                ))
            })
        } else {
            Ok(Self(i64::deserialize(d)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_the_short_forms() {
        let t = Timestamp::parse("2018-03-01T12:30:00.250Z").unwrap();
        assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
        assert_eq!(
            Timestamp::parse("2018-03-01T12:30Z"),
            Timestamp::parse("2018-03-01T12:30:00Z")
        );
        assert_eq!(
            Timestamp::parse("2018-03-01"),
            Timestamp::parse("2018-03-01T00:00:00Z")
        );
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn spans_are_a_count_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("6h", 21_600), ("2d", 172_800)] {
            assert_eq!(span(text), Some(Duration::from_secs(seconds)));
        }
        for bad in [
            "",
            "d",
            "1",
            "1w",
            "-1h",
            "1.5h",
            "1 h",
            "99999999999999999999d",
            "h1h",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn instants_stop_at_the_ends_of_time() {
        let longest = span("213503982334601d").unwrap();
        assert_eq!(Timestamp(5) + longest, Timestamp(i64::MAX));
        assert_eq!(Timestamp(-5) - longest, Timestamp(-i64::MAX - 1));
        // None of them can be shown as a date; none of them panics.
        for end in [i64::MAX, i64::MIN] {
            assert!(!Timestamp(end).to_string().is_empty());
        }
    }

    #[test]
    fn floors_towards_the_past_also_before_1970() {
        let step = Duration::from_secs(900);
        assert_eq!(Timestamp(-1).floor_to(step), Timestamp(-900_000));
        assert_eq!(
            Timestamp(900_000).next_multiple_of(step),
            Timestamp(1_800_000)
        );
    }
}
