//! Tests of scans and epilogues, entry by entry. Products are tested through networks, against an
//! oracle.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::arithmetic::{Bytes, Floats};
#[cfg(target_arch = "x86_64")]
use super::dense::RowsTimesPanels;
use super::dense::{ByteRowsTimesPanels, bytes_times_panels};
use super::epilogue::{Epilogue, Fused, LEAST_BYTE, Output, Quantized, SelectedEpilogue};
use super::scan::{CountBytes, FromBytes, Quantize, Scan, ScanBytes, ScanPairs};
#[cfg(target_arch = "x86_64")]
use super::tiles::RowsTimesTiles;
use crate::layout::{Panels, padded};
use crate::plan::Precision;
use crate::signal::{
    Buffer, ByteRowsMut, DenseRows, DenseRowsMut, Form, Parts, RowRange, Signal, SparseBytes,
    SparseRowsMut, byte_stride, list_stride,
};
#[cfg(target_arch = "x86_64")]
use crate::simd::shorts::{Centered, Rest};
use crate::simd::{Isa, Kernel, LANES, Simd};

const WIDTHS: [usize; 7] = [1, 15, 16, 17, 63, 64, 130];

/// Rows of small integers, most of them zero. The last row is all zero.
fn rows(rows: usize, columns: usize) -> Vec<u8> {
    let value = |i: usize| {
        if i.is_multiple_of(3) && i / columns + 1 < rows { (i % 250 + 1) as u8 } else { 0 }
    };
    (0..rows * columns).map(value).collect()
}

fn nonzero(row: &[u8]) -> (Vec<u32>, Vec<f32>) {
    let entries = row.iter().enumerate().filter(|(_, x)| **x != 0);
    entries.map(|(i, x)| (i as u32, f32::from(*x))).unzip()
}

