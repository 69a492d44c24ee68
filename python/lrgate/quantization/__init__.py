"""Quantisation of a network's signals to bytes: fits `Quantization` and the ranges of gates.

An int8 layer multiplies bytes. An input x becomes the byte ``round(x / scale + offset)``. The range
of values that the bytes represent is the *window* of the input. A row with a value outside a window
is recomputed in float32. The error of a value is therefore at most half a step; values outside the
windows cost time, not accuracy. Windows are chosen as follows:

- *Error model.* With step s_j for input j, the rounding of input j changes the sum of unit o by
  ``w_oj s_j / sqrt(12)``, on the share of rows where the input is not zero (zeros are exact). The
  rounding of the weights changes it by ``step_o / sqrt(12)`` times the root mean square of the
  bytes, where ``step_o = max_j |w_oj s_j| / 127``. Both are relative to the spread of the unit's
  sums over typical rows, so the model is invariant to the scale of inputs and units.
- *Natural windows* hold all values of the fitting rows, plus headroom for new rows. The headroom is
  a multiple of the mean excess of the largest values over the next ones; cross-validation chooses
  the multiple.
- *Cuts.* With corrupt cells, markers such as -999, or heavy tails, natural windows may make the
  sums too coarse. In this case, one level limits ``s_j rms_o(w_oj)`` of all inputs. An input above
  the level gets the window of the resulting width that holds the most values. The share of new rows
  outside is the share of the fitting rows, plus its standard error, plus values beyond the extreme
  ones, whose excesses are taken to be exponential.
- *Fine fits* price errors above those of normally distributed inputs. They are tried if such errors
  change many labels, and used if they save enough labels for the rows they recompute.
- *Widening.* Inputs far below the level get wider windows as long as the error hardly grows. The
  windows of inputs that never varied are chosen only by this rule.

A layer stays f32 if its error would be too large or too many rows would be recomputed.
"""
