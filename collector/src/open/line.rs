//! InfluxDB line protocol: `measurement,tag=value field=value,field=value time`.
//!
//! Borrowed from the body wherever nothing is escaped. A line with a fault is
//! told with its number and passed over; the others are kept, as InfluxDB does.
//!
//! Source: docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol.

use std::borrow::Cow;

/// Longest line; a longer one is a fault.
pub const MAX_LINE: usize = 1 << 20;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// `1.5`, `1e3`, or without a point.
    Float(f64),
    /// `12i`.
    Integer(i64),
    /// `12u`.
    Unsigned(u64),
    /// `t`, `true`, `F`, `FALSE` and the like.
    Boolean(bool),
    /// `"text"`.
    Text(Cow<'a, str>),
}

impl FieldValue<'_> {
    /// The number, where it is one; truth is 1.
    pub fn number(&self) -> Option<f64> {
        Some(match self {
            Self::Float(v) => *v,
            Self::Integer(v) => *v as f64,
            Self::Unsigned(v) => *v as f64,
            Self::Boolean(v) => f64::from(u8::from(*v)),
            Self::Text(_) => return None,
        })
    }
}

/// Key and value of a tag.
pub type Tag<'a> = (Cow<'a, str>, Cow<'a, str>);

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Point<'a> {
    /// What is measured.
    pub measurement: Cow<'a, str>,
    /// Keys and values, in the order of the line.
    pub tags: Vec<Tag<'a>>,
    /// Fields, at least one.
    pub fields: Vec<(Cow<'a, str>, FieldValue<'a>)>,
    /// In the precision of the request; none: now.
    pub time: Option<i64>,
    /// Measurement and tags as they stand in the body.
    pub series: &'a [u8],
    /// Number of the line, from 1.
    pub line: usize,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Nothing before the first comma or space.
    #[error("the measurement is missing")]
    NoMeasurement,
    /// A tag without key, `=` or value.
    #[error("a tag is not KEY=VALUE")]
    Tag,
    /// No field.
    #[error("the fields are missing: write FIELD=VALUE after the tags and a space")]
    NoFields,
    /// A field without key or `=`.
    #[error("a field is not KEY=VALUE")]
    Field,
    /// A field's value of no known form.
    #[error("a field's value is no number, integer (1i, 1u), boolean or \"text\"")]
    Value,
    /// A text that does not end.
    #[error("a text in quotes does not end")]
    OpenText,
    /// A timestamp that is no integer.
    #[error("the timestamp is no integer")]
    Time,
    /// Something behind the timestamp.
    #[error("something stands behind the timestamp")]
    Trailing,
    /// Not UTF-8.
    #[error("the line is not UTF-8")]
    Encoding,
    /// Longer than [`MAX_LINE`].
    #[error("the line is longer than 1 MiB")]
    TooLong,
}

