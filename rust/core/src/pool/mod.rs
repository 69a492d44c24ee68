//! The thread pool of the process. A forward pass enters it once, and again for rows that are
//! recomputed. It can be used after a fork.
//!
//! The calling thread works too, so `n` threads need `n - 1` workers. The pool creates workers when
//! a call can use them. Idle workers spin for a moment, then sleep, and exit after some seconds.
//! The threads of a call form a `Team`. After a fork the child process has none of the parent's
//! threads: the pool records the process that made it, and another process makes its own pool.

mod config;
mod queue;
mod sync;
mod team;
mod workers;

pub use config::{num_threads, set_num_threads, set_thread_override};
pub use team::parts_shared;
pub(crate) use team::{ALONE, Team, worth_sharing};
