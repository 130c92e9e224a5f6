//! Loom models of slot and flight: every interleaving of two or three threads.
//!
//! Run with `cargo test --release --features loom --lib models`.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use super::fixtures::{entry, slot};
use super::{Joined, Landing, Leader, Slot, Waiter};
use crate::clock::UnixMs;
use crate::sync::{AtomicU64, Ordering};
use crate::upstream::{Class, FetchError};

fn join(slot: &Arc<Slot>) -> Option<(Waiter, Option<Leader>)> {
    match slot.join() {
        Joined::Waiting(waiter, leader) => Some((waiter, leader)),
        Joined::Gone | Joined::Crowded => None,
    }
}

#[test]
fn x1_a_dropped_leader_wakes_the_waiter_and_frees_the_slot() {
    loom::model(|| {
        let slot = slot();
        let (waiter, leader) = join(&slot).unwrap();
        let dropping = thread::spawn(move || drop(leader));
        assert!(matches!(block_on(waiter), Landing::Lost));
        dropping.join().unwrap();
        assert!(join(&slot).unwrap().1.is_some());
    });
}

#[test]
fn x2_a_waiter_that_hangs_up_disturbs_nobody() {
    loom::model(|| {
        let slot = slot();
        let (leaving, _leader) = join(&slot).unwrap();
        let (staying, _) = join(&slot).unwrap();
        let hanging_up = thread::spawn(move || drop(leaving));
        let landing = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || assert!(slot.publish(entry(&slot, 1))))
        };
        assert!(matches!(block_on(staying), Landing::Arrived));
        hanging_up.join().unwrap();
        landing.join().unwrap();
    });
}

#[test]
fn x3_a_purge_during_a_flight_leaves_no_entry() {
    loom::model(|| {
        let slot = slot();
        slot.publish(entry(&slot, 1));
        let (waiter, leader) = join(&slot).unwrap();
        let purging = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.bury())
        };
        let landing = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                slot.publish(entry(&slot, 2));
                drop(leader);
            })
        };
        // Whoever comes first, the waiter is answered.
        assert!(matches!(block_on(waiter), Landing::Arrived | Landing::Gone));
        purging.join().unwrap();
        landing.join().unwrap();
        assert!(slot.entry().is_none());
        assert!(!slot.is_current(1) && !slot.is_current(2));
        assert!(join(&slot).is_none());
    });
}

#[test]
fn x4_a_failure_reaches_every_waiter_and_the_next_caller_leads() {
    loom::model(|| {
        let slot = slot();
        let (first, leader) = join(&slot).unwrap();
        let other = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                // Joins the flight, or comes after it and leads the next.
                let (waiter, leader) = join(&slot).unwrap();
                match leader {
                    None => assert!(matches!(block_on(waiter), Landing::Failed(_))),
                    Some(leader) => {
                        drop(leader);
                        assert!(matches!(block_on(waiter), Landing::Lost));
                    }
                }
            })
        };
        slot.fail(&Arc::new(FetchError::of(Class::Timeout)));
        drop(leader);
        assert!(matches!(block_on(first), Landing::Failed(_)));
        other.join().unwrap();
        assert!(join(&slot).unwrap().1.is_some());
    });
}

#[test]
fn x5_a_reader_never_finds_an_entry_older_than_the_generation_it_saw() {
    loom::model(|| {
        let slot = slot();
        slot.publish(entry(&slot, 1));
        let writing = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || assert!(slot.publish(entry(&slot, 2))))
        };
        let saw_new = slot.is_current(2);
        let found = slot.entry().unwrap().generation;
        assert!(if saw_new {
            found == 2
        } else {
            found == 1 || found == 2
        });
        writing.join().unwrap();
        assert!(slot.is_current(2));
    });
}

#[test]
fn x6_two_callers_make_one_leader() {
    loom::model(|| {
        let slot = slot();
        let other = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || join(&slot).unwrap())
        };
        let (mine, my_lead) = join(&slot).unwrap();
        let (theirs, their_lead) = other.join().unwrap();
        assert!(my_lead.is_some() != their_lead.is_some());
        slot.publish(entry(&slot, 1));
        assert!(matches!(block_on(mine), Landing::Arrived));
        assert!(matches!(block_on(theirs), Landing::Arrived));
    });
}

#[test]
fn x6_two_refreshers_and_a_shutdown_leave_one_leader_at_a_time_and_a_free_slot() {
    loom::model(|| {
        let slot = slot();
        let leaders = Arc::new(AtomicU64::new(0));
        let refreshers = [(); 2].map(|()| {
            let (slot, leaders) = (Arc::clone(&slot), Arc::clone(&leaders));
            thread::spawn(move || {
                let Some(leader) = slot.lead() else {
                    return;
                };
                assert_eq!(leaders.fetch_add(1, Ordering::Relaxed), 0);
                leaders.fetch_sub(1, Ordering::Relaxed);
                // As a thread that stops drops what it holds.
                drop(leader);
            })
        });
        // Behind either of them, or after both.
        let (waiter, leader) = join(&slot).unwrap();
        drop(leader);
        assert!(matches!(block_on(waiter), Landing::Lost));
        refreshers.into_iter().for_each(|it| it.join().unwrap());
        assert!(slot.lead().is_some());
    });
}

#[test]
fn x4_a_forced_flight_that_fails_reaches_every_waiter_and_leaves_the_entry() {
    loom::model(|| {
        let slot = slot();
        slot.publish(entry(&slot, 1));
        let now = UnixMs(1_000_000);
        let (first, leader) = slot.join_forced(now, || true).unwrap();
        let other = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                // Joins the flight, or comes after it and has to do with what is there.
                if let Some((waiter, leader)) = slot.join_forced(now, || true) {
                    assert!(leader.is_none(), "two calls forced in one minute");
                    assert!(matches!(block_on(waiter), Landing::Failed(_)));
                }
                assert!(slot.is_current(1));
            })
        };
        slot.fail(&Arc::new(FetchError::of(Class::Timeout)));
        drop(leader);
        assert!(matches!(block_on(first), Landing::Failed(_)));
        other.join().unwrap();
        assert!(slot.entry().is_some() && slot.is_current(1));
        assert!(join(&slot).unwrap().1.is_some());
    });
}
