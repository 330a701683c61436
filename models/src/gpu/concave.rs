//! Regression by a concave, non-decreasing function: weighted least squares
//! over the cone that such functions form.
//!
//! A concave non-decreasing function on abscissae `x_0 < … < x_n` with a value
//! of zero or more at `x_0` is a constant plus ramps `min(x, x_j) - x_0`, all
//! with coefficients that are not negative. Finding the coefficients is
//! non-negative least squares, solved exactly and in finitely many steps by
//! the active-set method of Lawson and Hanson (*Solving Least Squares
//! Problems*, 1974, chapter 23); the problem is that of Hildreth (1954),
//! and pool-adjacent-violators is its relative for monotone functions alone.

/// Gradients below this share of the largest count as zero.
const ENOUGH: f64 = 1e-11;

/// The values at `x` of the concave, non-decreasing function, nowhere below
/// zero, for which the sum of `weight·(value - y)²` is smallest. `x` rises
/// strictly, weights are above zero, and all three have one length; an empty
/// input gives an empty answer.
pub fn concave_fit(x: &[f64], y: &[f64], weight: &[f64]) -> Vec<f64> {
    let size = x.len().min(y.len()).min(weight.len());
    if size == 0 {
        return Vec::new();
    }
    let width = (x[size - 1] - x[0]).max(f64::MIN_POSITIVE);
    let ramp = |j: usize, i: usize| -> f64 {
        if j == 0 {
            1.0
        } else {
            (x[i].min(x[j]) - x[0]) / width
        }
    };
    let product = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| -> f64 {
        (0..size).map(|i| weight[i] * a(i) * b(i)).sum()
    };
    let gram: Vec<Vec<f64>> = (0..size)
        .map(|j| {
            let row = (0..size).map(|k| product(&|i| ramp(j, i), &|i| ramp(k, i)));
            row.collect()
        })
        .collect();
    let right: Vec<f64> = (0..size)
        .map(|j| product(&|i| ramp(j, i), &|i| y[i]))
        .collect();
    let coefficients = non_negative_least_squares(&gram, &right);
    (0..size)
        .map(|i| (0..size).map(|j| coefficients[j] * ramp(j, i)).sum())
        .collect()
}

/// Lawson and Hanson's method on the normal equations.
fn non_negative_least_squares(gram: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
    let size = right.len();
    let mut found = vec![0.0; size];
    let mut free = vec![false; size];
    let scale = right.iter().fold(0.0f64, |m, r| m.max(r.abs()));
    // Each outer step lowers the objective, so no active set comes back; the
    // bound only guards against rounding.
    for _ in 0..4 * size + 8 {
        let gradient = |j: usize| -> f64 {
            right[j] - gram[j].iter().zip(&found).map(|(g, f)| g * f).sum::<f64>()
        };
        let enter = (0..size)
            .filter(|j| !free[*j])
            .map(|j| (j, gradient(j) / gram[j][j].sqrt()))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        match enter {
            Some((j, slope)) if slope * gram[j][j].sqrt() > ENOUGH * scale => free[j] = true,
            _ => break,
        }
        loop {
            let members: Vec<usize> = (0..size).filter(|j| free[*j]).collect();
            let Some(wanted) = solve(gram, right, &members) else {
                // Numerically dependent: the last to enter brings nothing.
                if let Some((j, _)) = enter {
                    free[j] = false;
                }
                break;
            };
            let step = (members.iter().zip(&wanted))
                .filter(|(_, w)| **w <= 0.0)
                .map(|(j, w)| found[*j] / (found[*j] - w))
                .fold(1.0f64, f64::min);
            for (j, w) in members.iter().zip(&wanted) {
                found[*j] += step * (w - found[*j]);
            }
            if step >= 1.0 {
                break;
            }
            for j in members {
                if found[j] <= 1e-15 {
                    found[j] = 0.0;
                    free[j] = false;
                }
            }
        }
    }
    found
}

