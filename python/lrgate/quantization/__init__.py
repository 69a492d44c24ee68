"""How a network's signals become bytes: fits of `Quantization`, and of the ranges of gates.

An int8 layer multiplies bytes. What an input x becomes is the byte ``round(x / scale + offset)``.
The values that fit the bytes are the input's *window*; a row with a value outside a window is
recomputed in float32. So a value is either exact to half a step or costs time, never a wrong
number. A fit chooses windows:

- *Error model.* With step s_j for input j, the rounding of the inputs moves the sum of unit o by
  ``w_oj s_j / sqrt(12)`` each, on the share of rows where the input is not zero (zeros are exact).
  The rounding of the weights moves it by ``step_o / sqrt(12)`` times the root mean square of the
  bytes, where ``step_o = max_j |w_oj s_j| / 127``. Both are relative to the spread of the unit's
  sums over the bulk of the rows, so neither units nor the place of a scaler matter.
- *Natural windows* hold all values seen, and room for what fresh rows have beyond them. The room
  is a multiple of the mean excess of the largest values over the next ones; cross-validation
  chooses the multiple.
- *Cuts.* Where natural windows make the sums too coarse, as with corrupt cells, markers such as
  -999 and heavy tails, one level bounds ``s_j rms_o(w_oj)`` of all inputs. Inputs above it get the
  window of that width that holds most values.
- *Headroom.* Inputs far below the level get wider windows as long as the error hardly grows. Inputs
  that never varied get theirs by this rule alone.

A layer whose error would be too large, or for which too many rows would be recomputed, stays f32.
"""
