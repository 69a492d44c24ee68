//! Every error with its exact message: the core's, and the Python package's.

mod common;
/// The binding's translation of the core's errors.
#[path = "../../python/src/messages.rs"]
mod messages;

use common::Model;
use lrgate::{
    Activation, Axis, BatchPlan, Csr, Error, Extent, Gate, Index, InputMap, Isa, Layer, Missing,
    Network, Plan, Result, Rows, Strategy, Subject,
};

fn layer(inputs: usize, outputs: usize) -> Layer {
    Layer::new(vec![0.5; inputs * outputs], vec![0.0; outputs], inputs, Activation::Relu)
}

fn network(widths: &[usize]) -> Network {
    Network::new(Model::relu(1, widths).layers, None).unwrap()
}

/// `message` is the message of the Python package. The core's own message does not use Python's
/// terms.
#[track_caller]
fn refused<T>(result: Result<T>, message: &str) {
    match result {
        Ok(_) => panic!("accepted, expected: {message}"),
        Err(error) => {
            assert_eq!(messages::message(&error), message);
            let own = error.to_string();
            for python in
                ["[", "(", "'", "input_", "num_threads", "batch_size", "strategies", "indptr"]
            {
                assert!(!own.contains(python), "{own}");
            }
        }
    }
}

/// The core's own message, one for each kind of error.
#[test]
fn the_core_has_its_own_words() {
    let words = |error: Error, message: &str| assert_eq!(error.to_string(), message);
    let shape = |subject, expected, got| Error::Shape { subject, expected, got };
    words(Error::NoLayers, "a network must have at least one layer, got 0");
    words(
        Error::Width { layer: 1, axis: Axis::Units, got: 0 },
        "layer 1 must have from 1 to 2147483647 units, got 0",
    );
    words(
        Error::Width { layer: 0, axis: Axis::Inputs, got: 0 },
        "layer 0 must have from 1 to 2147483647 inputs, got 0",
    );
    words(
        Error::Chain { layer: 2, expected: 5, got: 4 },
        "layer 2 must have 5 inputs, the units of the layer before, got 4",
    );
    words(
        shape(Subject::Weight(0), Extent::Matrix(2, 3), Extent::Values(5)),
        "the weight of layer 0 must have 2 x 3 values, got 5 values",
    );
    words(
        shape(Subject::InputShift, Extent::OneOrList(3), Extent::List(2)),
        "the shift of the input map must have 1 or 3 entries, got 2 entries",
    );
    words(
        shape(Subject::QuantizationOffset(1), Extent::One, Extent::List(2)),
        "the offset of the quantization of layer 1 must have 1 entry, got 2 entries",
    );
    words(
        shape(Subject::Rows, Extent::RowsOf(3), Extent::Matrix(5, 2)),
        "rows must have 3 columns, got 5 x 2 values",
    );
    words(
        shape(Subject::Rows, Extent::Strided(3, 2, 4), Extent::Values(9)),
        "rows must have 3 x 2 values with 4 from row to row, got 9 values",
    );
    words(
        Error::NotFinite {
            subject: Subject::Gate { layer: 0, part: "u" },
            index: Index::Cell(2, 0),
            value: f32::NAN,
        },
        "u of the gate of layer 0 must be finite, got NaN at row 2, column 0",
    );
    words(
        Error::NotFinite {
            subject: Subject::Bias(1),
            index: Index::Entry(3),
            value: f32::INFINITY,
        },
        "the bias of layer 1 must be finite, got inf at entry 3",
    );
    words(
        Error::Overflow { subject: Subject::InputScale, layer: 0, part: "weight", value: -1.0 },
        "the scale of the input map must be small enough that the weight of layer 0 times it is \
         finite, got a product of -1",
    );
    words(
        Error::GateNotAllowed { layer: 1, got: "the last layer" },
        "layer 1: a gate needs a hidden layer with relu, clipped_relu, thresholded_relu or \
         squared_relu, got the last layer",
    );
    words(
        Error::Rank { layer: 0, part: "gate", max: 3, got: 4 },
        "layer 0: rank of the gate must be from 1 to 3, got 4",
    );
    for (missing, text) in [
        (Missing::Gate, "a gate"),
        (Missing::Quantization, "a quantization"),
        (Missing::GateRange, "a gate with a range"),
        (Missing::Factors, "factors"),
        (Missing::NestedGate, "factors with a gate"),
        (Missing::FactorsQuantization, "factors with a quantization"),
    ] {
        let expected = format!("the plan of layer 2 needs {text}, which the layer does not have");
        words(Error::Plan { layer: 2, missing }, &expected);
    }
    let threads = |variable| Error::Threads { variable, got: "0".to_owned() };
    words(threads(None), "threads must be an integer of at least 1, got 0");
    words(threads(Some("N")), "N must be an integer of at least 1, got 0");
    words(
        Error::Csr(Csr::Descending { row: 1, start: 2, end: 1 }),
        "rows are not a valid CSR matrix: starts must not descend, got 2 then 1 at 1",
    );
}

