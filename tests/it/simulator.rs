//! Whole worlds from a seed: random commits, runs, clocks and faults around the real schedule, retention, plan and run
//! machine, with the promises of the design checked after every step.
//!
//! `MAINSTAY_SEED=17 cargo test --test it simulator` replays one world and prints what happened in it;
//! `MAINSTAY_SEEDS=2000` runs that many.

mod author;
mod daemon;
mod rules;
mod run;
mod world;

use author::Author;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use world::World;

/// How many things happen in a world before its faults stop.
const STEPS: usize = 120;

/// How many rounds a world may take to come to rest once its faults have stopped.
const ROUNDS_TO_REST: usize = 40;

/// Worlds in a plain `cargo test`.
const DEFAULT_SEEDS: u64 = 200;

#[test]
fn worlds_keep_their_promises() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    if let Some(seed) = number("MAINSTAY_SEED") {
        let (story, result) = live(seed);
        println!("{}", story.join("\n"));
        result.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        return;
    }
    let mut totals = Totals::default();
    for seed in 0..number("MAINSTAY_SEEDS").unwrap_or(DEFAULT_SEEDS) {
        let (story, result) = live(seed);
        if let Err(broken) = result {
            let end = story.iter().rev().take(12).rev().cloned().collect::<Vec<_>>().join("\n");
            panic!("{broken}\n{end}\nreplay with MAINSTAY_SEED={seed} cargo test --test it simulator -- --nocapture");
        }
        totals.add(&story);
    }
    // A world in which nothing ever happens keeps every promise: see that things do happen.
    println!("{totals:?}");
    assert!(
        totals.runs > 0 && totals.refusals > 0 && totals.approvals > 0 && totals.forgotten > 0 && totals.crashes > 0
    );
}

/// What happened in all worlds together.
#[derive(Debug, Default)]
struct Totals {
    runs: usize,
    refusals: usize,
    approvals: usize,
    forgotten: usize,
    crashes: usize,
}

impl Totals {
    fn add(&mut self, story: &[String]) {
        let count = |word: &str| story.iter().filter(|line| line.contains(word)).count();
        self.runs += count("recorded");
        self.refusals += count("refused");
        self.approvals += count("approves");
        self.forgotten += count("forgets");
        self.crashes += count("killed");
    }
}

/// Lives through the world of a seed: its story, and the promise that it broke.
fn live(seed: u64) -> (Vec<String>, Result<(), String>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut author = Author::new(&mut random);
    let world = World::new(seed);
    let mut result = Ok(());
    for _ in 0..STEPS {
        step(&mut random, &mut author, &world);
        if let Some(broken) = world.broken() {
            result = Err(broken);
            break;
        }
    }
    if result.is_ok() {
        result = rest(&mut author, &world);
    }
    (world.story(), result)
}

/// One thing happens.
fn step(random: &mut StdRng, author: &mut Author, world: &World) {
    match random.random_range(0..100) {
        0..18 => author.commit(random, world),
        18..24 => author.approve(random, world),
        24..26 => world.hold_or_release(random),
        26..44 => world.clock(random),
        44..62 => daemon::turn(world, author),
        62..74 => daemon::start_due(world),
        74..94 => (0..random.random_range(1..12)).for_each(|_| run::advance(world)),
        94..97 => run::guard(world),
        _ => daemon::clean_up(world),
    }
}

/// Faults stop, files are mended: the world comes to the state that is asked for, and then nothing writes any more.
fn rest(author: &mut Author, world: &World) -> Result<(), String> {
    author.mend();
    world.end_faults();
    for _ in 0..ROUNDS_TO_REST {
        daemon::turn(world, author);
        daemon::start_due(world);
        (0..40).for_each(|_| run::advance(world));
        run::guard(world);
        daemon::clean_up(world);
        world.broken().map_or(Ok(()), Err)?;
    }
    let writes = world.writes();
    daemon::turn(world, author);
    daemon::start_due(world);
    daemon::clean_up(world);
    world.broken().map_or(Ok(()), Err)?;
    if world.writes() != writes {
        return Err("a turn with nothing to do wrote something".to_owned());
    }
    world.rests(author)
}
