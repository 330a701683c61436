//! Counting demand at a price, and closing in on the price at which a row is full.

use super::dense::Dense;
use super::levels::Item;

/// Additions that the processor may do side by side.
const LANES: usize = 8;
/// A bracket with at most this share of the stretches below its row is narrow enough.
const SHARE: f64 = 1.0 / 256.0;
/// So is one with this many.
const FEW: f64 = 32.0;
/// Prices tried at most.
const TRIES: usize = 40;
/// How far from a guess the other end of a bracket is looked for first.
const NEAR: f64 = 1.0 / 512.0;
/// The same where few gangs hang below, so that a bracket is wide.
const NEAR_FEW: f64 = 1.0 / 64.0;
/// Places with gangs from which a first guess looks at some of them only.
const MANY: usize = 96;

/// Units that the gangs of a place take at a price, above their floors.
pub(super) fn own(dense: &Dense, place: usize, price: f64) -> f64 {
    let (begin, end) = segments(dense, place);
    units_above(&dense.slope[begin..end], &dense.width[begin..end], price)
}

/// Units of the stretches worth more than a price.
pub(super) fn units_above(slopes: &[f64], widths: &[f64], price: f64) -> f64 {
    let ((slope, last), (width, rest)) = (slopes.as_chunks::<LANES>(), widths.as_chunks::<LANES>());
    let mut sums = [0.0f64; LANES];
    for (slope, width) in slope.iter().zip(width) {
        for lane in 0..LANES {
            sums[lane] += where_above(slope[lane], price, width[lane]);
        }
    }
    let pairs = last.iter().zip(rest);
    let rest: f64 = pairs.map(|(s, w)| where_above(*s, price, *w)).sum();
    // Whole units: the order of the additions does not matter.
    sums.iter().sum::<f64>() + rest
}

/// `value` where `slope` is above `price`, else 0, without a branch: which
/// stretches are worth more than a price cannot be guessed by a processor.
#[inline(always)]
pub(super) fn where_above(slope: f64, price: f64, value: f64) -> f64 {
    f64::from_bits(value.to_bits() & u64::from(slope > price).wrapping_neg())
}

fn segments(dense: &Dense, place: usize) -> (usize, usize) {
    let slot = |p: usize| dense.start[dense.at[p] as usize] as usize;
    (slot(place), slot(place + 1))
}

/// Adds the stretches of a place worth more than `low` and at most `high`.
fn collect(dense: &Dense, place: usize, low: f64, high: f64, items: &mut Vec<Item>) {
    if low >= high {
        return;
    }
    let (begin, end) = segments(dense, place);
    let mut slot = dense.at[place];
    for (chunk, slopes) in dense.slope[begin..end].chunks(LANES).enumerate() {
        // Most have none; this is looked at without a branch a stretch.
        let found = (slopes.iter()).fold(false, |any, s| any | ((*s > low) & (*s <= high)));
        if !found {
            continue;
        }
        for (lane, slope) in slopes.iter().enumerate() {
            if *slope <= low || *slope > high {
                continue;
            }
            let segment = (begin + chunk * LANES + lane) as u32;
            while dense.start[slot as usize + 1] <= segment {
                slot += 1;
            }
            items.push(Item {
                slope: *slope,
                width: dense.width[segment as usize],
                segment,
                slot,
                place: place as u32,
            });
        }
    }
}

/// Adds those of one slot.
pub(super) fn collect_of(dense: &Dense, slot: u32, (low, high): (f64, f64), items: &mut Vec<Item>) {
    let segments = dense.segments(slot as usize);
    let slopes = &dense.slope[segments.clone()];
    // Mostly there is none; this is looked at without a branch a stretch.
    if !(slopes.iter()).fold(false, |any, s| any | ((*s > low) & (*s <= high))) {
        return;
    }
    for (segment, slope) in segments.zip(slopes) {
        if *slope > low && *slope <= high {
            items.push(Item {
                slope: *slope,
                width: dense.width[segment],
                segment: segment as u32,
                slot,
                place: dense.home[slot as usize],
            });
        }
    }
}

/// By falling worth; of equal ones the first slot's first stretch comes first.
pub(super) fn in_order(items: &mut [Item]) {
    items.sort_by(|a, b| b.slope.total_cmp(&a.slope).then(a.segment.cmp(&b.segment)));
}

/// Adds demand up the forest to `top`, cut off at each row's room.
pub(super) fn add_up(dense: &Dense, room: &[f64], raw: &mut [f64], top: usize) {
    let tree = &dense.rows.tree;
    for place in (top + 1..tree.end[top] as usize).rev() {
        raw[tree.up[place] as usize] += raw[place].min(room[place]);
    }
}