#[test]
fn scans_list_what_is_not_zero() {
    let f32 = Form::lists(Precision::F32);
    for isa in Isa::available() {
        for d in WIDTHS {
            let bytes = rows(3, d);
            let floats: Vec<f32> = bytes.iter().map(|x| f32::from(*x)).collect();
            for from_bytes in [false, true] {
                let mut buffer = Buffer::new();
                let (_, lists) = buffer.write_floats(3, d, f32);
                let lists = lists.unwrap();
                if from_bytes {
                    let (dense, lists) = (None, Some(lists));
                    isa.run_floats(FromBytes {
                        data: &bytes,
                        stride: d,
                        rows: 3,
                        columns: d,
                        dense,
                        lists,
                    });
                } else {
                    isa.run_floats(Scan { rows: DenseRows::new(&floats, 3, d, d), lists });
                }
                let lists = buffer.lists(3, d);
                for (r, row) in bytes.chunks_exact(d).enumerate() {
                    let (index, value) = nonzero(row);
                    assert_eq!(lists.row(r), (&*index, &*value), "{} {d}", isa.name());
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_are_listed() {
    let row = [f32::NAN, 0.0, -0.0, f32::INFINITY, 1e-45];
    for isa in Isa::available() {
        let mut buffer = Buffer::new();
        let (_, lists) = buffer.write_floats(1, 5, Form::lists(Precision::F32));
        isa.run_floats(Scan { rows: DenseRows::new(&row, 1, 5, 5), lists: lists.unwrap() });
        assert_eq!(buffer.lists(1, 5).row(0).0, [0, 3, 4], "{}", isa.name());
    }
}

/// A buffer with padded byte rows.
fn with_bytes(bytes: &[u8], n: usize, d: usize) -> Buffer {
    let mut buffer = Buffer::new();
    let (to, _) = buffer.write_bytes(n, d, Form::rows(Precision::Int8));
    let mut to = to.unwrap();
    for (r, row) in bytes.chunks_exact(d).enumerate() {
        to.row(r).fill(0);
        to.row(r)[..d].copy_from_slice(row);
    }
    buffer
}

#[test]
fn bytes_are_listed_by_fours() {
    for isa in Isa::available() {
        for d in WIDTHS {
            let bytes = rows(3, d);
            let mut buffer = with_bytes(&bytes, 3, d);
            let (rows, lists) = buffer.list_bytes(3, d);
            isa.run_lister(ScanBytes { rows, columns: d, lists });
            let signal = buffer.signal(3, d, Form::lists(Precision::Int8));
            let Signal::Bytes(Parts::Lists(SparseBytes::Bytes(lists))) = signal else {
                panic!("lists of bytes")
            };
            for (r, row) in bytes.chunks_exact(d).enumerate() {
                let (index, value) = lists.row(r);
                assert_eq!((index.len(), value.len() % 4), (value.len(), 0));
                let (expected, values) = nonzero(row);
                let entries = expected.len();
                assert!(entries.next_multiple_of(4) == index.len());
                let got: Vec<u32> = index[..entries].iter().map(|i| u32::from(*i)).collect();
                let bytes: Vec<f32> = value[..entries].iter().map(|x| f32::from(*x)).collect();
                assert_eq!((got, bytes), (expected, values), "{} {d}", isa.name());
                assert!(index[entries..].iter().all(|i| *i == 0));
                assert!(value[entries..].iter().all(|x| *x == 0));
            }
        }
    }
}

#[test]
fn pairs_of_rows_share_their_words() {
    for isa in Isa::available() {
        for (n, d) in [(1, 5), (2, 16), (3, 17), (4, 130)] {
            let bytes = rows(n, d);
            let mut buffer = with_bytes(&bytes, n, d);
            let words = |r: usize| {
                let mut row = bytes[r * d..][..d].to_vec();
                row.resize(d.next_multiple_of(4), 0);
                let words = row.as_chunks::<4>().0.iter().map(|four| u32::from_ne_bytes(*four));
                words.collect::<Vec<_>>()
            };
            let counted = isa.run(CountBytes { rows: buffer.padded_bytes(n, d) });
            let (rows, lists) = buffer.list_pairs(n, d);
            isa.run(ScanPairs { rows, lists });
            let signal = buffer.signal(n, d, Form::lists(Precision::Int8));
            let Signal::Bytes(Parts::Lists(SparseBytes::Pairs(lists))) = signal else {
                panic!("lists of pairs")
            };
            let mut listed = 0;
            for r in (0..n).step_by(2) {
                let second = (r + 1).min(n - 1);
                let (a, b) = (words(r), words(second));
                let columns: Vec<u32> =
                    (0..a.len() as u32).filter(|i| a[*i as usize] | b[*i as usize] != 0).collect();
                assert_eq!(lists.columns_of(r), columns, "{} {n} x {d}", isa.name());
                let pick = |words: &[u32]| -> Vec<u32> {
                    columns.iter().map(|i| words[*i as usize]).collect()
                };
                assert_eq!(lists.words_of(r), pick(&a));
                assert_eq!(lists.words_of(second), pick(&b));
                listed += columns.len();
            }
            assert_eq!(counted, (bytes.iter().filter(|x| **x != 0).count(), listed));
        }
    }
}

#[test]
fn quantising_rounds_clamps_and_marks() {
    let row = [0.0, 0.5, 1.5, 2.5, -1.0, 300.0, f32::NAN];
    let rounded = [10, 10, 12, 12, 9, 255];
    for isa in Isa::available() {
        for d in [5, 6, 7] {
            let mut words = [u32::MAX; 16];
            let (mut non_finite, marks) = ([false], [AtomicBool::new(false)]);
            isa.run_floats(Quantize {
                rows: DenseRows::new(&row[..d], 1, d, d),
                inverse: &[1.0],
                offset: &[10.0],
                bytes: ByteRowsMut::new(&mut words, 1, d),
                non_finite: &mut non_finite,
                out_of_range: Some(&marks),
                range: (-1.0, 256.0),
            });
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!(bytes[..d.min(6)], rounded[..d.min(6)], "{} {d}", isa.name());
            assert!(bytes[d..].iter().all(|byte| *byte == 0), "padding");
            // A row that is not finite already has its result; other rows are recomputed.
            assert_eq!((non_finite, marks[0].load(Ordering::Relaxed)), ([d == 7], d == 6));
        }
    }
}

/// Passes finished sums of one row to an output.
struct Storing<'a, 'b, A> {
    output: &'a mut Output<'b>,
    sums: &'a [A],
}

impl Kernel for Storing<'_, '_, f32> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (v, sums) in self.sums.chunks_exact(LANES).enumerate() {
            // SAFETY: sixteen values.
            let sums = [unsafe { simd.load(sums.as_ptr()) }];
            Epilogue::<Floats>::store(self.output, simd, 0, v * LANES, sums);
        }
    }
}

impl Kernel for Storing<'_, '_, u32> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (v, sums) in self.sums.chunks_exact(LANES).enumerate() {
            // SAFETY: sixteen values.
            let sums = [unsafe { simd.load_i32(sums.as_ptr()) }];
            Epilogue::<Bytes>::store(self.output, simd, 0, v * LANES, sums);
        }
    }
}

fn output<'a>(scale: &'a [f32], bias: &'a [f32], activation: Fused) -> Output<'a> {
    Output { scale, bias, activation, dense: None, lists: None, bytes: None }
}

#[test]
fn sums_get_bias_and_activation_and_are_stored_and_listed() {
    let activations = [
        (Fused::Identity, [-3.0, -1.0, 1.0, 3.0]),
        (Fused::Relu, [0.0, 0.0, 1.0, 3.0]),
        (Fused::Clamped { lower: 0.0, upper: 2.0 }, [0.0, 0.0, 1.0, 2.0]),
        (Fused::Clamped { lower: -2.0, upper: 1.0 }, [-2.0, -1.0, 1.0, 1.0]),
        (Fused::Thresholded { threshold: 1.0 }, [0.0, 0.0, 0.0, 3.0]),
        (Fused::Leaky { slope: 0.5 }, [-1.5, -0.5, 1.0, 3.0]),
        (Fused::Squared, [0.0, 0.0, 1.0, 9.0]),
    ];
    // 20 units: the last vector is padded with sums of 0 and a bias that must not be listed.
    let sums: Vec<f32> = (0..32).map(|o| [-4.0, -2.0, 0.0, 2.0][o % 4]).collect();
    let bias = [1.0; 32];
    for isa in Isa::available() {
        for (activation, expected) in activations {
            let (mut dense, mut index, mut value) = ([7.0; 20], [0; 80], [0.0; 80]);
            let mut row_ranges = [RowRange::default()];
            let mut output = output(&[], &bias, activation);
            output.dense = Some(DenseRowsMut::new(&mut dense, 1, 20, 20));
            output.lists = Some(SparseRowsMut::new(&mut index, &mut value, &mut row_ranges, 1, 20));
            isa.run_floats(Storing { output: &mut output, sums: &sums });
            let expected: Vec<f32> = (0..20).map(|o| expected[o % 4]).collect();
            assert_eq!(dense[..], expected, "{} {activation:?}", isa.name());
            let listed: Vec<u32> = (0..20).filter(|o| expected[*o as usize] != 0.0).collect();
            assert_eq!(index[..row_ranges[0].len], listed);
            assert!(listed.iter().zip(&value).all(|(o, y)| *y == expected[*o as usize]));
        }
    }
    assert!(list_stride(20) <= 80);
}

#[test]
fn sums_of_bytes_are_scaled_and_become_bytes_of_the_next_layer() {
    let sums: Vec<u32> = (0..16).map(|o| (10 * o - 20) as u32).collect();
    let (scale, bias, inverse) = ([0.5; 16], [1.0; 16], [2.0; 16]);
    for isa in Isa::available() {
        // (sum / 2 + 1) 2 + offset is sum + 2 + offset.
        for (offset, activation, marked) in [
            (0.0, Fused::Relu, false),
            (0.0, Fused::Identity, true),
            (20.0, Fused::Identity, false),
        ] {
            let mut words = vec![0; byte_stride(16)];
            let marks = [AtomicBool::new(false)];
            let mut output = output(&scale, &bias, activation);
            output.bytes = Some(Quantized {
                rows: Some(ByteRowsMut::new(&mut words, 1, 16)),
                lists: None,
                inverse: Some(&inverse),
                offset,
                least: LEAST_BYTE,
                out_of_range: &marks,
            });
            isa.run(Storing { output: &mut output, sums: &sums });
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let byte = |o: i32| {
                let z = f64::from(10 * o - 20) / 2.0 + 1.0;
                let y = if activation == Fused::Relu { z.max(0.0) } else { z };
                (2.0 * y + f64::from(offset)).clamp(0.0, 255.0) as u8
            };
            let expected: Vec<u8> = (0..16).map(byte).collect();
            assert_eq!(bytes[..16], expected, "{} {offset}", isa.name());
            assert_eq!(marks[0].load(Ordering::Relaxed), marked, "{} {offset}", isa.name());
        }
    }
}

/// Passes the sums of chosen units of one row to an output.
struct StoringSelected<'a, 'b> {
    output: &'a mut Output<'b>,
    units: &'a [u32],
    sums: &'a [i32; LANES],
}

impl Kernel for StoringSelected<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        SelectedEpilogue::<Bytes>::store_selected(self.output, simd, 0, self.units, self.sums);
    }
}

