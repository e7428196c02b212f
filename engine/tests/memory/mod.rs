//! A bound on the memory of one thread. What goes beyond it is reported with its input before the process ends, because an
//! allocation that fails cannot be caught.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

thread_local! {
    /// bytes that may still be taken; `None` where nothing is counted
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// what to report: the input and where it goes
    static INPUT: Cell<Option<(*const [u8], *const Path)>> = const { Cell::new(None) };
}

struct Bounded;

// SAFETY: every call goes on to the system's allocator; a null pointer is the contract's answer to a refusal.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if take(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // old and new exist side by side for a moment
        if !take(size) {
            return std::ptr::null_mut();
        }
        give(layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give(layout.size());
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn take(bytes: usize) -> bool {
    let Ok(left) = LEFT.try_with(Cell::get) else { return true };
    match left {
        Some(left) if bytes > left => {
            LEFT.set(None);
            report(bytes, left);
            false
        }
        Some(left) => {
            LEFT.set(Some(left - bytes));
            true
        }
        None => true,
    }
}

fn give(bytes: usize) {
    let _ = LEFT.try_with(|l| l.set(l.get().map(|left| left.saturating_add(bytes))));
}

fn report(bytes: usize, left: usize) {
    let Some((input, path)) = INPUT.take() else { return };
    // SAFETY: `bounded` holds both for as long as it counts on this thread.
    let (input, path) = unsafe { (&*input, &*path) };
    let written = std::fs::write(path, input);
    eprintln!("{bytes} bytes were asked for, {left} are left; the input is {} ({written:?})", path.display());
}

/// Runs `work`, which may take `most` bytes on this thread. Beyond, the input is written to `path`, and the process ends.
pub fn bounded<T>(most: usize, input: &[u8], path: &Path, work: impl FnOnce() -> T) -> T {
    INPUT.set(Some((input as *const [u8], path as *const Path)));
    LEFT.set(Some(most));
    let out = work();
    LEFT.set(None);
    INPUT.set(None);
    out
}
