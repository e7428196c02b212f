//! Buffers of a device. Dropping one returns its memory after the commands that use it were submitted.

use super::record::RuleWords;
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes: sizes are multiples of it, so that any tensor can be bound as vectors and at its offset.
pub(super) const ALIGN: u64 = 256;

/// Buffers dropped since the last submission.
pub(super) type Graveyard = Rc<RefCell<Vec<(u64, wgpu::Buffer)>>>;

/// A device buffer under a name of its own.
#[derive(Debug)]
pub(super) struct Raw {
    pub id: u64,
    pub buffer: wgpu::Buffer,
    pub graveyard: Graveyard,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.graveyard.borrow_mut().push((self.id, self.buffer.clone()));
    }
}

/// f32 values on the device.
#[derive(Debug)]
pub struct WebBuf {
    pub(super) raw: Raw,
    pub(super) len: usize,
}

/// u32 values on the device.
#[derive(Debug)]
pub struct WebIds {
    pub(super) raw: Raw,
    pub(super) len: usize,
}

impl WebBuf {
    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl WebIds {
    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A mask: the rule's words and the places of queries and keys, [batch * q_len, 4] and [batch * k_len, 4].
#[derive(Debug)]
pub struct WebMask {
    pub(super) rule: RuleWords,
    pub(super) queries: WebIds,
    pub(super) keys: WebIds,
    pub(super) batch: usize,
    /// rows over all sequences
    pub(super) q_rows: usize,
    pub(super) k_rows: usize,
}
