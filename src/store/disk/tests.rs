use super::*;
use crate::store::queue::Put;
use crate::store::tests::{Place, key, machine, secret_of, token};

fn open(place: &Place) -> (Disk, usize) {
    let (disk, loaded) = Disk::open(&place.settings, &machine(), UnixMs(0), false).unwrap();
    (disk, loaded.restored.len())
}

fn queue(change: impl FnOnce(&mut Queue)) -> Queue {
    let mut queue = Queue::default();
    change(&mut queue);
    queue
}

fn put(secret: &str, last_used: u64) -> Put {
    Put {
        token: Arc::new(token(secret)),
        generation: 1,
        last_used: UnixMs(last_used),
    }
}

#[test]
fn without_a_database_every_record_moves_to_the_next_number() {
    let place = Place::new();
    place.fill(10);
    let (mut disk, found) = open(&place);
    assert_eq!(found, 10);
    drop(disk.db.take());
    disk.save().unwrap();
    drop(disk);
    assert!(!place.db(1).exists() && place.db(2).exists());
    assert_eq!(place.restored().len(), 10);
}

#[test]
fn while_nothing_can_be_written_only_a_removal_takes_the_old_files() {
    let place = Place::new();
    place.fill(3);
    let (mut disk, _) = open(&place);
    drop(disk.db.take());
    // Files where the next databases would be.
    let blocked = [place.db(2), place.db(3)];
    for path in &blocked {
        std::fs::write(path, "").unwrap();
    }
    disk.apply(queue(|queue| queue.put(&key("r9"), put("t", 1))), UnixMs(0));
    assert!(disk.save().is_err());
    assert!(place.db(1).exists());
    disk.apply(queue(|queue| queue.remove(&key("r0"))), UnixMs(0));
    disk.apply(queue(|queue| queue.remove(&key("r9"))), UnixMs(0));
    assert!(disk.save().is_err());
    assert!(!place.db(1).exists());
    for path in &blocked {
        std::fs::remove_file(path).unwrap();
    }
    disk.save().unwrap();
    drop(disk);
    assert_eq!(place.restored(), ["r1", "r2"]);
}

#[test]
fn removing_all_leaves_nothing_but_what_was_put_after() {
    let place = Place::new();
    place.fill(3);
    let (mut disk, _) = open(&place);
    let mut queue = queue(|queue| queue.put(&key("r9"), put(&secret_of("r9"), 1)));
    queue.remove_all = true;
    queue.urgent = true;
    disk.apply(queue, UnixMs(0));
    disk.save().unwrap();
    drop(disk);
    assert_eq!(place.restored(), ["r9"]);
}

#[test]
fn a_token_too_long_to_store_displaces_the_one_before() {
    let place = Place::new();
    place.fill(1);
    let (mut disk, _) = open(&place);
    let long = put(&"x".repeat(MAX_RECORD_BYTES), 1);
    disk.apply(queue(|queue| queue.put(&key("r0"), long)), UnixMs(0));
    disk.save().unwrap();
    drop(disk);
    assert!(place.restored().is_empty());
}

#[test]
fn the_least_recently_used_record_makes_room() {
    let place = Place::new();
    let (mut disk, _) = open(&place);
    let full = queue(|queue| {
        for used in 0..MAX_RECORDS as u64 {
            queue.put(&key(&format!("r{used}")), put("t", used));
        }
    });
    disk.apply(full, UnixMs(0));
    disk.apply(
        queue(|queue| queue.put(&key("new"), put("t", 0))),
        UnixMs(0),
    );
    let name = |resource| disk.sealer.fingerprint(&key(resource).canonical_bytes());
    assert_eq!(disk.live.len(), MAX_RECORDS);
    assert!(disk.live.contains_key(&name("new")));
    assert!(!disk.live.contains_key(&name("r0")));
}

#[test]
fn a_database_has_outgrown_its_records_only_when_it_is_large_and_mostly_waste() {
    let place = Place::new();
    place.fill(1);
    let (disk, _) = open(&place);
    assert!(!disk.has_outgrown(SMALL_BYTES));
    assert!(disk.has_outgrown(SMALL_BYTES + 1));
}

#[test]
fn what_was_put_is_the_caches_own_token_until_it_is_removed() {
    let place = Place::new();
    let (mut disk, _) = open(&place);
    let put = put("t", 1);
    let token = Arc::clone(&put.token);
    disk.apply(queue(|queue| queue.put(&key("a"), put)), UnixMs(0));
    disk.save().unwrap();
    assert_eq!(Arc::strong_count(&token), 2, "ours and the store's");
    disk.apply(queue(|queue| queue.remove(&key("a"))), UnixMs(0));
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn what_was_put_moves_to_a_new_database_and_under_a_new_key() {
    let place = Place::new();
    place.fill(1);
    let (mut disk, _) = open(&place);
    let put = put(&secret_of("r9"), 1);
    disk.apply(queue(|queue| queue.put(&key("r9"), put)), UnixMs(0));
    disk.save().unwrap();
    drop(disk.db.take());
    disk.save().unwrap();
    disk.rotate(UnixMs(0)).unwrap();
    disk.save().unwrap();
    let facts = disk.key_facts();
    assert_eq!((facts.under_older, facts.rotating), (0, false));
    drop(disk);
    assert_eq!(place.restored(), ["r0", "r9"]);
}
