//! Runs that differ only in their seed, joined into one curve with a band.

use std::collections::BTreeMap;
use std::sync::Arc;

use hilda_engine::config::RunConfig;

use crate::chart::{Look, Point, Series};

/// Everything of a configuration but its name, prose, device and seed, as one text. Runs of an ablation go on from a start
/// of their own seed, NAME-start-sSEED: that counts as the same start.
pub fn without_seed(config: &RunConfig) -> String {
    let mut c = config.clone();
    let own = format!("-s{}", c.seed);
    c.model.from = c.model.from.map(|f| f.strip_suffix(&own).map_or(f.clone(), str::to_string));
    c.seed = 0;
    c.hash()
}

/// Mean over `curves` at the steps that all of them have, with the lowest and the highest as the band.
pub fn join(curves: &[Series], name: String, style: usize) -> Series {
    let mut at: BTreeMap<u64, Vec<Point>> = BTreeMap::new();
    for c in curves {
        for p in c.points.iter().filter(|p| p.y.is_finite()) {
            at.entry(p.step as u64).or_default().push(*p);
        }
    }
    let points = at
        .into_values()
        .filter(|group| group.len() == curves.len() && !group.is_empty())
        .map(|group| {
            let n = group.len() as f64;
            let mean = |f: fn(&Point) -> f64| group.iter().map(f).sum::<f64>() / n;
            Point {
                step: group[0].step,
                tokens: group[0].tokens,
                time: mean(|p| p.time),
                compute: mean(|p| p.compute),
                y: mean(|p| p.y),
                low: group.iter().map(|p| p.y).fold(f64::INFINITY, f64::min),
                high: group.iter().map(|p| p.y).fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect();
    let look = curves.first().map_or(Look::Smoothed, |c| c.look);
    Series { name, style, look, range: true, restarts: vec![], points: Arc::new(points) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(ys: &[f64]) -> Series {
        let points =
            ys.iter().enumerate().map(|(i, y)| Point::new(i as f64, i as f64, i as f64, *y)).collect();
        Series {
            name: String::new(),
            style: 0,
            look: Look::Smoothed,
            range: false,
            restarts: vec![],
            points: Arc::new(points),
        }
    }

    #[test]
    fn a_start_of_the_same_seed_is_the_same_start() {
        let config = |seed: u64, from: &str| {
            let text = format!(
                "name = \"a-s{seed}\"\nseed = {seed}\nmodel = {{ from = \"{from}\" }}\ndata = {{ corpus = \"c\" }}\nbatch = {{ rows = 4 }}\n\
                 [[phase]]\nobjective = \"mdlm\"\ntokens = 4096\nlr = {{ peak = 1e-3 }}"
            );
            without_seed(&RunConfig::from_toml(&text).unwrap())
        };
        assert_eq!(config(1, "/runs/a-start-s1"), config(2, "/runs/a-start-s2"));
        assert_ne!(config(1, "/runs/a-start-s1"), config(2, "/runs/b-start-s2"));
    }

    #[test]
    fn the_band_spans_the_seeds_where_all_have_values() {
        let j = join(&[curve(&[1.0, 2.0, 9.0]), curve(&[3.0, f64::NAN]), curve(&[2.0, 5.0])], "j".into(), 1);
        assert_eq!(j.points.len(), 1);
        assert_eq!((j.points[0].low, j.points[0].y, j.points[0].high), (1.0, 2.0, 3.0));
    }
}
