//! The golden corpus, the reference document, and text that nobody would write.
//!
//! `tests/golden/config/bad/NAME.toml` has its mistakes in `NAME.txt`; `good/NAME.toml` has the
//! settings it means in `NAME.txt`. To write the texts anew, and then read the difference:
//! `FORETOKEN_BLESS=1 cargo test -p foretoken config::golden`.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::check::check;
use super::mistake::Complaint;
use super::{Environment, option_names, parse};
use crate::server::Address;

const REFERENCE: &str = include_str!("../../docs/configuration.md");

fn environment() -> Environment {
    Environment {
        state_directory: Some("/var/lib/foretoken".into()),
        working_directory: "/etc/foretoken".into(),
        cpus: 4,
        ..Environment::default()
    }
}

/// What the corpus names by `secret_file`; `source.rs` tests the real ones.
fn secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let content = match path.file_name().and_then(|name| name.to_str()) {
        Some("orders.secret") => "kept-in-a-file-of-its-own",
        Some("short.secret") => "kept",
        Some("two_lines.secret") => "kept-in-the-first\nline",
        _ => {
            let message = format!("cannot read {}", path.display());
            return Err(Complaint::new(message, "name another"));
        }
    };
    Ok(content.as_bytes().to_vec().into())
}

fn outcome(text: &str, file: &Path) -> (&'static str, String) {
    match check(text, file, &environment(), &secret_file) {
        Ok(effective) => ("good", effective.to_string()),
        Err(mistakes) => ("bad", format!("{mistakes}\n")),
    }
}

fn corpus(verdict: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/golden/config").join(verdict);
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|it| it == "toml"));
    files.sort();
    files
}

