//! The `[[partition]]` section of a site's file.

use super::pattern::Pattern;
use super::reader::{At, Field, Table};
use super::schema::flag_or_false;
use super::slot::Slot;
use crate::site::FINEST_STEP;
use crate::site::trip::TripCurve;

/// Whether hardware is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionStatus {
    /// Installed and in use.
    Running,
    /// Ordered or announced.
    Contracted,
}

/// `[[partition]]`, many racks of one kind.
#[derive(Debug)]
pub(crate) struct PartitionSection {
    pub at: usize,
    /// What stands before the names of its fields in faults, e.g. `power[2].`
    pub prefix: String,
    pub id: Field<String>,
    pub name: Field<String>,
    pub status: Field<PartitionStatus>,
    /// Of a contracted partition: what is known, in words.
    pub announced: Field<String>,
    pub hall: Field<String>,
    pub accelerator: Field<String>,
    pub racks: Field<u32>,
    pub nodes_per_rack: Field<u32>,
    /// Number of nodes where the racks are not all full.
    pub nodes: Field<u32>,
    pub devices_per_node: Field<u32>,
    pub fed_by: Field<Vec<Vec<At<String>>>>,
    pub rack_rating: Field<f64>,
    pub rack_limit: Field<f64>,
    pub node_rating: Field<f64>,
    pub node_limit: Field<f64>,
    pub node_overhead: Field<f64>,
    pub racks_per_row: Field<u32>,
    pub first_rack: Field<u32>,
    pub first_node: Field<u32>,
    pub row_id: Field<Pattern>,
    pub rack_id: Field<Pattern>,
    pub node_id: Field<Pattern>,
    pub min_cap: Field<f64>,
    pub max_cap: Field<f64>,
    pub safe_cap: Field<f64>,
    pub cap_step: Field<f64>,
    pub rack_trip_curve: Field<TripCurve>,
    pub oversized: bool,
}

impl PartitionSection {
    pub(super) fn read(mut t: Table<'_>) -> Self {
        let status = t.require("status").word(&[
            ("running", PartitionStatus::Running),
            ("contracted", PartitionStatus::Contracted),
        ]);
        // Much is open while hardware is only ordered: what is not known is left out.
        let contracted =
            (status.as_ref()).is_some_and(|status| status.value == PartitionStatus::Contracted);
        let mut known = |key: &'static str| -> Slot<'_> {
            if contracted {
                t.optional(key)
            } else {
                t.require(key)
            }
        };
        let hall = known("hall").text();
        let racks = known("racks").count(1..=20_000);
        let nodes_per_rack = known("nodes_per_rack").count(1..=1_000);
        let devices_per_node = known("devices_per_node").count(0..=64);
        let rack_rating = known("rack_rating_watts").watts();
        let rack_limit = known("rack_limit_watts").watts();
        let node_overhead = known("node_overhead_watts").number(0.0..=1e6);
        let rack_id = pattern(known("rack_id"), &["rack", "row"], &["rack"]);
        let node_id = pattern(
            known("node_id"),
            &["rack_id", "rack", "node", "index"],
            &["node", "index"],
        );
        let fed_by = if contracted {
            t.optional("fed_by")
        } else {
            t.require_because("fed_by", ": its devices are under no breaker")
        };
        let read = Self {
            at: t.at(),
            status,
            hall,
            racks,
            nodes_per_rack,
            devices_per_node,
            fed_by: fed_by.groups_of_texts(),
            rack_rating,
            rack_limit,
            node_overhead,
            rack_id,
            node_id,
            id: t.require("id").name(),
            name: t.require("name").text(),
            announced: t.optional("announced").text(),
            // Whether it may be absent depends on the number of devices; the check says so.
            accelerator: t.optional("accelerator").text(),
            nodes: t.optional("nodes").count(1..=250_000),
            node_rating: t.optional("node_rating_watts").watts(),
            node_limit: t.optional("node_limit_watts").watts(),
            racks_per_row: t.optional("racks_per_row").count(1..=10_000),
            first_rack: t.optional("first_rack").count(0..=1_000_000),
            first_node: t.optional("first_node").count(0..=1_000_000),
            row_id: pattern(t.optional("row_id"), &["row"], &["row"]),
            min_cap: t.optional("min_cap_watts").watts(),
            max_cap: t.optional("max_cap_watts").watts(),
            safe_cap: t.optional("safe_cap_watts").watts(),
            // A milliwatt is the finest; a coarser step than a hundred watts is a slip.
            cap_step: t.optional("cap_step_watts").number(FINEST_STEP.0..=100.0),
            rack_trip_curve: t.optional("rack_trip_curve").trip_curve(),
            oversized: flag_or_false(t.optional("oversized")),
            prefix: t.path_of(""),
        };
        t.finish();
        read
    }
}

fn pattern(slot: Slot<'_>, allowed: &[&'static str], one_of: &[&str]) -> Field<Pattern> {
    slot.parsed(|text| Pattern::parse(text, allowed, one_of))
}
