//! The live tests: the real peers. `tests/run` installs and starts them.

mod restic;
