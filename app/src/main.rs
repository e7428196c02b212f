//! Starts the page; see the library.

fn main() {
    hilda_app::start();
}
