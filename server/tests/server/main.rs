//! The server from outside: handlers without a socket, and the program as a process with a stand-in trainer.

mod client;
mod fake_trainer;
mod handlers;
mod models;
mod process;
mod setup;
mod site;
