//! Query parameters: parsed, bounded, and refused with what is allowed.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use heliostat_models::Timestamp;
use heliostat_models::time::span;
use serde::Serialize;
use std::time::Duration;

/// Longest stretch of time that one request may ask for.
pub(crate) const LONGEST: Duration = Duration::from_secs(400 * 86_400);
/// How far ahead of now a request may look.
const AHEAD: Duration = Duration::from_secs(8 * 86_400);
/// How instants are written.
pub(crate) const INSTANTS: &str =
    "now, now-6h, now+30m (units s, m, h, d), 2019-03-01T12:00:00Z or 2019-03-01 (UTC)";

/// What is wrong with a request, as the API says it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip)]
    pub(crate) status: u16,
    /// What is wrong.
    pub(crate) error: String,
    /// The parameter or body field that is wrong, if it is one.
    pub(crate) field: Option<String>,
    /// What is allowed there.
    pub(crate) allowed: Option<String>,
    /// What to do.
    pub(crate) remedy: String,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        error: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            status: status.as_u16(),
            error: error.into(),
            field: None,
            allowed: None,
            remedy: remedy.into(),
        }
    }
    /// 400: a parameter has a value that is not allowed.
    pub(crate) fn bad(
        field: impl Into<String>,
        error: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        let field = field.into();
        Self {
            status: 400,
            error: error.into(),
            remedy: format!("give `{field}` one of the allowed values"),
            field: Some(field),
            allowed: Some(allowed.into()),
        }
    }
    /// 404: there is nothing of this name.
    pub(crate) fn unknown(what: &str, name: &str, remedy: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {what} `{name}`"),
            remedy,
        )
    }
    /// 503: the store did not answer.
    pub(crate) fn store(error: &heliostat_store::StoreError) -> Self {
        use heliostat_store::StoreError as E;
        match error {
            E::UnknownMetric(_) => Self::bad(
                "metric",
                error.to_string(),
                "a name from /api/v1/metrics-catalogue",
            ),
            E::BadQuery(text) => Self::new(
                StatusCode::BAD_REQUEST,
                text.clone(),
                "ask for a shorter stretch, fewer devices or a longer step",
            ),
            other => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                other.to_string(),
                "try again; see the server's log if it goes on",
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// The parameters of one request, each checked to be known.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Refuses names that the route does not know: a misspelt parameter must
    /// not be ignored in silence.
    pub(crate) fn new(given: Vec<(String, String)>, known: &[&str]) -> Result<Self, ApiError> {
        for (name, _) in &given {
            if !known.contains(&name.as_str()) {
                let allowed = if known.is_empty() {
                    "no parameters".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(ApiError {
                    remedy: format!("leave `{name}` out, or spell it as the list does"),
                    ..ApiError::bad(name.clone(), format!("unknown parameter `{name}`"), allowed)
                });
            }
        }
        Ok(Self(given))
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }
    /// All values of a name, given several times or separated by commas.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(n, _)| n == name)
            .flat_map(|(_, v)| v.split(','))
            .filter(|v| !v.is_empty())
            .collect()
    }
    pub(crate) fn required(&self, name: &str, allowed: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| ApiError {
            remedy: format!("add `{name}=...` to the query"),
            ..ApiError::bad(name, format!("`{name}` is missing"), allowed)
        })
    }
    /// A whole number within bounds.
    pub(crate) fn count(
        &self,
        name: &str,
        default: usize,
        bounds: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(n) if bounds.contains(&n) => Ok(n),
            _ => Err(ApiError::bad(
                name,
                format!("`{text}` is not allowed"),
                format!("a whole number from {} to {}", bounds.start(), bounds.end()),
            )),
        }
    }
    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(ApiError::bad(
                name,
                format!("`{text}` is not allowed"),
                choices
                    .iter()
                    .map(|(w, _)| *w)
                    .collect::<Vec<_>>()
                    .join(", "),
            )),
        }
    }
    /// `from` and `to`, ordered and bounded.
    pub(crate) fn span(
        &self,
        now: Timestamp,
        default_from: &str,
        default_to: &str,
    ) -> Result<(Timestamp, Timestamp), ApiError> {
        let one = |name: &str, default: &str| {
            let text = self.get(name).unwrap_or(default);
            instant(text, now)
                .ok_or_else(|| ApiError::bad(name, format!("`{text}` is no instant"), INSTANTS))
        };
        let (from, to) = (one("from", default_from)?, one("to", default_to)?);
        if from >= to {
            return Err(ApiError::bad(
                "from",
                format!("`from` ({from}) is not before `to` ({to})"),
                "an instant before `to`",
            ));
        }
        if to.0.saturating_sub(from.0) > LONGEST.as_millis() as i64 {
            return Err(ApiError::bad(
                "from",
                "the stretch is longer than 400 days",
                "at most 400 days between `from` and `to`",
            ));
        }
        if to > now + AHEAD {
            return Err(ApiError::bad(
                "to",
                format!("`to` ({to}) is more than 8 days ahead of now ({now})"),
                "at most now+8d",
            ));
        }
        Ok((from, to))
    }
}

