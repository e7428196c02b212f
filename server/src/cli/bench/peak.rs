//! What every figure of a benchmark stands beside: the device's matrix-product peak and its memory bandwidth, measured.

use std::time::Instant;

use hilda_kernels::gemm::{Mat, Threads, gemm};
use hilda_kernels::{At, Train, par};

pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

pub fn seconds(f: impl FnOnce()) -> f64 {
    let t = Instant::now();
    f();
    t.elapsed().as_secs_f64()
}

/// Seconds of one `once`, for devices that only record: as many as take some milliseconds, then a wait. One value of each
/// repetition.
pub fn each(repeat: usize, mut once: impl FnMut(), mut wait: impl FnMut()) -> Vec<f64> {
    const LEAST: f64 = 5e-3;
    once();
    wait();
    let first = seconds(|| {
        once();
        wait();
    });
    let count = (LEAST / first.max(1e-9)).ceil().clamp(1.0, 500.0) as usize;
    let mut many = || {
        (0..count).for_each(|_| once());
        wait();
    };
    (0..repeat).map(|_| seconds(&mut many) / count as f64).collect()
}

/// One way to compute the square product: its name, its side and a run.
type Product<'a> = (&'static str, usize, Box<dyn FnMut() + 'a>);

/// The device's matrix-product peak, measured around the work that is compared with it: machines shared with others
/// are now faster, now slower, and a peak from a slow moment would make any work look good. The faster of several
/// products counts, so that no share looks good because ours is slow.
pub struct Peak<'a> {
    products: Vec<Product<'a>>,
    /// GFLOP/s of the faster product, in groups: before the work, between its steps, after it
    groups: Vec<Vec<f64>>,
    /// GFLOP/s of every product
    each: Vec<Vec<f64>>,
}

impl<'a> Peak<'a> {
    /// Warms up: until two products in a row take the same time within 5 %, at most eight.
    fn new(products: Vec<Product<'a>>) -> Self {
        let mut peak = Peak { products, groups: vec![], each: vec![] };
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

    /// Products of 2048-cubed matrices by our kernel and by the `gemm` crate.
    pub fn cpu() -> Self {
        const N: usize = 2048;
        let fill = |m: usize| -> Vec<f32> { (0..N * N).map(|i| (i % m) as f32 * 1e-2).collect() };
        let ours = {
            let (a, b, mut c) = (fill(101), fill(97), vec![0f32; N * N]);
            move || {
                let (a, b) = (Mat::rows(&a, N), Mat::rows(&b, N));
                gemm(Threads::Pool, N, N, N, 1.0, a, b, &mut c, N, false);
            }
        };
        let theirs = {
            let (a, b, mut c) = (fill(101), fill(97), vec![0f32; N * N]);
            let (s, parallel) = (N as isize, gemm::Parallelism::Rayon(par::threads()));
            // SAFETY: three buffers of N * N values, rows N apart.
            move || unsafe {
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                gemm::gemm(
                    N, N, N, c, 1, s, false, a, 1, s, b, 1, s, 0.0, 1.0, false, false, false, parallel,
                );
            }
        };
        Peak::new(vec![("ours", N, Box::new(ours)), ("gemm crate", N, Box::new(theirs))])
    }

    /// Products of 4096-cubed matrices on a device, by each of its ways.
    pub fn of<B: Train + Clone + 'a>(ways: &[(&'static str, B)]) -> Self
    where
        B::Buf: 'a,
    {
        const N: usize = 4096;
        let at = At::new(0, N * N);
        let product = |(name, b): &(&'static str, B)| -> Product<'a> {
            let fill = |m: usize| -> Vec<f32> { (0..N * N).map(|i| (i % m) as f32 * 1e-2).collect() };
            let (mut x, mut w, mut y) = (b.buf(N * N), b.buf(N * N), b.buf(N * N));
            b.write(&mut x, 0, &fill(101));
            b.write(&mut w, 0, &fill(97));
            let b = b.clone();
            let once = move || {
                b.linear(&x, &w, at, &mut y, N, N, N, false);
                b.read_range(&y, 0, 1);
            };
            (name, N, Box::new(once))
        };
        Peak::new(ways.iter().map(product).collect())
    }

    /// GFLOP/s of the faster product.
    fn product(&mut self) -> f64 {
        let rate = |(_, n, once): &mut Product| 2.0 * (*n as f64).powi(3) / seconds(once) / 1e9;
        let rates: Vec<f64> = self.products.iter_mut().map(rate).collect();
        let best = rates.iter().copied().fold(0.0, f64::max);
        self.each.push(rates);
        best
    }
    /// Median of each way's products, GFLOP/s, by its name.
    pub fn by_name(&self) -> serde_json::Map<String, serde_json::Value> {
        let of = |i: usize| median(self.each.iter().map(|e| e[i]).collect());
        let name = |name: &str| format!("{}_gflops", name.replace(' ', "_"));
        self.products.iter().enumerate().map(|(i, p)| (name(p.0), of(i).into())).collect()
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

/// Memory bandwidth of the CPU in GB/s: a = b + 3 c over 64 MB each (McCalpin's triad; 12 bytes a value).
pub fn triad(repeat: usize) -> f64 {
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

/// Memory bandwidth of a device in GB/s: a copy of 256 MB, bytes read and bytes written.
pub fn copy<B: Train>(b: &B, repeat: usize) -> f64 {
    let n = 64 << 20;
    let (from, mut to, probe) = (b.buf(n), b.buf(n), b.buf(1));
    let times = each(repeat, || b.copy(&from, 0, &mut to, 0, n), || drop(b.read_range(&probe, 0, 1)));
    8.0 * n as f64 / median(times) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_above_one_is_not_reported() {
        let groups = vec![vec![100.0; 5], vec![400.0; 2], vec![90.0, 200.0, 200.0, 200.0, 210.0]];
        let peak = Peak { products: vec![], groups, each: vec![] };
        assert_eq!((peak.gflops(), peak.spread()), (200.0, 310.0 / 200.0));
        assert_eq!(peak.share(100e9, 1.0)["gemm_share"], 0.5);
        let odd = peak.share(300e9, 1.0);
        assert!(
            odd["gemm_share"].is_null() && odd["gemm_share_note"].as_str().unwrap().contains("1.50"),
            "{odd}"
        );
    }

    #[test]
    fn short_work_is_repeated_and_divided() {
        let (mut runs, mut waits) = (0, 0);
        let times = each(3, || runs += 1, || waits += 1);
        assert_eq!((times.len(), waits, runs), (3, 5, 2 + 3 * 500));
        assert!(times.iter().all(|t| *t < 1e-4), "{times:?}");
    }
}
