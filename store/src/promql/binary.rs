//! Operators between scalars and vectors, and how series of two vectors find
//! each other (Prometheus' `VectorBinop` and its set operators).

use super::data::{ABSENT, Row, is_there, nameless};
use super::error::PromqlError;
use super::labels::Labels;
use super::plan::{BinaryFn, Cardinality, Grouping, Matching};
use std::collections::HashMap;

/// The operator on two numbers; a comparison gives whether it holds, as 1 or 0.
pub(super) fn apply(function: BinaryFn, a: f64, b: f64) -> f64 {
    let holds = |is: bool| f64::from(u8::from(is));
    match function {
        BinaryFn::Add => a + b,
        BinaryFn::Sub => a - b,
        BinaryFn::Mul => a * b,
        BinaryFn::Div => a / b,
        BinaryFn::Mod => a % b,
        BinaryFn::Pow => a.powf(b),
        BinaryFn::Atan2 => a.atan2(b),
        BinaryFn::Eq => holds(a == b),
        BinaryFn::Ne => holds(a != b),
        BinaryFn::Lt => holds(a < b),
        BinaryFn::Le => holds(a <= b),
        BinaryFn::Gt => holds(a > b),
        BinaryFn::Ge => holds(a >= b),
        BinaryFn::And | BinaryFn::Or | BinaryFn::Unless => ABSENT,
    }
}

/// A vector with a scalar; `flipped` when the scalar stands on the left.
pub(super) fn with_scalar(
    function: BinaryFn,
    as_bool: bool,
    rows: Vec<Row>,
    scalar: &[f64],
    flipped: bool,
) -> Result<Vec<Row>, PromqlError> {
    let filters = function.is_comparison() && !as_bool;
    let rows: Vec<Row> = (rows.into_iter())
        .map(|row| {
            row.map(|index, value| {
                let (a, b) = if flipped {
                    (scalar[index], value)
                } else {
                    (value, scalar[index])
                };
                match (apply(function, a, b), filters) {
                    (result, false) => result,
                    (result, true) if result != 0.0 => value,
                    _ => ABSENT,
                }
            })
        })
        .filter(|row| !row.is_empty())
        .collect();
    if filters { Ok(rows) } else { nameless(rows) }
}

/// `and`, `or`, `unless`.
pub(super) fn set(
    function: BinaryFn,
    on: &Grouping,
    left: Vec<Row>,
    right: Vec<Row>,
    count: usize,
) -> Vec<Row> {
    // Where any series of a group is there.
    let presence = |rows: &[Row]| {
        let mut groups: HashMap<Labels, Vec<bool>> = HashMap::new();
        for row in rows {
            let there = (groups.entry(on.key(&row.labels))).or_insert_with(|| vec![false; count]);
            for (there, value) in there.iter_mut().zip(&row.values) {
                *there |= is_there(*value);
            }
        }
        groups
    };
    let masked = |row: Row, other: &HashMap<Labels, Vec<bool>>, keep: bool| {
        let there = other.get(&on.key(&row.labels));
        row.map(|index, value| {
            let is = there.is_some_and(|t| t[index]);
            if is == keep { value } else { ABSENT }
        })
    };
    let mut out: Vec<Row> = match function {
        BinaryFn::Or => {
            let there = presence(&left);
            let rest = right.into_iter().map(|row| masked(row, &there, false));
            // The same series may come from the left at one instant and from the right at another.
            let mut out = left;
            let mut places: HashMap<Labels, usize> = out
                .iter()
                .enumerate()
                .map(|(i, r)| (r.labels.clone(), i))
                .collect();
            for row in rest.collect::<Vec<_>>() {
                match places.get(&row.labels) {
                    Some(place) => {
                        for (known, new) in out[*place].values.iter_mut().zip(row.values) {
                            if !is_there(*known) {
                                *known = new;
                            }
                        }
                    }
                    None => {
                        places.insert(row.labels.clone(), out.len());
                        out.push(row);
                    }
                }
            }
            out
        }
        _ => {
            let there = presence(&right);
            let keep = function == BinaryFn::And;
            (left.into_iter())
                .map(|row| masked(row, &there, keep))
                .collect()
        }
    };
    out.retain(|row| !row.is_empty());
    out
}

/// The side of which each group has one series.
struct Ones {
    rows: Vec<Row>,
    groups: HashMap<Labels, Vec<usize>>,
}