/// The lines of a body, comments and empty lines left out.
pub struct Lines<'a> {
    body: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    /// The lines of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            at: 0,
            line: 1,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    /// Whether the line ends here.
    fn at_end(&self) -> bool {
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.body.get(self.at + 1), None | Some(b'\n')),
            Some(_) => false,
        }
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// To the begin of the next line.
    fn skip_line(&mut self) {
        let rest = &self.body[self.at..];
        match rest.iter().position(|b| *b == b'\n') {
            Some(end) => {
                self.at += end + 1;
                self.line += 1;
            }
            None => self.at = self.body.len(),
        }
    }

    /// Up to one of `stops` that no backslash stands before, or the line's end.
    /// A backslash before one of `escapable` falls away; any other is itself.
    fn token(&mut self, stops: &[u8], escapable: &[u8]) -> Result<Cow<'a, str>, LineFault> {
        let begin = self.at;
        let mut escaped = false;
        while let Some(byte) = self.peek() {
            let next = self.body.get(self.at + 1);
            if byte == b'\\' && next.is_some_and(|n| escapable.contains(n)) {
                escaped = true;
                self.at += 2;
            } else if stops.contains(&byte) || self.at_end() {
                break;
            } else {
                self.at += 1;
            }
        }
        let bytes = &self.body[begin..self.at];
        let text = str::from_utf8(bytes).map_err(|_| LineFault::Encoding)?;
        Ok(if escaped {
            Cow::Owned(unescape(text, escapable))
        } else {
            Cow::Borrowed(text)
        })
    }

    fn tags(&mut self) -> Result<Vec<Tag<'a>>, LineFault> {
        let mut tags = Vec::new();
        while self.peek() == Some(b',') {
            self.at += 1;
            let key = self.token(b",= ", b",= ")?;
            if key.is_empty() || self.peek() != Some(b'=') {
                return Err(LineFault::Tag);
            }
            self.at += 1;
            let value = self.token(b",= ", b",= ")?;
            if value.is_empty() || self.peek() == Some(b'=') {
                return Err(LineFault::Tag);
            }
            tags.push((key, value));
        }
        Ok(tags)
    }

    fn fields(&mut self) -> Result<Vec<(Cow<'a, str>, FieldValue<'a>)>, LineFault> {
        let mut fields = Vec::new();
        loop {
            let key = self.token(b",= ", b",= ")?;
            if key.is_empty() || self.peek() != Some(b'=') {
                return Err(LineFault::Field);
            }
            self.at += 1;
            let value = if self.peek() == Some(b'"') {
                self.text()?
            } else {
                plain_value(&self.token(b", ", b"")?)?
            };
            fields.push((key, value));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b' ') => return Ok(fields),
                _ if self.at_end() => return Ok(fields),
                _ => return Err(LineFault::Field),
            }
        }
    }

    /// A text in quotes; it may go over several lines.
    fn text(&mut self) -> Result<FieldValue<'a>, LineFault> {
        let begin = self.at + 1;
        let (mut end, mut escaped) = (begin, false);
        loop {
            match self.body.get(end) {
                None => return Err(LineFault::OpenText),
                Some(b'"') => break,
                Some(b'\\') if matches!(self.body.get(end + 1), Some(b'"' | b'\\')) => {
                    escaped = true;
                    end += 2;
                }
                Some(_) => end += 1,
            }
            if end - begin > MAX_LINE {
                return Err(LineFault::TooLong);
            }
        }
        let text = str::from_utf8(&self.body[begin..end]).map_err(|_| LineFault::Encoding)?;
        self.line += text.bytes().filter(|b| *b == b'\n').count();
        self.at = end + 1;
        Ok(FieldValue::Text(if escaped {
            Cow::Owned(unescape(text, b"\"\\"))
        } else {
            Cow::Borrowed(text)
        }))
    }

    fn point(&mut self) -> Result<Point<'a>, LineFault> {
        let (begin, line) = (self.at, self.line);
        let measurement = self.token(b", ", b", ")?;
        if measurement.is_empty() {
            return Err(LineFault::NoMeasurement);
        }
        let tags = self.tags()?;
        let series = &self.body[begin..self.at];
        if series.len() > MAX_LINE {
            return Err(LineFault::TooLong);
        }
        self.skip_spaces();
        if self.at_end() {
            return Err(LineFault::NoFields);
        }
        let fields = self.fields()?;
        self.skip_spaces();
        let time = if self.at_end() {
            None
        } else {
            let digits = self.token(b" ", b"")?;
            Some(digits.parse().map_err(|_| LineFault::Time)?)
        };
        self.skip_spaces();
        if !self.at_end() {
            return Err(LineFault::Trailing);
        }
        Ok(Point {
            measurement,
            tags,
            fields,
            time,
            series,
            line,
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    /// A point, or the number of a line and what is wrong with it.
    type Item = Result<Point<'a>, (usize, LineFault)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.skip_spaces();
            match self.peek()? {
                b'#' => self.skip_line(),
                _ if self.at_end() => self.skip_line(),
                _ => break,
            }
        }
        let line = self.line;
        let point = self.point().map_err(|fault| (line, fault));
        self.skip_line();
        Some(point)
    }
}

fn unescape(text: &str, escapable: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_escape = c == '\\'
            && chars
                .peek()
                .is_some_and(|n| u8::try_from(*n).is_ok_and(|b| escapable.contains(&b)));
        match chars.next_if(|_| is_escape) {
            Some(escaped) => out.push(escaped),
            None => out.push(c),
        }
    }
    out
}

fn plain_value<'a>(text: &str) -> Result<FieldValue<'a>, LineFault> {
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Ok(FieldValue::Boolean(true)),
        "f" | "F" | "false" | "False" | "FALSE" => return Ok(FieldValue::Boolean(false)),
        _ => {}
    }
    if let Some(digits) = text.strip_suffix('i') {
        return (digits.parse().map(FieldValue::Integer)).map_err(|_| LineFault::Value);
    }
    if let Some(digits) = text.strip_suffix('u') {
        return (digits.parse().map(FieldValue::Unsigned)).map_err(|_| LineFault::Value);
    }
    // Rust also reads `inf` and `NaN`; line protocol has neither.
    let is_numeric = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if !is_numeric {
        return Err(LineFault::Value);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(FieldValue::Float(value)),
        _ => Err(LineFault::Value),
    }
}

/// What a timestamp counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nanoseconds, the default.
    #[default]
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Minutes (version 1 of the API alone).
    Minutes,
    /// Hours (version 1 of the API alone).
    Hours,
}

impl Precision {
    /// As the parameter `precision` says it; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "n" | "ns" => Self::Nanoseconds,
            "u" | "us" | "µ" | "µs" => Self::Microseconds,
            "ms" => Self::Milliseconds,
            "s" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return None,
        })
    }

    /// Milliseconds since 1970, rounded towards the past; none where they do not fit.
    pub fn millis(self, time: i64) -> Option<i64> {
        match self {
            Self::Nanoseconds => Some(time.div_euclid(1_000_000)),
            Self::Microseconds => Some(time.div_euclid(1_000)),
            Self::Milliseconds => Some(time),
            Self::Seconds => time.checked_mul(1_000),
            Self::Minutes => time.checked_mul(60_000),
            Self::Hours => time.checked_mul(3_600_000),
        }
    }
}

#[cfg(test)]
mod tests;