#[test]
fn subjects_have_names() {
    let (activation, parameter) = ("clipped_relu", "upper");
    let subjects = [
        (Subject::OwnWeight, "the weight"),
        (Subject::PickedUnits, "units"),
        (Subject::PickedInputs, "inputs"),
        (
            Subject::Activation { layer: 1, activation, parameter },
            "upper of clipped_relu of layer 1",
        ),
        (Subject::Inputs(0), "the inputs of layer 0"),
        (Subject::Gates, "gates"),
        (Subject::AllFactors, "factors"),
        (Subject::Factors { layer: 1, part: "gate.v" }, "gate.v of the factors of layer 1"),
        (Subject::Quantizations, "quantizations"),
        (Subject::QuantizationScale(0), "the scale of the quantization of layer 0"),
        (Subject::InputScale, "the scale of the input map"),
        (Subject::LayerPlans, "the layers of the plan"),
        (Subject::BatchSizes, "the batch sizes of the plan"),
        (Subject::BatchSize, "the batch size"),
        (Subject::RowCount, "the number of rows"),
        (Subject::Output, "the output"),
    ];
    for (subject, text) in subjects {
        let error = Error::Range { subject, expected: "1".to_owned(), got: "2".to_owned() };
        assert_eq!(error.to_string(), format!("{text} must be 1, got 2"));
    }
}

#[track_caller]
fn layers_refused(layers: Vec<Layer>, message: &str) {
    refused(Network::new(layers, None), message);
}

#[test]
fn layers() {
    layers_refused(vec![], "layers must have at least one layer, got 0");
    layers_refused(
        vec![layer(3, 2), Layer::new(vec![], vec![], 2, Activation::Relu)],
        "layers[1]: weight must have from 1 to 2147483647 rows, got 0",
    );
    layers_refused(
        vec![Layer::new(vec![], vec![0.0], 0, Activation::Relu)],
        "layers[0]: weight must have from 1 to 2147483647 columns, got 0",
    );
    layers_refused(
        vec![Layer::new(vec![0.0], vec![0.0], 1 << 31, Activation::Relu)],
        "layers[0]: weight must have from 1 to 2147483647 columns, got 2147483648",
    );
    layers_refused(
        vec![Layer::new(vec![0.0; 5], vec![0.0; 2], 3, Activation::Relu)],
        "layers[0].weight must have shape (2, 3), got 5 values",
    );
    layers_refused(
        vec![layer(3, 2), layer(2, 5), layer(4, 1)],
        "layers[2]: weight must have 5 columns, the units of layers[1], got 4",
    );
}

#[test]
fn parameters_that_are_not_finite() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut weight = vec![0.0; 6];
        weight[5] = value;
        layers_refused(
            vec![layer(2, 3), Layer::new(weight, vec![0.0; 2], 3, Activation::Relu)],
            &format!("layers[1].weight must be finite, got {text} at index (1, 2)"),
        );
        layers_refused(
            vec![Layer::new(vec![0.0; 4], vec![0.0, value], 2, Activation::Relu)],
            &format!("layers[0].bias must be finite, got {text} at index 1"),
        );
        let mut wide = vec![0.0; 3000];
        (wide[1234], wide[2999]) = (value, f32::NAN);
        layers_refused(
            vec![Layer::new(wide, vec![0.0; 3], 1000, Activation::Relu)],
            &format!("layers[0].weight must be finite, got {text} at index (1, 234)"),
        );
    }
}

