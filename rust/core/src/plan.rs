//! Plans: the strategy and precision of each layer, per batch size.

use crate::error::{Error, Result, Subject};

/// The strategy that computes a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Every product is computed.
    Dense,
    /// Products with zero inputs are skipped. Exact.
    Skip,
    /// Units whose low-rank sign estimate is not positive are not computed.
    Gate,
    /// The layer's factors are multiplied, one after the other, instead of its weights.
    Factor {
        /// Products of the first factor with zero inputs are skipped.
        skip: bool,
        /// Units whose sign estimate by the first sums is not positive are not computed.
        gate: bool,
    },
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Strategy; 7] = [
        Strategy::Dense,
        Strategy::Skip,
        Strategy::Gate,
        Strategy::Factor { skip: false, gate: false },
        Strategy::Factor { skip: true, gate: false },
        Strategy::Factor { skip: false, gate: true },
        Strategy::Factor { skip: true, gate: true },
    ];

    /// Name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Dense => "dense",
            Strategy::Skip => "skip",
            Strategy::Gate => "gate",
            Strategy::Factor { skip: false, gate: false } => "factor",
            Strategy::Factor { skip: true, gate: false } => "skip-factor",
            Strategy::Factor { skip: false, gate: true } => "factor-gate",
            Strategy::Factor { skip: true, gate: true } => "skip-factor-gate",
        }
    }

    /// Whether the layer computes its own weights' products, apart from those with zeros.
    pub fn is_exact(self) -> bool {
        matches!(self, Strategy::Dense | Strategy::Skip)
    }

    /// The strategy that skips no zero inputs and gives the same outputs up to rounding.
    pub(crate) fn without_skip(self) -> Strategy {
        match self {
            Strategy::Skip => Strategy::Dense,
            Strategy::Factor { gate, .. } => Strategy::Factor { skip: false, gate },
            other => other,
        }
    }

    /// The strategy with this name.
    pub fn by_name(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.name() == name)
    }
}

/// The number format of one layer's weights and input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Weights as signed bytes, inputs as unsigned bytes, sums in 32-bit integers.
    Int8,
}

impl Precision {
    /// Name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }

    /// All precisions.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Int8];

    /// The precision with this name.
    pub fn by_name(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.name() == name)
    }
}

/// The plan of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// The strategy.
    pub strategy: Strategy,
    /// The number format.
    pub precision: Precision,
}

/// The plan for one batch size.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchPlan {
    /// The number of rows it was made for.
    pub rows: usize,
    /// One plan per layer.
    pub layers: Vec<LayerPlan>,
    /// Rows with a smaller margin are recomputed, instead of those below the network's least margin.
    pub least_margin: Option<f32>,
    /// If set, rows are recomputed without gates and factors at the precisions of the plan: those with
    /// a small margin, and those with a value outside the range of an int8 layer. Of these, rows with a
    /// margin below this one, or with a value out of range again, are recomputed in f32. Otherwise all
    /// are recomputed in f32. Without effect where the least margin is 0. It is `None` in a plan without
    /// int8, or without gates and factors.
    pub int8_margin: Option<f32>,
}

impl BatchPlan {
    /// A batch plan with the network's least margin.
    pub fn new(rows: usize, layers: Vec<LayerPlan>) -> BatchPlan {
        BatchPlan { rows, layers, least_margin: None, int8_margin: None }
    }

    /// Replaces the layers' plans. The least margin is kept if the outputs are the same up to rounding,
    /// and the int8 margin if those of recomputed rows are.
    pub(crate) fn set_layers(&mut self, layers: Vec<LayerPlan>) {
        let outputs = |plan: &LayerPlan| (plan.strategy.without_skip(), plan.precision);
        let precisions = |plan: &LayerPlan| plan.precision;
        if !layers.iter().map(outputs).eq(self.layers.iter().map(outputs)) {
            self.least_margin = None;
        }
        if !layers.iter().map(precisions).eq(self.layers.iter().map(precisions)) {
            self.int8_margin = None;
        }
        self.layers = layers;
    }

    /// Whether an int8 margin changes how rows are recomputed.
    fn uses_int8_margin(&self) -> bool {
        self.layers.iter().any(|layer| layer.precision == Precision::Int8)
            && self.layers.iter().any(|layer| !layer.strategy.is_exact())
    }

