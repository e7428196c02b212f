//! `hilda data list`: registered corpora.

use serde_json::json;

use super::{CliError, bytes_text, open_data};
use crate::{estimate::corpus_names, storage::folder_bytes};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Registered corpora
    List {
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> Result<(), CliError> {
    let data = open_data()?;
    match args.command {
        Command::List { json } => {
            let all: Vec<_> = corpus_names(&data)
                .into_iter()
                .map(|n| {
                    let bytes = folder_bytes(&data.corpora().join(&n));
                    (n, bytes)
                })
                .collect();
            if json {
                let v: Vec<_> = all.iter().map(|(n, b)| json!({ "name": n, "bytes": b })).collect();
                println!("{}", serde_json::to_string_pretty(&v).expect("plain data"));
            } else {
                all.iter().for_each(|(n, b)| println!("{n:<30} {}", bytes_text(*b)));
            }
            Ok(())
        }
    }
}