#[test]
fn activation_parameters() {
    let with = |activation| vec![layer(2, 2), Layer::new(vec![0.0; 2], vec![0.0], 2, activation)];
    for (upper, text) in
        [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-0.0, "-0")]
    {
        layers_refused(
            with(Activation::ClippedRelu { upper }),
            &format!("layers[1]: upper of clipped_relu must be finite and above 0, got {text}"),
        );
    }
    layers_refused(
        with(Activation::ThresholdedRelu { threshold: f32::NEG_INFINITY }),
        "layers[1]: threshold of thresholded_relu must be finite, got -inf",
    );
    layers_refused(
        with(Activation::LeakyRelu { slope: f32::NAN }),
        "layers[1]: slope of leaky_relu must be finite, got NaN",
    );
}

#[test]
fn input_maps() {
    let with = |scale, shift| Network::new(vec![layer(3, 2)], Some(InputMap::new(scale, shift)));
    refused(with(vec![1.0; 2], vec![0.0]), "input_scale must have shape () or (3,), got (2,)");
    refused(with(vec![1.0], vec![]), "input_shift must have shape () or (3,), got (0,)");
    refused(
        with(vec![1.0, f32::NAN, 1.0], vec![0.0]),
        "input_scale must be finite, got NaN at index 1",
    );
    refused(with(vec![1.0], vec![f32::INFINITY]), "input_shift must be finite, got inf at index 0");
    let large = || vec![Layer::new(vec![1e30; 3], vec![0.0], 3, Activation::Relu)];
    refused(
        Network::new(large(), Some(InputMap::new(vec![1e30], vec![0.0]))),
        "input_scale must be small enough that layers[0].weight times it is finite, got a product \
         of inf",
    );
    let larger = vec![Layer::new(vec![1e38; 3], vec![0.0], 3, Activation::Relu)];
    refused(
        Network::new(larger, Some(InputMap::new(vec![1.0], vec![-16.0]))),
        "input_shift must be small enough that layers[0].weight times it is finite, got a product \
         of -inf",
    );
}

#[test]
fn gates() {
    let network = network(&[3, 4, 2]);
    let gate =
        |rank: usize| Gate::new(vec![1.0; 3 * rank], vec![1.0; rank * 4], vec![0.0; 4], rank);
    let with = |gate: Gate| network.with_gates(vec![Some(gate), None]);
    assert!(with(gate(3)).is_ok());
    refused(network.with_gates(vec![]), "gates must have shape (2,), got (0,)");
    refused(network.with_gates(vec![None; 3]), "gates must have shape (2,), got (3,)");
    refused(with(gate(0)), "layers[0]: rank of the gate must be from 1 to 3, got 0");
    refused(with(gate(4)), "layers[0]: rank of the gate must be from 1 to 3, got 4");
    refused(
        network.with_gates(vec![None, Some(gate(1))]),
        "layers[1]: a gate needs a hidden layer with relu, clipped_relu, thresholded_relu or \
         squared_relu, got the last layer",
    );
    refused(
        with(Gate::new(vec![1.0; 5], vec![1.0; 8], vec![0.0; 4], 2)),
        "gates[0].u must have shape (3, 2), got 5 values",
    );
    refused(
        with(Gate::new(vec![1.0; 6], vec![1.0; 9], vec![0.0; 4], 2)),
        "gates[0].v must have shape (2, 4), got 9 values",
    );
    refused(
        with(Gate::new(vec![1.0; 3], vec![1.0; 4], vec![0.0; 3], 1)),
        "gates[0].bias must have shape (4,), got (3,)",
    );
    refused(
        with(Gate::new(vec![1.0, 1.0, f32::NAN], vec![1.0; 4], vec![0.0; 4], 1)),
        "gates[0].u must be finite, got NaN at index (2, 0)",
    );
    refused(
        with(Gate::new(vec![1.0; 3], vec![1.0, f32::INFINITY, 0.0, 0.0], vec![0.0; 4], 1)),
        "gates[0].v must be finite, got inf at index (0, 1)",
    );
    refused(
        with(Gate::new(vec![1.0; 3], vec![1.0; 4], vec![0.0, 0.0, 0.0, f32::NAN], 1)),
        "gates[0].bias must be finite, got NaN at index 3",
    );
}

