//! Scratch memory of a forward pass, one per thread. It grows to the largest network seen, so a
//! call allocates nothing once a thread has run that network, unless rows are recomputed.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;

use crate::path::GateScratch;
use crate::signal::Buffer;

/// The buffers that a tile needs between its input and its output.
pub(super) struct Workspace {
    /// The activations before and after a layer; they swap roles at each layer.
    pub(super) buffers: [Buffer; 2],
    pub(super) gate: GateScratch,
    /// Rows with a value that is not finite, which bytes cannot represent.
    pub(super) non_finite: Vec<bool>,
    /// Rows with a value, of the input or of a hidden layer, outside the range of the bytes, and rows
    /// with too small a margin.
    pub(super) recompute: Vec<AtomicBool>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new());
}

impl Workspace {
    fn new() -> Workspace {
        Workspace {
            buffers: [Buffer::new(), Buffer::new()],
            gate: GateScratch::default(),
            non_finite: Vec::new(),
            recompute: Vec::new(),
        }
    }

    /// Calls `f` with this thread's workspace.
    pub(super) fn with<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
        WORKSPACE.with_borrow_mut(f)
    }
}
