//! `foretoken store` and `foretoken key`, asked of a server and of the files that it left.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use crate::support::http;
use crate::support::jwt::token_of;
use crate::support::privilege::not_run;
use crate::support::process::{Served, command, run, write_client_config};
use crate::support::site::Site;
use crate::support::wait::until;

const RESOURCES: [&str; 3] = [
    "https://a.example",
    "https://b.example",
    "https://c.example",
];

impl Site {
    /// A server with three tokens.
    fn serve_three(&self) -> Served {
        let served = self.serve();
        for resource in RESOURCES {
            token_of(&http::token(served.address, resource));
        }
        served
    }

    /// A command that succeeds.
    fn told(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {}", err(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.told("store inspect --json")).expect("JSON")
    }
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// The tokens that a start serves without a call.
fn restored(site: &Site) -> usize {
    let calls = site.emulator.counts().total;
    let mut served = site.serve_three();
    let asked = site.emulator.counts().total - calls;
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    RESOURCES.len() - usize::try_from(asked).expect("few")
}

#[test]
fn what_is_stored_is_told_alike_by_a_server_and_by_the_files_that_it_left() {
    let site = Site::new("");
    let mut served = site.serve_three();
    let running = site.report();
    assert_eq!(running["stored"]["good"], 3);
    assert_eq!(running["key"]["source"], "file");
    assert_eq!(served.end(Signal::TERM).code(), Some(0));

    let at_rest = site.report();
    for part in [
        "records",
        "good",
        "by_format",
        "by_key",
        "by_binding",
        "bytes",
    ] {
        assert_eq!(running["stored"][part], at_rest["stored"][part], "{part}");
    }
    assert_eq!(running["key"], at_rest["key"]);
    let words = site.told("store inspect");
    let named = |name: &Value| name.as_str().expect("its name").to_owned();
    let (id, binding) = (named(&at_rest["key"]["id"]), named(&at_rest["binding"]));
    for expected in [&id, &binding, "3: 3 good, 0 expired"] {
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(site.told("store verify"), "3 of 3 records open\n");
}

#[test]
fn a_record_that_does_not_open_fails_the_verification_and_stays() {
    let site = Site::new("");
    assert_eq!(site.serve_three().end(Signal::TERM).code(), Some(0));
    let key = fs::read(site.key()).expect("the key file");
    fs::write(site.key(), [7; 32]).expect("the key file is ours");
    let output = site.run("store verify");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(
        told.contains("3 records are under a key that is not here"),
        "{told}"
    );
    fs::write(site.key(), key).expect("the key file is ours");
    assert_eq!(restored(&site), 3);
}

#[test]
fn a_purge_of_the_store_is_a_cold_start_and_leaves_a_running_server_its_tokens() {
    let site = Site::new("");
    let mut served = site.serve_three();
    site.told("store purge");
    assert_eq!(site.report()["stored"]["records"], 0);
    let calls = site.emulator.counts().total;
    token_of(&http::token(served.address, RESOURCES[0]));
    assert_eq!(site.emulator.counts().total, calls, "served from memory");
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    assert_eq!(restored(&site), 0);

    site.told("store purge");
    assert_eq!(restored(&site), 0);
}

#[test]
fn a_key_is_rotated_under_a_running_server_and_at_rest() {
    let site = Site::new("");
    let mut served = site.serve_three();
    let mut keys = vec![fs::read(site.key()).expect("the key file")];
    let told = site.told("key rotate");
    assert!(told.starts_with("3 records under key "), "{told}");
    keys.push(fs::read(site.key()).expect("the key file"));
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
    site.told("key rotate");
    keys.push(fs::read(site.key()).expect("the key file"));
    keys.dedup();
    assert_eq!(keys.len(), 3, "each is another one");
    assert_eq!(restored(&site), 3);
    assert_eq!(site.told("store verify"), "3 of 3 records open\n");
}

/// As systemd gives them to a service.
fn credentials(site: &Site, files: &[(&str, u8)]) -> PathBuf {
    let folder = site.folder.path().join("credentials");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder");
    for (name, byte) in files {
        fs::write(folder.join(name), [*byte; 32]).expect("a file");
    }
    folder
}

fn status_of(served: &Served) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = write_client_config(folder.path(), served);
    let config = config.to_str().expect("a plain path");
    let output = run(folder.path(), &["status", "--config", config]);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_credential_seals_and_the_old_one_is_told_to_go() {
    let site = Site::new("");
    let start = |files: &[(&str, u8)]| {
        let mut command = command(site.folder.path());
        command.env("CREDENTIALS_DIRECTORY", credentials(&site, files));
        Served::start_as(command, &site.config)
    };
    let mut served = start(&[("foretoken.key", 1)]);
    for resource in RESOURCES {
        token_of(&http::token(served.address, resource));
    }
    assert!(!site.key().exists());
    assert_eq!(site.report()["key"]["source"], "credential");
    let refused = site.run("key rotate");
    assert_eq!(refused.status.code(), Some(1));
    let steps = err(&refused);
    assert!(
        steps.contains("systemd-creds encrypt --name=foretoken.key.old"),
        "{steps}"
    );
    assert_eq!(served.end(Signal::TERM).code(), Some(0));

    let mut served = start(&[("foretoken.key", 2), ("foretoken.key.old", 1)]);
    let calls = site.emulator.counts().total;
    for resource in RESOURCES {
        token_of(&http::token(served.address, resource));
    }
    assert_eq!(
        site.emulator.counts().total,
        calls,
        "the old one opened them"
    );
    until("everything is sealed anew", || {
        status_of(&served).contains("no record needs an older key any more")
    });
    assert_eq!(served.end(Signal::TERM).code(), Some(0));

    let mut served = start(&[("foretoken.key", 2)]);
    token_of(&http::token(served.address, RESOURCES[0]));
    assert_eq!(site.emulator.counts().total, calls);
    assert!(!status_of(&served).contains("older key"));
    assert_eq!(served.end(Signal::TERM).code(), Some(0));
}

fn give(path: &Path, owner: u32) {
    chown(path, Some(owner), Some(owner)).expect("root may");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder").flatten() {
            give(&entry.path(), owner);
        }
    }
}

