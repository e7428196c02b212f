//! Logistic regression with an L2 penalty, on standardised values:
//!
//! ```text
//! z_i = w . (x_i - mean) / scale + b
//! J(w, b) = sum_i [ ln(1 + e^{z_i}) - y_i z_i ] + lambda / 2 |w|^2
//! ```
//!
//! The offset carries no penalty. J is convex, strictly so for lambda > 0 and both labels present; Newton's method with
//! halved steps finds its minimum. Mean and scale come from the rows it is fitted on; a value that never changes gets
//! scale 1 and weight 0.

/// A fitted regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    pub mean: Vec<f64>,
    pub scale: Vec<f64>,
    pub weights: Vec<f64>,
    pub bias: f64,
}

/// Nothing can be fitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FitError {
    #[error("all {n} problems have the same label: there is nothing to tell apart")]
    OneLabel { n: usize },
    #[error("row {row} has {got} values, the first {wanted}")]
    Width { row: usize, wanted: usize, got: usize },
    #[error("row {row}: value {at} is not a finite number")]
    Value { row: usize, at: usize },
    #[error("lambda {0} is not above 0")]
    Lambda(f64),
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}
fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// J and its gradient at theta = [w, b], over standardised rows.
pub fn objective(rows: &[Vec<f64>], y: &[bool], lambda: f64, theta: &[f64]) -> (f64, Vec<f64>) {
    let d = theta.len() - 1;
    let mut value = lambda / 2.0 * theta[..d].iter().map(|w| w * w).sum::<f64>();
    let mut gradient: Vec<f64> = theta[..d].iter().map(|w| lambda * w).chain([0.0]).collect();
    for (x, y) in rows.iter().zip(y) {
        let z = theta[d] + x.iter().zip(theta).map(|(x, w)| x * w).sum::<f64>();
        let target = f64::from(u8::from(*y));
        value += softplus(z) - target * z;
        let error = sigmoid(z) - target;
        gradient.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(g, x)| *g += error * x);
    }
    (value, gradient)
}

/// Second derivatives at theta, [d + 1, d + 1], lower triangle.
fn curvature(rows: &[Vec<f64>], lambda: f64, theta: &[f64]) -> Vec<f64> {
    let n = theta.len();
    let mut h = vec![0.0; n * n];
    for x in rows {
        let z = theta[n - 1] + x.iter().zip(theta).map(|(x, w)| x * w).sum::<f64>();
        let p = sigmoid(z);
        let weight = p * (1.0 - p);
        for i in 0..n {
            let xi = weight * x.get(i).unwrap_or(&1.0);
            let row = &mut h[i * n..i * n + i + 1];
            row.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(h, x)| *h += xi * x);
        }
    }
    (0..n - 1).for_each(|i| h[i * n + i] += lambda);
    // the offset has no penalty: keeps the matrix definite where every p is 0 or 1
    h[n * n - 1] += 1e-12;
    h
}

/// A = L L^T for a symmetric positive definite A given by its lower triangle, in its place (Cholesky).
fn factor(a: &mut [f64], n: usize) {
    for i in 0..n {
        for j in 0..=i {
            let (head, tail) = a.split_at_mut(i * n);
            let row = &mut tail[..i + 1];
            if j < i {
                let dot: f64 = row[..j].iter().zip(&head[j * n..j * n + j]).map(|(x, y)| x * y).sum();
                row[j] = (row[j] - dot) / head[j * n + j];
            } else {
                let square: f64 = row[..i].iter().map(|x| x * x).sum();
                row[i] = (row[i] - square).max(f64::MIN_POSITIVE).sqrt();
            }
        }
    }
}

/// L x = b, in place.
fn forward(l: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let dot: f64 = (0..i).map(|j| l[i * n + j] * b[j]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
}

/// L^T x = b, in place.
fn backward(l: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|j| l[j * n + i] * b[j]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
}

/// The same problem in as many values as there are rows, where those are fewer: with X X^T = L L^T the rows of L have the inner
/// products of the rows of X, so that J has the same minimum, at w = X^T L^{-T} w'. Costs n^3 instead of d^3 a step.
struct Reduced {
    l: Vec<f64>,
    n: usize,
}

impl Reduced {
    fn of(rows: &[Vec<f64>]) -> Reduced {
        let n = rows.len();
        let mut l = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                l[i * n + j] = rows[i].iter().zip(&rows[j]).map(|(x, y)| x * y).sum();
            }
        }
        // rows of mean 0 are dependent
        let most = (0..n).map(|i| l[i * n + i]).fold(0.0, f64::max);
        (0..n).for_each(|i| l[i * n + i] += 1e-12 * most + f64::MIN_POSITIVE);
        factor(&mut l, n);
        Reduced { l, n }
    }
    fn rows(&self) -> Vec<Vec<f64>> {
        let row = |i: usize| (0..self.n).map(|j| if j <= i { self.l[i * self.n + j] } else { 0.0 }).collect();
        (0..self.n).map(row).collect()
    }
    fn weights(&self, rows: &[Vec<f64>], mut own: Vec<f64>) -> Vec<f64> {
        backward(&self.l, &mut own);
        let sum = |i: usize| rows.iter().zip(&own).map(|(x, v)| x[i] * v).sum();
        (0..rows[0].len()).map(sum).collect()
    }
}

