//! What a store takes on disk while the same tokens are written again and again.
//!
//! `FORETOKEN_STORE_OVERWRITES` sets how often.

use super::super::disk::{Disk, LOOK_BYTES, MAX_GROWTH, SAVES_PER_LOOK, SMALL_BYTES};
use super::super::queue::{Put, Queue};
use super::*;

const OVERWRITES: &str = "FORETOKEN_STORE_OVERWRITES";
const EVERY_RUN: u64 = 60_000;
/// Tokens per save.
const RECORDS: u64 = 200;
/// A sealed one is somewhat longer.
const RECORD_BYTES: u64 = 2_000;

fn open(place: &Place) -> Disk {
    Disk::open(&place.settings, &machine(), UnixMs(0), false)
        .unwrap()
        .0
}

/// Writes these records anew.
fn save(disk: &mut Disk, records: std::ops::Range<u64>, generation: u64) {
    let mut queue = Queue::default();
    for number in records {
        let resource = format!("r{number}");
        let token = Arc::new(token(&secret_of(&resource)));
        let last_used = UnixMs(generation);
        queue.put(
            &key(&resource),
            Put {
                token,
                generation,
                last_used,
            },
        );
    }
    disk.apply(queue, UnixMs(0));
    disk.save().unwrap();
}

fn size(disk: &Disk) -> u64 {
    disk.report(UnixMs(0)).disk_bytes
}

#[test]
fn however_often_tokens_are_overwritten_the_files_stay_within_their_bound() {
    let overwrites = std::env::var(OVERWRITES).map_or(EVERY_RUN, |text| text.parse().unwrap());
    let place = Place::new();
    let mut disk = open(&place);
    let mut most = 0;
    for round in 0..overwrites / RECORDS {
        save(&mut disk, 0..RECORDS, round + 1);
        if round % 16 == 0 {
            most = most.max(size(&disk));
        }
    }
    let live = RECORDS * RECORD_BYTES;
    println!("{overwrites} overwrites of {RECORDS} tokens: {most} bytes at most for {live}");
    assert!(most <= SMALL_BYTES.max(MAX_GROWTH * live) + LOOK_BYTES);
    drop(disk);
    assert_eq!(place.restored().len() as u64, RECORDS);
}

#[test]
fn a_large_database_that_is_mostly_waste_is_written_anew() {
    const MANY: u64 = 8_000;
    let place = Place::new();
    let mut disk = open(&place);
    save(&mut disk, 0..MANY, 1);
    save(&mut disk, 0..MANY, 2);
    let large = size(&disk);
    assert!(large > SMALL_BYTES, "{large}");
    // All are over, and one after the other comes anew; a purge would write everything at once.
    let over = UnixMs(5_000_000 + 2 * 86_400_000);
    disk.apply(Queue::default(), over);
    disk.save().unwrap();
    for turn in 0..u64::from(SAVES_PER_LOOK) {
        save(&mut disk, 0..1, 3 + turn);
    }
    let small = size(&disk);
    println!("{large} bytes before, {small} after");
    assert!(small < SMALL_BYTES, "{small}");
    drop(disk);
    assert_eq!(place.restored(), ["r0"]);
}
