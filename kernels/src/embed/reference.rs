//! Plain loops in f64.

/// out[r] = scale table[ids[r]]
pub fn gather(table: &[f32], ids: &[u32], scale: f32, width: usize) -> Vec<f32> {
    ids.iter().flat_map(|id| (0..width).map(move |i| scale * table[*id as usize * width + i])).collect()
}

/// table[ids[r]] += scale d[r]
pub fn scatter_add(d: &[f32], ids: &[u32], scale: f32, table: &mut [f32], width: usize) {
    let mut sum: Vec<f64> = table.iter().map(|x| *x as f64).collect();
    for (r, id) in ids.iter().enumerate() {
        for i in 0..width {
            sum[*id as usize * width + i] += scale as f64 * d[r * width + i] as f64;
        }
    }
    table.iter_mut().zip(sum).for_each(|(t, s)| *t = s as f32);
}

/// out[r] = scale sum_k w[r, k] table[ids[r, k]]
pub fn mix(table: &[f32], ids: &[u32], weights: &[f32], scale: f32, rows: usize, width: usize) -> Vec<f32> {
    let k = ids.len() / rows.max(1);
    let at = |r: usize, i: usize| -> f64 {
        (r * k..(r + 1) * k).map(|j| weights[j] as f64 * table[ids[j] as usize * width + i] as f64).sum()
    };
    (0..rows * width).map(|i| (scale as f64 * at(i / width, i % width)) as f32).collect()
}

/// (d_weights [rows, K], d_table) of [`mix`]
pub fn mix_backward(
    table: &[f32],
    ids: &[u32],
    weights: &[f32],
    d: &[f32],
    scale: f32,
    width: usize,
) -> (Vec<f32>, Vec<f32>) {
    let k = ids.len() / (d.len() / width).max(1);
    let (mut dw, mut dt) = (vec![0f32; ids.len()], vec![0f64; table.len()]);
    for (j, id) in ids.iter().enumerate() {
        let (row, at) = (&d[j / k * width..][..width], *id as usize * width);
        let dot: f64 = row.iter().zip(&table[at..]).map(|(a, b)| *a as f64 * *b as f64).sum();
        dw[j] = (scale as f64 * dot) as f32;
        row.iter().enumerate().for_each(|(i, d)| dt[at + i] += scale as f64 * weights[j] as f64 * *d as f64);
    }
    (dw, dt.into_iter().map(|x| x as f32).collect())
}
