//! Margins of finished rows.

use crate::model::{LeastMargin, Margin};

/// Outputs that are looked at side by side, so that their comparisons do not wait for each other.
const LANES: usize = 4;

/// Whether the margin of a row of outputs is below the least one.
#[inline]
pub(crate) fn is_close(least: LeastMargin, outputs: &[f32]) -> bool {
    let margin = match least.margin() {
        Margin::TopTwo => top_two(outputs),
        Margin::Boundary => outputs.iter().fold(f32::INFINITY, |least, x| smaller(least, x.abs())),
    };
    margin < least.least()
}

/// The largest of at least two outputs minus the second largest.
#[inline]
fn top_two(outputs: &[f32]) -> f32 {
    let none = f32::NEG_INFINITY;
    let (mut first, mut second) = ([none; LANES], [none; LANES]);
    let (whole, rest) = outputs.as_chunks::<LANES>();
    for four in whole {
        for (lane, x) in four.iter().enumerate() {
            second[lane] = larger(second[lane], smaller(first[lane], *x));
            first[lane] = larger(first[lane], *x);
        }
    }
    let (mut largest, mut next) = (none, none);
    for x in first.iter().chain(&second).chain(rest) {
        next = larger(next, smaller(largest, *x));
        largest = larger(largest, *x);
    }
    largest - next
}

// `f32::max` and `min` take more instructions, for NaN. The margin of a row that has it does not
// matter.

#[inline]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_largest_outputs_may_be_anywhere() {
        for n in 2..20 {
            for i in 0..n {
                for j in (0..n).filter(|j| *j != i) {
                    let mut outputs: Vec<f32> = (0..n).map(|k| -1.0 - k as f32).collect();
                    (outputs[i], outputs[j]) = (3.5, 1.25);
                    assert_eq!(top_two(&outputs), 2.25);
                    outputs[j] = 3.5;
                    assert_eq!(top_two(&outputs), 0.0);
                }
            }
        }
    }

    #[test]
    fn a_margin_is_close_below_the_least_one() {
        let top = |least: f32| LeastMargin::new(Margin::TopTwo, least);
        assert!(is_close(top(0.75), &[1.0, -3.0, 1.5]));
        assert!(!is_close(top(0.5), &[1.0, -3.0, 1.5]));
        assert!(!is_close(top(0.0), &[1.0, 1.0]));
        let zero = |least: f32| LeastMargin::new(Margin::Boundary, least);
        assert!(is_close(zero(0.75), &[2.0, -0.5, 3.0]));
        assert!(!is_close(zero(0.5), &[2.0, -0.5, 3.0]));
    }
}
