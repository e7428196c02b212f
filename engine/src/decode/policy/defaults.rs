//! What a method's parameter is where a policy does not name it; units and sources stand in the table of parameters.

use super::Score;

pub fn one() -> u32 {
    1
}
pub fn two() -> u32 {
    2
}
pub fn epsilon() -> f32 {
    0.01
}
pub fn tau_remask() -> f32 {
    0.5
}
pub fn tau_low() -> f32 {
    0.4
}
pub fn tau_wide() -> f32 {
    0.6
}
pub fn remdm_steps() -> u32 {
    64
}
pub fn eta() -> f32 {
    0.04
}
pub fn t_on() -> f32 {
    0.55
}
pub fn t_off() -> f32 {
    0.05
}
pub fn alpha_on() -> f32 {
    0.9
}
pub fn fifty() -> f32 {
    50.0
}
pub fn seven_eighths() -> f32 {
    0.875
}
pub fn quarter() -> f32 {
    0.25
}
pub fn five() -> u32 {
    5
}
pub fn four() -> u32 {
    4
}
pub fn thirty_two() -> u32 {
    32
}
pub fn yes() -> bool {
    true
}
pub fn eight() -> u32 {
    8
}
pub fn cells() -> u32 {
    128
}
pub fn post() -> u32 {
    16
}
pub fn unit() -> f32 {
    1.0
}
pub fn tau() -> f32 {
    0.9
}
pub fn gamma() -> f32 {
    0.1
}
pub fn tau_quality() -> f32 {
    0.7
}
pub fn tau_edit() -> Option<f32> {
    Some(0.5)
}
pub fn returns() -> Option<u32> {
    Some(1)
}
pub fn top_prob() -> Score {
    Score::TopProb
}
pub fn entropy() -> Score {
    Score::Entropy
}
