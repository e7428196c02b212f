use super::*;
use crate::config::Noise;
use crate::diffusion::hybrid::HybridWeighting;

fn process(shift: bool, edit: Option<EditSpec>, per_block: bool) -> Corruption {
    Corruption {
        seed: 9,
        mask_id: 1,
        forbid: vec![1, 2],
        eos_id: 0,
        vocab: 40,
        t: [1e-3, 1.0],
        schedule: Schedule::Linear,
        weighting: Weighting::InvT,
        shift,
        edit,
        hybrid: None,
        scope: if per_block { Scope::Block } else { Scope::Sample },
        answers: vec![],
    }
}
fn row(l: u32, block: u32) -> Vec<Place> {
    (0..l).map(|p| Place { position: p, document: 0, block: p / block, stream: 1 }).collect()
}

#[test]
fn only_picks_are_corrupted_and_the_first_token_survives_a_shift() {
    let c = process(
        true,
        Some(EditSpec { mix: 1.0, rate: 0.5, lambda_edit: 1.0, lambda_keep: 0.1, noise: Noise::Uniform }),
        true,
    );
    let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
    for step in 0..50 {
        for plan in c.draw(step, &[&x, &x], &[row(32, 8), row(32, 8)]) {
            assert_eq!((plan.noisy[0], plan.counted), (x[0], 31));
            let mut kinds = vec![None; 32];
            plan.picks.iter().for_each(|p| kinds[p.column as usize] = Some(p.kind));
            for (i, kind) in kinds.iter().enumerate() {
                match kind {
                    Some(Kind::Masked) => assert_eq!(plan.noisy[i], 1),
                    Some(Kind::Replaced) => assert!(plan.noisy[i] != x[i] && plan.noisy[i] > 2),
                    _ => assert_eq!(plan.noisy[i], x[i]),
                }
            }
        }
    }
}

/// What stands at a token follows q_t: masks, truths and every other symbol alike, end-of-text among them; nothing that
/// cannot be predicted is ever drawn, and every token is supervised.
#[test]
fn mixed_noise_is_drawn_as_declared() {
    for p_uniform in [0.3, 1.0] {
        let hybrid = HybridSpec { p_uniform, weighting: HybridWeighting::Nelbo };
        let c = Corruption { hybrid: Some(hybrid), vocab: 8, ..process(true, None, true) };
        let x: Vec<u32> = (0..32).map(|i| [3, 4, 5, 6, 7, 0][i % 6]).collect();
        let (mut counts, mut want) = ([0f64; 3], [0f64; 3]);
        let mut others = [0f64; 8];
        for step in 0..300 {
            for plan in c.draw(step, &[&x, &x], &[row(32, 8), row(32, 8)]) {
                assert_eq!((plan.noisy[0], plan.counted, plan.picks.len()), (x[0], 31, 31));
                for pick in &plan.picks {
                    let (i, truth) = (pick.column as usize, x[pick.column as usize]);
                    let Kind::Noisy { alpha, beta, observed } = pick.kind else { panic!("{pick:?}") };
                    assert_eq!(observed.unwrap_or(1), plan.noisy[i]);
                    // six symbols: alpha + 6 beta is what the mask leaves
                    let seen = [plan.noisy[i] == 1, plan.noisy[i] == truth];
                    let class = seen.iter().position(|s| *s).unwrap_or(2);
                    counts[class] += 1.0;
                    if class == 2 {
                        others[plan.noisy[i] as usize] += 1.0;
                    }
                    let q = [1.0 - alpha - 6.0 * beta, alpha + beta, 5.0 * beta];
                    q.iter().zip(&mut want).for_each(|(q, w)| *w += *q as f64);
                    let t = match class {
                        0 => Some((1.0 + (1.0 - 4.0 / pick.weight as f64).max(0.0).sqrt()) / 2.0),
                        _ => None,
                    };
                    // w = 1 / (t (1 - t)) at masks, for the t that alpha and beta belong to
                    if let Some(t) = t {
                        let near = [t, 1.0 - t].map(|t| Hybrid::at(t, p_uniform, 6).alpha - alpha as f64);
                        assert!(near.iter().any(|d| d.abs() < 1e-2), "{pick:?}");
                    }
                }
            }
        }
        for (n, w) in counts.iter().zip(want) {
            assert!((n - w).abs() < 5.0 * w.max(0.0).sqrt() + 1e-3, "{p_uniform}: {counts:?} {want:?}");
        }
        assert_eq!((others[1], others[2], counts[0] > 0.0), (0.0, 0.0, p_uniform < 1.0));
        let each: Vec<f64> = [0, 3, 4, 5, 6, 7].iter().map(|v| others[*v as usize]).collect();
        let mean = each.iter().sum::<f64>() / 6.0;
        assert!(each.iter().all(|n| (n - mean).abs() < 0.12 * mean), "{each:?}");
    }
}