fn owners(path: &Path, found: &mut Vec<u32>) {
    found.push(fs::symlink_metadata(path).expect("it is there").uid());
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder").flatten() {
            owners(&entry.path(), found);
        }
    }
}

#[test]
fn root_leaves_nothing_of_its_own_in_a_store_of_the_service() {
    const SERVICE: u32 = 65_534;
    if !geteuid().is_root() {
        not_run("root in a store of the service", "it takes root to be root");
        return;
    }
    let site = Site::new("");
    assert_eq!(site.serve_three().end(Signal::TERM).code(), Some(0));
    give(site.folder.path(), SERVICE);
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("root may");
    // Records of root's may be bound to what root alone can read: without them, the key can go.
    for words in ["store inspect", "store purge", "key rotate"] {
        site.told(words);
    }
    let mut found = Vec::new();
    owners(&site.store(), &mut found);
    owners(&site.key(), &mut found);
    assert!(found.iter().all(|owner| *owner == SERVICE), "{found:?}");

    let mut other = command(site.folder.path());
    let other = other
        .args(["store", "inspect", "--config"])
        .arg(&site.config);
    let output = other.uid(65_533).gid(65_533).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert!(told.contains("belongs to user 65534"), "{told}");
}

#[test]
fn what_changes_the_store_needs_the_admin_socket() {
    let site = Site::new("");
    let served = site.serve_three();
    for (method, target) in [
        ("GET", "/store"),
        ("POST", "/store/purge"),
        ("POST", "/store/rotate"),
    ] {
        let mut stream = http::connect(served.admin).expect("it serves");
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("open");
        assert_eq!(
            http::read_answer(&mut stream).expect("an answer").status,
            403
        );
    }
    assert_eq!(site.report()["stored"]["good"], 3);
}
