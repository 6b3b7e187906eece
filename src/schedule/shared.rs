//! One copy of each parsed expression: `croner` needs five kilobytes for one, and ten thousand policies share a few
//! hundred.
//!
//! Pure as far as anyone can see: what an expression means hangs on nothing else.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use croner::Cron;

use super::expression::{self, ScheduleError};

/// The expressions that are in use somewhere, as they were written.
static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct InUse {
    expressions: BTreeMap<String, Weak<Cron>>,
    /// How many there may be before those are removed that nobody uses any more.
    room: usize,
}

/// Below this many it is not worth the while to look for what nobody uses.
const LEAST_ROOM: usize = 1024;

/// Reads an expression, or gives it as it was read for another policy.
pub(super) fn read(text: &str) -> Result<Arc<Cron>, ScheduleError> {
    let known = |in_use: &InUse| in_use.expressions.get(text).and_then(Weak::upgrade);
    if let Some(cron) = known(&IN_USE.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(cron);
    }
    let cron = Arc::new(expression::read(text)?);
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have read it meanwhile.
    if let Some(cron) = known(&in_use) {
        return Ok(cron);
    }
    if in_use.expressions.len() >= in_use.room {
        in_use.expressions.retain(|_, cron| cron.strong_count() > 0);
        in_use.room = (2 * in_use.expressions.len()).max(LEAST_ROOM);
    }
    in_use.expressions.insert(text.to_owned(), Arc::downgrade(&cron));
    Ok(cron)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_alike_is_kept_once() {
        let first = read("3 4 * * 5").expect("an expression");
        assert!(Arc::ptr_eq(&first, &read("3 4 * * 5").expect("the same")));
        assert_ne!(*first, *read("4 4 * * 5").expect("another one"));
        assert!(read("nonsense").is_err());
    }

    #[test]
    fn what_nobody_uses_any_more_is_let_go() {
        for minute in 0..60 {
            for hour in 0..24 {
                read(&format!("{minute} {hour} * * *")).expect("an expression");
            }
        }
        let in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(in_use.expressions.len() <= LEAST_ROOM + 100, "{} expressions are kept", in_use.expressions.len());
    }
}
