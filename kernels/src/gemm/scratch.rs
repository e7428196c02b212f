//! Working memory of a thread: buffers at cache-line boundaries that are kept for the next product, so that no call
//! allocates once a thread is warm. What a buffer holds when it is handed out is not defined.

use std::cell::RefCell;

/// Sixteen floats on a cache line of their own: a 64-byte load never straddles two lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer larger than this is freed after use instead of being kept, in lines (8 MB).
const KEEP: usize = 1 << 17;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(vec![]) };
}

/// Calls `f` with `len` floats of this thread's memory. Calls may nest: each has a buffer of its own.
pub fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let lines = len.div_ceil(16);
    let mut buffer = FREE.with_borrow_mut(|free| {
        // the smallest that is large enough, else the largest, which grows
        let fits = (0..free.len()).filter(|i| free[*i].len() >= lines).min_by_key(|i| free[*i].len());
        let best = fits.or_else(|| (0..free.len()).max_by_key(|i| free[*i].len()));
        best.map_or_else(Vec::new, |i| free.swap_remove(i))
    });
    if buffer.len() < lines {
        buffer.clear();
        buffer.resize(lines, Line([0.0; 16]));
    }
    // SAFETY: a line is sixteen floats and nothing else.
    let floats = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr() as *mut f32, len) };
    let result = f(floats);
    if buffer.len() <= KEEP {
        FREE.with_borrow_mut(|free| free.push(buffer));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::with;

    #[test]
    fn nested_buffers_are_aligned_and_do_not_overlap() {
        for round in 0..3 {
            with(100, |a| {
                a.fill(1.0);
                with(7 + 50 * round, |b| {
                    b.fill(2.0);
                    assert_eq!((a.as_ptr() as usize % 64, b.as_ptr() as usize % 64), (0, 0));
                });
                assert!(a.iter().all(|x| *x == 1.0));
            });
        }
    }
}