impl Ones {
    fn new(rows: Vec<Row>, on: &Grouping, count: usize, side: &str) -> Result<Self, PromqlError> {
        let mut groups: HashMap<Labels, Vec<usize>> = HashMap::new();
        for (place, row) in rows.iter().enumerate() {
            groups.entry(on.key(&row.labels)).or_default().push(place);
        }
        for (key, members) in groups.iter().filter(|(_, members)| members.len() > 1) {
            for index in 0..count {
                let mut there = (members.iter()).filter(|m| is_there(rows[**m].values[index]));
                if let (Some(a), Some(b)) = (there.next(), there.next()) {
                    let (a, b) = (&rows[*a].labels, &rows[*b].labels);
                    return Err(PromqlError::Execution(format!(
                        "found duplicate series for the match group {key} on the {side} hand-side of the operation: \
                         [{a}, {b}];many-to-many matching not allowed: matching labels must be unique on one side"
                    )));
                }
            }
        }
        Ok(Self { rows, groups })
    }
}

/// Two vectors.
pub(super) fn between(
    function: BinaryFn,
    matching: &Matching,
    left: Vec<Row>,
    right: Vec<Row>,
    count: usize,
) -> Result<Vec<Row>, PromqlError> {
    let swapped = matches!(matching.cardinality, Cardinality::OneToMany(_));
    let (many, one) = if swapped {
        (right, left)
    } else {
        (left, right)
    };
    let side = if swapped { "left" } else { "right" };
    // An instant at which a side is empty gives nothing, and no error.
    let many_there = anywhere(&many, count);
    let one = (one.into_iter())
        .map(|row| row.map(|index, v| if many_there[index] { v } else { ABSENT }))
        .collect();
    let ones = Ones::new(one, &matching.on, count, side)?;
    let filters = function.is_comparison() && !matching.as_bool;
    let mut out: Vec<Row> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    // Of one to one: where a group has its one already.
    let mut taken: HashMap<Labels, Vec<bool>> = HashMap::new();
    for row in &many {
        let key = matching.on.key(&row.labels);
        let Some(members) = ones.groups.get(&key) else {
            continue;
        };
        for partner in members.iter().map(|m| &ones.rows[*m]) {
            let labels = result_labels(function, matching, &row.labels, &partner.labels);
            for (index, (a, b)) in row.values.iter().zip(&partner.values).enumerate() {
                if !is_there(*a) || !is_there(*b) {
                    continue;
                }
                let (a, b) = if swapped { (*b, *a) } else { (*a, *b) };
                let result = apply(function, a, b);
                let value = match filters {
                    true if result == 0.0 => continue,
                    true => a,
                    false => result,
                };
                if matching.cardinality == Cardinality::OneToOne {
                    let seen = taken
                        .entry(key.clone())
                        .or_insert_with(|| vec![false; count]);
                    if std::mem::replace(&mut seen[index], true) {
                        return Err(PromqlError::Execution(
                            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                                .to_owned(),
                        ));
                    }
                }
                let place = *places.entry(labels.clone()).or_insert_with(|| {
                    out.push(Row {
                        labels: labels.clone(),
                        values: vec![ABSENT; count],
                    });
                    out.len() - 1
                });
                let cell = &mut out[place].values[index];
                if is_there(*cell) {
                    return Err(PromqlError::Execution(
                        "multiple matches for labels: grouping labels must ensure unique matches"
                            .to_owned(),
                    ));
                }
                *cell = value;
            }
        }
    }
    Ok(out)
}

fn anywhere(rows: &[Row], count: usize) -> Vec<bool> {
    let mut there = vec![false; count];
    for row in rows {
        for (there, value) in there.iter_mut().zip(&row.values) {
            *there |= is_there(*value);
        }
    }
    there
}

fn result_labels(function: BinaryFn, matching: &Matching, many: &Labels, one: &Labels) -> Labels {
    let mut labels = if function.is_comparison() && !matching.as_bool {
        many.clone()
    } else {
        many.nameless()
    };
    match &matching.cardinality {
        Cardinality::OneToOne => {
            labels = match &matching.on {
                Grouping::By(names) => labels.keeping(|name| names.iter().any(|n| n == name)),
                Grouping::Without(names) => labels.keeping(|name| !names.iter().any(|n| n == name)),
            };
        }
        Cardinality::ManyToOne(take) | Cardinality::OneToMany(take) => {
            for name in take {
                labels.set(name, one.get(name));
            }
        }
    }
    labels
}
