//! Reads TOML tables field by field. Each fault is noted with its place and
//! reading goes on, so that one run lists all of them; deserialising into
//! structs would stop at the first.

use super::fault::Sink;
use super::similar::nearest;
use super::slot::Slot;
use toml::Spanned;
use toml::de::DeTable;

/// A value and the byte offset where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct At<T> {
    /// The value.
    pub value: T,
    /// Byte offset in the file.
    pub at: usize,
}

/// A field as far as it could be read. `None` means that it is absent, or that
/// a fault was noted.
pub(crate) type Field<T> = Option<At<T>>;

/// One table. [`Table::finish`] refuses the fields that nobody asked for.
pub(crate) struct Table<'a> {
    sink: &'a Sink,
    table: &'a DeTable<'a>,
    at: usize,
    path: String,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The whole document.
    pub(crate) fn root(sink: &'a Sink, document: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(sink, document.get_ref(), 0, String::new())
    }

    /// A table within.
    pub(super) fn new(sink: &'a Sink, table: &'a DeTable<'a>, at: usize, path: String) -> Self {
        Self {
            sink,
            table,
            at,
            path,
            asked: Vec::new(),
        }
    }

    /// Where faults go.
    pub(crate) fn sink(&self) -> &'a Sink {
        self.sink
    }

    /// Where the table begins.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The full name of a field.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A field that may be absent.
    pub(crate) fn optional(&mut self, key: &'static str) -> Slot<'a> {
        self.asked.push(key);
        Slot {
            sink: self.sink,
            path: self.path_of(key),
            value: self.table.get(key),
        }
    }

    /// A field that must be there.
    pub(crate) fn require(&mut self, key: &'static str) -> Slot<'a> {
        self.require_because(key, "")
    }

    /// The same; `why` is added to the message.
    pub(crate) fn require_because(&mut self, key: &'static str, why: &str) -> Slot<'a> {
        let slot = self.optional(key);
        if slot.value.is_none() {
            let whose = if self.path.is_empty() {
                "the file".to_owned()
            } else {
                format!("`{}`", self.path)
            };
            self.sink.error(
                self.at,
                &slot.path,
                format!("{whose} has no `{key}`{why}"),
                format!("add `{key}`; site-configs/README.md describes it"),
            );
        }
        slot
    }

    /// The tables of an array of tables; none when the field is absent.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.sink.error(
                value.span().start,
                &path,
                format!("`{path}` is a {}", value.get_ref().type_str()),
                format!("write one [[{path}]] section for each"),
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let slot = Slot {
                sink: self.sink,
                path: format!("{path}[{}]", index + 1),
                value: Some(item),
            };
            tables.extend(slot.table());
        }
        tables
    }

    /// Refuses the fields that nobody asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if !self.asked.contains(&name) {
                let guess = nearest(name, self.asked.iter().copied())
                    .map(|near| format!("did you mean `{near}`? "))
                    .unwrap_or_default();
                self.sink.error(
                    key.span().start,
                    &self.path_of(name),
                    format!("unknown field `{name}`"),
                    format!("{guess}allowed here: {}", self.asked.join(", ")),
                );
            }
        }
    }
}
