//! From `metrics.jsonl` into the index, by byte offset, whole lines only.
//!
//! A line without its newline is not committed and waits. A trainer that was killed in the middle of a line leaves
//! half of it; if the next attempt's first line was glued to that half, the part from the last `{"kind":` on is
//! used. Lines that still do not parse are counted and skipped.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
};

use hilda_engine::record::Metric;

use super::{Index, RunFolder, StorageError, io_error};

/// Bytes read in one go; a longer line than this would be no metric.
const CHUNK: u64 = 4 << 20;

/// Brings the index up to date with a run's file. Returns the number of rows added or replaced.
pub fn ingest(index: &Index, run: &RunFolder) -> Result<usize, StorageError> {
    let _one_at_a_time = index.ingesting();
    let path = run.path.join("metrics.jsonl");
    let mut file = match fs::File::open(&path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(io_error("reading", &path)(e)),
    };
    let len = file.metadata().map_err(io_error("reading", &path))?.len();
    let mut offset = index.offset(&run.id)?;
    if offset > len {
        // committed lines are never removed: this is another file
        index.forget(&run.id)?;
        offset = 0;
    }
    let mut added = 0;
    while offset < len {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset)).map_err(io_error("reading", &path))?;
        (&mut file).take(CHUNK).read_to_end(&mut bytes).map_err(io_error("reading", &path))?;
        let end = match bytes.iter().rposition(|b| *b == b'\n') {
            Some(i) => i + 1,
            None if bytes.len() as u64 == CHUNK => bytes.len(),
            None => break,
        };
        let mut metrics = vec![];
        let mut bad = 0;
        for line in bytes[..end].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            match parse_line(line) {
                Some(m) => metrics.push(m),
                None => bad += 1,
            }
        }
        offset += end as u64;
        index.commit(&run.id, &metrics, bad, offset)?;
        added += metrics.len();
    }
    Ok(added)
}

/// The metric and its exact text.
fn parse_line(line: &[u8]) -> Option<(Metric, String)> {
    let line = std::str::from_utf8(line).ok()?;
    if let Ok(m) = serde_json::from_str(line) {
        return Some((m, line.into()));
    }
    let rest = &line[line.rfind("{\"kind\":")?..];
    Some((serde_json::from_str(rest).ok()?, rest.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn train(step: u64, attempt: u32, loss: f64) -> Metric {
        Metric::Train {
            step,
            attempt,
            tokens: step * 10,
            phase: 0,
            loss,
            grad_norm: 1.0,
            lr: 1e-3,
            seconds: 0.5,
            tokens_per_s: 20.0,
            flops: 1e6,
            time: step as f64,
        }
    }
    fn line(m: &Metric) -> String {
        serde_json::to_string(m).unwrap() + "\n"
    }
    struct Setup {
        dir: tempfile::TempDir,
        index: Index,
        run: RunFolder,
    }
    impl Setup {
        fn new() -> Setup {
            let dir = tempfile::tempdir().unwrap();
            let index = Index::open(&dir.path().join("hilda.sqlite")).unwrap();
            let run = RunFolder::new("r", dir.path().to_path_buf());
            Setup { dir, index, run }
        }
        fn write(&self, text: &str) {
            let p = self.dir.path().join("metrics.jsonl");
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(p)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        fn losses(&self) -> Vec<(u64, f64)> {
            self.index.train_points("r").unwrap().iter().map(|p| (p.step, p.loss)).collect()
        }
    }

    #[test]
    fn a_torn_last_line_waits_for_its_end() {
        let s = Setup::new();
        let second = line(&train(2, 1, 4.0));
        s.write(&line(&train(1, 1, 5.0)));
        s.write(&second[..20]);
        assert_eq!(ingest(&s.index, &s.run).unwrap(), 1);
        assert_eq!(ingest(&s.index, &s.run).unwrap(), 0);
        s.write(&second[20..]);
        assert_eq!(ingest(&s.index, &s.run).unwrap(), 1);
        assert_eq!(s.losses(), [(1, 5.0), (2, 4.0)]);
    }

    #[test]
    fn a_line_glued_to_a_torn_one_is_not_lost() {
        let s = Setup::new();
        s.write(&line(&train(1, 1, 5.0)));
        s.write(&line(&train(2, 1, 4.0))[..20]);
        s.write(&line(&train(2, 2, 3.0)));
        s.write("garbage\n");
        ingest(&s.index, &s.run).unwrap();
        assert_eq!(s.losses(), [(1, 5.0), (2, 3.0)]);
        assert_eq!(s.index.bad_lines("r").unwrap(), 1);
    }

    #[test]
    fn the_last_attempt_wins_under_a_new_id() {
        let s = Setup::new();
        for step in 1..=3 {
            s.write(&line(&train(step, 1, 5.0)));
        }
        ingest(&s.index, &s.run).unwrap();
        let seen = s.index.last_id("r").unwrap();
        s.write(&line(&train(3, 2, 4.5)));
        ingest(&s.index, &s.run).unwrap();
        assert_eq!(s.losses(), [(1, 5.0), (2, 5.0), (3, 4.5)]);
        // a client that saw everything gets exactly the replacement
        let rows = s.index.rows_after("r", seen, 10).unwrap();
        assert_eq!(rows.len(), 1);
        assert!(rows[0].1.contains("4.5"));
        // an earlier attempt never overwrites a later one
        s.write(&line(&train(3, 1, 9.0)));
        ingest(&s.index, &s.run).unwrap();
        assert_eq!(s.losses()[2], (3, 4.5));
        assert_eq!(s.index.cost("r").unwrap(), (1.5, 3e6));
    }

    #[test]
    fn a_deleted_index_is_rebuilt_and_a_broken_one_set_aside() {
        let s = Setup::new();
        s.write(&line(&train(1, 1, 5.0)));
        ingest(&s.index, &s.run).unwrap();
        let fresh = s.dir.path().join("other.sqlite");
        let index = Index::open(&fresh).unwrap();
        assert_eq!(ingest(&index, &s.run).unwrap(), 1);
        drop(index);
        fs::write(&fresh, "this is not a database, however long it may be".repeat(50)).unwrap();
        let index = Index::open(&fresh).unwrap();
        assert_eq!(ingest(&index, &s.run).unwrap(), 1);
        let aside = fs::read_dir(s.dir.path()).unwrap().flatten();
        assert!(aside.into_iter().any(|e| e.file_name().to_string_lossy().contains("broken")));
    }

    #[test]
    fn a_replaced_file_is_read_again() {
        let s = Setup::new();
        for step in 1..=5 {
            s.write(&line(&train(step, 1, 5.0)));
        }
        ingest(&s.index, &s.run).unwrap();
        fs::write(s.dir.path().join("metrics.jsonl"), line(&train(1, 1, 7.0))).unwrap();
        ingest(&s.index, &s.run).unwrap();
        assert_eq!(s.losses(), [(1, 7.0)]);
    }

    #[test]
    fn ids_are_not_reused_after_deletion() {
        let s = Setup::new();
        s.write(&line(&train(1, 1, 5.0)));
        ingest(&s.index, &s.run).unwrap();
        let before = s.index.last_id("r").unwrap();
        s.index.forget("r").unwrap();
        ingest(&s.index, &s.run).unwrap();
        assert!(s.index.last_id("r").unwrap() > before);
    }
}
