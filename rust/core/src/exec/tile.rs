//! One tile: its rows pass through all layers, on one thread or on a team that shares units.

use std::sync::atomic::{AtomicBool, Ordering};

use super::observer::Observer;
use super::program::{Place, Program};
use super::workspace::Workspace;
use crate::interrupt;
use crate::path::{Context, Path, Phase};
use crate::pool::{self, Team};
use crate::rows::Rows;
use crate::signal::{Parts, Signal};

/// Runs one tile. Returns the rows that must be recomputed; their outputs are not valid, so the
/// observer does not get the output here.
pub(super) fn run_marking<O: Observer>(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    team: &Team,
    observer: &mut O,
) -> Vec<usize> {
    Workspace::with(|workspace| {
        run_layers(program, rows, out, workspace, team, observer);
        let marks = workspace.recompute[..rows.rows].iter().zip(&workspace.non_finite);
        // A row that is not finite already has its result.
        let marked =
            |(mark, non_finite): (&AtomicBool, &bool)| mark.load(Ordering::Relaxed) && !non_finite;
        let marked = marks.enumerate().filter(|(_, marks)| marked(*marks));
        marked.map(|(row, _)| row).collect()
    })
}

fn run_layers<O: Observer>(
    program: &Program,
    rows: Rows<'_>,
    out: &mut [f32],
    workspace: &mut Workspace,
    team: &Team,
    observer: &mut O,
) {
    let (isa, n) = (program.isa, rows.rows);
    let Workspace { buffers: [first, second], gate: scratch, non_finite, recompute } = workspace;
    let (mut src, mut dst) = (first, second);
    non_finite.clear();
    non_finite.resize(n, false);
    recompute.clear();
    recompute.resize_with(n, || AtomicBool::new(false));
    let recompute = &**recompute;
    let mut input = program.read.run(rows, src, dst, (non_finite, recompute), observer);
    if program.check {
        mark_non_finite(input, non_finite);
        observer.step(Phase::Check);
    }
    for (i, (layer, form)) in program.forms(rows).enumerate() {
        if interrupt::is_long(layer.weights(), n) && interrupt::requested() {
            return; // the result is discarded
        }
        observer.before(i, input);
        let shared = layer.can_share(isa, form, n, team.threads());
        let context = Context { isa, team: if shared { team } else { &pool::ALONE } };
        let (ops, place) = (layer.ops(shared), &mut Place { buffer: dst, out, recompute });
        let computed = ops.product.run(&layer.path, context, input, place, scratch, observer);
        observer.step(layer.path.phase());
        for op in &ops.after {
            op.run(isa, (n, layer.outputs), place, non_finite);
            observer.step(op.phase());
        }
        observer.after(i, n, computed);
        let Some(next) = layer.next else { break };
        std::mem::swap(&mut src, &mut dst);
        input = src.signal(n, layer.outputs, next);
    }
    let outputs = program.outputs();
    for (row, _) in non_finite.iter().enumerate().filter(|(_, non_finite)| **non_finite) {
        out[row * outputs..(row + 1) * outputs].fill(f32::NAN);
    }
}

/// Marks rows with a value that is not finite, which the bytes of later layers cannot represent.
fn mark_non_finite(input: Signal<'_>, non_finite: &mut [bool]) {
    let Signal::Floats(parts) = input else { return };
    for (r, non_finite) in non_finite.iter_mut().enumerate() {
        *non_finite |= match parts {
            Parts::Rows(rows) | Parts::Both(rows, _) => rows.row(r).iter().any(|x| !x.is_finite()),
            Parts::Lists(lists) => lists.row(r).1.iter().any(|x| !x.is_finite()),
        };
    }
}
