//! The source tree checked as data: which way imports point, which package lives where, and that
//! what operators read is complete.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and their numbers: a room imports only rooms with a smaller one.
const ROOMS: [(&str, u8); 16] = [
    ("clock", 0),
    ("sync", 0),
    ("token", 1),
    ("telemetry", 2),
    ("protocol", 3),
    ("authz", 3),
    ("store", 3),
    ("upstream", 3),
    ("cache", 4),
    ("refresh", 5),
    ("passthrough", 6),
    ("admin", 6),
    ("server", 7),
    ("config", 8),
    ("app", 9),
    ("cli", 9),
];

/// Where each package may be named; the first place is the one that must.
const PACKAGES: [(&str, &[&str]); 11] = [
    (
        "tokio",
        &[
            "refresh/driver.rs",
            "server/",
            "upstream/",
            "admin/",
            "app/lifecycle.rs",
        ],
    ),
    // Callers' tokens pass through our own loop alone: hyper serves operators, and asks sources.
    (
        "hyper",
        &["server/admin_front.rs", "server/forward.rs", "upstream/"],
    ),
    ("dashmap", &["cache/index.rs"]),
    ("sled", &["store/db.rs"]),
    (
        "ring",
        &[
            "store/seal.rs",
            "store/keys.rs",
            "store/master.rs",
            "cache/echo.rs",
            "cache/entry.rs",
            "authz/clients.rs",
            "cli/env/thumbprint.rs",
            "server/arc_keys.rs",
            "server/tls.rs",
            "upstream/settings.rs",
            "upstream/tls.rs",
        ],
    ),
    ("subtle", &["server/", "authz/clients.rs"]),
    ("rustls", &["server/", "upstream/"]),
    ("rcgen", &["server/tls.rs"]),
    (
        "tracing",
        &[
            "admin/",
            "refresh/",
            "store/",
            "server/",
            "app/",
            "cache/view.rs",
            "telemetry/log.rs",
        ],
    ),
    ("metrics", &["telemetry/metrics.rs"]),
    ("sd_notify", &["app/systemd.rs"]),
];

struct Source {
    /// Below `src/`.
    path: String,
    /// Without comments and without the unit tests.
    code: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder)
        .expect("a readable folder")
        .map_while(Result::ok)
    {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    walk(&root().join("src"), &mut files);
    // Files that are tests as a whole.
    let tests = ["tests.rs", "golden.rs", "models.rs", "fixtures.rs"];
    files.retain(|file| !tests.iter().any(|name| file.ends_with(name)));
    let src = root().join("src");
    files.retain(|file| {
        let below = file.strip_prefix(&src).expect("below src");
        !below.iter().any(|name| name == "tests")
    });
    let sources: Vec<_> = files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a source file");
            let shipped = text.split("mod tests {").next().unwrap_or_default();
            let lines = shipped
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let path = file.strip_prefix(root().join("src")).expect("below src");
            Source {
                path: path.display().to_string(),
                code: lines.collect::<Vec<_>>().join("\n"),
            }
        })
        .collect();
    assert!(sources.len() > 50, "the tree was found");
    sources
}

fn room_of(path: &str) -> Option<(&'static str, u8)> {
    let name = path.split('/').next()?.trim_end_matches(".rs");
    ROOMS.into_iter().find(|(room, _)| *room == name)
}

/// The rooms that a text names by `crate::room`, or inside `use crate::{…}`.
fn imported(code: &str) -> Vec<(&'static str, u8)> {
    let mut names: Vec<&str> = Vec::new();
    for (at, marker) in code.match_indices("crate::") {
        let rest = &code[at + marker.len()..];
        let group = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split(';').next());
        match group {
            Some(group) => names.extend(group.split([',', ' ', ':', '{', '}'])),
            None => names.extend(
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next(),
            ),
        }
    }
    ROOMS
        .into_iter()
        .filter(|(room, _)| names.contains(room))
        .collect()
}

