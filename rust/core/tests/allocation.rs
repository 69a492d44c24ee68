//! A forward pass on one thread allocates nothing once the thread has run the network, unless rows
//! are recomputed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use lrgate::{BatchPlan, Isa, LayerPlan, Plan, Precision, Quantization, Rows, Strategy};

mod common;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts this thread's allocations.
struct Counting;

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_pass_allocates_nothing() {
    let model = common::Model::relu(1, &[70, 130, 65, 10]);
    let network = lrgate::Network::with_isa(model.layers, None, Isa::best()).unwrap();
    let gate = lrgate::Gate::new(vec![0.1; 70 * 4], vec![0.1; 4 * 130], vec![0.0; 130], 4)
        .with_range(vec![[0.0, 100.0]; 4]);
    let network = network.with_gates(vec![Some(gate), None, None]).unwrap();
    let bytes: Vec<u8> = (0..200 * 70).map(|i| (i % 7 * (i % 2)) as u8).collect();
    let floats: Vec<f32> = bytes.iter().map(|b| f32::from(*b)).collect();
    let runs: Vec<u8> = (0..200 * 70).map(|i| (i / 20 % 2 * 9) as u8).collect();
    let mut out = vec![0.0; 200 * 10];
    for strategies in [[Strategy::Dense; 3], [Strategy::Skip; 3], GATED] {
        let network = network.with_plan(Plan::from_strategies(&strategies)).unwrap();
        for rows in [1, 9, 200] {
            let out = &mut out[..rows * 10];
            let inputs = [
                Rows::f32(&floats, rows, 70, 70).unwrap(),
                Rows::u8(&bytes, rows, 70, 70).unwrap(),
            ];
            for input in inputs {
                network.forward(input, out, Some(1)).unwrap();
                let before = ALLOCATIONS.get();
                network.forward(input, out, Some(1)).unwrap();
                assert_eq!(ALLOCATIONS.get() - before, 0, "{strategies:?}, {rows} rows");
            }
        }
    }
    let scale = |scale| Some(Quantization::new(vec![scale], vec![0.0]));
    let quantization = vec![scale(1.0), scale(0.1), scale(0.1)];
    let network = network.with_quantization(quantization).unwrap();
    for strategies in [[Strategy::Dense; 3], [Strategy::Skip; 3], GATED] {
        let layers = strategies.map(|strategy| LayerPlan { strategy, precision: Precision::Int8 });
        let batch_plan = BatchPlan::new(1, layers.to_vec());
        let network = network.with_plan(Plan::new(vec![batch_plan]).unwrap()).unwrap();
        let packed = network.nbytes();
        for rows in [1, 9, 200] {
            let out = &mut out[..rows * 10];
            let inputs = [
                Rows::f32(&floats, rows, 70, 70).unwrap(),
                Rows::u8(&bytes, rows, 70, 70).unwrap(),
                // Whole words of non-zeros.
                Rows::u8(&runs, rows, 70, 70).unwrap(),
            ];
            for input in inputs {
                network.forward(input, out, Some(1)).unwrap();
                let before = ALLOCATIONS.get();
                network.forward(input, out, Some(1)).unwrap();
                assert_eq!(ALLOCATIONS.get() - before, 0, "int8 {strategies:?}, {rows} rows");
            }
        }
        assert_eq!(network.nbytes(), packed, "weights are packed before the first call");
    }
    assert!(ALLOCATIONS.get() > 0, "allocations are counted");
}

const GATED: [Strategy; 3] = [Strategy::Gate, Strategy::Skip, Strategy::Dense];