    /// Margins of one batch size were chosen for its outputs.
    fn forget_margins(&mut self) {
        (self.least_margin, self.int8_margin) = (None, None);
    }
}

/// Plans for one or more batch sizes. A call uses the batch size nearest to its number of rows on a
/// logarithmic scale, and the smaller of two that are equally near.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    batch_plans: Vec<BatchPlan>,
}

impl Plan {
    /// A plan for several batch sizes, sorted by rows here.
    ///
    /// # Errors
    /// No batch size, a batch size of 0 rows, or the same batch size twice.
    pub fn new(mut batch_plans: Vec<BatchPlan>) -> Result<Plan> {
        batch_plans.sort_by_key(|batch_plan| batch_plan.rows);
        let duplicate = batch_plans.windows(2).find(|pair| pair[0].rows == pair[1].rows);
        let got = match (batch_plans.first(), duplicate) {
            (None, _) => "none".to_owned(),
            (Some(batch_plan), _) if batch_plan.rows == 0 => "0".to_owned(),
            (_, Some(pair)) => format!("{} twice", pair[0].rows),
            _ => return Ok(Plan { batch_plans }),
        };
        let expected = "distinct numbers of rows, at least one, each at least 1".to_owned();
        Err(Error::Range { subject: Subject::BatchSizes, expected, got })
    }

    /// One batch plan with the same strategy for all layers, in f32.
    pub fn uniform(strategy: Strategy, layers: usize) -> Plan {
        Plan::from_strategies(&vec![strategy; layers])
    }

    /// One batch plan with these strategies, in f32.
    pub fn from_strategies(strategies: &[Strategy]) -> Plan {
        let layer = |&strategy| LayerPlan { strategy, precision: Precision::F32 };
        let layers = strategies.iter().map(layer).collect();
        Plan { batch_plans: vec![BatchPlan::new(1, layers)] }
    }

    /// The batch plans, in ascending order of rows.
    pub fn batch_plans(&self) -> &[BatchPlan] {
        &self.batch_plans
    }

    /// The batch plan that a call with `rows` rows uses.
    pub fn for_rows(&self, rows: usize) -> &BatchPlan {
        &self.batch_plans[self.index_for(rows)]
    }

    /// The index of that batch plan.
    pub(crate) fn index_for(&self, rows: usize) -> usize {
        // a is nearer than b > a on a logarithmic scale if rows^2 <= a b.
        let square = (rows as u128) * (rows as u128);
        let nearer = |pair: &[BatchPlan]| square <= pair[0].rows as u128 * pair[1].rows as u128;
        self.batch_plans.windows(2).position(nearer).unwrap_or(self.batch_plans.len() - 1)
    }

    /// The largest number of rows for which [`Plan::index_for`] gives `index`.
    pub(crate) fn most_rows(&self, index: usize) -> usize {
        let Some(next) = self.batch_plans.get(index + 1) else { return usize::MAX };
        (self.batch_plans[index].rows as u128 * next.rows as u128).isqrt() as usize
    }

    /// Layer `layer` got a gate, or has none.
    pub(crate) fn gate_changed(&mut self, layer: usize, has_gate: bool) {
        self.change_layer(layer, |plan| {
            if has_gate {
                plan.strategy = Strategy::Gate;
            } else if plan.strategy == Strategy::Gate {
                plan.strategy = Strategy::Dense;
            }
        });
    }

    /// Layer `layer` got factors, which run by this strategy, or has none.
    pub(crate) fn factors_changed(&mut self, layer: usize, strategy: Option<Strategy>) {
        self.change_layer(layer, |plan| {
            if let Some(strategy) = strategy {
                plan.strategy = strategy;
            } else if let Strategy::Factor { .. } = plan.strategy {
                plan.strategy = Strategy::Dense;
            }
        });
    }

    /// Changes the plan of a layer at each batch size.
    ///
    /// Margins of one batch size are gone: the layer's gate, factors or bytes may be others, even if
    /// the plan is the same.
    pub(crate) fn change_layer(&mut self, layer: usize, mut change: impl FnMut(&mut LayerPlan)) {
        for batch_plan in &mut self.batch_plans {
            change(&mut batch_plan.layers[layer]);
            batch_plan.forget_margins();
        }
    }

