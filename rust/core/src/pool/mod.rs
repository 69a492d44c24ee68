//! The thread pool: one for the process, entered once per forward pass, and again for rows that are
//! recomputed; safe to use after fork.
//!
//! The calling thread works too, so `n` threads need `n - 1` workers. The pool grows as workers are of use.
//! Idle workers stay awake for a moment, then sleep, and end after some seconds. A call's threads are a `Team`. After a fork the child has none of the parent's threads: the pool remembers the process that
//! made it, and another process makes its own.

mod config;
mod queue;
mod team;
mod workers;

pub use config::{num_threads, set_num_threads, set_thread_override};
pub use team::parts_shared;
pub(crate) use team::{ALONE, Team, worth_sharing};
