//! The inner loops, each written once and generic over the instruction set.
//!
//! | file | loop | used by |
//! |---|---|---|
//! | `scan.rs` | rows in, lists of their non-zero entries out | skip, gate (first layer) |
//! | `sparse.rs` | lists of non-zeros times packed panels | skip, gate's estimate |
//! | `bytes.rs` | lists of non-zero bytes times byte panels | int8 skip, int8 gate's estimate |
//! | `pairs.rs` | lists of non-zeros in pairs of rows times panels | the same, in batches |
//! | `dense.rs` | dense rows times packed panels | dense, gate's estimate and scores |
//! | `tiles.rs` | the same for bytes, with AMX tiles | int8 dense, and int8 gates, in batches |
//! | `shorts.rs` | the same for bytes, with AVX2 alone | int8 dense, and int8 gates |
//! | `lanes.rs` | rows in lanes times packed panels | very small networks, in batches |
//! | `dot.rs` | chosen units' weight rows times dense rows | gate |
//! | `arithmetic.rs` | the multiply-add of f32, and of bytes four to a word | all |
//! | `activation.rs` | exponentials of finished rows | activations from sigmoid to softmax |
//! | `largest.rs` | the largest weight of each unit, and whether all are finite | packing |
//! | `margin.rs` | the margin of a row's label | classifiers |
//! | `prefetch.rs` | prefetching of weights | `sparse.rs`, `bytes.rs`, `pairs.rs` |
//! | `peak.rs` | loads, and multiply-adds in L1: the limits of a machine | profiles |
//! | `epilogue.rs` | epilogue of finished sums: bias, activation, store, list, threshold | all |
//!
//! Vector operations must not be inside closures: a closure is compiled as a separate function
//! without the features of the instruction set, so they would not be inlined.

pub(crate) mod activation;
pub(crate) mod arithmetic;
pub(crate) mod bytes;
pub(crate) mod dense;
pub(crate) mod dot;
pub(crate) mod epilogue;
pub(crate) mod lanes;
pub(crate) mod largest;
pub(crate) mod margin;
pub(crate) mod pairs;
pub(crate) mod peak;
mod prefetch;
pub(crate) mod scan;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shorts;
pub(crate) mod sparse;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

/// Bytes of weights that stay in L2 while rows pass.
const STAYS_IN_L2: usize = 3 << 19;
