//! Scratch memory of a forward pass: one per thread, grown to the largest network seen, so that a
//! call allocates nothing once a thread has run that network, unless rows are recomputed.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;

use crate::path::GateScratch;
use crate::signal::Buffer;

/// Everything a tile needs between its rows coming in and going out.
pub(super) struct Workspace {
    /// The activations before and after a layer, by turns.
    pub(super) buffers: [Buffer; 2],
    pub(super) gate: GateScratch,
    /// Rows that hold a value that is not finite, which bytes cannot tell.
    pub(super) invalid: Vec<bool>,
    /// Rows with a value, of the input or of a hidden layer, that has no byte.
    pub(super) out_of_range: Vec<AtomicBool>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new());
}

impl Workspace {
    fn new() -> Workspace {
        Workspace {
            buffers: [Buffer::new(), Buffer::new()],
            gate: GateScratch::default(),
            invalid: Vec::new(),
            out_of_range: Vec::new(),
        }
    }

    /// Calls `f` with this thread's workspace.
    pub(super) fn with<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
        WORKSPACE.with_borrow_mut(f)
    }
}