/// Reads an instant, absolute or relative to now.
pub(crate) fn instant(text: &str, now: Timestamp) -> Option<Timestamp> {
    let Some(rest) = text.strip_prefix("now") else {
        return Timestamp::parse(text);
    };
    if rest.is_empty() {
        return Some(now);
    }
    // In a query an unescaped plus arrives as a space.
    let (sign, body) = match rest.split_at_checked(1)? {
        ("-", body) => (-1, body),
        ("+" | " ", body) => (1, body),
        _ => return None,
    };
    let by = duration(body)?.as_millis() as i64;
    Some(Timestamp(now.0.checked_add(sign * by)?))
}

/// Reads `90s`, `15m`, `6h`, `2d`; at most 400 days.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    span(text).filter(|span| *span <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_551_398_400_000);

    #[test]
    fn instants_relative_and_absolute() {
        assert_eq!(instant("now", NOW), Some(NOW));
        assert_eq!(instant("now-6h", NOW), Some(Timestamp(NOW.0 - 21_600_000)));
        assert_eq!(instant("now+30m", NOW), Some(Timestamp(NOW.0 + 1_800_000)));
        assert_eq!(instant("now 2d", NOW), Some(Timestamp(NOW.0 + 172_800_000)));
        assert_eq!(instant("2019-03-01T00:00:00Z", NOW), Some(NOW));
        for bad in [
            "",
            "now-",
            "now-6",
            "now*6h",
            "now-9999999d",
            "gestern",
            "now-é",
        ] {
            assert_eq!(instant(bad, NOW), None, "{bad}");
        }
    }

    fn params(pairs: &[(&str, &str)]) -> Params {
        let given = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        Params::new(given, &["from", "to", "limit"]).unwrap()
    }

    #[test]
    fn spans_are_ordered_and_bounded() {
        let fault = |from, to| {
            params(&[("from", from), ("to", to)])
                .span(NOW, "now-6h", "now")
                .unwrap_err()
        };
        assert_eq!(fault("now", "now-1h").field.as_deref(), Some("from"));
        assert_eq!(fault("2000-01-01", "now").field.as_deref(), Some("from"));
        assert_eq!(fault("now", "now+30d").field.as_deref(), Some("to"));
        assert!(fault("soon", "now").allowed.unwrap().contains("now-6h"));
        assert!(params(&[]).span(NOW, "now-6h", "now").is_ok());
    }

    #[test]
    fn unknown_parameters_are_not_ignored() {
        let given = vec![("form".to_owned(), "now".to_owned())];
        let fault = Params::new(given, &["from", "to"]).unwrap_err();
        assert_eq!(fault.allowed.as_deref(), Some("from, to"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", digits in "now[-+ ][0-9]{1,25}[smhd]") {
            let _ = instant(&text, NOW);
            let _ = instant(&digits, NOW);
        }
    }
}
