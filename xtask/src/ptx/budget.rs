//! What `ptxas -v` says about every kernel, and what it may say: `kernels/src/ptx/budget.toml`.

use crate::shell::Result;

/// Registers a thread and static shared memory of one kernel on the reference GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub kernel: String,
    pub registers: u32,
    /// bytes of static shared memory
    pub shared: u32,
    /// bytes of the stack frame and of spilled stores and loads: none is allowed
    pub stack: u32,
    pub spills: u32,
}

/// Reads the report of `ptxas -v`.
pub fn parse(report: &str) -> Vec<Usage> {
    let mut kernels: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_string();
            kernels.push(Usage { kernel, ..Usage::default() });
        }
        let Some(last) = kernels.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            last.stack = before(line, " bytes stack frame");
            last.spills = before(line, " bytes spill stores") + before(line, " bytes spill loads");
        }
        if line.contains(" registers") {
            last.registers = before(line, " registers");
            last.shared = before(line, " bytes smem");
        }
    }
    kernels.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    kernels
}

/// The number before `words`, 0 if they do not occur.
fn before(line: &str, words: &str) -> u32 {
    let head = line.find(words).map_or("", |at| &line[..at]);
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(head, |at| &head[at + 1..]);
    digits.parse().unwrap_or(0)
}

/// The lines `kernel = registers` of the budget file.
pub fn read(text: &str) -> Result<Vec<(String, u32)>> {
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '['])) {
        let (name, value) = line.split_once('=').ok_or_else(|| format!("budget.toml: `{line}`"))?;
        out.push((name.trim().to_string(), value.trim().parse()?));
    }
    Ok(out)
}

/// What breaks the budget, one line each.
pub fn violations(usage: &[Usage], budget: &[(String, u32)]) -> Vec<String> {
    let mut out = Vec::new();
    for u in usage {
        if u.spills > 0 || u.stack > 0 {
            out.push(format!("{} keeps {} bytes on a stack, {} spilled", u.kernel, u.stack, u.spills));
        }
        match budget.iter().find(|(name, _)| *name == u.kernel) {
            None => out.push(format!("{} has no line in budget.toml", u.kernel)),
            Some((_, most)) if u.registers > *most => {
                out.push(format!("{} uses {} registers, {most} are allowed", u.kernel, u.registers));
            }
            Some(_) => {}
        }
    }
    let gone = budget.iter().filter(|(name, _)| usage.iter().all(|u| u.kernel != *name));
    out.extend(gone.map(|(name, _)| format!("budget.toml names {name}, which does not exist")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
ptxas info    : 0 bytes gmem, 116 bytes cmem[2]
ptxas info    : Compiling entry function 'b' for 'sm_61'
ptxas info    : Function properties for b
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'a' for 'sm_61'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 25 registers, used 1 barriers, 2048 bytes smem, 340 bytes cmem[0]
";

    #[test]
    fn reports_are_read() {
        let [a, b] = &parse(REPORT)[..] else { panic!("two kernels") };
        assert_eq!((a.registers, a.shared, a.stack, a.spills), (25, 2048, 0, 0));
        assert_eq!((b.registers, b.shared, b.stack, b.spills), (128, 0, 8, 16));
    }

    #[test]
    fn spills_registers_and_names_are_checked() {
        let usage = parse(REPORT);
        let budget = read("# most registers\n[registers]\na = 24\nb = 128\nc = 64\n").expect("a budget");
        let found = violations(&usage, &budget);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("a uses 25 registers, 24 are allowed"));
        assert!(found[1].contains("b keeps 8 bytes on a stack, 16 spilled"));
        assert!(found[2].contains("names c"));
    }
}
