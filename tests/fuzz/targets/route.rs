//! A path that leads to a dialect is byte-equal to a listed one; everything else is unknown.
//!
//! The list stands here once more, on purpose: it is the recorded paths, not whatever the code says.

#![no_main]

use foretoken::protocol::{Dialect, recognise};
use libfuzzer_sys::fuzz_target;

const METADATA: [&[u8]; 3] = [
    b"/metadata/identity/oauth2/token",
    b"/metadata/identity/oauth2/token/",
    b"//metadata/identity/oauth2/token",
];
const LISTED: [(Dialect, &[&[u8]]); 7] = [
    (Dialect::Imds, &METADATA),
    (Dialect::Arc, &METADATA),
    (Dialect::ServiceFabric, &METADATA),
    (Dialect::AppService, &[b"/msi/token", b"/msi/token/"]),
    (
        Dialect::AppService2017,
        &[
            b"/MSI/token",
            b"/MSI/token/",
            b"/MSI/token//",
            b"/msi/token",
            b"/msi/token/",
            b"/msi/token//",
        ],
    ),
    (Dialect::VmExtension, &[b"/oauth2/token", b"/oauth2/token/"]),
    (Dialect::CloudShell, &[b"/oauth2/token", b"/oauth2/token/"]),
];

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else { return };
    check(rest);
    // A listed path, changed a little: random bytes alone rarely come near one.
    let all: Vec<_> = LISTED.iter().flat_map(|(_, paths)| *paths).collect();
    let mut path = all[usize::from(*choice) % all.len()].to_vec();
    check(&path);
    for edit in rest.chunks_exact(3) {
        let at = usize::from(edit[1]) % (path.len() + 1);
        match edit[0] % 4 {
            0 => path.insert(at, edit[2]),
            1 if at < path.len() => path[at] ^= edit[2],
            2 if at < path.len() => drop(path.remove(at)),
            _ => path.push(edit[2]),
        }
        check(&path);
    }
});

fn check(path: &[u8]) {
    for (dialect, paths) in LISTED {
        let found = recognise(&[dialect], path, b"api-version=2018-02-01");
        let listed = paths.contains(&path);
        assert_eq!(found, listed.then_some(dialect), "{}", path.escape_ascii());
    }
}
