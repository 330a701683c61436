//! One field of a table, read as what it should be.

use super::fault::{Mark, Sink};
use super::reader::{At, Field, Table};
use crate::ids::is_valid_name;
use crate::site::trip::{CLASSES, TripCurve};
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::DeValue;

/// One field, there or not.
pub(crate) struct Slot<'a> {
    pub(super) sink: &'a Sink,
    pub(super) path: String,
    pub(super) value: Option<&'a Spanned<DeValue<'a>>>,
}

impl<'a> Slot<'a> {
    /// As a table.
    pub(crate) fn table(self) -> Option<Table<'a>> {
        let value = self.value?;
        let at = value.span().start;
        match value.get_ref().as_table() {
            Some(table) => Some(Table::new(self.sink, table, at, self.path)),
            None => self.mismatch(value, "a table"),
        }
    }

    /// Any text that is not empty.
    pub(crate) fn text(self) -> Field<String> {
        let value = self.figure()?;
        match value.get_ref().as_str() {
            Some("") => {
                self.sink.error(
                    value.span().start,
                    &self.path,
                    format!("`{}` is empty", self.path),
                    "write a text between the quotes",
                );
                None
            }
            Some(text) => Some(At {
                value: text.to_owned(),
                at: value.span().start,
            }),
            None => self.mismatch(value, "a text in quotes"),
        }
    }

    /// A name that can stand in a topic, a URL and a file name.
    pub(crate) fn name(self) -> Field<String> {
        let (sink, path) = (self.sink, self.path.clone());
        let text = self.text()?;
        if is_valid_name(&text.value) {
            return Some(text);
        }
        sink.error(
            text.at,
            &path,
            format!("`{}` cannot be a name", text.value),
            NAME_RULE,
        );
        None
    }

    /// A date, as `YYYY-MM-DD`.
    pub(crate) fn date(self) -> Field<String> {
        let value = self.figure()?;
        match value.get_ref() {
            DeValue::Datetime(date) if date.date.is_some() && date.time.is_none() => Some(At {
                value: date.to_string(),
                at: value.span().start,
            }),
            _ => self.mismatch(value, "a date like 2026-01-31, without quotes"),
        }
    }

    /// A text with a form of its own. `parse` says what is wrong and what to do.
    pub(crate) fn parsed<T>(self, parse: impl Fn(&str) -> Result<T, (String, String)>) -> Field<T> {
        let (sink, path) = (self.sink, self.path.clone());
        let text = self.text()?;
        match parse(&text.value) {
            Ok(value) => Some(At { value, at: text.at }),
            Err((message, remedy)) => {
                sink.error(text.at, &path, message, remedy);
                None
            }
        }
    }

    /// A number within a range; whole numbers are accepted too.
    pub(crate) fn number(self, range: RangeInclusive<f64>) -> Field<f64> {
        let value = self.figure()?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|i| i as f64),
            _ => return self.mismatch(value, "a number"),
        };
        match number {
            Some(number) if range.contains(&number) => Some(At {
                value: number,
                at: value.span().start,
            }),
            _ => self.out_of_range(value, &range),
        }
    }

    /// A power above zero, in watts.
    pub(crate) fn watts(self) -> Field<f64> {
        // Ten gigawatts: more than any site, small enough to catch a slip of units.
        self.number(1.0..=1e10)
    }

    /// A share between 0 and 1.
    pub(crate) fn share(self) -> Field<f64> {
        self.number(0.0..=1.0)
    }

    /// A whole number within a range.
    pub(crate) fn count(self, range: RangeInclusive<u32>) -> Field<u32> {
        let value = self.figure()?;
        let DeValue::Integer(integer) = value.get_ref() else {
            return self.mismatch(value, "a whole number");
        };
        match u32::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(count) if range.contains(&count) => Some(At {
                value: count,
                at: value.span().start,
            }),
            _ => self.out_of_range(value, &range),
        }
    }

    /// True or false.
    pub(crate) fn flag(self) -> Field<bool> {
        let value = self.figure()?;
        match value.get_ref().as_bool() {
            Some(flag) => Some(At {
                value: flag,
                at: value.span().start,
            }),
            None => self.mismatch(value, "true or false"),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(self, words: &[(&str, T)]) -> Field<T> {
        let (sink, path) = (self.sink, self.path.clone());
        let text = self.text()?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(At {
                value: *meaning,
                at: text.at,
            });
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        sink.error(
            text.at,
            &path,
            format!("`{}` is not known as `{path}`", text.value),
            format!("use one of: {}", allowed.join(", ")),
        );
        None
    }

    /// A list, each item read by `read`.
    fn list<T>(self, read: impl Fn(Slot<'a>) -> Option<T>) -> Option<(Vec<T>, usize)> {
        let value = self.value?;
        let Some(items) = value.get_ref().as_array() else {
            return self.mismatch(value, "a list in brackets");
        };
        let read = (items.iter().enumerate())
            .filter_map(|(index, item)| {
                read(Slot {
                    sink: self.sink,
                    path: format!("{}[{}]", self.path, index + 1),
                    value: Some(item),
                })
            })
            .collect();
        Some((read, value.span().start))
    }

    /// A list of texts.
    pub(crate) fn texts(self) -> Field<Vec<At<String>>> {
        let (value, at) = self.list(Slot::text)?;
        Some(At { value, at })
    }

    /// A list whose items are texts or lists of texts: `["a", ["b", "c"]]`.
    pub(crate) fn groups_of_texts(self) -> Field<Vec<Vec<At<String>>>> {
        let (value, at) = self.list(|slot| {
            if slot.value.is_some_and(|v| v.get_ref().is_array()) {
                slot.texts().map(|texts| texts.value)
            } else {
                slot.text().map(|text| vec![text])
            }
        })?;
        Some(At { value, at })
    }

    /// The time-current curve of a breaker: the name of a class, or points as
    /// `[[multiple of the rating, seconds borne], …]`.
    pub(crate) fn trip_curve(self) -> Field<TripCurve> {
        let value = self.figure()?;
        let at = value.span().start;
        let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
        let remedy = format!(
            "write the name of a class ({}), or points [[multiple of the rating, seconds borne], ...] with multiples that rise from 1 and seconds that fall",
            names.join(", ")
        );
        let fault = |message: String| {
            self.sink.error(at, &self.path, message, remedy.clone());
            None
        };
        if let Some(name) = value.get_ref().as_str() {
            return match TripCurve::of_class(name) {
                Some(value) => Some(At { value, at }),
                None => fault(format!("`{name}` is no class of breakers known here")),
            };
        }
        let slot = Slot {
            sink: self.sink,
            path: self.path.clone(),
            value: Some(value),
        };
        let Some(stated) = value.get_ref().as_array().map(|points| points.len()) else {
            return fault(format!("`{}` is neither a name nor points", self.path));
        };
        let (points, _) = slot.list(|point| {
            let (pair, at) = point.list(|number| number.number(0.0..=1e6))?;
            match pair[..] {
                [ref multiple, ref seconds] => Some((multiple.value, seconds.value)),
                _ => {
                    self.sink
                        .error(at, &self.path, "a point has two numbers", &*remedy);
                    None
                }
            }
        })?;
        if points.len() < stated {
            return None;
        }
        match TripCurve::new(&points) {
            Ok(value) => Some(At { value, at }),
            Err(error) => fault(error.to_string()),
        }
    }

    /// The value itself, or what stands in `{ value = …, mark = …, note = … }`;
    /// then the mark is noted.
    fn figure(&self) -> Option<&'a Spanned<DeValue<'a>>> {
        let outer = self.value?;
        let Some(table) = outer.get_ref().as_table() else {
            return Some(outer);
        };
        let at = outer.span().start;
        let mut figure = Table::new(self.sink, table, at, self.path.clone());
        let value = figure.require("value").value;
        let mark = figure.require("mark").word(&Mark::WORDS);
        let note = figure.require("note").text();
        figure.finish();
        let value = value?;
        if let (Some(mark), Some(note)) = (mark, note)
            && mark.value != Mark::Published
        {
            let written = written(value.get_ref());
            (self.sink).uncertain(at, &self.path, written, mark.value, note.value);
        }
        Some(value)
    }

    fn mismatch<T>(&self, value: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        self.sink.error(
            value.span().start,
            &self.path,
            format!(
                "`{}` is of type {}, not {expected}",
                self.path,
                value.get_ref().type_str()
            ),
            format!("write {expected}"),
        );
        None
    }

    fn out_of_range<T, N: std::fmt::Display>(
        &self,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<N>,
    ) -> Option<T> {
        self.sink.error(
            value.span().start,
            &self.path,
            format!(
                "`{}` is {}, out of range",
                self.path,
                written(value.get_ref())
            ),
            allowed(range),
        );
        None
    }
}

/// What a name may consist of, as a remedy.
pub(crate) const NAME_RULE: &str =
    "use 1 to 64 of a-z A-Z 0-9 . _ - and begin with a letter or digit";

/// A scalar as the file has it.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(integer) => integer.as_str().to_owned(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => other.type_str().to_owned(),
    }
}

/// What a range allows, in words. An end of the number line is no bound, and
/// is told by its three hundred digits.
fn allowed<N: std::fmt::Display>(range: &RangeInclusive<N>) -> String {
    let bound = |end: &N| Some(end.to_string()).filter(|text| text.len() < 30);
    match (bound(range.start()), bound(range.end())) {
        (None, None) => "use a finite number".to_owned(),
        (Some(low), None) => format!("use a finite number from {low} up"),
        (None, Some(high)) => format!("use a finite number up to {high}"),
        (Some(low), Some(high)) => format!("use a value from {low} to {high}"),
    }
}
