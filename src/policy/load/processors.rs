//! The same work on many things, on all processors.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A thread takes this many things at a time; fewer are not worth one.
const THINGS_AT_A_TIME: usize = 32;

/// What the work makes of each thing, in their order. The result does not depend on how many processors there are.
pub fn on_all_processors<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = processors.min(things.len() / THINGS_AT_A_TIME).max(1);
    if threads == 1 {
        return things.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done: Vec<(usize, R)> = Vec::new();
        loop {
            let start = next.fetch_add(THINGS_AT_A_TIME, Ordering::Relaxed);
            if start >= things.len() {
                return done;
            }
            let mine = things.iter().enumerate().skip(start).take(THINGS_AT_A_TIME);
            done.extend(mine.map(|(index, thing)| (index, work(thing))));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_turns)).collect();
        let mut done = take_turns();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_things() {
        for count in [0, 1, 31, 64, 10_001] {
            let things: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = things.iter().map(|thing| thing * 2).collect();
            assert_eq!(on_all_processors(&things, |thing| thing * 2), doubled);
        }
    }
}