/// The minimum of J: [w, b].
fn minimum(rows: &[Vec<f64>], y: &[bool], lambda: f64) -> Vec<f64> {
    let n = rows.len() as f64;
    let positive = y.iter().filter(|y| **y).count() as f64;
    let d = rows[0].len();
    let mut theta = vec![0.0; d + 1];
    theta[d] = (positive / (n - positive)).ln();
    let (mut value, mut gradient) = objective(rows, y, lambda, &theta);
    for _ in 0..100 {
        if gradient.iter().map(|g| g * g).sum::<f64>().sqrt() < 1e-9 * n {
            break;
        }
        let (mut h, mut step) = (curvature(rows, lambda, &theta), gradient.clone());
        factor(&mut h, d + 1);
        forward(&h, &mut step);
        backward(&h, &mut step);
        let mut share = 1.0;
        loop {
            let next: Vec<f64> = theta.iter().zip(&step).map(|(t, s)| t - share * s).collect();
            let (v, g) = objective(rows, y, lambda, &next);
            if v <= value || share < 1e-9 {
                (theta, value, gradient) = (next, v, g);
                break;
            }
            share /= 2.0;
        }
    }
    theta
}

impl Logistic {
    /// Fits rows of values to labels.
    ///
    /// # Errors
    /// [`FitError`]: one label only, rows of different widths, values that are not finite, lambda of 0.
    pub fn fit(rows: &[&[f32]], y: &[bool], lambda: f64) -> Result<Logistic, FitError> {
        if lambda.is_nan() || lambda <= 0.0 {
            return Err(FitError::Lambda(lambda));
        }
        let positive = y.iter().filter(|y| **y).count();
        if positive == 0 || positive == y.len() {
            return Err(FitError::OneLabel { n: y.len() });
        }
        let wanted = rows[0].len();
        for (row, r) in rows.iter().enumerate() {
            if r.len() != wanted {
                return Err(FitError::Width { row, wanted, got: r.len() });
            }
            if let Some(at) = r.iter().position(|x| !x.is_finite()) {
                return Err(FitError::Value { row, at });
            }
        }
        let n = rows.len() as f64;
        let column = |i: usize| rows.iter().map(move |r| f64::from(r[i]));
        let mean: Vec<f64> = (0..wanted).map(|i| column(i).sum::<f64>() / n).collect();
        let scale: Vec<f64> = (0..wanted)
            .map(|i| (column(i).map(|x| (x - mean[i]).powi(2)).sum::<f64>() / n).sqrt())
            .map(|s| if s > 1e-12 { s } else { 1.0 })
            .collect();
        let standard: Vec<Vec<f64>> = rows
            .iter()
            .map(|r| (0..wanted).map(|i| (f64::from(r[i]) - mean[i]) / scale[i]).collect())
            .collect();
        let (weights, bias) = if rows.len() < wanted {
            let reduced = Reduced::of(&standard);
            let mut theta = minimum(&reduced.rows(), y, lambda);
            let bias = theta.pop().expect("an offset");
            (reduced.weights(&standard, theta), bias)
        } else {
            let mut theta = minimum(&standard, y, lambda);
            let bias = theta.pop().expect("an offset");
            (theta, bias)
        };
        Ok(Logistic { mean, scale, weights, bias })
    }

