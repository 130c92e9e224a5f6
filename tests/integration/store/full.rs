//! A disk without space and a disk that takes no writes, with callers. Needs root, else says that it
//! was not run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use foretoken::clock::Clock;
use rustix::process::{Signal, geteuid};

use super::site::{Site, is_degraded, resources, right, site};
use super::slow::callers;
use crate::support::http;
use crate::support::jwt::token_of;
use crate::support::privilege::not_run;
use crate::support::process::Served;
use crate::support::wait::until;

const KEYS: usize = 8;

/// The built program in a mount namespace of its own, in which `script` was run first.
fn in_namespace(site: &Site, script: &str) -> Command {
    let program = site.command().get_program().to_owned();
    let mut shell = Command::new("unshare");
    shell
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("STATE_DIRECTORY", site.folder.path())
        .current_dir(site.folder.path())
        .stdin(std::process::Stdio::null())
        .args([
            "--mount",
            "/bin/sh",
            "-c",
            &format!("{script} && exec \"$0\" \"$@\""),
        ])
        .arg(program);
    shell
}

/// Why there is no such namespace, if there is none.
fn missing(site: &Site, script: &str) -> Option<String> {
    if !geteuid().is_root() {
        return Some("it takes root".to_owned());
    }
    match in_namespace(site, script).arg("--version").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// The store as the process sees it.
fn inside(served: &Served, site: &Site) -> PathBuf {
    let root = format!("/proc/{}/root", served.child.id());
    let store = site.store();
    Path::new(&root).join(store.strip_prefix("/").expect("a path from the root"))
}

/// With callers all the while: it says that it cannot write, then it can again; gives the hits and
/// how long the recovery took, in ms.
fn lasts(served: &Served, keys: &[String], renew: impl Fn(), heal: impl FnOnce()) -> (u64, u64) {
    let clock = Clock::system();
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let took = thread::scope(|scope| {
        for _ in 0..2 {
            let (address, over, count) = (served.address, &over, &count);
            scope.spawn(move || callers(address, keys, over, count));
        }
        until("it says so", || {
            renew();
            is_degraded(served)
        });
        let before = count.load(Ordering::Relaxed);
        until("hits go on", || {
            count.load(Ordering::Relaxed) > before + 1_000
        });
        let healed = clock.now();
        heal();
        // `until` waits for 30 s, which is the bound.
        until("it recovers", || !is_degraded(served));
        over.store(true, Ordering::Relaxed);
        clock.now().since(healed)
    });
    (count.load(Ordering::Relaxed), took)
}

#[test]
fn without_space_hits_go_on_and_when_there_is_space_again_tokens_are_kept() {
    let site = site();
    let script = "mount -t tmpfs -o size=4m,mode=0700 none store";
    fs::create_dir(site.store()).expect("our folder");
    if let Some(why) = missing(&site, script) {
        return not_run("a full disk", &why);
    }
    let keys = resources("key", KEYS);
    let mut served = site.serve_as(in_namespace(&site, script));
    let mut tokens = Vec::new();
    for resource in &keys {
        tokens.push(right(&http::token(served.address, resource), resource));
    }
    until("they are on disk", || {
        http::purge(site.folder.path(), "resource=https://none.example").status == 404
    });
    let filler = inside(&served, &site).join("filler");
    let mut file = File::create(&filler).expect("root may");
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    drop(file);
    let new = AtomicU64::new(0);
    // New tokens until one finds no place.
    let renew = || {
        let resource = format!(
            "https://new-{}.example",
            new.fetch_add(1, Ordering::Relaxed)
        );
        right(&http::token(served.address, &resource), &resource);
    };
    let (hits, took) = lasts(&served, &keys, renew, || {
        fs::remove_file(&filler).expect("ours");
    });
    println!("full: {hits} hits, none failed; recovered {took} ms after there was space again");
    // What is on the disk now, a start finds.
    let kept = tempfile::tempdir().expect("a temporary folder");
    until("all is written", || {
        http::purge(site.folder.path(), "resource=https://none.example").status == 404
    });
    let copied = Command::new("cp")
        .arg("-a")
        .arg(inside(&served, &site))
        .arg(kept.path())
        .status();
    assert!(copied.expect("cp").success());
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    fs::remove_dir(site.store()).expect("ours");
    let back = Command::new("cp")
        .arg("-a")
        .arg(kept.path().join("store"))
        .arg(site.folder.path())
        .status();
    assert!(back.expect("cp").success());
    let served = site.serve();
    for (resource, token) in keys.iter().zip(&tokens) {
        assert_eq!(&token_of(&http::token(served.address, resource)), token);
    }
}

#[test]
fn on_a_disk_that_takes_no_writes_hits_go_on_and_when_it_does_tokens_are_kept() {
    let site = site();
    let script = "mount --bind store store && mount -o remount,bind,ro store";
    let keys = resources("key", KEYS);
    site.fill(&keys);
    if let Some(why) = missing(&site, script) {
        return not_run("a read-only disk", &why);
    }
    let mut served = site.serve_as(in_namespace(&site, script));
    for resource in &keys {
        right(&http::token(served.address, resource), resource);
    }
    let pid = served.child.id().to_string();
    let (hits, took) = lasts(
        &served,
        &keys,
        || {},
        || {
            let remounted = Command::new("nsenter")
                .args([
                    "--target",
                    &pid,
                    "--mount",
                    "mount",
                    "-o",
                    "remount,bind,rw",
                ])
                .arg(site.store())
                .status();
            assert!(remounted.expect("nsenter").success());
        },
    );
    println!("read-only: {hits} hits, none failed; recovered {took} ms after it took writes again");
    let tokens: Vec<_> = keys
        .iter()
        .map(|it| token_of(&http::token(served.address, it)))
        .collect();
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    let served = site.serve();
    for (resource, token) in keys.iter().zip(&tokens) {
        assert_eq!(&token_of(&http::token(served.address, resource)), token);
    }
}
