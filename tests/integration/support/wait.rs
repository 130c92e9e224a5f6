//! Waiting for what happens elsewhere, without a clock.

use std::thread::sleep;
use std::time::Duration;

use super::http::PATIENCE;

const STEP: Duration = Duration::from_millis(5);

/// Waits until `over` holds. What does not come within [`PATIENCE`] fails the test by name.
pub fn until(what: &str, mut over: impl FnMut() -> bool) {
    let mut left = PATIENCE;
    while !over() {
        assert!(!left.is_zero(), "waited in vain: {what}");
        sleep(STEP);
        left = left.saturating_sub(STEP);
    }
}
