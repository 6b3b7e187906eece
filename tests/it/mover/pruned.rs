//! A prune by somebody who keeps no lock, in the middle of a capture.

use std::fs;

use super::*;

/// A capture that found all of its data in the repository, of which no snapshot refers to any, stands before its end
/// while a prune takes that data for unused. `meanwhile` is what happens besides.
fn capture_across_a_prune(world: &World, meanwhile: impl FnOnce()) -> (Result<Outcome, Failure>, Vec<Event>) {
    let rows = "seq 1000000 1400000";
    world.capture("1", one(rows, StreamCheck::NotEmpty)).unwrap();
    world.run(Task::Forget { snapshots: vec![world.only_snapshot()] }).unwrap();
    let fifo = world.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("{rows}; cat {}", fifo.display());
    let mover = world.start(capture("2", one(&script, StreamCheck::NotEmpty)));
    // Opens only once the program has given all of its rows.
    let held = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    assert!(matches!(world.run(Task::Prune), Ok(Outcome::Pruned { freed_bytes: 1.. })));
    meanwhile();
    drop(held);
    finish(mover)
}

#[test]
fn what_a_prune_took_for_unused_during_a_capture_is_put_back() {
    let world = World::new();
    let (captured, events) = capture_across_a_prune(&world, || ());
    let Ok(Outcome::Captured { added_bytes, .. }) = captured else { panic!("{captured:?}") };
    assert!(added_bytes < 100_000, "it stored {added_bytes} bytes, so it relied on nothing");
    let is_told = |event: &Event| matches!(event, Event::Warning(text) if text.contains("put back into the index"));
    assert!(events.iter().any(is_told), "{events:?}");
    world.check().unwrap();
    world.restore(&world.path("into"), false).unwrap();
    assert_eq!(fs::read_to_string(world.path("into/shop.sql")).unwrap().lines().count(), 400_001);
    // The next prune finds packs that are both marked and in use.
    world.run(Task::Prune).unwrap();
    world.check().unwrap();
    world.restore(&world.path("again"), false).unwrap();
}

#[test]
fn a_capture_whose_data_was_deleted_meanwhile_makes_no_snapshot() {
    let world = World::new();
    let (captured, _) = capture_across_a_prune(&world, || {
        fs::remove_dir_all(world.path("repository/data")).unwrap();
        fs::create_dir(world.path("repository/data")).unwrap();
    });
    let failure = captured.unwrap_err();
    assert!(failure.message.contains("took") && failure.hint.contains("the next run"), "{failure:?}");
    assert!(world.list().is_empty());
    fs::remove_file(world.path("fifo")).unwrap();
    world.capture("3", one("seq 1000000 1400000", StreamCheck::NotEmpty)).unwrap();
    world.restore(&world.path("into"), false).unwrap();
}
