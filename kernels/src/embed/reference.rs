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
