"""Rows and labels as users have them, as plain NumPy arrays.

The compiled calls read plain NumPy arrays of bool, integers and floats, and ``scipy.sparse``
matrices. Everything else is converted here: lists, subclasses of NumPy arrays, arrays of objects,
and columns of pandas, polars and pyarrow. What is no real number is refused: text, dates, complex
numbers, and cells under a mask.

pandas, polars and pyarrow are not imported: a value can only come from a package that its caller
has imported.

>>> real_array([[1, 2.5]])
array([[1. , 2.5]])
>>> label_array(["cat", "dog"])
array(['cat', 'dog'], dtype='<U3')
"""

from lrgate.inputs.arrays import as_list, plain_array
from lrgate.inputs.labels import label_array, with_nan_label
from lrgate.inputs.rows import checked_rows, real_array
from lrgate.inputs.scalars import checked_integer, checked_number, checked_share, is_real

__all__ = [
    "as_list",
    "checked_integer",
    "checked_number",
    "checked_rows",
    "checked_share",
    "is_real",
    "label_array",
    "plain_array",
    "real_array",
    "with_nan_label",
]