    /// The least margins of batch sizes that have one of their own.
    pub(crate) fn least_margins(&self) -> impl Iterator<Item = &f32> {
        self.batch_plans.iter().filter_map(|batch_plan| batch_plan.least_margin.as_ref())
    }

    /// Removes margins that say nothing. `least` is the network's least margin.
    pub(crate) fn drop_idle_margins(&mut self, least: f32) {
        for batch_plan in &mut self.batch_plans {
            batch_plan.least_margin = batch_plan.least_margin.filter(|own| *own != least);
            if !batch_plan.uses_int8_margin() {
                batch_plan.int8_margin = None;
            }
        }
    }

    /// The int8 margins of batch sizes that have one.
    pub(crate) fn int8_margins(&self) -> impl Iterator<Item = &f32> {
        self.batch_plans.iter().filter_map(|batch_plan| batch_plan.int8_margin.as_ref())
    }

    /// The same plan with the network's least margin at all batch sizes.
    pub(crate) fn without_margins(mut self) -> Plan {
        self.batch_plans.iter_mut().for_each(BatchPlan::forget_margins);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rows: &[usize]) -> Plan {
        let layers = Plan::uniform(Strategy::Skip, 2).batch_plans()[0].layers.clone();
        let batch_plan = |&rows| BatchPlan::new(rows, layers.clone());
        Plan::new(rows.iter().map(batch_plan).collect()).unwrap()
    }

    #[test]
    fn calls_use_the_nearest_batch_size_on_a_logarithmic_scale() {
        let plan = plan(&[256, 1, 16]);
        assert_eq!(
            plan.batch_plans().iter().map(|batch_plan| batch_plan.rows).collect::<Vec<_>>(),
            [1, 16, 256]
        );
        let nearest = |rows| plan.for_rows(rows).rows;
        // 4 is as far from 1 as from 16; the smaller is used.
        assert_eq!([0, 1, 4, 5, 64, 65].map(nearest), [1, 1, 1, 16, 16, 256]);
        assert_eq!(nearest(usize::MAX), 256);
        assert_eq!(plan.index_for(16), 1);
    }

    #[test]
    fn a_layer_that_gets_or_loses_a_gate_or_factors_changes_its_strategy() {
        let mut plan = plan(&[1, 8]);
        let strategies = |plan: &Plan| {
            let batch_plans = plan.batch_plans().iter();
            batch_plans.map(|batch_plan| batch_plan.layers[1].strategy).collect::<Vec<_>>()
        };
        plan.gate_changed(1, false);
        assert_eq!(strategies(&plan), [Strategy::Skip; 2], "it had none");
        plan.gate_changed(1, true);
        assert_eq!(strategies(&plan), [Strategy::Gate; 2]);
        plan.gate_changed(1, false);
        assert_eq!(strategies(&plan), [Strategy::Dense; 2]);
        plan.factors_changed(1, None);
        assert_eq!(strategies(&plan), [Strategy::Dense; 2], "it had none");
        let factor = Strategy::Factor { skip: false, gate: true };
        plan.factors_changed(1, Some(factor));
        assert_eq!(strategies(&plan), [factor; 2]);
        plan.gate_changed(1, false);
        assert_eq!(strategies(&plan), [factor; 2], "it has no gate of its own");
        plan.factors_changed(1, None);
        assert_eq!(strategies(&plan), [Strategy::Dense; 2]);
        plan.change_layer(0, |plan| plan.precision = Precision::Int8);
        for batch_plan in plan.batch_plans() {
            assert_eq!(batch_plan.layers[0].precision, Precision::Int8);
            assert_eq!(batch_plan.layers[1].precision, Precision::F32);
            assert_eq!(batch_plan.layers[0].strategy, Strategy::Skip);
        }
    }

    #[test]
    fn names_are_read_back() {
        for strategy in Strategy::ALL {
            assert_eq!(Strategy::by_name(strategy.name()), Some(strategy));
            let without_skip = strategy.without_skip();
            assert!(!without_skip.name().contains("skip"));
            assert_eq!(without_skip.is_exact(), strategy.is_exact());
        }
        for precision in Precision::ALL {
            assert_eq!(Precision::by_name(precision.name()), Some(precision));
        }
        assert_eq!((Strategy::by_name("int8"), Precision::by_name("dense")), (None, None));
    }
}
