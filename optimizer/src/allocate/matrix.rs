//! Gangs against limits as a sparse matrix, for problems whose gangs or limits
//! cut across one another.
//!
//! The variable of a gang is what all its devices together take above their
//! floors, in watts; an entry is the share of its devices below a limit.

use super::dense::Dense;

/// The part of a problem that a choice is left in.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    /// Slots with a stretch worth more than λ.
    pub slots: Vec<u32>,
    /// Rows that those could fill.
    pub rows: Vec<u32>,
    /// Watts left at those rows.
    pub left: Vec<f64>,
    /// Where each column's entries begin.
    start: Vec<u32>,
    /// Row (by place in `rows`) and share, column by column.
    entries: Vec<(u32, f64)>,
    /// Where each column's stretches begin.
    pieces_start: Vec<u32>,
    /// Worth per watt net of λ, and watts.
    pieces: Vec<(f64, f64)>,
    /// Watts that each column can take.
    pub most: Vec<f64>,
}

impl Matrix {
    /// Of a problem whose floors fit.
    pub fn new(dense: &Dense) -> Self {
        let mut matrix = Self {
            slots: Vec::new(),
            rows: Vec::new(),
            left: Vec::new(),
            start: vec![0],
            entries: Vec::new(),
            pieces_start: vec![0],
            pieces: Vec::new(),
            most: Vec::new(),
        };
        let mut sum = vec![0.0; dense.rows.count];
        let mut met: Vec<u32> = Vec::new();
        let mut filled = vec![0.0; dense.rows.count];
        for slot in 0..dense.group.len() {
            let before = matrix.pieces.len();
            for segment in dense.segments(slot) {
                let worth = dense.slope[segment] - dense.price;
                if worth > 0.0 {
                    matrix
                        .pieces
                        .push((worth, dense.width[segment] * dense.unit));
                }
            }
            if matrix.pieces.len() == before {
                continue;
            }
            let most: f64 = matrix.pieces[before..].iter().map(|p| p.1).sum();
            for (point, count) in dense.points_of(slot) {
                for row in dense.rows.above(*point) {
                    if sum[*row as usize] == 0.0 {
                        met.push(*row);
                    }
                    sum[*row as usize] += f64::from(*count);
                }
            }
            met.sort_unstable();
            for row in met.drain(..) {
                let share = sum[row as usize] / dense.range[slot].count;
                sum[row as usize] = 0.0;
                filled[row as usize] += share * most;
                matrix.entries.push((row, share));
            }
            matrix.slots.push(slot as u32);
            matrix.start.push(matrix.entries.len() as u32);
            matrix.pieces_start.push(matrix.pieces.len() as u32);
            matrix.most.push(most);
        }
        matrix.leave_out(dense, &filled);
        matrix
    }

    /// Leaves out rows that nothing could fill.
    fn leave_out(&mut self, dense: &Dense, filled: &[f64]) {
        let mut place = vec![u32::MAX; filled.len()];
        for (row, filled) in filled.iter().enumerate() {
            let left = dense.left[row].max(0.0) * dense.unit;
            if *filled > left {
                place[row] = self.rows.len() as u32;
                self.rows.push(row as u32);
                self.left.push(left);
            }
        }
        let mut kept = 0;
        for column in 0..self.slots.len() {
            let (begin, end) = (self.start[column] as usize, self.start[column + 1] as usize);
            self.start[column] = kept as u32;
            for at in begin..end {
                let (row, share) = self.entries[at];
                if place[row as usize] != u32::MAX {
                    self.entries[kept] = (place[row as usize], share);
                    kept += 1;
                }
            }
        }
        if let Some(last) = self.start.last_mut() {
            *last = kept as u32;
        }
        self.entries.truncate(kept);
    }

    /// Entries of a column.
    pub fn column(&self, column: usize) -> &[(u32, f64)] {
        &self.entries[self.start[column] as usize..self.start[column + 1] as usize]
    }

    /// Stretches of a column by falling worth: worth per watt net of λ, watts.
    pub fn pieces(&self, column: usize) -> &[(f64, f64)] {
        &self.pieces[self.pieces_start[column] as usize..self.pieces_start[column + 1] as usize]
    }

    /// How many entries and stretches there are.
    pub fn size(&self) -> usize {
        self.entries.len() + self.pieces.len()
    }

