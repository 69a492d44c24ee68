//! Conversion of raw outputs to labels and probabilities.

use crate::kernels::activation::{exponential, softmax};
use crate::memory;
use crate::model::{Activation, Margin};

/// The task that a network's outputs serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// The outputs are the values.
    Regression,
    /// One of several classes, with one output per class; a single output means two classes.
    Classification,
    /// A yes or no for each of several labels, with one output per label.
    Multilabel,
}

/// Converts raw outputs to labels and probabilities.
///
/// If the last activation is sigmoid or softmax, the outputs are probabilities already; if it is
/// log-softmax, they are logarithms of probabilities. Otherwise they are logits: the boundary
/// between no and yes is 0, not 0.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    task: Task,
    outputs: usize,
    scale: Scale,
}

/// The scale of raw outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Logits,
    /// Probabilities, each of its own.
    Sigmoid,
    /// Probabilities of all classes.
    Softmax,
    /// Their logarithms.
    LogSoftmax,
}

impl Head {
    /// The head of a network with `outputs` outputs and this last activation.
    pub(crate) fn new(task: Task, outputs: usize, last: &Activation) -> Head {
        let scale = match last {
            Activation::Sigmoid => Scale::Sigmoid,
            Activation::Softmax => Scale::Softmax,
            Activation::LogSoftmax => Scale::LogSoftmax,
            _ => Scale::Logits,
        };
        Head { task, outputs, scale }
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Number of probabilities per row; 2 for a classifier with one output.
    pub fn probability_count(&self) -> usize {
        if self.is_binary() { 2 } else { self.outputs }
    }

    /// Labels of raw outputs `(rows, outputs)`.
    ///
    /// A classifier gets one class index per row: the first of the largest outputs. A multilabel
    /// network gets 0 or 1 per output. NaN is never the largest output and never a yes.
    pub fn labels(&self, raw: &[f32]) -> Vec<i64> {
        if self.is_binary() || self.task == Task::Multilabel {
            let boundary = if self.scale == Scale::Sigmoid { 0.5 } else { 0.0 };
            return memory::collected(raw.iter().map(|z| i64::from(*z > boundary)));
        }
        memory::collected(raw.chunks_exact(self.outputs).map(|row| {
            let larger = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
            (1..row.len()).fold(0, larger) as i64
        }))
    }

    /// The probability of each class or label, row by row. Not meaningful for regression.
    pub fn probabilities(&self, mut raw: Vec<f32>) -> Vec<f32> {
        if self.is_binary() {
            let mut all = memory::with_capacity(2 * raw.len());
            all.extend(raw.iter().flat_map(|z| self.two_classes(*z)));
            return all;
        }
        match (self.task, self.scale) {
            (_, Scale::Sigmoid) | (Task::Classification, Scale::Softmax) => {}
            (Task::Classification, Scale::LogSoftmax) => exponential(&mut raw),
            (Task::Multilabel, _) => raw.iter_mut().for_each(|z| *z = logistic(*z)),
            _ => raw.chunks_exact_mut(self.outputs).for_each(softmax),
        }
        raw
    }

    /// The head of outputs that are the probabilities of this head.
    #[must_use]
    pub fn of_probabilities(&self) -> Head {
        let several = self.task == Task::Multilabel;
        let scale = if several { Scale::Sigmoid } else { Scale::Softmax };
        Head { task: self.task, outputs: self.probability_count(), scale }
    }

    /// The margin of a row's label; `None` for regression.
    pub fn margin(&self) -> Option<Margin> {
        match self.task {
            Task::Regression => None,
            Task::Classification if self.outputs > 1 => Some(Margin::TopTwo),
            _ => Some(Margin::Boundary),
        }
    }

    fn is_binary(&self) -> bool {
        self.outputs == 1 && self.task == Task::Classification
    }

    /// Probabilities of the two classes of a single output.
    fn two_classes(&self, z: f32) -> [f32; 2] {
        if self.scale == Scale::Sigmoid { [1.0 - z, z] } else { [logistic(-z), logistic(z)] }
    }
}

/// `1 / (1 + exp(-z))`, accurate for small results too.
fn logistic(z: f32) -> f32 {
    let power = (-z.abs()).exp();
    if z < 0.0 { power / (1.0 + power) } else { 1.0 / (1.0 + power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(task: Task, outputs: usize, last: Activation) -> Head {
        Head::new(task, outputs, &last)
    }

    #[test]
    fn the_first_of_the_largest_outputs_is_the_class() {
        let head = head(Task::Classification, 3, Activation::Identity);
        let raw = [0.0, 2.0, 2.0, -1.0, -2.0, -3.0, f32::NAN, 1.0, 2.0, 0.0, f32::NAN, 1.0];
        assert_eq!(head.labels(&raw), [1, 0, 0, 2]);
        assert_eq!(head.probability_count(), 3);
    }

    #[test]
    fn one_output_is_two_classes() {
        let raw = [-1.0, 0.0, 0.25, 0.5, 0.75, f32::NAN];
        let logits = head(Task::Classification, 1, Activation::Identity);
        assert_eq!(logits.labels(&raw), [0, 0, 1, 1, 1, 0]);
        let sigmoid = head(Task::Classification, 1, Activation::Sigmoid);
        assert_eq!(sigmoid.labels(&raw), [0, 0, 0, 0, 1, 0]);
        assert_eq!(sigmoid.probabilities(vec![0.25, 0.0]), [0.75, 0.25, 1.0, 0.0]);
        assert_eq!(logits.probabilities(vec![0.0]), [0.5, 0.5]);
        let [no, yes] = logits.probabilities(vec![-200.0])[..] else { panic!("two columns") };
        assert_eq!((no, yes), (1.0, 0.0));
        assert_eq!((logits.probability_count(), sigmoid.probability_count()), (2, 2));
    }

    #[test]
    fn each_label_of_several_has_a_boundary() {
        let logits = head(Task::Multilabel, 2, Activation::Identity);
        assert_eq!(logits.labels(&[0.4, -0.4, 0.0, 0.6]), [1, 0, 0, 1]);
        assert_eq!(logits.probabilities(vec![0.0, 200.0]), [0.5, 1.0]);
        let sigmoid = head(Task::Multilabel, 2, Activation::Sigmoid);
        assert_eq!(sigmoid.labels(&[0.4, 0.5, 0.6, 0.0]), [0, 0, 1, 0]);
        assert_eq!(sigmoid.probabilities(vec![0.4, 0.6]), [0.4, 0.6]);
    }

    #[test]
    fn probabilities_have_the_labels_of_their_outputs() {
        let raw = [-3.0, -0.25, 0.0, 0.25, 3.0, 0.5];
        let tasks = [(Task::Classification, 1), (Task::Classification, 3), (Task::Multilabel, 3)];
        for (task, outputs) in tasks {
            let head = head(task, outputs, Activation::Identity);
            let of_probabilities = head.of_probabilities();
            let probabilities = head.probabilities(raw.to_vec());
            assert_eq!(of_probabilities.labels(&probabilities), head.labels(&raw));
            assert_eq!(of_probabilities.probabilities(probabilities.clone()), probabilities);
            assert_eq!(of_probabilities.of_probabilities(), of_probabilities);
        }
    }

    #[test]
    fn softmax_is_applied_once() {
        let logits = head(Task::Classification, 2, Activation::Identity);
        assert_eq!(logits.probabilities(vec![3.0, 3.0, 100.0, -100.0]), [0.5, 0.5, 1.0, 0.0]);
        for last in [Activation::Softmax, Activation::Sigmoid] {
            let made = head(Task::Classification, 2, last);
            assert_eq!(made.probabilities(vec![0.25, 0.75]), [0.25, 0.75]);
        }
    }

    #[test]
    fn log_probabilities_become_probabilities() {
        let logs = head(Task::Classification, 3, Activation::LogSoftmax);
        let raw = [0.0, f32::NEG_INFINITY, -200.0];
        assert_eq!(logs.labels(&raw), [0]);
        assert_eq!(logs.probabilities(raw.to_vec()), [1.0, 0.0, 0.0]);
    }
}
