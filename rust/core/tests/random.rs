//! Random small networks compared with the oracle, shrunk to the smallest that fails.

mod common;

use common::{Model, Random, differences, forward};
use lrgate::{Activation, InputMap, Isa, Plan, Rows, Strategy};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

fn activation() -> impl proptest::strategy::Strategy<Value = Activation> {
    prop_oneof![
        4 => Just(Activation::Relu),
        1 => (0.01_f32..2.0).prop_map(|upper| Activation::ClippedRelu { upper }),
        1 => (-1.0_f32..1.0).prop_map(|threshold| Activation::ThresholdedRelu { threshold }),
        1 => (-1.5_f32..1.5).prop_map(|slope| Activation::LeakyRelu { slope }),
        1 => Just(Activation::SquaredRelu),
        1 => Just(Activation::Prelu { slope: [0.0, 0.0].into() }),
        1 => Just(Activation::HardSwish),
        1 => Just(Activation::Mish),
        1 => Just(Activation::LogSoftmax),
        1 => Just(Activation::Tanh),
        1 => Just(Activation::Sigmoid),
        1 => Just(Activation::Gelu),
        1 => Just(Activation::Softmax),
        1 => Just(Activation::Identity),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_network_is_within_the_bound(
        seed in any::<u64>(),
        widths in prop::collection::vec(1_usize..90, 2..5),
        hidden in activation(),
        last in activation(),
        mix in prop::collection::vec(0_usize..Strategy::ALL.len(), 4),
        n in 0_usize..20,
        zeros in 0.0_f32..1.0,
        map in prop::option::of((-2.0_f32..2.0, -2.0_f32..2.0)),
    ) {
        let mut model = Model::random(seed, &widths, hidden, last);
        model.map = map.map(|(scale, shift)| InputMap::new(vec![scale], vec![shift]));
        let layers = 0..model.layers.len();
        let strategies: Vec<_> =
            layers.zip(mix).map(|(i, which)| model.possible(i, Strategy::ALL[which])).collect();
        let mut random = Random(seed ^ 1);
        let mut data = random.values(n * widths[0]);
        for x in &mut data {
            if random.value().abs() < zeros {
                *x = 0.0;
            }
        }
        let oracle: Vec<_> = data
            .chunks_exact(widths[0])
            .map(|row| model.oracle(&strategies, row).pop().unwrap_or_default())
            .collect();
        for isa in Isa::available() {
            let got = forward(&model.network(isa, &strategies), &data, n);
            let wrong = differences(isa.name(), &oracle, &got);
            prop_assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
    }

    /// Any CSR matrix is refused or computed, never read out of bounds.
    #[test]
    fn any_csr_is_refused_or_computed(
        starts in prop::collection::vec(-2_i32..8, 0..6),
        index in prop::collection::vec(-2_i32..6, 0..8),
        values in 0_usize..8,
    ) {
        let value = vec![1.0; values];
        let ordered = starts.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends = starts.first().is_some_and(|first| *first >= 0)
            && starts.last().is_some_and(|end| *end as usize <= index.len().min(values));
        let inside = ordered && ends && {
            let used = &index[starts[0] as usize..starts[starts.len() - 1] as usize];
            used.iter().all(|i| (0..4).contains(i))
        };
        let rows = Rows::csr(&starts, &index, &value, 4);
        prop_assert_eq!(rows.is_ok(), inside);
        if let Ok(rows) = rows {
            let model = Model::relu(1, &[4, 5, 2]);
            for strategy in Strategy::ALL {
                let network = model.network(Isa::best(), &model.uniform(strategy));
                let mut out = vec![f32::NAN; rows.len() * 2];
                network.forward(rows, &mut out, Some(1)).unwrap();
                prop_assert!(out.iter().all(|y| y.is_finite()));
            }
        }
    }

    /// A call uses the batch plan with the nearest ratio of rows.
    #[test]
    fn the_batch_plan_is_the_nearest(
        sizes in prop::collection::btree_set(1_usize..5000, 1..6),
        rows in 1_usize..10000,
    ) {
        let layers = Plan::uniform(Strategy::Dense, 1).batch_plans()[0].layers.clone();
        let batch_plan = |&rows| lrgate::BatchPlan::new(rows, layers.clone());
        let plan = Plan::new(sizes.iter().map(batch_plan).collect()).unwrap();
        let ratio = |size: usize| size.max(rows) as f64 / size.min(rows) as f64;
        let best = sizes.iter().map(|size| ratio(*size)).fold(f64::INFINITY, f64::min);
        prop_assert!(ratio(plan.for_rows(rows).rows) <= best * (1.0 + 1e-12));
    }
}
