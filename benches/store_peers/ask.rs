//! Questions to both servers: how long the answers take, and whether they are the same.

use crate::process::{Server, get};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Relative difference of two values that count as equal.
const TOLERANCE: f64 = 1e-9;

/// A range query in both servers' words.
pub struct Question {
    pub ours: String,
    pub theirs: String,
    /// Seconds since 1970.
    pub start: i64,
    pub end: i64,
    pub step: i64,
}

/// A label's value for each series, and its points: second, value.
pub type Table = BTreeMap<String, Vec<(i64, f64)>>;

impl Question {
    fn parameters(&self, server: &Server) -> Vec<(&'static str, String)> {
        let text = if server.is_ours() {
            &self.ours
        } else {
            &self.theirs
        };
        vec![
            ("query", text.clone()),
            ("start", self.start.to_string()),
            ("end", self.end.to_string()),
            ("step", self.step.to_string()),
            // VictoriaMetrics would answer the second time from its cache of answers.
            ("nocache", "1".to_owned()),
        ]
    }
}

/// Asks, once for each question; the answers and the times in milliseconds.
pub fn ask(server: &Server, questions: &[Question], label: &str) -> (Vec<Table>, Vec<f64>) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let url = server.url(&format!("{}/query_range", server.prometheus()));
    let (mut tables, mut times) = (Vec::new(), Vec::new());
    for question in questions {
        let parameters = question.parameters(server);
        let pairs: Vec<(&str, &str)> = parameters.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let begin = Instant::now();
        let text = get(&agent, &url, &pairs);
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        let text = text.unwrap_or_else(|e| panic!("{url} {parameters:?}: {e}"));
        tables.push(table(&text, label));
    }
    (tables, times)
}

fn table(text: &str, label: &str) -> Table {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let series = answer["data"]["result"].as_array().expect("a result");
    (series.iter())
        .map(|series| {
            let name = series["metric"][label].as_str().unwrap_or_default();
            let points = series["values"].as_array().expect("values");
            (name.to_owned(), points.iter().map(point).collect())
        })
        .collect()
}

fn point(value: &Value) -> (i64, f64) {
    let at = value[0].as_f64().expect("an instant");
    let text = value[1].as_str().expect("a value");
    (at.round() as i64, text.parse().expect("a number"))
}

/// How many values two sets of answers have in common, or where they differ.
pub fn same(ours: &[Table], theirs: &[Table]) -> Result<usize, String> {
    let mut compared = 0;
    for (a, b) in ours.iter().zip(theirs) {
        if a.keys().ne(b.keys()) {
            return Err(format!("series: {:?} and {:?}", a.keys(), b.keys()));
        }
        for (key, points) in a {
            let others = &b[key];
            if points.iter().map(|p| p.0).ne(others.iter().map(|p| p.0)) {
                return Err(format!(
                    "{key}: {} and {} instants",
                    points.len(),
                    others.len()
                ));
            }
            for (x, y) in points.iter().zip(others) {
                if (x.1 - y.1).abs() > TOLERANCE * x.1.abs().max(y.1.abs()) {
                    return Err(format!("{key} at {}: ours {}, theirs {}", x.0, x.1, y.1));
                }
                compared += 1;
            }
        }
    }
    if compared == 0 {
        return Err("nothing was answered".to_owned());
    }
    Ok(compared)
}

/// The value at this share of a sorted list.
pub fn percentile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
