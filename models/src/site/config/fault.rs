//! What is wrong with a file, and what is uncertain in it, each with its place.

use serde::Serialize;
use std::cell::RefCell;

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used; somebody should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as the user named it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The field, e.g. `partition[2].racks`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// How bad it is.
    pub severity: Severity,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{}:{}:{}: {severity}: {}\n  remedy: {}",
            self.file, self.line, self.column, self.message, self.remedy
        )
    }
}

/// How sure a figure is. A bare number in a file is certain: published by who
/// runs the thing, or decided by who wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Read in a published source, which the note names.
    Published,
    /// Computed from stated inputs.
    Derived,
    /// From general knowledge; to be checked before it is quoted.
    GeneralKnowledge,
    /// Not known; a plausible figure stands in.
    Assumed,
}

impl Mark {
    /// The marks by the words that files use.
    pub(super) const WORDS: [(&'static str, Self); 4] = [
        ("published", Self::Published),
        ("derived", Self::Derived),
        ("general-knowledge", Self::GeneralKnowledge),
        ("assumed", Self::Assumed),
    ];
}

/// A figure that its file marks as not certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uncertain {
    /// Line, counted from 1.
    pub line: usize,
    /// The field, e.g. `site.latitude`.
    pub field: String,
    /// The figure as written.
    pub value: String,
    /// How sure it is.
    pub mark: Mark,
    /// Where it comes from, or why it is what it is.
    pub note: String,
}

/// Collects faults and uncertain figures while a file is read. Shared by all
/// readers of one file, hence the interior mutability.
#[derive(Debug)]
pub(crate) struct Sink {
    file: String,
    /// Byte offset of the beginning of each line.
    line_starts: Vec<usize>,
    text: String,
    found: RefCell<(Vec<Fault>, Vec<Uncertain>)>,
}

impl Sink {
    /// A collector for one file.
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            file: file.to_owned(),
            line_starts,
            text: text.to_owned(),
            found: RefCell::default(),
        }
    }

    /// Line and column of a byte offset, both from 1.
    pub(crate) fn place(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts[line - 1];
        let column = self
            .text
            .get(start..at)
            .map_or(at - start, |before| before.chars().count());
        (line, column + 1)
    }

    fn add(&self, severity: Severity, at: usize, field: &str, message: String, remedy: String) {
        let (line, column) = self.place(at);
        self.found.borrow_mut().0.push(Fault {
            file: self.file.clone(),
            line,
            column,
            field: field.to_owned(),
            message,
            remedy,
            severity,
        });
    }

    /// Something that makes the file unusable.
    pub(crate) fn error(
        &self,
        at: usize,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Error, at, field, message.into(), remedy.into());
    }

    /// Something that somebody should look at.
    pub(crate) fn warning(
        &self,
        at: usize,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, at, field, message.into(), remedy.into());
    }

    /// A figure that is marked as not certain.
    pub(crate) fn uncertain(
        &self,
        at: usize,
        field: &str,
        value: String,
        mark: Mark,
        note: String,
    ) {
        let (line, _) = self.place(at);
        self.found.borrow_mut().1.push(Uncertain {
            line,
            field: field.to_owned(),
            value,
            mark,
            note,
        });
    }

    /// Whether anything found so far makes the file unusable.
    pub(crate) fn has_errors(&self) -> bool {
        (self.found.borrow().0.iter()).any(|fault| fault.severity == Severity::Error)
    }

    /// All that was found, in the order of the file.
    pub(crate) fn into_found(self) -> (Vec<Fault>, Vec<Uncertain>) {
        let (mut faults, mut uncertain) = self.found.into_inner();
        faults.sort_by(|a, b| {
            (a.line, a.column, &a.field, &a.message).cmp(&(b.line, b.column, &b.field, &b.message))
        });
        faults.dedup();
        uncertain.sort_by(|a, b| (a.line, &a.field).cmp(&(b.line, &b.field)));
        (faults, uncertain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let sink = Sink::new("f", "a\nbö = 1\n");
        assert_eq!(sink.place(0), (1, 1));
        assert_eq!(sink.place(2), (2, 1));
        // The umlaut takes two bytes but one column.
        assert_eq!(sink.place(6), (2, 4));
        assert_eq!(sink.place(10_000).0, 3);
    }
}
