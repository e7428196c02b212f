//! Starts the page; see hilda-app. A crate of its own because the last optimisation of the whole module follows the level
//! of the crate that is linked: numeric loops are vectorised at level 3, while everything else is compiled for size.

fn main() {
    hilda_app::start();
}
