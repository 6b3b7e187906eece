//! A hook for tests: a run that stops at a named point until it is killed or let go.
//!
//! `MAINSTAY_TEST_PAUSE=POINT=FIFO` makes the process open FIFO for reading when it reaches POINT, which waits until
//! somebody opens it for writing and closes it again. A test that opened it for writing knows that the process stands
//! exactly there. With `forever` instead of a FIFO it only can be killed. Points are the steps of a run as
//! `STEP:intended` (the intent is on disk, nothing was done) and `STEP:done` (it was done, the outcome is not on disk):
//! `hookBefore`, `stop`, `capture`, `start`, `hookAfter`, `copy`, `check`, `record`, `cleanup`.

use crate::run::machine::Step;

/// Waits here if the test asks for it.
pub fn pause_at(step: Step, moment: &str) {
    if std::env::var_os("MAINSTAY_TEST_PAUSE").is_none() {
        return;
    }
    let name = match step {
        Step::HookBefore(_) => "hookBefore",
        Step::Stop => "stop",
        Step::Capture(_) => "capture",
        Step::Start => "start",
        Step::HookAfter(_) => "hookAfter",
        Step::Copy(_) => "copy",
        Step::Check => "check",
        Step::Record => "record",
        Step::Cleanup => "cleanup",
    };
    pause_at_point(&format!("{name}:{moment}"));
}

/// The same for what is no step of a run: restores have points of their own.
pub fn pause_at_point(name: &str) {
    let Ok(asked) = std::env::var("MAINSTAY_TEST_PAUSE") else { return };
    if let Some((point, fifo)) = asked.split_once('=')
        && point == name
    {
        // In a pod there is nobody to hold a FIFO: it stands there until it is killed.
        if fifo == "forever" {
            loop {
                std::thread::park();
            }
        }
        // Whatever comes of it: the test decides.
        let _ = std::fs::read(fifo);
    }
}