fn compare(verdict: &str) {
    let bless = std::env::var_os("FORETOKEN_BLESS").is_some();
    for file in corpus(verdict) {
        let text = fs::read_to_string(&file).unwrap();
        let name = Path::new(file.file_name().unwrap());
        let (found, told) = outcome(&text, name);
        assert_eq!(found, verdict, "{}:\n{told}", name.display());
        let expected = file.with_extension("txt");
        if bless {
            fs::write(&expected, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(told, expected, "{}:\n{told}", name.display());
    }
}

#[test]
fn bad_files_are_told_what_is_wrong_with_them() {
    assert!(corpus("bad").len() >= 40);
    compare("bad");
}

#[test]
fn good_files_mean_what_they_say() {
    compare("good");
}

#[test]
fn no_file_at_all_is_a_configuration() {
    let settings = super::load(None, &environment()).unwrap();
    let listeners: Vec<_> = settings
        .server
        .listeners
        .iter()
        .map(|listener| (listener.address.to_string(), listener.optional))
        .collect();
    let expected = [("127.0.0.1:16925", false), ("[::1]:16925", true)];
    assert_eq!(listeners, expected.map(|(a, o)| (a.to_owned(), o)));
    assert_eq!(settings.upstream.source.name(), "imds 169.254.169.254:80");
    assert_eq!(
        settings.store.key,
        Path::new("/var/lib/foretoken/foretoken.key")
    );
}

#[test]
fn without_a_folder_for_state_the_defaults_do_not_hold() {
    let nowhere = Environment::default();
    let mistakes = parse("", Path::new("f.toml"), &nowhere).unwrap_err();
    assert_eq!(mistakes.0.len(), 1);
    assert!(mistakes.to_string().starts_with("environment: "));

    let memory_only = "[admin]\nsocket = \"off\"\n[store]\nmode = \"off\"\n";
    parse(memory_only, Path::new("f.toml"), &nowhere).unwrap();
    let with_key = format!("{memory_only}key = \"/etc/key\"\n");
    parse(&with_key, Path::new("f.toml"), &nowhere).unwrap();
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let text = "[[listener]]\naddress = \"unix:a.sock\"\n[store]\npath = \"../store\"\n";
    let settings = parse(text, Path::new("conf/f.toml"), &environment()).unwrap();
    assert_eq!(
        settings.server.listeners[0].address,
        Address::Unix("/etc/foretoken/conf/a.sock".into())
    );
    assert_eq!(
        settings.store.path,
        Path::new("/etc/foretoken/conf/../store")
    );
}

#[test]
fn settings_told_as_toml_mean_the_same_again() {
    for file in corpus("good") {
        let text = fs::read_to_string(&file).unwrap();
        let effective = check(&text, &file, &environment(), &secret_file).unwrap();
        let mut again = String::new();
        for line in effective.to_string().lines() {
            // A secret is not told, so each is given another.
            let line = line.replace("(set)", &format!("\"secret-of-line-{}\"", again.len()));
            match line.split_once("].") {
                Some((table, option)) => {
                    let table = table.split('[').next().unwrap();
                    let first = ["address", "name"].iter().any(|it| option.starts_with(it));
                    let heading = first.then(|| format!("[[{table}]]\n"));
                    again.extend([&heading.unwrap_or_default(), option, "\n"]);
                }
                None => again = format!("{line}\n{again}"),
            }
        }
        let mut expected = effective.settings;
        for listener in &mut expected.server.listeners {
            listener.optional = false;
        }
        let told = parse(&again, Path::new("again.toml"), &environment());
        let told = told.map_err(|e| e.to_string());
        assert_eq!(
            format!("{told:?}"),
            format!("{:?}", Ok::<_, ()>(expected)),
            "{again}"
        );
    }
}

#[test]
fn a_missing_file_is_unreadable_and_named() {
    let error = super::load(Some(Path::new("/nonexistent/f.toml")), &environment()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/f.toml"));
}

#[test]
fn every_option_is_in_the_reference() {
    for name in option_names() {
        assert!(REFERENCE.contains(&format!("### `{name}`")), "{name}");
    }
}

#[test]
fn the_examples_in_the_reference_are_good() {
    let examples = REFERENCE.split("```toml\n").skip(1);
    let examples: Vec<_> = examples
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() > option_names().count());
    for example in examples {
        let file = Path::new("example.toml");
        let told = check(example, file, &environment(), &secret_file);
        assert!(told.is_ok(), "{example}\n{}", told.unwrap_err());
    }
}

/// A configuration with a client in it, after a few slips of the finger anywhere but in the secret.
fn slips() -> impl Strategy<Value = String> {
    let texts = [
        "[[client]]\nname = \"a\"\nsecret = \"CANARY\"\nidentities = [\"system\"]\n",
        "client = [{ secret = 'CANARY', identities = [\"system\"], name = \"a\" }]\n",
        "[log]\nlevel = \"x\"\n[[client]]\n\"secret\"=\"CANARY\"\n[admin]\nsocket = 1\n",
        "[store]\npath = \"\"\nkey = \"\"\n[[client]]\nsecret = \"CANARY\"\n",
        "[[client]]\nidentities = [\n  \"x=1\",\n]\nsecret = \"\"\"CANARY\"\"\"\n",
    ];
    let slip = (
        any::<prop::sample::Index>(),
        r#"[]\["'=\n sx#{,.é]?"#,
        any::<bool>(),
    );
    let slips = prop::collection::vec(slip, 0..3);
    (prop::sample::select(texts.to_vec()), slips).prop_map(|(text, slips)| {
        let mut text = text.to_owned();
        for (at, typed, over) in slips {
            let canary = text.find("CANARY").unwrap();
            let at = text.floor_char_boundary(at.index(text.len()));
            let next = text.ceil_char_boundary(at + usize::from(over));
            if next <= canary || at >= canary + "CANARY".len() {
                text.replace_range(at..next, &typed);
            }
        }
        text.replace("CANARY", "canary-0123456789")
    })
}

/// Lines that look like a configuration, as often broken as not.
fn lines() -> impl Strategy<Value = String> {
    let heading = r"\[{1,2}(listener|admin|upstream|store|server|log|x)\]{0,2}";
    let key = "(address|dialects|socket|kind|endpoint|max_in_flight|mode|path|key|workers|level)";
    let value = r#"("[ -~é\n]{0,12}"|-?[0-9]{0,22}|\[("imds",?|1|\n){0,3}\]?|"unix:a"|"off"|'')"#;
    let option = (key, value).prop_map(|(key, value)| format!("{key} = {value}"));
    let line = prop_oneof![heading.prop_map(|h| h), option, "[ -~\\t\\r\u{0}-é]{0,9}"];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_settings_or_mistakes(text in prop_oneof![any::<String>(), lines()]) {
        let told = outcome(&text, Path::new("f.toml"));
        prop_assert!(!told.1.is_empty());
    }

    #[test]
    fn no_slip_brings_a_secret_to_light(text in slips()) {
        let told = outcome(&text, Path::new("f.toml")).1;
        prop_assert!(!told.contains("canary"), "{text}\n{told}");
        let settings = parse(&text, Path::new("f.toml"), &environment());
        prop_assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
    }

    #[test]
    fn every_mistake_has_a_place_in_the_text(text in lines()) {
        if let Err(mistakes) = parse(&text, Path::new("f.toml"), &environment()) {
            for mistake in mistakes.0 {
                let place = mistake.place.as_ref().unwrap();
                prop_assert!(place.line <= text.split('\n').count());
                prop_assert!(!mistake.hint.is_empty());
                let told = mistake.to_string();
                let terminal = |c: char| c.is_control() && c != '\n' && c != '\t';
                prop_assert!(!told.contains(terminal), "{told:?}");
            }
        }
    }
}
