//! HILDA from outside: the `hilda` program as people start it, its server over a real socket, its page in a browser.
//!
//! Nothing here links against the rooms of the workspace; what these tests know is what the documentation says
//! (`docs/api.md`, `hilda --help`). `tests/*.rs` test the command line and HTTP, `browser/*.mjs` the page.

pub mod http;
pub mod material;
pub mod program;
pub mod server;
