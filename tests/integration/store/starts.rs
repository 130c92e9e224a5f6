//! From the start of the process to its first good answer, with many stored tokens.
//!
//! `FORETOKEN_STORE_KEYS` sets how many, `FORETOKEN_STORE_STARTS` how often it starts.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use foretoken::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};

use super::site::{Site, resources, right, site};
use crate::support::http;
use crate::support::process::write_file;
use crate::under_fire::size;

const KEYS: &str = "FORETOKEN_STORE_KEYS";
const STARTS: &str = "FORETOKEN_STORE_STARTS";
/// The store keeps no more than this.
const MOST: usize = 8_192;

/// Two ports that nobody has at the moment.
fn free_ports() -> [SocketAddr; 2] {
    let bound = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    bound.map(|listener| listener.local_addr().expect("its address"))
}

/// Starts, and gives the milliseconds until `resource` was served.
fn start(site: &Site, address: SocketAddr, resource: &str) -> (std::process::Child, u64) {
    let clock = Clock::system();
    let mut command = site.command();
    let command = command.args(["serve", "--config"]).arg(&site.config);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let begun = clock.now();
    let child = command.spawn().expect("the program starts");
    loop {
        match http::send(address, &http::token_request(resource)) {
            Ok(answer) => {
                let took = clock.now().since(begun);
                right(&answer, resource);
                return (child, took);
            }
            Err(_) => thread::sleep(Duration::from_micros(200)),
        }
    }
}

#[test]
fn a_start_with_many_stored_tokens_serves_them_without_a_call() {
    let (count, starts) = (size(KEYS, 200), size(STARTS, 2));
    let site = site();
    let keys = resources("key", count);
    site.fill(&keys);
    let kept = site.verified("filled");
    assert_eq!(kept, count.min(MOST));
    let [address, admin] = free_ports();
    let config = format!(
        "[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"{admin}\"\n[upstream]\nendpoint = \"http://{}\"\n",
        site.emulator.address()
    );
    write_file(site.folder.path(), &config);
    let calls = site.emulator.counts().total;
    let mut times: Vec<u64> = (0..starts)
        .map(|number| {
            // What is kept beyond the limit is what was used last.
            let resource = &keys[count - 1 - number % kept.min(100)];
            let (mut child, took) = start(&site, address, resource);
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.expect("a process id"), Signal::TERM).expect("it runs");
            assert_eq!(child.wait().expect("our child").code(), Some(0));
            took
        })
        .collect();
    assert_eq!(site.emulator.counts().total, calls, "all were restored");
    times.sort_unstable();
    println!(
        "{kept} of {count} tokens kept; from the start to the first good answer: {} ms at least, {} median, {} at most",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1]
    );
}