    /// Watts left at each row.
    pub fn left_after(&self, taken: &[f64]) -> Vec<f64> {
        let mut left = self.left.clone();
        for (column, taken) in taken.iter().enumerate() {
            for (row, share) in self.column(column) {
                left[*row as usize] -= share * taken;
            }
        }
        left
    }

    /// Worth of what the columns take, net of λ.
    pub fn value(&self, taken: &[f64]) -> f64 {
        let columns = taken.iter().enumerate();
        columns
            .map(|(column, taken)| self.worth(column, *taken))
            .sum()
    }

    fn worth(&self, column: usize, taken: f64) -> f64 {
        let (mut worth, mut rest) = (0.0, taken);
        for (slope, width) in self.pieces(column) {
            worth += slope * rest.min(*width);
            rest -= width;
            if rest <= 0.0 {
                break;
            }
        }
        worth
    }

    /// What no choice can be worth more than, at these prices of the rows.
    pub fn bound(&self, prices: &[f64]) -> f64 {
        let rent: f64 = prices.iter().zip(&self.left).map(|(p, l)| p * l).sum();
        let columns = (0..self.slots.len()).map(|column| {
            let cost = self.cost(column, prices);
            let pieces = self.pieces(column).iter();
            pieces
                .map(|(slope, width)| (slope - cost).max(0.0) * width)
                .sum::<f64>()
        });
        rent + columns.sum::<f64>()
    }

    /// What a watt of a column costs at these prices.
    pub fn cost(&self, column: usize, prices: &[f64]) -> f64 {
        let (fours, rest) = self.column(column).as_chunks::<4>();
        // Four sums side by side: one would wait for each of its additions.
        let mut sums = [0.0; 4];
        for four in fours {
            for (sum, (row, share)) in sums.iter_mut().zip(four) {
                *sum += share * prices[*row as usize];
            }
        }
        let rest: f64 = (rest.iter())
            .map(|(row, share)| share * prices[*row as usize])
            .sum();
        sums.iter().sum::<f64>() + rest
    }

    /// Stretches by falling worth: worth, column, watts.
    pub fn order(&self) -> Vec<(f64, u32, f64)> {
        let mut order = Vec::with_capacity(self.pieces.len());
        for column in 0..self.slots.len() {
            let pieces = self.pieces(column).iter();
            order.extend(pieces.map(|(slope, width)| (*slope, column as u32, *width)));
        }
        // A stable sort keeps the stretches of a column in their order.
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order
    }

    /// Gives stretches in order of worth where all limits have room; only
    /// raises. Returns the worth at which each row first refused.
    pub fn fill(&self, order: &[(f64, u32, f64)], taken: &mut [f64]) -> Vec<Option<f64>> {
        let mut left = self.left_after(taken);
        let mut level = vec![None; left.len()];
        // What a column has already, spent on its best stretches.
        let mut spent = taken.to_vec();
        let mut stopped = vec![false; taken.len()];
        for (worth, column, width) in order {
            let column = *column as usize;
            let had = spent[column].min(*width);
            spent[column] -= had;
            let wanted = width - had;
            if wanted <= 0.0 || stopped[column] {
                continue;
            }
            let mut given = wanted;
            for (row, share) in self.column(column) {
                given = given.min((left[*row as usize] / share).max(0.0));
            }
            taken[column] += given;
            for (row, share) in self.column(column) {
                let left = &mut left[*row as usize];
                *left -= share * given;
                if given < wanted && *left <= share * 1e-6 {
                    level[*row as usize].get_or_insert(*worth);
                }
            }
            stopped[column] = given < wanted;
        }
        level
    }

    /// Lowers what columns take, in proportion, until every row is kept.
    pub fn pull_inside(&self, taken: &mut [f64]) {
        for (column, taken) in taken.iter_mut().enumerate() {
            *taken = taken.clamp(0.0, self.most[column]);
        }
        let left = self.left_after(taken);
        // Each column keeps what the row that is exceeded most leaves it.
        let keep: Vec<f64> = (left.iter().zip(&self.left))
            .map(|(after, room)| {
                let used = room - after;
                if *after < 0.0 && used > 0.0 {
                    room / used
                } else {
                    1.0
                }
            })
            .collect();
        for (column, taken) in taken.iter_mut().enumerate() {
            let keeps = self
                .column(column)
                .iter()
                .map(|(row, _)| keep[*row as usize]);
            *taken *= keeps.fold(1.0, f64::min);
        }
    }
}
