"""Conversion of the user's rows and labels to plain NumPy arrays.

The compiled functions accept plain NumPy arrays of bool, integers and floats, and ``scipy.sparse``
matrices. This package converts everything else: lists, subclasses of NumPy arrays, arrays of
objects, and columns of pandas, polars and pyarrow. Values that are not real numbers are rejected:
text, dates, complex numbers, and masked cells.

pandas, polars and pyarrow are not imported. A value can only come from a package that the caller
has already imported.

>>> real_array([[1, 2.5]])
array([[1. , 2.5]])
>>> label_array(["cat", "dog"])
array(['cat', 'dog'], dtype='<U3')
"""

from lrgate.inputs.arrays import REAL, as_list, plain_array
from lrgate.inputs.labels import label_array, with_nan_label
from lrgate.inputs.rows import check_narrowed, checked_rows, narrowed, real_array
from lrgate.inputs.scalars import (
    checked_count,
    checked_integer,
    checked_number,
    checked_seconds,
    checked_share,
    is_real,
)

__all__ = [
    "REAL",
    "as_list",
    "check_narrowed",
    "checked_count",
    "checked_integer",
    "checked_number",
    "checked_rows",
    "checked_seconds",
    "checked_share",
    "is_real",
    "label_array",
    "narrowed",
    "plain_array",
    "real_array",
    "with_nan_label",
]