/// Two prices: at the upper one the demand below `top` fits, at the lower one
/// it does not. At `above` it is known not to fit. `hint` is a price that may
/// be near; the answer's worth does not depend on it, its place may.
pub(super) fn find(
    dense: &Dense,
    room: &[f64],
    raw: &mut [f64],
    top: usize,
    above: f64,
    hint: Option<f64>,
) -> (f64, f64) {
    let end = dense.rows.tree.end[top] as usize;
    let (slots, last) = (dense.at[top] as usize, dense.at[end] as usize);
    let near = if last - slots < MANY * MANY {
        NEAR_FEW
    } else {
        NEAR
    };
    // The price that a row had stands in the middle of its bracket: the next
    // change may move it either way.
    let known = (hint.map(|hint| hint * (1.0 + near))).filter(|p| *p > above);
    let high = if known.is_some() {
        // Steps from there find an end that is near; none needs to be known.
        f64::MAX
    } else {
        let first = |slot: usize| dense.segments(slot).next().map(|s| dense.slope[s]);
        let highest = (slots..last).filter_map(first).fold(above, f64::max);
        // Rounding may have put a gang's second stretch a hair above its first.
        highest * (1.0 + 1e-9)
    };
    let (begin, stop) = (segments(dense, top).0, segments(dense, end - 1).1);
    let all: f64 = (top..end).map(|place| own(dense, place, 0.0)).sum();
    let enough = all / (stop - begin).max(1) as f64 * FEW.max((stop - begin) as f64 * SHARE);
    // What is full at the upper end is full at every price below it.
    let mut full = vec![false; end - top];
    let mut busy = full.clone();
    let mut demand = |price: f64| {
        if end == top + 1 {
            raw[top] = own(dense, top, price);
            return raw[top];
        }
        count(
            dense,
            top,
            &room[top..end],
            &full,
            price,
            (&mut raw[top..end], &mut busy),
        );
        add_up(dense, room, raw, top);
        if raw[top] <= room[top] {
            full.copy_from_slice(&busy);
        }
        raw[top]
    };
    let wanted = room[top];
    let mut bracket = Bracket {
        low: above,
        high,
        at_low: all.max(wanted),
        at_high: 0.0,
    };
    let wide = if known.is_some() { 2.0 } else { 1.0 };
    let mut guess = known.or_else(|| guess(dense, room, top, &bracket));
    // From a guess on, the other end is looked for close by.
    let mut stride = if guess.is_some() { wide * near } else { 0.0 };
    let mut fitted = true;
    for round in 0..TRIES {
        let width = bracket.high - bracket.low;
        if bracket.at_low - bracket.at_high <= enough || width <= bracket.high * 1e-14 {
            break;
        }
        let price = match guess.take() {
            Some(price) => price,
            None if stride > 0.0 && fitted => bracket.high * (1.0 - stride),
            None if stride > 0.0 => bracket.low * (1.0 + stride),
            None if round % 3 == 2 => bracket.low + 0.5 * width,
            None => bracket.between(wanted, enough),
        };
        if price <= bracket.low || price >= bracket.high {
            if stride > 0.0 {
                stride = 0.0;
                continue;
            }
            break;
        }
        let there = demand(price);
        let fits = there <= wanted;
        if fits {
            (bracket.high, bracket.at_high) = (price, there);
        } else {
            (bracket.low, bracket.at_low) = (price, there);
        }
        if round > 0 {
            stride = if fits == fitted { stride * 4.0 } else { 0.0 };
        }
        fitted = fits;
    }
    (bracket.low, bracket.high)
}

/// What each place from `from` on takes at a price, and whether that fills it.
/// One that is known to be full takes its room. Large sites by two threads.
fn count(
    dense: &Dense,
    from: usize,
    room: &[f64],
    full: &[bool],
    price: f64,
    (raw, busy): (&mut [f64], &mut [bool]),
) {
    let each = |from: usize, room: &[f64], full: &[bool], raw: &mut [f64], busy: &mut [bool]| {
        for at in 0..raw.len() {
            raw[at] = if full[at] {
                room[at]
            } else {
                own(dense, from + at, price)
            };
            busy[at] = raw[at] >= room[at];
        }
    };
    let Some(middle) = halves(dense, from, from + raw.len()) else {
        return each(from, room, full, raw, busy);
    };
    let cut = middle - from;
    let (raw, more_raw) = raw.split_at_mut(cut);
    let (busy, more_busy) = busy.split_at_mut(cut);
    std::thread::scope(|scope| {
        scope.spawn(|| each(middle, &room[cut..], &full[cut..], more_raw, more_busy));
        each(from, &room[..cut], &full[..cut], raw, busy);
    });
}

