//! The report as JSON and as CSV.

use super::Report;
use serde_json::{Map, Value, json};

const HEADER: &str =
    "site,from,to,key,label,value,unit,measured_share,estimated_share,missing_share,formula,note";

impl Report {
    /// `{"site", "from", "to", "values": {KEY: {"value", "unit", …}}}`.
    pub fn to_json(&self) -> Value {
        let values: Map<String, Value> = (self.values.iter())
            .map(|v| (v.key.to_owned(), json!(v)))
            .collect();
        json!({
            "site": self.site,
            "from": self.from,
            "to": self.to,
            "values": values,
        })
    }

    /// One line a figure, with a header; an unknown value is an empty field. RFC 4180.
    pub fn to_csv(&self) -> String {
        let mut out = format!("{HEADER}\r\n");
        for v in &self.values {
            let fields = [
                self.site.clone(),
                self.from.to_string(),
                self.to.to_string(),
                v.key.to_owned(),
                v.label.clone(),
                v.value.map(|v| v.to_string()).unwrap_or_default(),
                v.unit.to_owned(),
                v.measured_share.to_string(),
                v.estimated_share.to_string(),
                v.missing_share.to_string(),
                v.formula.to_owned(),
                v.note.clone(),
            ];
            out.push_str(&fields.map(|f| quote(&f)).join(","));
            out.push_str("\r\n");
        }
        out
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
