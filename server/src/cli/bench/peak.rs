//! What every figure of a benchmark stands beside: the machine's matrix-product peak and its memory bandwidth.

use std::time::Instant;

use hilda_kernels::gemm::{Mat, Threads, gemm};
use hilda_kernels::par;

pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

pub fn seconds(f: impl FnOnce()) -> f64 {
    let t = Instant::now();
    f();
    t.elapsed().as_secs_f64()
}

/// The machine's matrix-product peak, measured around the work that is compared with it: machines shared with others
/// are now faster, now slower, and a peak from a slow moment would make any work look good.
pub struct Peak {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    /// GFLOP/s of each product, in groups: before the work, between its steps, after it
    groups: Vec<Vec<f64>>,
    /// every product of ours and of the crate
    each: Vec<[f64; 2]>,
}

impl Peak {
    const N: usize = 2048;

    /// Warms up: until two products in a row take the same time within 5 %, at most eight.
    pub fn new() -> Peak {
        let fill = |m: usize| (0..Self::N * Self::N).map(|i| (i % m) as f32 * 1e-2).collect();
        let mut peak = Peak {
            a: fill(101),
            b: fill(97),
            c: vec![0f32; Self::N * Self::N],
            groups: vec![],
            each: vec![],
        };
        let mut last = peak.product();
        for _ in 0..7 {
            let now = peak.product();
            if (now / last - 1.0).abs() < 0.05 {
                break;
            }
            last = now;
        }
        peak
    }
    /// GFLOP/s of one product of 2048-cubed f32 matrices: the faster of our own kernel and of the `gemm` crate, so that no
    /// share looks good because our product is slow.
    fn product(&mut self) -> f64 {
        let n = Self::N;
        let (a, b) = (Mat::rows(&self.a, n), Mat::rows(&self.b, n));
        let ours = seconds(|| gemm(Threads::Pool, n, n, n, 1.0, a, b, &mut self.c, n, false));
        let (s, parallel) = (n as isize, gemm::Parallelism::Rayon(par::threads()));
        // SAFETY: three buffers of n * n values, rows n apart.
        let theirs = seconds(|| unsafe {
            let (a, b, c) = (self.a.as_ptr(), self.b.as_ptr(), self.c.as_mut_ptr());
            gemm::gemm(n, n, n, c, 1, s, false, a, 1, s, b, 1, s, 0.0, 1.0, false, false, false, parallel);
        });
        let rate = |t: f64| 2.0 * (n as f64).powi(3) / t / 1e9;
        self.each.push([rate(ours), rate(theirs)]);
        rate(ours.min(theirs))
    }
    /// Medians of all products of our kernel and of the `gemm` crate, GFLOP/s.
    pub fn both(&self) -> [f64; 2] {
        [0, 1].map(|i| median(self.each.iter().map(|e| e[i]).collect()))
    }
    /// A group of five products.
    pub fn five(&mut self) {
        let group = (0..5).map(|_| self.product()).collect();
        self.groups.push(group);
    }
    /// Measures five, then runs `once` `repeat` times with a product after each, then five again. Seconds of each run.
    pub fn around(&mut self, repeat: usize, mut once: impl FnMut()) -> Vec<f64> {
        self.five();
        let (mut times, mut between) = (vec![], vec![]);
        for i in 0..repeat {
            times.push(seconds(&mut once));
            if i < 10 {
                between.push(self.product());
            }
        }
        self.groups.push(between);
        self.five();
        times
    }
    /// The largest of the groups' medians; a group of less than five has none.
    pub fn gflops(&self) -> f64 {
        self.groups.iter().filter(|g| g.len() >= 5).map(|g| median(g.clone())).fold(0.0, f64::max)
    }
    /// Largest minus smallest product over the peak.
    pub fn spread(&self) -> f64 {
        let all = || self.groups.iter().flatten().copied();
        (all().fold(0.0, f64::max) - all().fold(f64::INFINITY, f64::min)) / self.gflops()
    }
    /// Share of the peak that work of `flops` in `t` seconds reached, as JSON: nothing where it came out above 1, because
    /// then the machine was slower while its peak was measured than while it worked.
    pub fn share(&self, flops: f64, t: f64) -> serde_json::Value {
        let share = flops / t / 1e9 / self.gflops();
        if share <= 1.0 {
            return serde_json::json!({ "gemm_share": share });
        }
        let note =
            format!("came out as {share:.2}: the machine's speed changed during the measurement; repeat it");
        serde_json::json!({ "gemm_share": null, "gemm_share_note": note })
    }
}

/// Memory bandwidth in GB/s: a = b + 3 c over 64 MB each (McCalpin's triad; 12 bytes a value).
pub fn bandwidth(repeat: usize) -> f64 {
    let n = 16 << 20;
    let (b, c) = (vec![1f32; n], vec![2f32; n]);
    let mut a = vec![0f32; n];
    let mut once = || {
        par::chunks(&mut a, 1 << 18, |i, a| {
            let (b, c) = (&b[i << 18..][..a.len()], &c[i << 18..][..a.len()]);
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        })
    };
    once();
    let times = (0..repeat).map(|_| seconds(&mut once)).collect();
    12.0 * n as f64 / median(times) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_above_one_is_not_reported() {
        let groups = vec![vec![100.0; 5], vec![400.0; 2], vec![90.0, 200.0, 200.0, 200.0, 210.0]];
        let peak = Peak { a: vec![], b: vec![], c: vec![], groups, each: vec![] };
        assert_eq!((peak.gflops(), peak.spread()), (200.0, 310.0 / 200.0));
        assert_eq!(peak.share(100e9, 1.0)["gemm_share"], 0.5);
        let odd = peak.share(300e9, 1.0);
        assert!(
            odd["gemm_share"].is_null() && odd["gemm_share_note"].as_str().unwrap().contains("1.50"),
            "{odd}"
        );
    }
}
