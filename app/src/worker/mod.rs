//! Models run in a Web Worker; the interface talks to it in messages.

pub mod host;
