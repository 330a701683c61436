//! The parameters of a request, from the address and, of a POST, from the body.

use super::Refusal;
use axum::extract::{FromRequest, Query, Request};
use axum::http::Method;
use heliostat_models::Timestamp;
use std::time::Duration;

/// Instants beyond the year 9999 are mistakes.
const LATEST_SECONDS: f64 = 253_402_300_799.0;

/// Names and values. Names that nobody asks for are ignored, as Prometheus does.
#[derive(Debug)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) async fn read(request: Request) -> Result<Self, Refusal> {
        let Query(mut given) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map_err(|e| Refusal::bad_data(format!("error parsing form values: {e}")))?;
        if request.method() == Method::POST {
            let body = axum::extract::Form::<Vec<(String, String)>>::from_request(request, &())
                .await
                .map_err(|e| Refusal::bad_data(format!("error parsing form values: {e}")))?;
            // What the body says goes before what the address says.
            given.splice(0..0, body.0);
        }
        Ok(Self(given))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        (self.0.iter())
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// Seconds since 1970 or RFC 3339.
    pub(super) fn instant(&self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        instant(text).map(Some).ok_or_else(|| {
            Refusal::parameter(
                name,
                format!("cannot parse \"{text}\" to a valid timestamp"),
            )
        })
    }

    pub(super) fn required_instant(&self, name: &str) -> Result<Timestamp, Refusal> {
        self.instant(name)?
            .ok_or_else(|| Refusal::parameter(name, "cannot parse \"\" to a valid timestamp"))
    }

    /// Seconds, or a duration such as `1m30s`.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        duration(text).map(Some).ok_or_else(|| {
            Refusal::parameter(name, format!("cannot parse \"{text}\" to a valid duration"))
        })
    }

    pub(super) fn step(&self) -> Result<Duration, Refusal> {
        let text = self.get("step").unwrap_or_default();
        if text.parse::<f64>().is_ok_and(|s| s <= 0.0) || duration(text) == Some(Duration::ZERO) {
            return Err(Refusal::parameter(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        self.duration("step")?
            .filter(|step| step.as_millis() > 0)
            .ok_or_else(|| {
                Refusal::parameter(
                    "step",
                    format!("cannot parse \"{text}\" to a valid duration"),
                )
            })
    }
}

fn instant(text: &str) -> Option<Timestamp> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.abs() <= LATEST_SECONDS => {
            Some(Timestamp((seconds * 1_000.0).round() as i64))
        }
        Ok(_) => None,
        Err(_) => text.contains('T').then(|| Timestamp::parse(text)).flatten(),
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (0.0..=LATEST_SECONDS)
            .contains(&seconds)
            .then(|| Duration::from_millis((seconds * 1_000.0).round() as u64));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, length) = match rest.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            [b'h', ..] => (3_600_000, 1),
            [b'd', ..] => (86_400_000, 1),
            [b'w', ..] => (604_800_000, 1),
            [b'y', ..] => (31_536_000_000, 1),
            _ => return None,
        };
        // Units stand from large to small, each at most once.
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        total = total.checked_add(count.checked_mul(unit)?)?;
        rest = rest.get(length..)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_durations_as_prometheus_reads_them() {
        let at = |text| instant(text).map(|t| t.0);
        assert_eq!(at("1551398400.250"), Some(1_551_398_400_250));
        assert_eq!(at("2019-03-01T00:00:00Z"), Some(1_551_398_400_000));
        assert_eq!(at("2019-03-01T01:00:00.5+01:00"), Some(1_551_398_400_500));
        for bad in ["", "now", "2019-03-01", "inf", "NaN", "1e300"] {
            assert_eq!(at(bad), None, "{bad}");
        }
        let millis = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(millis("15"), Some(15_000));
        assert_eq!(millis("0.5"), Some(500));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("1m500ms"), Some(60_500));
        for bad in [
            "",
            "m",
            "30m1h",
            "1x",
            "-5",
            "5m5m",
            "99999999999999999999y",
            "nan",
            "1é",
        ] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    #[test]
    fn steps_must_be_positive() {
        let step = |text: &str| Form(vec![("step".to_owned(), text.to_owned())]).step();
        assert_eq!(step("15s").unwrap(), Duration::from_secs(15));
        for bad in ["0", "-1", "0s", "0.0001"] {
            assert!(step(bad).is_err(), "{bad}");
        }
        assert!(step("0").unwrap_err().error.contains("zero or negative"));
        assert!(step("x").unwrap_err().error.contains("cannot parse \"x\""));
    }
}
