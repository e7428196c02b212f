//! Masked and block diffusion: corruption, objectives, likelihoods.
//!
//! Nearly every method is a different way to choose rows and coefficients: corruption draws x_t, the objective
//! says which hidden rows predict which targets and with what weight ([`RowPlan`]), the trunk never knows which.

pub mod batch;
pub mod corruption;
pub mod hybrid;
#[cfg(feature = "train")]
pub mod intervals;
#[cfg(feature = "train")]
pub mod likelihood;
pub mod schedule;
#[cfg(feature = "train")]
pub mod table;

pub use batch::{Micro, assemble};
pub use corruption::{Corruption, Kind, Pick, RowPlan};
