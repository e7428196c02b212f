//! A GGUF header held against its file before anything else reads it: an alignment of zero, sizes that overflow and
//! lists that would take many times the file's size in memory end here as errors.
//!
//! Layout (llama.cpp, versions 2 and 3, little endian): magic, version u32, tensors u64, keys u64; each key: name, type
//! u32, value; each tensor: name, dimensions u32, each u64, type u32, offset u64. A string is u64 and that many bytes; a
//! list is a type, u64 and that many values.

use std::io::{Read, Seek, SeekFrom};

use super::CheckpointError;

/// Values of all lists together; vocabularies have below a million tokens, merges and kinds.
const MOST_VALUES: u64 = 1 << 23;
/// Bytes of a string; templates of chats are kilobytes.
const MOST_TEXT: u64 = 1 << 24;
const MOST_DEPTH: u32 = 4;
const ALIGNMENT: &str = "general.alignment";

fn bad(what: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Format(format!("gguf: {what}"))
}

struct Header<'a, R> {
    reader: &'a mut R,
    /// bytes not read yet
    left: u64,
    /// values that lists may still have
    values: u64,
}

/// Reads the header and gives the reader back at its start.
///
/// Errors: what the module comment lists, a file that ends early, another version.
pub fn check<R: Read + Seek>(reader: &mut R) -> Result<(), CheckpointError> {
    let length = reader.seek(SeekFrom::End(0)).map_err(bad)?;
    reader.rewind().map_err(bad)?;
    let mut h = Header { reader, left: length, values: MOST_VALUES };
    if &h.bytes::<4>()? != b"GGUF" {
        return Err(bad("this is no GGUF file"));
    }
    let version = h.u32()?;
    if !(2..=3).contains(&version) {
        return Err(bad(format!("version {version} is not read here (2, 3)")));
    }
    let (tensors, keys) = (h.u64()?, h.u64()?);
    // a key takes 13 bytes at least, a tensor 24
    if keys.saturating_mul(13).saturating_add(tensors.saturating_mul(24)) > h.left {
        return Err(bad(format!("{tensors} tensors and {keys} keys do not fit into {length} bytes")));
    }
    for _ in 0..keys {
        let key = h.text()?;
        let kind = h.u32()?;
        let value = h.value(kind, 0)?;
        if key == ALIGNMENT.as_bytes() && value.is_some_and(|v| v == 0 || v > 1 << 20) {
            return Err(bad(format!("an alignment of {} bytes", value.unwrap_or(0))));
        }
    }
    for _ in 0..tensors {
        let name = h.text()?;
        let name = String::from_utf8_lossy(&name);
        let dimensions = h.u32()?;
        if dimensions > 4 {
            return Err(bad(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut values = 1u64;
        for _ in 0..dimensions {
            values = values.saturating_mul(h.u64()?);
        }
        // two bits a value are the smallest format
        if values / 4 > length {
            return Err(bad(format!("tensor {name} has {values} values in a file of {length} bytes")));
        }
        let (_, offset) = (h.u32()?, h.u64()?);
        if offset > length {
            return Err(bad(format!("tensor {name} lies at byte {offset} of a file of {length}")));
        }
    }
    h.reader.rewind().map_err(bad)
}

impl<R: Read + Seek> Header<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        self.left = self.left.checked_sub(N as u64).ok_or_else(|| bad("the header is cut short"))?;
        self.reader.read_exact(&mut out).map_err(bad)?;
        Ok(out)
    }
    fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.bytes().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.bytes().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Result<Vec<u8>, CheckpointError> {
        let n = self.u64()?;
        if n > self.left.min(MOST_TEXT) {
            return Err(bad(format!("a text of {n} bytes, where {} are left", self.left)));
        }
        let mut out = vec![0; n as usize];
        self.left -= n;
        self.reader.read_exact(&mut out).map_err(bad)?;
        Ok(out)
    }
    /// Passes over a value; gives it where it is a whole number of up to 32 bits.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<u32>, CheckpointError> {
        Ok(match kind {
            0 | 1 | 7 => Some(self.bytes::<1>()?[0].into()),
            2 | 3 => Some(u16::from_le_bytes(self.bytes()?).into()),
            4 | 5 => Some(self.u32()?),
            6 => {
                self.u32()?;
                None
            }
            10..=12 => {
                self.u64()?;
                None
            }
            8 => {
                self.text()?;
                None
            }
            9 if depth < MOST_DEPTH => {
                let (kind, n) = (self.u32()?, self.u64()?);
                if n > self.left || n > self.values {
                    return Err(bad(format!("a list of {n} values, where {} bytes are left", self.left)));
                }
                self.values -= n;
                for _ in 0..n {
                    self.value(kind, depth + 1)?;
                }
                None
            }
            9 => return Err(bad("lists within lists within lists")),
            other => return Err(bad(format!("a value of the unknown type {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A header with one key and one tensor.
    fn file(version: u32, kind: u32, value: &[u8], dimensions: [u64; 2], offset: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(version.to_le_bytes());
        out.extend([1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        out.extend((ALIGNMENT.len() as u64).to_le_bytes());
        out.extend(ALIGNMENT.as_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(value);
        out.extend([1u64.to_le_bytes().as_slice(), b"t", &2u32.to_le_bytes()].concat());
        dimensions.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend([0u32.to_le_bytes().as_slice(), &offset.to_le_bytes()].concat());
        out
    }

    #[test]
    fn headers_that_hold_pass_and_others_say_why() {
        let said = |bytes: Vec<u8>| check(&mut Cursor::new(bytes)).map_err(|e| e.to_string());
        let four = 32u32.to_le_bytes();
        assert_eq!(said(file(3, 4, &four, [2, 2], 0)), Ok(()));
        for (bytes, word) in [
            (file(9, 4, &four, [2, 2], 0), "version 9"),
            (file(3, 4, &[0; 4], [2, 2], 0), "alignment of 0"),
            (file(3, 0, &[0], [2, 2], 0), "alignment of 0"),
            (file(3, 4, &four, [1 << 40, 1 << 40], 0), "values in a file"),
            (file(3, 4, &four, [2, 2], u64::MAX), "lies at byte"),
            (file(3, 99, &four, [2, 2], 0), "unknown type 99"),
            (file(3, 8, &u64::MAX.to_le_bytes(), [2, 2], 0), "a text of"),
            (
                file(3, 9, &[4u32.to_le_bytes().as_slice(), &(1u64 << 50).to_le_bytes()].concat(), [2, 2], 0),
                "a list of",
            ),
            (b"GGML".to_vec(), "no GGUF"),
            (vec![], "cut short"),
        ] {
            let e = said(bytes).unwrap_err();
            assert!(e.contains(word), "{e}");
        }
    }
}
