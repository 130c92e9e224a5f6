//! Memory is scarce: a control group of 32 MiB. The process degrades, or is killed and comes back
//! from the store.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{Seen, descriptors_for, site};
use crate::support::http;
use crate::support::jwt::token_of;
use crate::support::metrics::{scrape, sum};
use crate::support::privilege::not_run;
use crate::support::process::Served;

const LIMIT_BYTES: u64 = 32 << 20;
const KEYS: usize = 12;
const WRITTEN: Duration = Duration::from_millis(2500);
/// Each makes the process hold as much of a head as it takes.
const HEAVY_LINKS: usize = 3000;
const HEAVY_BYTES: usize = 15 * 1024;

/// A control group with a limit on memory, removed when dropped; its processes must have ended.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
        let mut places = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let first = kind == "cgroup" && options.split(',').any(|o| o == "memory");
            let second = kind == "cgroup2"
                && fs::read_to_string(Path::new(place).join("cgroup.subtree_control"))
                    .is_ok_and(|all| all.split_whitespace().any(|name| name == "memory"));
            let limit = if first {
                "memory.limit_in_bytes"
            } else {
                "memory.max"
            };
            (first || second).then(|| (PathBuf::from(place), limit))
        });
        let (place, limit) = places.next().ok_or("no control groups for memory")?;
        let folder = place.join(format!("foretoken-test-{}", std::process::id()));
        let refused = |error: std::io::Error| format!("no control group can be made: {error}");
        fs::create_dir(&folder).map_err(refused)?;
        let group = Self(folder);
        fs::write(group.0.join(limit), LIMIT_BYTES.to_string()).map_err(refused)?;
        // Where memory could be swapped, the limit would be none.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }

    /// What a shell does to become a member.
    fn join(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }

    fn most_bytes(&self) -> String {
        let of = |name| fs::read_to_string(self.0.join(name)).ok();
        let most = of("memory.max_usage_in_bytes").or_else(|| of("memory.peak"));
        most.unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn resource(number: usize) -> String {
    format!("https://r{number}.example")
}

fn tokens(served: &Served) -> Vec<String> {
    let ask = |number| token_of(&http::token(served.address, &resource(number)));
    (0..KEYS).map(ask).collect()
}

/// The same, unless it is killed meanwhile.
fn still_served(served: &Served) -> Option<Vec<String>> {
    let ask = |number| {
        let request = http::token_request(&resource(number));
        let answer = http::send(served.address, &request).ok()?;
        Some(token_of(&answer))
    };
    (0..KEYS).map(ask).collect()
}

/// A head that is long and never ends.
fn heavy(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = http::connect(address).ok()?;
    let mut head = http::token_request("r");
    head.truncate(head.len() - 2);
    head.extend_from_slice(format!("A: {}", "b".repeat(HEAVY_BYTES)).as_bytes());
    stream.write_all(&head).ok()?;
    Some(stream)
}

#[test]
fn out_of_memory_it_degrades_or_comes_back_from_the_store() {
    const TEST: &str = "out_of_memory_it_degrades_or_comes_back_from_the_store";
    let group = match Group::new() {
        Ok(group) => group,
        Err(why) => return not_run(TEST, &why),
    };
    if !descriptors_for(HEAVY_LINKS) {
        return not_run(
            TEST,
            "the limit on descriptors is below the number of links",
        );
    }
    let site = site("");
    let mut served = site.serve_after(&group.join());
    let before = tokens(&served);
    thread::sleep(WRITTEN);
    let at_rest = Seen::of(&served.child).rss_kib();

    let links: Vec<_> = (0..HEAVY_LINKS)
        .map_while(|_| heavy(served.address))
        .collect();
    thread::sleep(Duration::from_millis(500));
    // It may be killed at any moment, also while it is asked.
    let served_on = still_served(&served);
    let reached = group.most_bytes();
    if let Some(after) = &served_on {
        assert_eq!(after, &before);
        served.signal(Signal::KILL);
    }
    assert_eq!(served.ended().signal(), Some(Signal::KILL.as_raw()));
    println!(
        "{} heavy links; resident {at_rest} KiB at rest; the group held {reached} bytes at most; {}",
        links.len(),
        if served_on.is_none() {
            "killed by the kernel"
        } else {
            "served on"
        }
    );
    drop(links);

    let mut served = site.serve_after(&group.join());
    assert_eq!(tokens(&served), before);
    let samples = scrape(served.admin);
    assert_eq!(sum(&samples, "foretoken_upstream_calls_total", None), 0);
    assert_eq!(site.emulator.counts().total, KEYS as u64);
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
}
