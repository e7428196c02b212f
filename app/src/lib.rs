//! The page. One WebAssembly module serves two threads: in a window it mounts the interface, in a Web Worker it
//! serves models ([`worker::host`]). The interface never computes with a model itself, so it is never blocked.
//!
//! A library, so that what needs no browser (charts, formats, verdicts) is tested on the native target.

mod api;
mod chart;
mod dashboard;
mod dom;
mod later;
mod playground;
mod shared_page;
mod shell;
mod theme;
mod worker;

/// Entry point of both threads.
pub fn start() {
    console_error_panic_hook::set_once();
    if web_sys::window().is_some() {
        leptos::mount::mount_to_body(shell::App);
    } else {
        worker::host::start();
    }
}