#[test]
fn chosen_units_are_stored_and_listed_in_their_places() {
    let (scale, bias, inverse) = ([0.5; 32], [1.0; 32], [2.0; 32]);
    let units = [1, 2, 17, 19];
    let mut sums = [0; LANES];
    sums[..4].copy_from_slice(&[8, -40, 20, 600]);
    for isa in Isa::available() {
        let mut words = vec![0; byte_stride(20)];
        let (mut index, mut value, mut row_ranges) = ([0; 80], [0; 80], [RowRange::default()]);
        let marks = [AtomicBool::new(false)];
        let mut output = output(&scale, &bias, Fused::Relu);
        output.bytes = Some(Quantized {
            rows: Some(ByteRowsMut::new(&mut words, 1, 20)),
            lists: Some(SparseRowsMut::new(&mut index, &mut value, &mut row_ranges, 1, 20)),
            inverse: Some(&inverse),
            offset: 0.0,
            least: f32::NEG_INFINITY,
            out_of_range: &marks,
        });
        isa.run(StoringSelected { output: &mut output, units: &units, sums: &sums });
        // (sum / 2 + 1) 2: 10, below 0, 22, above 255.
        let mut expected = [0; 20];
        (expected[1], expected[17], expected[19]) = (10, 22, 255);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[..20], expected, "{}", isa.name());
        assert_eq!(
            (&index[..3], &value[..3], row_ranges[0].len),
            (&[1, 17, 19][..], &[10, 22, 255][..], 3)
        );
        assert!(marks[0].load(Ordering::Relaxed), "600 has no byte");
    }
}

