//! One thing happens to the files of a store at rest, chosen by chance: it always starts, keeps what it
//! can, and never gives a wrong token.
//!
//! `FORETOKEN_STORE_DAMAGES` sets how often, `FORETOKEN_SEED` repeats a run's choices.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;

const ROUNDS: &str = "FORETOKEN_STORE_DAMAGES";
const EVERY_RUN: u64 = 100;
const SEED: &str = "FORETOKEN_SEED";
const RECORDS: u64 = 100;
const BLOCK: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    BitFlipped,
    Truncated,
    Emptied,
    Removed,
    Swapped,
    FolderInPlace,
    BlockOverwritten,
    ZeroesToTheEnd,
    Replaced,
    LeftOver,
}

const KINDS: [Kind; 10] = [
    Kind::BitFlipped,
    Kind::Truncated,
    Kind::Emptied,
    Kind::Removed,
    Kind::Swapped,
    Kind::FolderInPlace,
    Kind::BlockOverwritten,
    Kind::ZeroesToTheEnd,
    Kind::Replaced,
    Kind::LeftOver,
];

/// What became of stores, by what was done and by the file that it was done to.
#[derive(Default)]
struct Tally {
    all: u32,
    some: u32,
    none: u32,
}

fn noise(rng: &mut Rng, most: usize) -> Vec<u8> {
    (0..rng.usize(..=most)).map(|_| rng.u8(..)).collect()
}

/// Does it; gives the name of the file.
fn spoil(place: &Place, kind: Kind, rng: &mut Rng) -> String {
    let mut all = files(&place.settings.path);
    all.push(place.settings.key.clone());
    let file = all[rng.usize(..all.len())].clone();
    let mut bytes = fs::read(&file).unwrap();
    let (at, end) = (rng.usize(..=bytes.len()), bytes.len());
    match kind {
        Kind::BitFlipped if !bytes.is_empty() => bytes[at.min(end - 1)] ^= 1 << rng.u8(..8),
        Kind::BitFlipped | Kind::Emptied => bytes.clear(),
        Kind::Truncated => bytes.truncate(at),
        Kind::BlockOverwritten => {
            let block = at..end.min(at + BLOCK);
            bytes[block].fill_with(|| rng.u8(..));
        }
        Kind::ZeroesToTheEnd => bytes[at..].fill(0),
        Kind::Replaced => bytes = noise(rng, 4096),
        Kind::Removed | Kind::FolderInPlace => {
            fs::remove_file(&file).unwrap();
            if kind == Kind::FolderInPlace {
                fs::create_dir(&file).unwrap();
            }
            return name_of(&file);
        }
        Kind::Swapped => {
            let other = &all[rng.usize(..all.len())];
            let theirs = fs::read(other).unwrap();
            fs::write(other, &bytes).unwrap();
            bytes = theirs;
        }
        Kind::LeftOver => return leave(place, rng),
    }
    fs::write(&file, bytes).unwrap();
    name_of(&file)
}

/// What a program that was killed, or another one, may leave.
fn leave(place: &Place, rng: &mut Rng) -> String {
    let next = place.settings.key.with_added_extension("next");
    let left = [
        place.db(1).join("snap.00000000000FFFFF.generating"),
        place.db(1).join("snap.00000000000FFFFF"),
        place.db(7),
        place.db(7).join("db"),
        place.settings.path.join("current.new"),
        next.clone(),
        next,
    ];
    let file = &left[rng.usize(..left.len())];
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let whole_key = rng.bool() && file.extension().is_some_and(|it| it == "next");
    let bytes = if whole_key {
        vec![7; 32]
    } else {
        noise(rng, 64)
    };
    fs::write(file, bytes).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    name_of(file)
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy();
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn whatever_happens_to_its_files_the_store_starts_and_works() {
    let set = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let (rounds, seed) = (
        set(ROUNDS).unwrap_or(EVERY_RUN),
        set(SEED).unwrap_or_else(|| fastrand::u64(..)),
    );
    println!("{SEED}={seed}");
    let mut rng = Rng::with_seed(seed);
    let original = Place::new();
    original.fill(RECORDS);
    // A restart leaves a snapshot, which then is one of the files.
    original.fill(RECORDS);
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut degraded = 0;
    for round in 0..rounds {
        let place = Place::new();
        copy(original.dir.path(), place.dir.path());
        let kind = KINDS[rng.usize(..KINDS.len())];
        let file = spoil(&place, kind, &mut rng);
        let context = format!("{SEED}={seed}, round {round}: {kind:?} {file}");
        let opened = place.open();
        let kept = names(&opened).len() as u64;
        for name in [format!("{kind:?}"), file.clone()] {
            let tally = tallies.entry(name).or_default();
            match kept {
                RECORDS => tally.all += 1,
                0 => tally.none += 1,
                _ => tally.some += 1,
            }
        }
        put(&opened.store, "new", 1000);
        if opened.store.close(PATIENCE) {
            assert!(place.restored().contains(&"new".into()), "{context}");
        } else {
            // Where a folder stands in the place of a file, somebody has to look.
            let reason = opened.store.health();
            assert!(matches!(reason, Health::Degraded(_)), "{context}");
            let names = ["lock", "current", "key"];
            assert!(
                names.contains(&&*file) || kind == Kind::Swapped,
                "{context}"
            );
            println!("{context}: {reason:?}");
            degraded += 1;
        }
    }
    for (name, it) in &tallies {
        println!(
            "{name}: all kept {}, some {}, none {}",
            it.all, it.some, it.none
        );
    }
    println!("{rounds} damages, {degraded} of which keep tokens from being stored, and are told");
}
