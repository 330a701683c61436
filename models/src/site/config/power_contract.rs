//! The `[[power_contract]]` section of a site's file.

use super::reader::{At, Field, Table};
use super::schema::flag_or_false;

/// `[[power_contract]]`, a limit over members wherever they stand.
#[derive(Debug)]
pub(crate) struct PowerContractSection {
    /// What stands before the names of its fields in faults, e.g. `power_contract[2].`
    pub prefix: String,
    pub id: Field<String>,
    pub limit: Field<f64>,
    pub in_full: bool,
    pub members: Field<Vec<At<String>>>,
}

impl PowerContractSection {
    pub(super) fn read(mut t: Table<'_>) -> Self {
        let read = Self {
            id: t.require("id").name(),
            limit: t.require("limit_watts").watts(),
            in_full: flag_or_false(t.optional("in_full")),
            members: t.require("members").texts(),
            prefix: t.path_of(""),
        };
        t.finish();
        read
    }
}
