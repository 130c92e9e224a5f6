//! Tests that need more than any user may do.

use std::io::Write as _;

/// Says, past the test harness that keeps the output of passing tests to itself, that the machine
/// does not allow a test. With `FORETOKEN_TEST_ALL=1` that is a failure.
pub fn not_run(test: &str, why: &str) {
    let line = format!("not run: {test}: {why}");
    assert!(
        std::env::var("FORETOKEN_TEST_ALL").as_deref() != Ok("1"),
        "{line}"
    );
    let _ = writeln!(std::io::stderr(), "{line}");
}
