//! Times and their distribution.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// Nanoseconds of an hour: longer times count as this.
const HOUR: u64 = 3_600_000_000_000;

/// A distribution of times with three digits.
pub struct Times(Histogram<u64>);

impl Times {
    /// Without a sample.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, HOUR, 3).expect("the bounds rise"))
    }

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A quantile in microseconds.
    pub fn microseconds(&self, quantile: f64) -> f64 {
        (self.0.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
    }

    /// For programs.
    pub fn object(&self) -> Value {
        json!({
            "samples": self.0.len(), "p50_us": self.microseconds(0.5), "p95_us": self.microseconds(0.95),
            "p99_us": self.microseconds(0.99), "max_us": self.microseconds(1.0),
        })
    }

    /// A row for people.
    pub fn row(&self, name: &str) -> Vec<String> {
        let mut row = vec![name.to_owned(), self.0.len().to_string()];
        row.extend([0.5, 0.95, 0.99, 1.0].map(|q| format!("{:.1}", self.microseconds(q))));
        row
    }
}

/// Heading of [`Times::row`].
pub const HEADING: [&str; 6] = ["", "samples", "p50 us", "p95 us", "p99 us", "max us"];

/// A ratio with two digits.
pub fn ratio(value: f64, of: f64) -> f64 {
    if of > 0.0 {
        (value / of * 100.0).round() / 100.0
    } else {
        0.0
    }
}

/// The middle of some values; nothing of none.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([].into_iter()), None);
        assert_eq!(ratio(1.0, 3.0), 0.33);
    }

    #[test]
    fn times_are_in_microseconds() {
        let mut times = Times::new();
        times.add(Duration::from_micros(50));
        assert!((times.microseconds(0.5) - 50.0).abs() < 0.2);
    }
}