/// Passes the sums of several rows to an output, together or row by row.
#[cfg(target_arch = "x86_64")]
struct StoringRows<'a, 'b> {
    output: &'a mut Output<'b>,
    sums: &'a [u32],
    together: bool,
}

#[cfg(target_arch = "x86_64")]
impl Kernel for StoringRows<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.sums.len() / 64;
        if self.together {
            return Epilogue::<Bytes>::store_rows::<S, 4>(self.output, simd, 0..rows, 0, self.sums);
        }
        for (row, sums) in self.sums.chunks_exact(64).enumerate() {
            // SAFETY: four vectors.
            let sums =
                std::array::from_fn(|v| unsafe { simd.load_i32(sums.as_ptr().add(v * LANES)) });
            Epilogue::<Bytes>::store::<S, 4>(self.output, simd, row, 0, sums);
        }
    }
}

/// Four vectors that are stored at once, or one by one.
struct StoringBytes<'a> {
    values: &'a [f32; 64],
    together: bool,
}

impl Kernel for StoringBytes<'_> {
    type Output = [u8; 64];
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u8; 64] {
        let mut bytes = [0; 64];
        // SAFETY: four vectors, and 64 bytes.
        unsafe {
            let v = |i| simd.load(self.values.as_ptr().add(i * LANES));
            if self.together {
                simd.store_bytes4(bytes.as_mut_ptr(), [v(0), v(1), v(2), v(3)]);
            } else {
                for i in 0..4 {
                    simd.store_bytes(bytes.as_mut_ptr().add(i * LANES), simd.to_bytes(v(i)));
                }
            }
        }
        bytes
    }
}

