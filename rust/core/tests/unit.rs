//! The unit tests in the source files of modules below those that compute layers.
//!
//! They are built here instead of as tests of the library, which would compile all kernels again
//! for every instruction set; unit tests run only a few of them.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[path = "../src/error.rs"]
mod error;
#[path = "../src/head.rs"]
mod head;
#[path = "../src/interrupt.rs"]
mod interrupt;
#[path = "../src/kernels/mod.rs"]
mod kernels;
#[path = "../src/layout/mod.rs"]
mod layout;
#[path = "../src/memory.rs"]
mod memory;
#[path = "../src/model/mod.rs"]
mod model;
#[path = "../src/plan.rs"]
mod plan;
#[path = "../src/rows.rs"]
mod rows;
#[path = "../src/signal/mod.rs"]
mod signal;
#[path = "../src/simd/mod.rs"]
mod simd;
