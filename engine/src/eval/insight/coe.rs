//! Chain of embedding: how a text moves through embedding space (Chain-of-Embedding, arXiv 2410.13640; KV-CoE of arXiv
//! 2601.20326). Given e_0 .. e_n in R^w,
//!
//! ```text
//! Mag_t = |e_{t+1} - e_t| / |e_n - e_0|        Ang_t = angle(e_{t+1}, e_t) / angle(e_n, e_0)
//! CoE-R = mean Mag - mean Ang
//! CoE-C = sqrt( (mean Mag cos Ang)^2 + (mean Mag sin Ang)^2 )
//! ```
//!
//! with the cosine clamped to [-1, 1] before arccos. The original's chain runs over layers of mean hidden states, KV-CoE's over the answer's tokens, ours over blocks (or tokens) of a clean text. Undefined, and then absent: fewer than two
//! embeddings, e_n = e_0, e_n parallel to e_0, an embedding that is 0 or not finite.

/// Both features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coe {
    pub r: f64,
    pub c: f64,
}

fn norm(a: &[f32]) -> f64 {
    a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}
fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
}
/// None for an embedding without a direction.
fn angle(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    let product = norm(a) * norm(b);
    (product > 0.0 && product.is_finite()).then(|| (dot / product).clamp(-1.0, 1.0).acos())
}

/// Features of a chain, none where they are undefined.
pub fn coe<E: AsRef<[f32]>>(chain: &[E]) -> Option<Coe> {
    let (first, last) = (chain.first()?.as_ref(), chain.last()?.as_ref());
    let (length, turn) = (distance(first, last), angle(first, last)?);
    // closer to parallel than arccos of rounded cosines can tell
    if chain.len() < 2 || length == 0.0 || turn < 1e-7 {
        return None;
    }
    let n = (chain.len() - 1) as f64;
    let (mut mag, mut ang, mut re, mut im) = (0.0, 0.0, 0.0, 0.0);
    for pair in chain.windows(2) {
        let (a, b) = (pair[0].as_ref(), pair[1].as_ref());
        let (m, t) = (distance(a, b) / length, angle(a, b)? / turn);
        (mag, ang, re, im) = (mag + m / n, ang + t / n, re + m * t.cos() / n, im + m * t.sin() / n);
    }
    let coe = Coe { r: mag - ang, c: re.hypot(im) };
    (coe.r.is_finite() && coe.c.is_finite()).then_some(coe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (1, 0), (1, 1), (0, 1): steps of 1 and 1 over sqrt 2; 45 degrees twice over 90.
    #[test]
    fn by_hand() {
        let c = coe(&[[1.0f32, 0.0], [1.0, 1.0], [0.0, 1.0]]).unwrap();
        let (m, a) = (0.5f64.sqrt(), 0.5f64);
        assert!((c.r - (m - a)).abs() < 1e-12, "{c:?}");
        assert!((c.c - m).abs() < 1e-12, "{c:?}");
        // a detour back to the start: Mag = 1, 2, Ang = 1, 2
        let c = coe(&[[1.0f32, 0.0], [0.0, 1.0], [2.0, 1.0]]).unwrap();
        let end = 2f64.sqrt();
        let (m, turn) = ([end / end, 2.0 / end], 0.5f64.atan());
        let t = [std::f64::consts::FRAC_PI_2 / turn, (std::f64::consts::FRAC_PI_2 - turn) / turn];
        let r = (m[0] + m[1]) / 2.0 - (t[0] + t[1]) / 2.0;
        let z =
            [(m[0] * t[0].cos() + m[1] * t[1].cos()) / 2.0, (m[0] * t[0].sin() + m[1] * t[1].sin()) / 2.0];
        assert!((c.r - r).abs() < 1e-7 && (c.c - z[0].hypot(z[1])).abs() < 1e-7, "{c:?} {r}");
    }

    #[test]
    fn undefined_is_absent() {
        let none: [&[[f32; 2]]; 7] = [
            &[],
            &[[1.0, 2.0]],
            &[[1.0, 2.0], [3.0, 1.0], [1.0, 2.0]],
            &[[1.0, 2.0], [3.0, 1.0], [2.0, 4.0]],
            &[[0.0, 0.0], [3.0, 1.0], [2.0, 4.0]],
            &[[1.0, 2.0], [0.0, 0.0], [2.0, 1.0]],
            &[[1.0, 2.0], [f32::NAN, 0.0], [2.0, 1.0]],
        ];
        for chain in none {
            assert_eq!(coe(chain), None, "{chain:?}");
        }
        // opposite directions: the cosine rounds below -1 without the clamp
        let a = [0.1f32, 0.2, 0.3];
        let c = coe(&[a, [0.3, 0.1, 0.0], a.map(|x| -3.0 * x)]).unwrap();
        assert!(c.r.is_finite() && c.c.is_finite());
    }
}
