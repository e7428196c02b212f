//! Memory that the process holds, as Linux counts it: bytes resident now and at most. Elsewhere both read 0.

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Most bytes that were resident at once, since the process started or since [`restart`].
pub fn peak() -> u64 {
    status("VmHWM:")
}

/// Bytes resident now, from which [`peak`] counts on; where the mark cannot be moved, it stays.
pub fn restart() -> u64 {
    // "5" resets the high-water mark (proc(5), clear_refs)
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    status("VmRSS:")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Other tests of the process take and give memory meanwhile.
    #[test]
    fn what_is_touched_counts() {
        let before = restart();
        let mut block = vec![0u8; 256 << 20];
        block.iter_mut().step_by(4096).for_each(|x| *x = 1);
        let grown = peak() - before;
        assert!(std::hint::black_box(&block)[0] == 1 && grown >= 128 << 20, "{grown}");
    }
}