/// Only answers are corrupted, under every kind of noise, and their weights are those of a row of answers alone.
#[test]
fn prompts_stay_as_they_are() {
    let edit = EditSpec { mix: 1.0, rate: 0.9, lambda_edit: 1.0, lambda_keep: 1.0, noise: Noise::Uniform };
    let hybrid = HybridSpec { p_uniform: 0.3, weighting: HybridWeighting::Nelbo };
    let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
    let answer: Vec<bool> = (0..32).map(|i| i >= 13).collect();
    let row_of = |answers| Row { tokens: &x, documents: vec![0; 32], positions: (0..32).collect(), answers };
    let plain = process(true, None, true);
    for c in
        [plain.clone(), process(true, Some(edit), true), Corruption { hybrid: Some(hybrid), ..plain.clone() }]
    {
        let c = c.on(&[row_of(Some(&answer)), row_of(Some(&answer))]);
        let (tokens, places) = ([&x[..], &x[..]], [row(32, 8), row(32, 8)]);
        for step in 0..50 {
            let plans = c.draw(step, &tokens, &places);
            let inverse = if c.edit.is_none() && c.hybrid.is_none() {
                c.complement(step, &tokens, &places, &plans)
            } else {
                vec![]
            };
            for plan in plans.iter().chain(&inverse) {
                assert_eq!(plan.counted, 19);
                assert_eq!(plan.noisy[..13], x[..13]);
                assert!(plan.picks.iter().all(|p| p.column >= 13));
            }
        }
    }
    assert_eq!(plain.clone().on(&[row_of(None)]).answers.len(), 0);
}

#[test]
fn complementary_plans_cover_every_token_exactly_once() {
    let x: Vec<u32> = (0..32).map(|i| 3 + i % 30).collect();
    for (shift, block) in [(true, 8), (false, 32)] {
        let c = process(shift, None, block == 8);
        let (tokens, places) = (vec![&x[..]; 3], vec![row(32, block); 3]);
        for step in 0..40 {
            let plans = c.draw(step, &tokens, &places);
            let inverse = c.complement(step, &tokens, &places, &plans);
            for (a, b) in plans.iter().zip(&inverse) {
                let mut columns: Vec<u32> = a.picks.iter().chain(&b.picks).map(|p| p.column).collect();
                columns.sort_unstable();
                assert_eq!(columns, (u32::from(shift)..32).collect::<Vec<_>>());
                assert_eq!((a.counted, b.counted), (columns.len(), columns.len()));
                let masked = |plan: &RowPlan, i: usize| plan.noisy[i] == 1;
                assert!((usize::from(shift)..32).all(|i| masked(a, i) != masked(b, i)));
                // 1/t and 1/(1 - t) of one rate
                for (p, q) in a.picks.iter().flat_map(|p| b.picks.iter().map(move |q| (p, q))) {
                    if p.column / block == q.column / block {
                        let t = 1.0 / p.weight as f64;
                        assert!((q.weight as f64 * (1.0 - t).max(1e-3) - 1.0).abs() < 1e-3);
                    }
                }
            }
        }
    }
}

#[test]
fn rates_are_stratified_and_do_not_follow_the_position() {
    let c = process(false, None, true);
    let x = vec![5u32; 64];
    let places: Vec<_> = (0..16).map(|_| row(64, 8)).collect();
    let (mut first, mut last, mut all) = (0.0, 0.0, 0.0);
    let n = 200;
    for step in 0..n {
        for plan in c.draw(step, &vec![&x[..]; 16], &places) {
            let share = |a: usize, b: usize| plan.noisy[a..b].iter().filter(|t| **t == 1).count() as f64;
            first += share(0, 8);
            last += share(56, 64);
            all += share(0, 64);
        }
    }
    let count = 16.0 * n as f64;
    assert!((first / count / 8.0 - 0.5).abs() < 0.01 && (last / count / 8.0 - 0.5).abs() < 0.01);
    assert!((all / count / 64.0 - 0.5).abs() < 0.003);
}

/// `methods/mdlm.md` 5.2: the weighted sum of a uniform denoiser is L ln(V - 1) in expectation.
#[test]
fn uniform_denoiser_is_unbiased() {
    let c = process(false, None, false);
    let x = vec![5u32; 16];
    let (mut s, n) = (0.0, 4000);
    for step in 0..n {
        for plan in c.draw(step, &vec![&x[..]; 8], &vec![row(16, 16); 8]) {
            s += plan.picks.iter().map(|p| p.weight as f64).sum::<f64>() / 16.0 / 8.0;
        }
    }
    assert!((s / n as f64 - 1.0).abs() < 0.02, "{}", s / n as f64);
}
