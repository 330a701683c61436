//! The latest decisions for a glance: what changed something stands by itself,
//! runs of allocations that changed nothing are one line.

use heliostat_models::decision::JobCap;
use heliostat_models::{Decision, DecisionKind, JobId, Timestamp};
use std::collections::BTreeMap;

/// A cap that changed by less than this share is no news.
const MATERIAL: f64 = 0.01;
/// How the summary of an allocation that met all limits begins. Those that did
/// not are never folded.
const PLAIN: &str = "Caps for ";

/// A line of the digest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A decision.
    One(Box<Decision>),
    /// Allocations in a row after which every cap was as before.
    Unchanged {
        count: usize,
        /// The oldest and the newest.
        from: Timestamp,
        to: Timestamp,
        /// Number of the newest.
        sequence: u64,
    },
}

/// At most `lines` lines of decisions, newest first, from those given newest first.
pub(crate) fn digest(decisions: &[Decision], lines: usize) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    for (index, decision) in decisions.iter().enumerate() {
        let mut earlier = decisions[index + 1..].iter();
        let before = earlier.find(|d| d.kind == DecisionKind::Allocation);
        let is_unchanged = before.is_some_and(|before| changed_nothing(before, decision));
        let is_full = out.len() == lines;
        match out.last_mut() {
            Some(Entry::Unchanged { count, from, .. }) if is_unchanged => {
                *count += 1;
                *from = decision.at;
            }
            _ if is_full => break,
            _ if is_unchanged => out.push(Entry::Unchanged {
                count: 1,
                from: decision.at,
                to: decision.at,
                sequence: decision.sequence,
            }),
            _ => out.push(Entry::One(Box::new(decision.clone()))),
        }
    }
    out
}

/// Whether an allocation gave each job the cap that it had, within 1 %.
fn changed_nothing(before: &Decision, after: &Decision) -> bool {
    let is_plain =
        |d: &Decision| d.kind == DecisionKind::Allocation && d.summary.starts_with(PLAIN);
    if !is_plain(before) || !is_plain(after) {
        return false;
    }
    let (had, has) = (by_job(&before.caps), by_job(&after.caps));
    had.len() == has.len()
        && has.iter().all(|(job, cap)| {
            had.get(job)
                .is_some_and(|had| (had - cap).abs() <= MATERIAL * had.abs().max(1.0))
        })
}

fn by_job(caps: &[JobCap]) -> BTreeMap<&JobId, f64> {
    caps.iter()
        .filter_map(|c| Some((c.job.as_ref()?, c.cap.0)))
        .collect()
}

/// The beginning of a text, cut at a word, and whether something was cut off.
pub(crate) fn clip(text: &str, longest: usize) -> (&str, bool) {
    let Some((end, _)) = text.char_indices().nth(longest) else {
        return (text, false);
    };
    let head = &text[..end];
    let word = head.rfind(' ').filter(|at| *at > end / 2).unwrap_or(end);
    (head[..word].trim_end_matches([' ', ',', ';']), true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::Watts;
    use proptest::prelude::*;

    fn decision(sequence: u64, kind: DecisionKind, summary: &str, cap: f64) -> Decision {
        Decision {
            sequence,
            at: Timestamp::from_seconds(sequence as i64 * 60),
            kind,
            armed: true,
            summary: summary.into(),
            reason: String::new(),
            certificate: None,
            caps: vec![JobCap {
                job: Some(JobId::from("j")),
                devices: 8,
                cap: Watts(cap),
                speed: 0.9,
                binding: None,
                marginal: 0.0,
                reason: String::new(),
            }],
        }
    }

    #[test]
    fn runs_that_change_nothing_are_one_line_and_all_else_stands() {
        use DecisionKind::{Allocation, GridEvent, Plan};
        let plain = "Caps for 1 jobs; 0 changed by more than 1 %.";
        let short = "All devices at their lowest caps below pdu-1.";
        let mut log = vec![
            decision(0, Allocation, plain, 500.0),
            decision(1, Allocation, plain, 503.0),
            decision(2, Allocation, plain, 500.0),
            decision(3, Plan, "Planned.", 0.0),
            decision(4, Allocation, plain, 500.0),
            decision(5, GridEvent, "Began.", 0.0),
            decision(6, Allocation, plain, 400.0),
            decision(7, Allocation, short, 400.0),
            decision(8, Allocation, short, 400.0),
        ];
        log.reverse();
        let words: Vec<String> = digest(&log, 20)
            .iter()
            .map(|entry| match entry {
                Entry::One(d) => d.sequence.to_string(),
                Entry::Unchanged {
                    count, sequence, ..
                } => format!("{count} up to {sequence}"),
            })
            .collect();
        let expected = ["8", "7", "6", "5", "1 up to 4", "3", "2 up to 2", "0"];
        assert_eq!(words, expected);
        assert_eq!(digest(&log, 3).len(), 3);
    }

    #[test]
    fn long_texts_are_cut_at_a_word() {
        assert_eq!(clip("short", 10), ("short", false));
        assert_eq!(clip("pdu-1, pdu-2, pdu-3", 14), ("pdu-1, pdu-2", true));
    }

    proptest! {
        #[test]
        fn any_text_can_be_cut(text in "\\PC*", longest in 0_usize..60) {
            let (head, is_cut) = clip(&text, longest);
            prop_assert!(text.starts_with(head) && head.chars().count() <= longest);
            prop_assert_eq!(is_cut, text.chars().count() > longest);
        }
    }
}
