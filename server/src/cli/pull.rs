//! `hilda pull ORG/NAME`: a model from the Hugging Face hub.

use super::progress::Progress;
use super::{CliError, bytes_text, data_dir, duration_text};
use crate::hub::{HubError, endpoint};
use crate::pull::{Request, pull};

#[derive(clap::Args)]
pub struct Args {
    /// the repository, ORG/NAME
    name: String,
    /// branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// one GGUF file of the repository instead of config.json and safetensors
    #[arg(long, value_name = "NAME.gguf")]
    file: Option<String>,
    /// replace what is here from another commit
    #[arg(long)]
    replace: bool,
    #[arg(long)]
    json: bool,
}

pub fn run(a: Args) -> Result<(), CliError> {
    let base = endpoint();
    let request = Request {
        base: &base,
        repository: &a.name,
        revision: &a.revision,
        file: a.file.as_deref(),
        replace: a.replace,
    };
    let mut bar = Progress::new("megabyte");
    let (mut current, mut first, mut began) = (String::new(), 0, std::time::Instant::now());
    let done = pull(&data_dir(), &request, |file, have, total| {
        if file != current {
            (current, first, began) = (file.to_string(), have, std::time::Instant::now());
        }
        let speed = have.saturating_sub(first) as f64 / began.elapsed().as_secs_f64().max(1e-3);
        let left = match total > have && speed > 0.0 {
            true => format!("{file}, {} left", duration_text((total - have) as f64 / speed)),
            false => file.to_string(),
        };
        bar.update(have >> 20, (total >> 20).max(1), &left);
    });
    bar.finish();
    let (folder, manifest) = done.map_err(|e| match e {
        HubError::Refused { .. } | HubError::Absent { .. } | HubError::Content { .. } => {
            CliError::BadInput(e.to_string())
        }
        e => CliError::Failure(e.to_string()),
    })?;
    if a.json {
        println!("{}", serde_json::json!({ "folder": folder, "manifest": manifest }));
    } else {
        let bytes: u64 = manifest.files.iter().filter_map(|f| f.size).sum();
        let (n, commit) = (manifest.files.len(), &manifest.commit);
        eprintln!("{}: {n} files, {}, commit {commit}", folder.display(), bytes_text(bytes));
    }
    Ok(())
}
