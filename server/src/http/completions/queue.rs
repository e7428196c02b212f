//! Who may write and who waits: a few texts are written at once, a few hundred requests wait, more are refused.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::Problem;

/// Texts written at once, over all models: each holds its keys and values, and makes every forward longer for the others.
const AT_ONCE: usize = 16;
/// Requests that may wait for their turn.
const WAITING: usize = 512;
/// Seconds after which a client that was refused may ask again.
const RETRY_AFTER: u32 = 10;
/// Who may write and who waits. Both are served in the order of arrival.
pub struct Queue {
    places: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            writing: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

/// A request's place in the queue; given back when dropped.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    writing: Arc<Semaphore>,
}

impl Queue {
    /// Errors: 429 when as many wait as may.
    pub(super) fn enter(&self) -> Result<Place, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{AT_ONCE} texts are being written and {WAITING} wait; try again later");
            Problem { retry_after: Some(RETRY_AFTER), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, detail) }
        })?;
        Ok(Place { _place: place, writing: self.writing.clone() })
    }
}

impl Place {
    /// Waits until one more of the request's texts may be written: as long as the permit is there.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let closed = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is closing");
        self.writing.clone().acquire_owned().await.map_err(closed)
    }
}

/// Says that nobody waits for the answer any more, by being dropped.
pub(super) struct Leave(pub Arc<AtomicBool>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