    /// Probability of the label.
    pub fn p(&self, x: &[f32]) -> f64 {
        let term = |i: usize| self.weights[i] * (f64::from(x[i]) - self.mean[i]) / self.scale[i];
        sigmoid(self.bias + (0..x.len()).map(term).sum::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_kernels::rng::{Rng, Stream};

    fn data(n: usize, d: usize) -> (Vec<Vec<f32>>, Vec<bool>) {
        let rng = Rng::new(5, Stream::Test, 1);
        let rows: Vec<Vec<f32>> = (0..n)
            .map(|i| (0..d).map(|j| 3.0 * rng.normal(0, i as u32, j as u32) as f32 + 1.0).collect())
            .collect();
        let y =
            rows.iter().enumerate().map(|(i, r)| f64::from(r[0]) + 4.0 * rng.normal(1, i as u32, 0) > 1.0);
        let y = y.collect();
        (rows, y)
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let (rows, y) = data(30, 3);
        let rows: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().map(|x| f64::from(*x)).collect()).collect();
        let theta = [0.3, -0.2, 0.1, 0.5];
        let (_, gradient) = objective(&rows, &y, 0.7, &theta);
        for i in 0..4 {
            let at = |h: f64| {
                let mut t = theta;
                t[i] += h;
                objective(&rows, &y, 0.7, &t).0
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-5 * (1.0 + slope.abs()), "{i}: {slope} {}", gradient[i]);
        }
        let h = curvature(&rows, 0.7, &theta);
        for i in 0..4 {
            for j in 0..=i {
                let mut t = theta;
                t[i] += 1e-5;
                let slope = (objective(&rows, &y, 0.7, &t).1[j] - gradient[j]) / 1e-5;
                assert!((slope - h[i * 4 + j]).abs() < 1e-3 * (1.0 + slope.abs()), "{i} {j}");
            }
        }
    }

    /// One value of -1 and 1, each 100 times, with 25 and 75 labels. Standardised it stays as it is, the offset is 0, and the
    /// stationary condition is 200 (sigma(w) - 0.75) + lambda w = 0, solved here by bisection; without a penalty w = ln 3.
    #[test]
    fn a_closed_form() {
        let rows: Vec<[f32; 1]> = (0..200).map(|i| [if i < 100 { -1.0 } else { 1.0 }]).collect();
        let y: Vec<bool> = (0..200).map(|i| if i < 100 { i < 25 } else { i < 175 }).collect();
        let refs: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        for lambda in [1e-9, 1.0, 50.0] {
            let fit = Logistic::fit(&refs, &y, lambda).unwrap();
            let (mut low, mut high) = (0.0, 5.0);
            for _ in 0..200 {
                let w = (low + high) / 2.0;
                if 200.0 * (sigmoid(w) - 0.75) + lambda * w < 0.0 { low = w } else { high = w }
            }
            assert!((fit.weights[0] - low).abs() < 1e-7 && fit.bias.abs() < 1e-7, "{lambda}: {fit:?} {low}");
        }
        let free = Logistic::fit(&refs, &y, 1e-9).unwrap();
        assert!((free.weights[0] - 3f64.ln()).abs() < 1e-6);
        assert!((free.p(&[1.0]) - 0.75).abs() < 1e-6);
    }

    /// Plain gradient descent comes to the same place.
    #[test]
    fn another_solver_agrees() {
        let (rows, y) = data(60, 4);
        let refs: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        let fit = Logistic::fit(&refs, &y, 2.0).unwrap();
        let standard: Vec<Vec<f64>> = rows
            .iter()
            .map(|r| (0..4).map(|i| (f64::from(r[i]) - fit.mean[i]) / fit.scale[i]).collect())
            .collect();
        let mut theta = vec![0.0; 5];
        for _ in 0..20_000 {
            let (_, g) = objective(&standard, &y, 2.0, &theta);
            theta.iter_mut().zip(g).for_each(|(t, g)| *t -= 0.02 * g);
        }
        for (a, b) in theta.iter().zip(fit.weights.iter().chain([&fit.bias])) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    /// With fewer rows than values the minimum is found in another basis; the gradient in the original one is 0 there.
    #[test]
    fn fewer_rows_than_values() {
        let (rows, y) = data(20, 50);
        let refs: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        let fit = Logistic::fit(&refs, &y, 5.0).unwrap();
        let standard: Vec<Vec<f64>> = rows
            .iter()
            .map(|r| (0..50).map(|i| (f64::from(r[i]) - fit.mean[i]) / fit.scale[i]).collect())
            .collect();
        let theta: Vec<f64> = fit.weights.iter().copied().chain([fit.bias]).collect();
        let (_, gradient) = objective(&standard, &y, 5.0, &theta);
        assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{gradient:?}");
    }

    #[test]
    fn what_cannot_be_fitted_is_named() {
        let (rows, y) = data(10, 2);
        let refs: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        assert_eq!(Logistic::fit(&refs, &[true; 10], 1.0), Err(FitError::OneLabel { n: 10 }));
        assert_eq!(Logistic::fit(&refs, &y, 0.0), Err(FitError::Lambda(0.0)));
        let mut odd = refs.clone();
        odd[3] = &rows[3][..1];
        assert_eq!(Logistic::fit(&odd, &y, 1.0), Err(FitError::Width { row: 3, wanted: 2, got: 1 }));
        odd[3] = &[0.0, f32::NAN];
        assert_eq!(Logistic::fit(&odd, &y, 1.0), Err(FitError::Value { row: 3, at: 1 }));
        // separable labels and a constant value still have a minimum
        let rows: Vec<[f32; 2]> = (0..8).map(|i| [i as f32, 7.0]).collect();
        let refs: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        let fit = Logistic::fit(&refs, &[false, false, false, false, true, true, true, true], 1e-3).unwrap();
        assert!(fit.weights[0] > 1.0 && fit.weights[1] == 0.0 && fit.bias.is_finite());
    }
}