/// Solves the normal equations of a subset by Cholesky's method.
fn solve(gram: &[Vec<f64>], right: &[f64], members: &[usize]) -> Option<Vec<f64>> {
    let size = members.len();
    let mut lower = vec![vec![0.0; size]; size];
    for i in 0..size {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let rest = gram[members[i]][members[j]] - done;
            if i == j {
                if rest <= 1e-14 * gram[members[i]][members[i]] {
                    return None;
                }
                lower[i][i] = rest.sqrt();
            } else {
                lower[i][j] = rest / lower[j][j];
            }
        }
    }
    let mut half = vec![0.0; size];
    for i in 0..size {
        let done: f64 = (0..i).map(|k| lower[i][k] * half[k]).sum();
        half[i] = (right[members[i]] - done) / lower[i][i];
    }
    let mut out = vec![0.0; size];
    for i in (0..size).rev() {
        let done: f64 = (i + 1..size).map(|k| lower[k][i] * out[k]).sum();
        out[i] = (half[i] - done) / lower[i][i];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(fit: &[f64], y: &[f64], w: &[f64]) -> f64 {
        (fit.iter().zip(y).zip(w))
            .map(|((f, y), w)| w * (f - y).powi(2))
            .sum()
    }

    /// The same by trying every set of corners: least squares over straight
    /// pieces between them, kept where the result lies in the cone.
    fn brute(x: &[f64], y: &[f64], w: &[f64]) -> f64 {
        let n = x.len();
        let mut best = f64::INFINITY;
        // Bit j - 1: a corner at x_j (the last: the slope of the last piece is above zero).
        for set in 0u32..1 << (n - 1) {
            for with_constant in [false, true] {
                let mut basis: Vec<Vec<f64>> = Vec::new();
                if with_constant {
                    basis.push(vec![1.0; n]);
                }
                for j in 1..n {
                    if set & (1 << (j - 1)) != 0 {
                        basis.push(x.iter().map(|v| v.min(x[j]) - x[0]).collect());
                    }
                }
                if basis.is_empty() {
                    best = best.min(cost(&vec![0.0; n], y, w));
                    continue;
                }
                // Gram-Schmidt in the weighted product: no normal equations here.
                let mut left: Vec<f64> = y.to_vec();
                let mut normal: Vec<Vec<f64>> = Vec::new();
                let dot =
                    |a: &[f64], b: &[f64]| -> f64 { (0..n).map(|i| w[i] * a[i] * b[i]).sum() };
                for column in &basis {
                    let mut v = column.clone();
                    for _ in 0..2 {
                        for q in &normal {
                            let along = dot(&v, q);
                            v.iter_mut().zip(q).for_each(|(v, q)| *v -= along * q);
                        }
                    }
                    let size = dot(&v, &v).sqrt();
                    v.iter_mut().for_each(|v| *v /= size);
                    let along = dot(&left, &v);
                    left.iter_mut().zip(&v).for_each(|(l, v)| *l -= along * v);
                    normal.push(v);
                }
                let fit: Vec<f64> = y.iter().zip(&left).map(|(y, l)| y - l).collect();
                let slope = |i: usize| (fit[i + 1] - fit[i]) / (x[i + 1] - x[i]);
                let in_cone = fit[0] >= -1e-9
                    && (0..n - 1).all(|i| slope(i) >= -1e-9)
                    && (1..n - 1).all(|i| slope(i) <= slope(i - 1) + 1e-9);
                if in_cone {
                    best = best.min(cost(&fit, y, w));
                }
            }
        }
        best
    }

    fn points(most: usize) -> impl Strategy<Value = Vec<(f64, f64, f64)>> {
        prop::collection::vec((0.05..1.0f64, 0.0..1.3f64, 0.01..100.0f64), 2..most)
    }

    fn split(points: &[(f64, f64, f64)]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut at = 200.0;
        let x = points.iter().map(|p| {
            at += 50.0 * p.0;
            at
        });
        (
            x.collect(),
            points.iter().map(|p| p.1).collect(),
            points.iter().map(|p| p.2).collect(),
        )
    }

    proptest! {
        #[test]
        fn fits_as_well_as_trying_every_set_of_corners(points in points(8)) {
            let (x, y, w) = split(&points);
            let fit = concave_fit(&x, &y, &w);
            let (ours, best) = (cost(&fit, &y, &w), brute(&x, &y, &w));
            prop_assert!((ours - best).abs() <= 1e-7 * (1.0 + best), "{ours} {best}");
        }

        #[test]
        fn lies_in_the_cone_and_keeps_what_lies_there_already(points in points(20)) {
            let (x, y, w) = split(&points);
            let fit = concave_fit(&x, &y, &w);
            let slopes = |f: &[f64]| -> Vec<f64> {
                (1..f.len()).map(|i| (f[i] - f[i - 1]) / (x[i] - x[i - 1])).collect()
            };
            prop_assert!(fit[0] >= -1e-12);
            prop_assert!(slopes(&fit).iter().all(|s| *s >= -1e-10));
            prop_assert!(slopes(&fit).windows(2).all(|s| s[1] <= s[0] + 1e-10));
            let again = concave_fit(&x, &fit, &w);
            prop_assert!(fit.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn nothing_and_one_point() {
        assert!(concave_fit(&[], &[], &[]).is_empty());
        assert!((concave_fit(&[1.0], &[0.5], &[2.0])[0] - 0.5).abs() < 1e-12);
    }
}