/// What each place takes at `high`, and the stretches between `low` and `high`,
/// not yet in order. Large sites by two threads.
pub(super) fn gather(
    dense: &Dense,
    (top, end): (usize, usize),
    (low, high): (f64, f64),
) -> (Vec<f64>, Vec<Item>) {
    let each = |places: std::ops::Range<usize>| {
        let (mut all, mut items) = (Vec::with_capacity(places.len()), Vec::new());
        for place in places {
            all.push(own(dense, place, high));
            collect(dense, place, low, high, &mut items);
        }
        (all, items)
    };
    let Some(middle) = halves(dense, top, end) else {
        return each(top..end);
    };
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| each(middle..end));
        let (mut all, mut items) = each(top..middle);
        match beside.join() {
            Ok((more, more_items)) => {
                all.extend(more);
                items.extend(more_items);
                (all, items)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The place from which on a second thread is worth starting.
fn halves(dense: &Dense, top: usize, end: usize) -> Option<usize> {
    let (begin, stop) = (dense.at[top], dense.at[end]);
    let stretches = dense.start[stop as usize] - dense.start[begin as usize];
    let middle = begin + (stop - begin) / 2;
    let place = top + dense.at[top..end].partition_point(|slot| *slot < middle);
    (stretches >= dense.beside && place > top && place < end).then_some(place)
}

/// Two prices and the demand at each.
struct Bracket {
    low: f64,
    high: f64,
    at_low: f64,
    at_high: f64,
}

impl Bracket {
    /// The price at which a straight line between both ends meets what is
    /// wanted, moved a little so that the answer shortens the longer side.
    fn between(&self, wanted: f64, enough: f64) -> f64 {
        let fall = self.at_low - self.at_high;
        let share = ((self.at_low - wanted) / fall).clamp(0.0, 1.0);
        let step = (0.4 * enough / fall).clamp(1e-3, 0.25);
        let share = if share > 0.5 {
            share - step
        } else {
            share + step
        };
        self.low + (self.high - self.low) * share.clamp(0.01, 0.99)
    }
}

/// The price at which a sample of the places below would be full; rows
/// between them and `top` are left out of account. `None` where few hang there.
fn guess(dense: &Dense, room: &[f64], top: usize, bracket: &Bracket) -> Option<f64> {
    let end = dense.rows.tree.end[top] as usize;
    let busy: Vec<usize> = (top..end)
        .filter(|p| dense.at[*p] < dense.at[*p + 1])
        .collect();
    if busy.len() < MANY {
        return None;
    }
    let stride = busy.len() / (MANY / 2);
    let sample: Vec<usize> = busy.iter().copied().step_by(stride).collect();
    let share = room[top] * sample.len() as f64 / busy.len() as f64;
    let (mut low, mut high) = (bracket.low, bracket.high);
    for _ in 0..16 {
        let price = 0.5 * (low + high);
        let demand: f64 = (sample.iter())
            .map(|p| own(dense, *p, price).min(room[*p]))
            .sum();
        if demand > share {
            low = price;
        } else {
            high = price;
        }
    }
    Some(0.5 * (low + high))
}

#[cfg(test)]
mod tests {
    use super::super::dense::Dense;
    use super::super::levels::Levels;
    use super::super::problem::{DeviceSpec, Group, LimitNode, Problem};
    use super::super::rows::Rows;
    use heliostat_models::{DeviceId, JobClass, JobId, SpeedCurve, Watts};

    /// Racks of five below one feed, every device a job of its own.
    fn site(rng: &mut fastrand::Rng, racks: usize) -> Problem {
        let node = |id: String, parents, limit| LimitNode {
            id,
            parents,
            limit: Watts(limit),
            uncontrolled: Watts::ZERO,
            uncertainty: Watts::ZERO,
            spare: Watts::ZERO,
        };
        let mut nodes = vec![node("feed".into(), vec![], racks as f64 * 1_900.0)];
        let (mut devices, mut groups) = (Vec::new(), Vec::new());
        for rack in 0..racks {
            nodes.push(node(
                format!("rack{rack}"),
                vec![0],
                1_200.0 + 1_500.0 * rng.f64(),
            ));
            for _ in 0..5 {
                let place = devices.len();
                devices.push(DeviceSpec {
                    id: DeviceId::from(format!("gpu{place}")),
                    min: Watts(100.0),
                    max: Watts(700.0),
                    node: rack + 1,
                    fixed: None,
                    step: Watts::ZERO,
                });
                let bend = 0.3 + 0.5 * rng.f64();
                let points: Vec<(Watts, f64)> = (0..=6)
                    .map(|k| (Watts(100.0 * f64::from(k + 1)), f64::from(k + 1).powf(bend)))
                    .collect();
                groups.push(Group {
                    job: JobId::from(format!("job{place}")),
                    class: JobClass::Training,
                    weight: 0.5 + rng.f64(),
                    floor_speed: 0.0,
                    curve: SpeedCurve::envelope(&points).unwrap(),
                    devices: vec![place],
                });
            }
        }
        Problem {
            nodes,
            devices,
            groups,
            contracts: Vec::new(),
            price_of_energy: 0.0,
            step: Watts::ZERO,
        }
    }

    #[test]
    fn two_threads_count_what_one_counts() {
        let mut rng = fastrand::Rng::with_seed(61);
        for _ in 0..20 {
            let racks = rng.usize(2..150);
            let problem = site(&mut rng, racks);
            let mut dense = Dense::new(&problem, Rows::new(&problem));
            let mut solve = |beside: u32| {
                dense.beside = beside;
                let mut levels = Levels::new(&dense);
                levels.solve(&dense, None);
                (levels.taken.clone(), levels.prices(&dense))
            };
            assert_eq!(solve(1), solve(u32::MAX));
        }
    }
}
