//! What the benchmarks share: where they ran, what a process took, and how figures are put together.

pub mod generate;
pub mod machine;
pub mod process;

use std::error::Error;

/// What everything here fails with: a message for the person who runs it.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The middle value, or the upper of the two.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// To `digits` behind the point, for people.
pub fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}
