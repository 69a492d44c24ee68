//! Calls that are ended by a caller's check: long forward passes of one tile or many, measurements,
//! and packing.

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::Random;
use lrgate::interrupt::{Interrupted, with_check};
use lrgate::{Activation, Error, Layer, Network, Plan, Quantization, Rows, Strategy};

const WIDTH: usize = 2048;
/// Rows of one tile, which take long in each layer.
const ROWS: usize = 64;
/// Rows of several tiles.
const MANY: usize = 4 * ROWS + 5;

fn network() -> Network {
    let layer = |seed, activation| {
        let weights = Random(seed).values(WIDTH * WIDTH);
        Layer::new(weights, vec![0.0; WIDTH], WIDTH, activation)
    };
    let layers = vec![layer(1, Activation::Relu), layer(2, Activation::Identity)];
    Network::new(layers, None).unwrap()
}

fn forward(network: &Network, data: &[f32], threads: usize) -> lrgate::Result<Vec<f32>> {
    let n = data.len() / WIDTH;
    let mut out = vec![0.0; n * WIDTH];
    network.forward(Rows::f32(data, n, WIDTH, WIDTH)?, &mut out, Some(threads))?;
    Ok(out)
}

#[test]
fn a_check_ends_forward_passes() {
    let network = network();
    let data = Random(3).rows(MANY, WIDTH);
    // Without vector instructions, many tiles would take a minute.
    let sizes: &[usize] = if network.isa().name() == "portable" { &[ROWS] } else { &[ROWS, MANY] };
    for strategy in [Strategy::Dense, Strategy::Skip] {
        let network = network.with_plan(Plan::uniform(strategy, 2)).unwrap();
        for n in sizes.iter().copied() {
            let data = &data[..n * WIDTH];
            let expected = forward(&network, data, 1).unwrap();
            for threads in [1, 2] {
                let asked = Cell::new(0);
                let never = || {
                    asked.set(asked.get() + 1);
                    false
                };
                let got = with_check(&never, || forward(&network, data, threads));
                assert_eq!(got.unwrap(), expected, "{strategy:?} {n} {threads}");
                let all = asked.get();
                assert!(all > 1, "{strategy:?} {n} {threads}: asked {all} times");
                for end in [1, 2, all] {
                    let asked = Cell::new(0);
                    let at_end = || {
                        asked.set(asked.get() + 1);
                        asked.get() >= end
                    };
                    let got = with_check(&at_end, || forward(&network, data, threads));
                    // With two threads the caller may have run fewer parts, and called the check
                    // less often.
                    if threads == 1 || got.is_err() {
                        assert_eq!(got.err(), Some(Error::Interrupted), "{strategy:?} {n} {end}");
                    }
                }
            }
            assert_eq!(forward(&network, data, 2).unwrap(), expected, "nothing of it is left");
        }
    }
}

/// Rows that would be recomputed are not, and nothing panics.
#[test]
fn a_check_ends_calls_with_rows_out_of_range() {
    let bytes = |scale| Some(Quantization::new(vec![scale], vec![0.0]));
    let network = network().with_quantization(vec![bytes(1e-3), bytes(1e-3)]).unwrap();
    let data = Random(4).rows(ROWS, WIDTH);
    let rows = Rows::f32(&data, ROWS, WIDTH, WIDTH).unwrap();
    assert!(network.recomputed(rows).unwrap().contains(&true));
    let always = || true;
    let interrupted = Some(Error::Interrupted);
    assert_eq!(with_check(&always, || forward(&network, &data, 1)).err(), interrupted);
    assert_eq!(with_check(&always, || network.layer_inputs(rows)).err(), interrupted);
    assert_eq!(with_check(&always, || network.hidden_inputs(rows)).err(), interrupted);
    assert_eq!(with_check(&always, || network.recomputed(rows)).err(), interrupted);
    let time = Duration::from_secs(60);
    assert_eq!(with_check(&always, || network.profile(rows, 1, time)).err(), interrupted);
    assert!(with_check(&always, || network.tune(rows, &[1], time, 1)).is_err());
    assert!(with_check(&always, || network.phases(rows, 1, time)).is_err());
}

/// A call that packs ends in each of its steps. A repeated call packs the rest.
#[test]
fn a_check_ends_packing() {
    let bytes = Some(Quantization::new(vec![1e-3], vec![0.0]));
    let f32 = network();
    let int8 = f32.with_quantization(vec![bytes.clone(), bytes]).unwrap();
    for (name, network) in [("f32", f32), ("int8", int8)] {
        let asked = Cell::new(0);
        let end = Cell::new(1);
        let at_end = || {
            asked.set(asked.get() + 1);
            asked.get() >= end.get()
        };
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| {
            asked.set(0);
            with_check(&at_end, || network.pack());
        })) {
            assert!(payload.is::<Interrupted>());
            assert_eq!(asked.get(), end.get(), "{name}");
            end.set(end.get() + 7);
        }
        assert!(end.get() > WIDTH / 64, "{name}: asked {} times", asked.get());
        let data = Random(3).rows(5, WIDTH);
        assert_eq!(forward(&network, &data, 1).unwrap().len(), data.len());
    }
    let layers = vec![Layer::new(vec![1.0], vec![0.0], 1, Activation::Relu)];
    let made = with_check(&|| true, || Network::new(layers, None));
    assert_eq!(made.err(), Some(Error::Interrupted));
}