/// Whether a text names a package: as the first segment of a path or in a `use`.
fn names_package(code: &str, package: &str) -> bool {
    let path = format!("{package}::");
    let mut found = code.match_indices(&path).map(|(at, _)| at);
    found.any(|at| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn rooms_import_only_rooms_below_them() {
    let mut wrong = Vec::new();
    let mut imports = 0;
    for source in sources() {
        let Some((room, number)) = room_of(&source.path) else {
            continue;
        };
        for (other, other_number) in imported(&source.code) {
            imports += 1;
            let own = other == room;
            // The command line is the outer layer of the same number as the process it starts.
            let outer = room == "cli" && other == "app";
            // The floor of the house: the clock stands on it too.
            let floor = room != "sync" && other == "sync";
            if !own && !outer && !floor && other_number >= number {
                wrong.push(format!("{} imports {other}", source.path));
            }
        }
    }
    assert!(imports > 100, "imports were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_belongs_to_a_room() {
    for source in sources() {
        let known = room_of(&source.path).is_some();
        assert!(
            known || ["lib.rs", "main.rs"].contains(&&*source.path),
            "{}",
            source.path
        );
    }
}

#[test]
fn named_packages_are_direct_dependencies_used_by_the_room_that_owns_them() {
    let manifest = read("Cargo.toml");
    let sources = sources();
    for (package, places) in PACKAGES {
        let line = format!("\n{} = ", package.replace('_', "-"));
        assert!(
            manifest.contains(&line),
            "{package} is no direct dependency"
        );
        let users: Vec<_> = sources
            .iter()
            .filter(|s| names_package(&s.code, package))
            .map(|s| &*s.path)
            .collect();
        assert!(
            users.iter().any(|user| user.starts_with(places[0])),
            "{package}: {users:?}"
        );
        let strays: Vec<_> = users
            .iter()
            .filter(|user| !places.iter().any(|place| user.starts_with(place)))
            .collect();
        assert!(strays.is_empty(), "{package} is named in {strays:?}");
    }
    assert!(
        manifest.contains("\ncriterion = "),
        "criterion is no direct dependency"
    );
    let benches = fs::read_dir(root().join("benches"))
        .expect("benches")
        .map_while(Result::ok)
        .map(|bench| bench.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"));
    for bench in benches {
        let text = read(&bench);
        // Instructions are counted from outside.
        let measured = names_package(&text, "criterion") || text.contains("callgrind");
        assert!(measured, "{}", bench.display());
    }
}

#[test]
fn only_what_operators_look_at_is_handed_to_hyper() {
    let users: Vec<_> = sources()
        .into_iter()
        .filter(|s| s.path.starts_with("server/") && s.code.contains("forward::"))
        .map(|s| s.path)
        .collect();
    assert_eq!(users, ["server/admin_front.rs"]);
}

#[test]
fn the_handler_names_no_runtime_and_no_http_library() {
    let sources = sources();
    let handler = sources
        .iter()
        .find(|s| s.path == "server/handler.rs")
        .expect("the handler");
    for word in ["hyper", "tokio", "async", "await"] {
        assert!(!handler.code.contains(word), "the handler names {word}");
    }
}

#[test]
fn flights_and_slots_use_no_runtimes_types() {
    for source in sources().iter().filter(|s| s.path.starts_with("cache/")) {
        assert!(!names_package(&source.code, "tokio"), "{}", source.path);
    }
}

#[test]
fn only_three_places_look_at_a_secret() {
    let allowed = [
        "token/secret.rs",
        "protocol/",
        "store/",
        // Questions carry secrets, answers bring them.
        "upstream/",
        "authz/clients.rs",
        "cache/entry.rs",
        "cli/env.rs",
        "config/",
        "refresh/writer.rs",
    ];
    for source in sources().iter().filter(|s| s.code.contains(".expose()")) {
        assert!(
            allowed.iter().any(|place| source.path.starts_with(place)),
            "{}",
            source.path
        );
    }
}

#[test]
fn only_the_configuration_reads_the_environment() {
    for source in sources().iter().filter(|s| s.code.contains("env::var")) {
        assert_eq!(source.path, "config/source.rs");
    }
}

#[test]
fn every_metric_and_option_is_documented() {
    let metrics = read("docs/metrics.md");
    for (name, _) in foretoken::telemetry::metrics::NAMES {
        assert!(
            metrics.contains(&format!("`{name}`")),
            "{name} is not in docs/metrics.md"
        );
    }
    let options = read("docs/configuration.md");
    for name in foretoken::config::option_names() {
        assert!(
            options.contains(&format!("`{name}`")),
            "{name} is not in docs/configuration.md"
        );
    }
}

#[test]
fn every_golden_file_has_a_test_that_reads_its_folder() {
    let mut tests = Vec::new();
    walk(&root().join("tests"), &mut tests);
    walk(&root().join("src"), &mut tests);
    let code: String = tests
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| fs::read_to_string(path).expect("a source file"))
        .collect();
    for folder in fs::read_dir(root().join("tests/golden"))
        .expect("golden")
        .map_while(Result::ok)
    {
        let folder = format!("tests/golden/{}", folder.file_name().to_string_lossy());
        assert!(code.contains(&folder), "no test reads {folder}");
    }
}
