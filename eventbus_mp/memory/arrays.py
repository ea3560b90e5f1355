"""Arrays and scalars of numpy. This is the only file that knows numpy, which is optional.

A value of numpy's can only be there when the program imported numpy, so encoding finds it in `sys.modules`. Decoding
imports it, but only when the data holds such a value.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from eventbus_mp.errors import DecodeError
from eventbus_mp.memory.views import AddBuffer

__all__ = [
    "decode_array",
    "decode_scalar",
    "describe_dtype",
    "encode_array",
    "encode_scalar",
    "is_array",
    "is_scalar",
    "numpy_for_loans",
]


def is_scalar(value: Any) -> bool:
    """Whether it is a numpy scalar."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(type(value), getattr(numpy, "generic", ()))


def is_array(value: Any) -> bool:
    """Whether it is an ndarray.

    Raises:
        TypeError: It is of a subclass of ndarray, which does not travel; the text says what to do.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    kind = type(value)
    # While numpy is being imported it may be in `sys.modules` without its classes.
    ndarray = getattr(numpy, "ndarray", None)
    if ndarray is not None and kind is not ndarray and issubclass(kind, ndarray):
        advice = "give numpy.asarray(value)"
        if issubclass(kind, numpy.ma.MaskedArray):  # `asarray` would drop the mask without a word.
            advice = "give value.data and numpy.ma.getmaskarray(value), or value.filled(...)"
        raise TypeError(f"{kind} is a subclass of ndarray and would come out as one; {advice}")
    return kind is ndarray


def numpy_for_loans() -> Any:
    """The numpy module, for a loan that is an array.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("numpy")
    except ImportError as cause:
        from eventbus_mp.extras import not_installed  # A manager needs no module for it.

        raise not_installed("loan(shape=, dtype=)", "numpy", "numpy") from cause


def _numpy_for(what: str) -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError as cause:
        raise DecodeError(f"the data holds {what}, and numpy cannot be imported here: pip install numpy") from cause


def encode_array(value: Any, add: AddBuffer) -> Any:
    """The parts of an ndarray: offset of its bytes, dtype, whether they are in Fortran's order, lengths of the axes.

    Raises:
        TypeError: Its dtype cannot travel.
    """
    dtype = describe_dtype(value.dtype)
    by_columns = value.flags.f_contiguous and not value.flags.c_contiguous
    if not value.nbytes:
        flat = memoryview(b"")
    else:
        # An array that is not contiguous is gathered here. Any other one is copied once only, later, into its place.
        # Python has no buffer format for a datetime64 or a structured array, hence the uint8.
        rows = sys.modules["numpy"].ascontiguousarray(value.T if by_columns else value)
        flat = memoryview(rows.reshape(-1).view("uint8"))
    return [add(flat), dtype, by_columns, *value.shape]


def decode_array(body: Any, raw: memoryview) -> Any:
    """The ndarray over `raw`, read-only and without a copy.

    Raises:
        DecodeError: numpy is not installed here.
    """
    numpy = _numpy_for("a numpy.ndarray")
    offset, dtype, by_columns, *shape = body
    order = "F" if by_columns else "C"
    # It is made over an array, which is read-only for good. Of a bare memoryview, numpy would look through to the
    # writable mapping below it, and let the user set `writeable`.
    buffer = numpy.asarray(raw)
    return numpy.ndarray(shape, _make_dtype(numpy, dtype), buffer=buffer, offset=offset, order=order)


def encode_scalar(value: Any, add: AddBuffer) -> Any:
    """The parts of a numpy scalar: dtype and bytes. Nothing is added beside the data.

    Raises:
        TypeError: It is of a subclass, or its dtype cannot travel.
    """
    dtype = value.dtype
    if type(value) is not dtype.type:
        raise TypeError(f"{type(value)} is a subclass of {dtype.type} and would come out as one; convert it")
    if dtype.kind in "SU":  # As an array of one it would lose zeros at its end.
        return [dtype.kind, bytes(value) if dtype.kind == "S" else str.__str__(value)]
    return [describe_dtype(dtype), value.tobytes()]


def decode_scalar(body: Any, raw: memoryview) -> Any:
    """The numpy scalar.

    Raises:
        DecodeError: numpy is not installed here.
    """
    numpy = _numpy_for("a numpy scalar")
    dtype, data = body
    if dtype == "S":
        return numpy.bytes_(data)
    if dtype == "U":
        return numpy.str_(data)
    return numpy.ndarray((), _make_dtype(numpy, dtype), buffer=data)[()]


def describe_dtype(dtype: Any) -> Any:
    """A dtype as a text or, when it has fields, a shape or metadata, as a list.

    Raises:
        TypeError: It holds Python objects, or comes from another package than numpy.
    """
    if dtype.metadata:
        return [_describe_bare(dtype), dict(dtype.metadata), None]
    return _describe_bare(dtype)


def _describe_bare(dtype: Any) -> Any:
    numpy = sys.modules["numpy"]
    if dtype.hasobject:
        raise TypeError(
            f"a numpy dtype with Python objects ({dtype}) cannot travel; convert it with astype() or tolist()"
        )
    if dtype.names is not None:
        parts = [dtype.fields[name] for name in dtype.names]
        formats, offsets = [describe_dtype(part[0]) for part in parts], [part[1] for part in parts]
        titles = [part[2] if len(part) > 2 else None for part in parts]
        is_record = dtype.type is numpy.record
        return [list(dtype.names), formats, offsets, titles, dtype.itemsize, dtype.isalignedstruct, is_record]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [describe_dtype(base), list(shape)]
    # 'l' and 'q' are two types of one size, which `dtype.str` does not tell apart; nor does it tell 'c' from 'S1'.
    text = dtype.byteorder + dtype.char if dtype.kind in "biufc" else "c" if dtype.char == "c" else dtype.str
    if not _is_of_numpy(numpy, dtype, text):
        raise TypeError(f"numpy dtype {dtype!r} is not one of numpy's own; send the bytes with view('uint8')")
    return text


def _is_of_numpy(numpy: Any, dtype: Any, text: str) -> bool:
    try:
        return bool(numpy.dtype(text) == dtype)
    except TypeError:  # ml_dtypes has letters of its own.
        return False


def _make_dtype(numpy: Any, described: Any) -> Any:
    """The dtype that `describe_dtype` described."""
    if isinstance(described, str):
        return numpy.dtype(described)
    if len(described) == 2:
        base, shape = described
        return numpy.dtype((_make_dtype(numpy, base), tuple(shape)))
    if len(described) == 3:
        bare, metadata, _ = described
        return numpy.dtype(_make_dtype(numpy, bare), metadata=metadata)
    names, formats, offsets, titles, itemsize, aligned, is_record = described
    fields = {"names": names, "formats": [_make_dtype(numpy, part) for part in formats], "offsets": offsets}
    if any(titles):
        fields["titles"] = titles
    dtype = numpy.dtype({**fields, "itemsize": itemsize}, align=aligned)
    return numpy.dtype((numpy.record, dtype)) if is_record else dtype
