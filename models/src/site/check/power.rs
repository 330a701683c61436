//! The power tree above the racks: that it is one, and that nothing in it
//! could trip what feeds it.

use super::use_one_of;
use crate::site::config::expand::in_order;
use crate::site::config::fault::Sink;
use crate::site::config::reader::At;
use crate::site::config::schema::{PowerSection, SiteFile};
use crate::site::power::PowerNodeKind;
use std::collections::{BTreeMap, BTreeSet};

/// The nodes above the racks by name.
pub(super) struct Tree<'f> {
    by_id: BTreeMap<&'f str, &'f PowerSection>,
}

impl<'f> Tree<'f> {
    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&'f PowerSection> {
        self.by_id.get(id).copied()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &'f str> + Clone + '_ {
        self.by_id.keys().copied()
    }

    /// Nodes and all that feed them, each once; circles do no harm.
    pub(super) fn upwards<'i>(&self, ids: impl IntoIterator<Item = &'i str>) -> BTreeSet<&'f str> {
        let mut found = BTreeSet::new();
        let mut next: Vec<&str> = ids.into_iter().collect();
        while let Some(id) = next.pop() {
            if let Some((id, section)) = self.by_id.get_key_value(id)
                && found.insert(*id)
            {
                next.extend(
                    section
                        .feeds
                        .iter()
                        .flat_map(|f| &f.value)
                        .map(|f| f.value.as_str()),
                );
            }
        }
        found
    }
}

/// Rating and limit of something that is fed, for comparing with its feeder.
pub(super) struct Fed<'a> {
    /// What it is, for the message.
    pub what: &'a str,
    /// Prefix of its fields.
    pub path: &'a str,
    pub rating: Option<&'a At<f64>>,
    pub limit: Option<&'a At<f64>>,
    /// Stated: larger than its feeder, on purpose.
    pub oversized: bool,
}

impl Fed<'_> {
    /// Its limit against its own rating.
    pub(super) fn check_own(&self, sink: &Sink) {
        if let (Some(limit), Some(rating)) = (self.limit, self.rating)
            && limit.value > rating.value
        {
            sink.error(
                limit.at,
                &format!("{}limit_watts", self.path),
                format!(
                    "the limit of {} ({} W) is above its rating ({} W)",
                    self.what, limit.value, rating.value
                ),
                "lower the limit to what the equipment bears",
            );
        }
    }

    /// Against what feeds it: alone it must not be able to trip that.
    pub(super) fn check_below(
        &self,
        feeder: &str,
        rating: Option<f64>,
        limit: Option<f64>,
        sink: &Sink,
    ) {
        if self.oversized {
            return;
        }
        for (word, own, above) in [
            ("rating", self.rating, rating),
            ("limit", self.limit, limit),
        ] {
            if let (Some(own), Some(above)) = (own, above)
                && own.value > above
            {
                sink.error(
                    own.at,
                    &format!("{}{word}_watts", self.path),
                    format!(
                        "the {word} of {} ({} W) is above that of {feeder}, which feeds it ({above} W)",
                        self.what, own.value
                    ),
                    format!("lower it to {above} W, or state `oversized = true` if it is so on purpose"),
                );
            }
        }
    }
}

/// Checks the tree and hands it on.
pub(super) fn check<'f>(file: &'f SiteFile, sink: &Sink) -> Tree<'f> {
    let tree = Tree {
        by_id: (file.power.iter())
            .filter_map(|section| Some((section.id.as_ref()?.value.as_str(), section)))
            .collect(),
    };
    if file.power.is_empty() {
        sink.error(
            0,
            "power",
            "the file has no [[power]] section: nothing limits its devices",
            "add at least the utility feed with its limit_watts",
        );
    }
    for section in &file.power {
        node(section, &tree, sink);
    }
    circles(file, &tree, sink);
    unused(file, &tree, sink);
    tree
}

fn node(section: &PowerSection, tree: &Tree<'_>, sink: &Sink) {
    let id = section.id.as_ref().map_or("?", |id| id.value.as_str());
    let what = format!("`{id}`");
    let path = section.prefix.as_str();
    let fed = Fed {
        what: &what,
        path,
        rating: section.rating.as_ref(),
        limit: section.limit.as_ref(),
        oversized: section.oversized,
    };
    fed.check_own(sink);
    let Some(feeds) = &section.feeds else { return };
    let is_root = (section.kind.as_ref()).is_some_and(|k| k.value == PowerNodeKind::UtilityFeed);
    let field = format!("{path}feeds");
    if feeds.value.is_empty() && !is_root && section.kind.is_some() {
        sink.error(
            feeds.at,
            &field,
            format!("nothing feeds `{id}`"),
            "name what feeds it; only a utility_feed has feeds = []",
        );
    }
    if !feeds.value.is_empty() && is_root {
        sink.error(
            feeds.at,
            &field,
            format!("the utility feed `{id}` is fed by another node"),
            "set feeds = [], or choose another kind",
        );
    }
    let mut seen = BTreeSet::new();
    for feed in &feeds.value {
        if !seen.insert(feed.value.as_str()) {
            sink.error(
                feed.at,
                &field,
                format!("`{}` feeds `{id}` twice", feed.value),
                "name each feed once",
            );
        }
        match tree.get(&feed.value) {
            None => sink.error(
                feed.at,
                &field,
                format!(
                    "`{id}` is fed by `{}`, which is not in the power tree",
                    feed.value
                ),
                use_one_of(&feed.value, tree.ids()),
            ),
            Some(above) => fed.check_below(
                &format!("`{}`", feed.value),
                above.rating.as_ref().map(|r| r.value),
                above.limit.as_ref().map(|l| l.value),
                sink,
            ),
        }
    }
}

/// Nodes that feed themselves, by way of others or not.
fn circles(file: &SiteFile, tree: &Tree<'_>, sink: &Sink) {
    let placed: BTreeSet<&str> = (in_order(&file.power).into_iter())
        .filter_map(|section| section.id.as_ref().map(|id| id.value.as_str()))
        .collect();
    for (id, section) in &tree.by_id {
        let Some(feeds) = &section.feeds else {
            continue;
        };
        let above = tree.upwards(feeds.value.iter().map(|feed| feed.value.as_str()));
        if !placed.contains(id) && above.contains(id) {
            sink.error(
                feeds.at,
                &format!("{}feeds", section.prefix),
                format!("`{id}` feeds itself: the feeds run in a circle"),
                "break the circle; feeds lead from the utility feed downwards",
            );
        }
    }
}

/// Nodes that carry nothing.
fn unused(file: &SiteFile, tree: &Tree<'_>, sink: &Sink) {
    let groups = file.partitions.iter().filter_map(|p| p.fed_by.as_ref());
    let feeders = groups.flat_map(|groups| groups.value.iter().flatten());
    let feeds = file
        .power
        .iter()
        .filter_map(|p| p.feeds.as_ref())
        .flat_map(|f| &f.value);
    if feeders
        .clone()
        .chain(feeds)
        .any(|name| !tree.contains(&name.value))
    {
        // A name is wrong, and has been noted; what it meant is unknown.
        return;
    }
    let cooling = file.cooling.iter().filter_map(|c| c.fed_by.as_ref());
    let used = tree.upwards(feeders.chain(cooling).map(|feeder| feeder.value.as_str()));
    for (id, section) in &tree.by_id {
        if !used.contains(id) {
            sink.warning(
                section.id.as_ref().map_or(section.at, |id| id.at),
                &format!("{}id", section.prefix),
                format!("`{id}` feeds nothing"),
                "name it in a partition's fed_by, or remove it",
            );
        }
    }
}