#[test]
fn gates_need_a_hard_zero() {
    for hidden in [
        Activation::Identity,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Gelu,
        Activation::Softmax,
    ] {
        assert!(!hidden.has_hard_zero());
        let layers = Model::random(1, &[3, 4, 2], hidden.clone(), Activation::Identity).layers;
        let gate = Gate::new(vec![1.0; 3], vec![1.0; 4], vec![0.0; 4], 1);
        refused(
            Network::new(layers, None).unwrap().with_gates(vec![Some(gate), None]),
            &format!(
                "layers[0]: a gate needs a hidden layer with relu, clipped_relu, \
                 thresholded_relu or squared_relu, got {}",
                hidden.name()
            ),
        );
    }
}

#[test]
fn gates_that_overflow_with_the_input_map() {
    let map = InputMap::new(vec![1.0], vec![16.0]);
    let layers = Model::relu(1, &[3, 4, 2]).layers;
    let gate = Gate::new(vec![1e38; 3], vec![1.0; 4], vec![0.0; 4], 1);
    refused(
        Network::new(layers, Some(map)).unwrap().with_gates(vec![Some(gate), None]),
        "input_shift must be small enough that layers[0].gate times it is finite, got a product of \
         inf",
    );
}

#[test]
fn plans() {
    let network = network(&[3, 4, 2]);
    let plan = |strategies: &[Strategy]| network.with_plan(Plan::from_strategies(strategies));
    refused(plan(&[Strategy::Dense]), "strategies must have shape (2,), got (1,)");
    refused(
        plan(&[Strategy::Skip, Strategy::Gate]),
        "strategies[1]: 'dense' or 'skip', since the layer has no gate, got 'gate'",
    );
    let batch_plan =
        |rows| BatchPlan { rows, ..Plan::uniform(Strategy::Dense, 2).batch_plans()[0].clone() };
    let expected =
        "batch_sizes must be distinct numbers of rows, at least one, each at least 1, got";
    refused(Plan::new(vec![]), &format!("{expected} none"));
    refused(Plan::new(vec![batch_plan(5), batch_plan(0)]), &format!("{expected} 0"));
    refused(
        Plan::new(vec![batch_plan(7), batch_plan(1), batch_plan(7)]),
        &format!("{expected} 7 twice"),
    );
}

#[test]
fn rows() {
    refused(
        Rows::f32(&[0.0; 5], 2, 3, 3),
        "x must have shape (2, 3) with 3 values from row to row, got 5 values",
    );
    refused(
        Rows::u8(&[0; 9], 3, 3, 4),
        "x must have shape (3, 3) with 4 values from row to row, got 9 values",
    );
    let most = usize::MAX;
    refused(
        Rows::u8(&[0; 9], most, 3, most),
        &format!("x must have shape ({most}, 3) with {most} values from row to row, got 9 values"),
    );
    assert!(Rows::f32(&[], 0, 3, 3).is_ok());
}

#[test]
fn csr() {
    let csr = |starts: &[i32], index: &[i32], values: usize| {
        Rows::csr(starts, index, &vec![1.0; values], 3).map(|rows| rows.len())
    };
    let bad = |starts: &[i32], index: &[i32], values, message: &str| {
        refused(csr(starts, index, values), &format!("x is not a valid CSR matrix: {message}"));
    };
    assert_eq!(csr(&[0, 2, 2], &[2, 0], 2), Ok(2));
    assert_eq!(csr(&[0], &[], 0), Ok(0));
    bad(&[], &[], 0, "indptr is empty");
    bad(&[-1, 0], &[], 0, "indptr[0] must be at least 0, got -1");
    bad(&[0, 2, 1], &[0, 1], 2, "indptr must not descend, got 2 then 1 at 1");
    bad(&[0, 3], &[0, 1], 3, "indices must have at least 3 entries, got 2");
    bad(&[0, 3], &[0, 1, 2], 2, "data must have at least 3 entries, got 2");
    bad(&[0, 2], &[0, 3], 2, "indices must be from 0 to 2, got 3");
    bad(&[0, 2], &[-1, 0], 2, "indices must be from 0 to 2, got -1");
    bad(&[0, 1], &[i32::MIN], 1, "indices must be from 0 to 2, got -2147483648");
}