/// Four vectors become the bytes that each of them becomes: in order, rounded to even, and in range.
#[test]
fn four_vectors_become_the_bytes_of_each() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.5, -0.5, 1.5, 254.5, 255.5];
    let large = [1e10, -1e10, 3e38, -3e38, 65_536.0, -65_536.0, 32_768.0];
    let mut values: [f32; 64] = std::array::from_fn(|i| 3.0 * i as f32 + 0.25);
    for first in [0, 16, 40, 48] {
        values[first..first + special.len()].copy_from_slice(&special);
        values[first + special.len()..][..large.len()].copy_from_slice(&large);
        let expected = values.map(|v| if v.is_nan() { 255 } else { v.round_ties_even() as u8 });
        for isa in Isa::available() {
            for together in [false, true] {
                let bytes = isa.run(StoringBytes { values: &values, together });
                assert_eq!(bytes, expected, "{} {together}", isa.name());
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn rows_are_stored_together_as_one_by_one() {
    const ROWS: usize = 5;
    // Below 0, in range, the last byte, above the bytes, and both ends of the integers.
    let row = |ends: [i32; 2]| (0..64).map(move |o| if o < 2 { ends[o] } else { 3 * o as i32 });
    let ends = [[-5, 7], [254, 0], [255, 1], [i32::MIN, 2], [i32::MAX, 3]];
    let sums: Vec<u32> = ends.into_iter().flat_map(row).map(|sum| sum as u32).collect();
    let inverse = [0.5; 64];
    for isa in Isa::available() {
        for scale in [1.0, 1e30, f32::NAN] {
            for (offset, least, inverse) in [
                (0.0, f32::NEG_INFINITY, None),
                (20.0, f32::NEG_INFINITY, None),
                (0.0, LEAST_BYTE, None),
                (20.0, f32::NEG_INFINITY, Some(&inverse[..])),
            ] {
                for activation in [Fused::Identity, Fused::Relu, Fused::Squared] {
                    for dense in [false, true] {
                        let found = [false, true].map(|together| {
                            let mut words = vec![0; ROWS * byte_stride(64)];
                            let mut floats = vec![0.0; ROWS * 64];
                            let marks: [_; ROWS] = std::array::from_fn(|_| AtomicBool::new(false));
                            let (scale, bias) = ([scale; 64], [0.25; 64]);
                            let mut output = output(&scale, &bias, activation);
                            output.dense =
                                dense.then(|| DenseRowsMut::new(&mut floats, ROWS, 64, 64));
                            output.bytes = Some(Quantized {
                                rows: Some(ByteRowsMut::new(&mut words, ROWS, 64)),
                                lists: None,
                                inverse,
                                offset,
                                least,
                                out_of_range: &marks,
                            });
                            isa.run(StoringRows { output: &mut output, sums: &sums, together });
                            let floats: Vec<u32> = floats.into_iter().map(f32::to_bits).collect();
                            (words, floats, marks.map(AtomicBool::into_inner))
                        });
                        let [one_by_one, together] = found;
                        assert_eq!(one_by_one, together, "{}", isa.name());
                        let marked = together.2[4];
                        assert!(marked || inverse.is_some(), "the largest sum has no byte");
                    }
                }
            }
        }
    }
}

/// Takes the sums of every unit of every row once, in the order of a row's units.
struct Taken {
    units: usize,
    sums: Vec<i32>,
    /// Units of each row so far.
    next: Vec<usize>,
}

impl Epilogue<Bytes> for Taken {
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        sums: [S::I32; V],
    ) {
        assert_eq!(self.next[row], column, "row {row}");
        self.next[row] = column + V * LANES;
        let out = &mut self.sums[row * self.units + column..][..V * LANES];
        for (out, sum) in out.chunks_exact_mut(LANES).zip(sums) {
            // SAFETY: `out` has 16 entries.
            unsafe { simd.store_i32(out.as_mut_ptr().cast(), sum) }
        }
    }
}

/// Multiplies with tiles if the instruction set has them, whatever the number of rows.
fn multiply(
    isa: Isa,
    rows: DenseRows<'_, u32>,
    panels: &Panels<u32>,
    which: Range<usize>,
    epilogue: &mut Taken,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some((simd, amx)) = isa.with_tiles() {
        return simd.run(RowsTimesTiles { amx, rows, panels, which, epilogue });
    }
    isa.run(ByteRowsTimesPanels { rows, panels, which, epilogue });
}

/// Whatever the padding of rows holds, and wherever groups of rows begin and end.
#[test]
fn products_of_bytes_have_the_sums_of_integers() {
    const SHAPES: [(usize, usize); 6] = [(1, 1), (4, 16), (61, 17), (64, 33), (68, 64), (259, 130)];
    for isa in Isa::available() {
        for n in [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100] {
            for (inputs, outputs) in SHAPES {
                let (words, stride) = (inputs.div_ceil(4), byte_stride(inputs));
                let byte = |seed: usize| (seed.wrapping_mul(2_654_435_761) >> 13) as u8;
                // A third of the words may have bytes of 128 or more.
                let x: Vec<u8> = (0..n * stride * 4)
                    .map(|at| byte(at) & if at / 4 % 3 == 0 { 255 } else { 127 })
                    .collect();
                let data: Vec<u32> = x
                    .chunks_exact(4)
                    .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
                    .collect();
                let weight = |input: usize, unit: usize| {
                    if input < inputs { byte(7 * input + 1000 * unit) as i8 } else { 0 }
                };
                let panels = Panels::pack(words, outputs, |word, unit| {
                    u32::from_ne_bytes(std::array::from_fn(|i| weight(4 * word + i, unit) as u8))
                });
                let units = padded(outputs);
                let (sums, next) = (vec![-1; n * units], vec![0; n]);
                let mut taken = Taken { units, sums, next };
                let rows = DenseRows::new(&data, n, words, stride);
                // Panels may come in several parts.
                for which in [0..1, 1..panels.count()] {
                    multiply(isa, rows, &panels, which, &mut taken);
                }
                for (row, x) in x.chunks_exact(4 * stride).enumerate() {
                    for unit in 0..units {
                        let products = (0..inputs)
                            .map(|input| i32::from(x[input]) * i32::from(weight(input, unit)));
                        let sum = if unit < outputs { products.sum() } else { 0 };
                        let found = taken.sums[row * units + unit];
                        let name = isa.name();
                        assert_eq!(found, sum, "{name} {n} {inputs} {outputs}: {row}, {unit}");
                    }
                }
            }
        }
    }
}

/// The bytes of more weights than stay in L2, for which all rows are one block.
#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_have_the_sums_of_vectors_in_large_layers() {
    let (n, words, outputs) = (70, 400, 1030);
    let word = |seed: usize| (seed as u32).wrapping_mul(2_654_435_761) ^ 0x5a00_00a5;
    let data: Vec<u32> = (0..n * words).map(word).collect();
    let rows = DenseRows::new(&data, n, words, words);
    let panels = Panels::pack(words, outputs, |input, unit| word(input * outputs + unit));
    let panels = &panels;
    let units = padded(outputs);
    let taken = || Taken { units, sums: vec![-1; n * units], next: vec![0; n] };
    for (simd, amx) in Isa::available().into_iter().filter_map(Isa::with_tiles) {
        let (mut tiles, mut vectors) = (taken(), taken());
        let which = panels.all();
        simd.run(RowsTimesTiles { amx, rows, panels, which, epilogue: &mut tiles });
        let (which, epilogue) = (panels.all(), &mut vectors);
        simd.run(RowsTimesPanels::<Bytes, _> { rows, panels, which, epilogue });
        assert!(tiles.sums == vectors.sums);
    }
}

/// The largest products of bytes, whose sums would not fit 16 bits, in all words or in some.
#[test]
fn sums_of_the_largest_products_are_exact() {
    const OUTPUTS: usize = 16;
    for (n, words) in [(1, 60), (2, 60), (3, 61), (7, 1100), (5, 1 << 14)] {
        let bytes = [(64, 1, 0), (255, 16, 64), (127, 1, 0), (128, 1, 0), (255, 1, 0), (0, 1, 0)];
        // Less 128, two words have sums of 128 and -128, the most that fits, or of more.
        let bytes = bytes.into_iter().chain([(160, 1, 0), (96, 1, 0), (161, 1, 0), (95, 1, 0)]);
        for (byte, period, other) in bytes.chain([(128, 4, 127), (255, 5, 127), (0, 3, 128)]) {
            let of_word = |at: usize| if at.is_multiple_of(period) { byte } else { other };
            let data: Vec<u32> = (0..n * words).map(|at| 0x0101_0101 * of_word(at)).collect();
            let rows = DenseRows::new(&data, n, words, words);
            for weight in [127_i8, -127, -128] {
                let word = u32::from_ne_bytes([weight as u8; 4]);
                let panels = Panels::pack(words, OUTPUTS, |_, _| word);
                let expected: Vec<i32> = (0..n * OUTPUTS)
                    .map(|at| at / OUTPUTS * words)
                    .map(|first| (first..first + words).map(of_word).sum::<u32>() as i32)
                    .map(|sum| 4 * sum * i32::from(weight))
                    .collect();
                for isa in Isa::available() {
                    let (sums, next) = (vec![0; n * OUTPUTS], vec![0; n]);
                    let mut taken = Taken { units: OUTPUTS, sums, next };
                    multiply(isa, rows, &panels, panels.all(), &mut taken);
                    assert!(taken.sums == expected, "{} {n} {byte} {period}", isa.name());
                }
            }
        }
    }
}

/// Rows of small bytes, of bytes around an offset, of both with some that are far away, of any bytes,
/// and blocks with several kinds of rows.
#[test]
fn sums_are_exact_for_all_kinds_of_bytes() {
    const KINDS: usize = 5;
    let random = |seed: usize| (seed as u32).wrapping_mul(2_654_435_761) >> 8;
    let byte = |kind: usize, at: usize| {
        let (x, far) = (random(at), random(at + 1).is_multiple_of(41));
        match kind {
            0 => x % 65,
            1 => 128 - 64 + x % 129,
            2 if far => 255 - x % 3,
            2 => x % 80,
            3 if far => x % 2 * 255,
            3 => 120 + x % 20,
            _ => x % 256,
        }
    };
    for (words, outputs) in [(1, 16), (5, 20), (8, 64), (25, 100), (31, 130), (196, 70)] {
        let weight = |at: usize| if at.is_multiple_of(7) { 0x80 } else { random(3 * at) as u8 };
        let weights = |word: usize, unit: usize| {
            std::array::from_fn(|i| weight(4 * (word * outputs + unit) + i))
        };
        let panels =
            Panels::pack(words, outputs, |word, unit| u32::from_ne_bytes(weights(word, unit)));
        for n in [1, 2, 3, 4, 5, 9, 70] {
            for kind in 0..4 * KINDS {
                let data: Vec<u32> = (0..n * words)
                    .map(|at| {
                        // Among rows of small bytes, every fourth is of another kind, the last too; or
                        // the first 67, so that the last block differs from the first.
                        let row = at / words;
                        let kind = match kind / KINDS {
                            1 if row % 4 > 0 => 0,
                            2 if row > 66 => 0,
                            3 if row < 67 => 0,
                            _ => kind % KINDS,
                        };
                        u32::from_ne_bytes(std::array::from_fn(|i| byte(kind, 4 * at + i) as u8))
                    })
                    .collect();
                let rows = DenseRows::new(&data, n, words, words);
                let units = padded(outputs);
                let expected: Vec<i32> = (0..n * units)
                    .map(|at| (at / units, at % units))
                    .map(|(row, unit)| {
                        let products = |word: usize| {
                            let x = data[row * words + word].to_ne_bytes();
                            let w = weights(word, unit);
                            (0..4).map(|i| i32::from(x[i]) * i32::from(w[i] as i8)).sum::<i32>()
                        };
                        if unit < outputs { (0..words).map(products).sum() } else { 0 }
                    })
                    .collect();
                for isa in Isa::available() {
                    let mut taken = Taken { units, sums: vec![-1; n * units], next: vec![0; n] };
                    multiply(isa, rows, &panels, panels.all(), &mut taken);
                    assert!(taken.sums == expected, "{} {words} {n} {kind}", isa.name());
                }
            }
        }
    }
}

/// Small bytes leave no list, few large ones a short one, and many none, since the row is not split.
#[cfg(target_arch = "x86_64")]
#[test]
fn few_large_bytes_make_short_lists() {
    let Some((_, shorts)) = Isa::available().into_iter().find_map(Isa::with_shorts) else {
        return;
    };
    for words in [7, 8, 40, 41] {
        let (mut small, mut rest) = (vec![0; words], vec![Rest::default(); words + 20]);
        let mut split = |row: &[u32]| shorts.split(row, &mut small, &mut rest, 3);
        assert_eq!(split(&vec![0x4040_4040; words]), Some(0));
        let mut row = vec![0x1010_1010; words];
        row[words - 1] = 0x1010_10f8;
        assert_eq!(split(&row), Some(1));
        row[2] = 0xffff_1010;
        assert_eq!(split(&row), Some(3));
        assert_eq!(split(&vec![0x8080_8080; words]), None);
    }
}

/// Signed bytes of one word fit where neither the positive nor the negative ones of two have a large sum;
/// words that fit alone, but not in pairs, are moved up to a number of them.
#[cfg(target_arch = "x86_64")]
#[test]
fn words_of_signed_bytes_are_joined_if_few_are_large() {
    let Some((_, shorts)) = Isa::available().into_iter().find_map(Isa::with_shorts) else {
        return;
    };
    for words in [7, 8, 40, 41] {
        let (mut small, mut rest) = (vec![0; words], vec![Rest::default(); words + 20]);
        let mut center = |row: &[u32], most| shorts.center(row, &mut small, &mut rest, most);
        let is = |length, sum, joined| Centered { length, sum, joined };
        assert_eq!(center(&vec![0x8080_8080; words], 0), is(0, 0, true));
        let mut row = vec![0xa060_7080; words];
        let sum = -16 * words as i32;
        assert_eq!(center(&row, 0), is(0, sum, true));
        // -128 and 127 fit, but not with the other word's -32.
        row[2] = 0xff00_8080;
        assert_eq!(center(&row, 1), is(1, sum + 15, true));
        assert_eq!(center(&row, 0), is(1, sum + 15, false));
        // -128 and -1 do not. Half of them fits, also with the other word.
        row[2] = 0x7f00_8080;
        assert_eq!(center(&row, 0), is(1, sum + 16 - 129, true));
        // Where all are halved and no two fit, the first eight words are more than may be moved.
        let all = center(&vec![0x7f00_8080; words], 0);
        assert_eq!((all.length, all.joined), (words + 4.min(words / 2), false));
    }
}

/// Numbers of rows and units around the least for which tiles are used, and rows of several blocks.
#[test]
fn every_choice_of_kernel_has_the_same_sums() {
    let word = |seed: usize| (seed as u32).wrapping_mul(2_654_435_761) ^ 0x5a00_00a5;
    for (words, outputs) in [(16, 64), (15, 64), (400, 1030), (1100, 70)] {
        let panels = Panels::pack(words, outputs, |input, unit| word(input * outputs + unit));
        let (panels, stride, units) = (&panels, padded(words), padded(outputs));
        for n in [1, 2, 3, 7, 8, 15, 16, 17, 70] {
            let data: Vec<u32> = (0..n * stride).map(word).collect();
            let rows = DenseRows::new(&data, n, words, stride);
            let sums = |isa| {
                let mut taken = Taken { units, sums: vec![-1; n * units], next: vec![0; n] };
                bytes_times_panels(isa, rows, panels, panels.all(), &mut taken);
                taken.sums
            };
            let expected = sums(Isa::by_name("portable").unwrap());
            assert!(Isa::available().into_iter().all(|isa| sums(isa) == expected), "{n}");
        }
    }
}
