//! What can go wrong on a GPU.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A failure of the WebGPU back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebError {
    /// this browser or machine offers no WebGPU adapter
    NoAdapter(String),
    /// the adapter refused to make a device
    NoDevice(String),
    /// the device is gone (driver reset, tab in the background, GPU removed): everything on it is lost
    Lost(String),
    /// the device's memory is full
    OutOfMemory(String),
    /// WebGPU refused a command or a shader
    Validation(String),
    /// the arguments of an operation do not fit together
    Shape { op: &'static str, what: String },
    /// a result could not be mapped into this program's memory
    Map(String),
}

impl fmt::Display for WebError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WebError::NoAdapter(e) => write!(f, "no WebGPU adapter: {e}"),
            WebError::NoDevice(e) => write!(f, "the WebGPU adapter gave no device: {e}"),
            WebError::Lost(e) => write!(f, "the WebGPU device was lost: {e}"),
            WebError::OutOfMemory(e) => write!(f, "out of GPU memory: {e}"),
            WebError::Validation(e) => write!(f, "WebGPU validation: {e}"),
            WebError::Shape { op, what } => write!(f, "{op}: {what}"),
            WebError::Map(e) => write!(f, "reading back from the GPU: {e}"),
        }
    }
}

impl std::error::Error for WebError {}

impl From<wgpu::Error> for WebError {
    fn from(e: wgpu::Error) -> Self {
        match e {
            wgpu::Error::OutOfMemory { source } => WebError::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                WebError::Validation(description)
            }
        }
    }
}

/// The first failure since the last report; a lost device stays lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<Mutex<Option<WebError>>>);

impl Failure {
    pub fn set(&self, e: WebError) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() || matches!(e, WebError::Lost(_)) {
            *slot = Some(e);
        }
    }
    pub fn is_lost(&self) -> bool {
        matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), Some(WebError::Lost(_)))
    }
    pub fn take(&self) -> Result<(), WebError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            None => Ok(()),
            Some(e @ WebError::Lost(_)) => Err(e.clone()),
            Some(_) => slot.take().map_or(Ok(()), Err),
        }
    }
}