#[test]
fn calls() {
    let network = network(&[3, 4, 2]);
    let data = [0.0; 600];
    let rows = |n, d| Rows::f32(&data, n, d, d).unwrap();
    let mut out = [7.0; 400];
    let mut call = |rows, outputs: usize, threads| {
        let result = network.forward(rows, &mut out[..outputs], threads);
        assert!(result.is_ok() || out.iter().all(|y| *y == 7.0), "out was written");
        result
    };
    refused(call(rows(5, 2), 10, None), "x must have shape (n, 3), got (5, 2)");
    refused(call(rows(5, 3), 9, None), "out must have shape (5, 2), got 9 values");
    refused(call(rows(0, 3), 1, None), "out must have shape (0, 2), got 1 values");
    for n in [0, 1, 5, 200] {
        refused(
            call(rows(n, 3), n * 2, Some(0)),
            "num_threads must be an integer of at least 1, got 0",
        );
    }
    refused(
        lrgate::pool::set_num_threads(0),
        "num_threads must be an integer of at least 1, got 0",
    );
    refused(
        lrgate::pool::set_thread_override(Some(0)),
        "num_threads must be an integer of at least 1, got 0",
    );
    refused(network.layer_inputs(rows(5, 2)), "x must have shape (n, 3), got (5, 2)");
}

#[test]
fn measuring() {
    let network = network(&[3, 4, 2]);
    let data = [0.0; 600];
    let rows = |n, d| Rows::f32(&data, n, d, d).unwrap();
    let zero = std::time::Duration::ZERO;
    refused(network.profile(rows(0, 3), 1, zero), "rows of x must be at least 1, got 0");
    refused(network.profile(rows(1, 3), 0, zero), "batch_size must be at least 1, got 0");
    refused(network.profile(rows(1, 2), 1, zero), "x must have shape (n, 3), got (1, 2)");
    refused(network.tune(rows(0, 3), &[1], zero, 1), "rows of x must be at least 1, got 0");
    refused(network.tune(rows(4, 2), &[1], zero, 1), "x must have shape (n, 3), got (4, 2)");
    let expected =
        "batch_sizes must be distinct numbers of rows, at least one, each at least 1, got";
    refused(
        network.tune(rows(4, 3), &[1], zero, 0),
        "num_threads must be an integer of at least 1, got 0",
    );
    refused(network.retune(rows(0, 3), zero), "rows of x must be at least 1, got 0");
    refused(network.retune(rows(4, 2), zero), "x must have shape (n, 3), got (4, 2)");
    refused(network.count(rows(0, 3), 1), "rows of x must be at least 1, got 0");
    refused(network.count(rows(4, 3), 0), "batch_size must be at least 1, got 0");
    refused(network.layer_seconds(rows(4, 3), 0, zero), "batch_size must be at least 1, got 0");
    refused(network.tune(rows(4, 3), &[], zero, 1), &format!("{expected} none"));
    refused(network.tune(rows(4, 3), &[0], zero, 1), &format!("{expected} 0"));
    refused(network.tune(rows(4, 3), &[2, 2], zero, 1), &format!("{expected} 2 twice"));
}

#[test]
fn unknown_isa() {
    assert!(Isa::by_name("none").unwrap_err().to_string().ends_with("got \"none\""));
}

/// An error changes nothing: the network still answers as before.
#[test]
fn refusals_leave_the_network_alone() {
    let network = network(&[3, 4, 2]);
    let before = common::forward(&network, &[1.0, 2.0, 3.0], 1);
    assert!(network.with_gates(vec![]).is_err());
    assert!(network.with_plan(Plan::uniform(Strategy::Gate, 2)).is_err());
    assert_eq!(common::forward(&network, &[1.0, 2.0, 3.0], 1), before);
    assert_eq!(network.plan(), &Plan::uniform(Strategy::Dense, 2));
}
