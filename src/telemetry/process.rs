//! What the kernel says about this process. Nothing is said where it says nothing.

use std::fs;

/// Names and help texts, as Prometheus' own clients have them.
pub(super) const NAMES: [(&str, &str); 3] = [
    (
        "process_resident_memory_bytes",
        "Memory of the process that is in RAM.",
    ),
    ("process_threads", "Threads of the process."),
    ("process_open_fds", "Open file descriptors of the process."),
];

/// The values of [`NAMES`] now, in their order. That the process is not dumpable gives its files
/// below `/proc` to root; these it may read nevertheless.
pub(super) fn now() -> [Option<u64>; 3] {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024);
    [memory, field(&status, "Threads:"), descriptors()]
}

fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Since Linux 6.2 the folder's size is their number; before, it is 0, and they are counted, less
/// the one that counts.
fn descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        0 => Some(fs::read_dir(FOLDER).ok()?.count() as u64 - 1),
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_with_its_unit_left_out() {
        let status = "Name:\tforetoken\nVmRSS:\t    9088 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS:"), Some(9088));
        assert_eq!(field(status, "Threads:"), Some(7));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[test]
    fn what_the_process_holds_is_in_the_numbers() {
        let [memory, threads, descriptors] = now().map(|value| value.expect("a number"));
        assert!(memory > 1 << 20, "{memory}");
        assert!(threads >= 1);
        let files: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null")).collect();
        let later = now()[2].expect("a number");
        // Other tests open and close theirs meanwhile.
        assert!(later + 150 >= descriptors + files.len() as u64, "{later}");
    }
}
