"""Single cells and whole columns are read alike, never guessed and never rounded."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dreamo_batch.jobs.cells import (
    booleans,
    distinct,
    exact_end,
    integers,
    is_missing,
    read_boolean,
    read_integer,
    show,
)

NUMBER_LIKE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.floats(-1e6, 1e6).map(round).map(float),
    st.decimals(),
    st.text(max_size=3),
    st.integers(-100, 100).map(str),
    st.integers(-(2**66), 2**66).map(lambda number: f"{number}.0"),
    st.sampled_from([pd.NA, pd.NaT, np.int8(3), np.float32(2**24), np.uint64(2**63), np.bool_(1), [1], b"1"]),
)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (42, 42),
        (42.0, 42),
        ("42", 42),
        (" 42 ", 42),
        ("42.0", 42),
        ("+7", 7),
        ("-1", -1),
        ("007", 7),
        ("1e+05", 10**5),
        ("1.2e+07", 12 * 10**6),
        ("9.223e+18", 9223 * 10**15),
        (np.int32(5), 5),
        (np.float32(5), 5),
        (Decimal("42.00"), 42),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (2.0**53 - 1, 2**53 - 1),
    ],
)
def test_whole_numbers_of_every_kind_are_read(cell, value):
    """A whole number is read whatever it is written as."""
    assert read_integer(cell).value == value


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (42.5, "not-integer"),
        ("42.5", "not-integer"),
        (True, "not-integer"),
        (np.bool_(0), "not-integer"),
        ("true", "not-integer"),
        ("1e3", "not-integer"),
        ("1E+05", "not-integer"),  # as spreadsheets write 123456 in few digits
        ("1.234568e+09", "not-integer"),  # as C and R print 1234567890
        ("1.5e-01", "not-integer"),
        ("1e+100", "not-integer"),
        ("1e+19", "out-of-range"),
        ("1_000", "not-integer"),
        ("1,000", "not-integer"),
        ("٤٢", "not-integer"),
        (float("inf"), "not-integer"),
        (Decimal("0.5"), "not-integer"),
        (Fraction(1, 2), "not-integer"),
        (1j, "not-integer"),
        ([1], "not-integer"),
        (b"1", "not-integer"),
        (dt.date(2024, 1, 1), "not-integer"),
        (np.timedelta64(1, "D"), "not-integer"),
        (2**63, "out-of-range"),
        (-(2**63) - 1, "out-of-range"),
        ("9" * 5000, "out-of-range"),
        (Decimal("1e400"), "out-of-range"),
        (np.uint64(2**63), "out-of-range"),
        (2.0**53, "inexact"),
        (-(2.0**60), "inexact"),
        (np.float32(2**24), "inexact"),
        (f"{2**53}.0", "inexact"),
        *([(np.longdouble(2**63), "inexact")] if np.finfo(np.longdouble).nmant > 62 else []),
    ],
)
def test_what_is_no_exact_whole_number_is_named(cell, fault):
    """Fractions, booleans, other text, and numbers that were rounded before us are told apart."""
    assert read_integer(cell).fault == fault


@pytest.mark.parametrize(
    "cell", [None, float("nan"), pd.NA, pd.NaT, "", Decimal("nan"), np.datetime64("NaT", "s")]
)
def test_missing_values_of_every_sort_are_missing(cell):
    """There are many ways to say nothing."""
    assert is_missing(cell)
    assert read_integer(cell).value is None
    assert read_integer(cell).fault is None


@pytest.mark.parametrize(
    "cell", [[], [None], {}, b"", 0, False, " ", Image.new("L", (1, 1)), np.array([np.nan])]
)
def test_empty_things_are_not_missing(cell):
    """Emptiness of other kinds is a value."""
    assert not is_missing(cell)


@pytest.mark.parametrize(
    ("cell", "value"),
    [(True, True), ("TRUE", True), ("yes", True), (1, True), (1.0, True), ("0", False), (" No ", False)]
    + [(Decimal(1), True), (Decimal("0.00"), False)]
    + [(word, True) for word in ("WAHR", "VRAI", "VERDADERO", "VERO")]
    + [(word, False) for word in ("FALSCH", "FAUX", "FALSO")],
)
def test_booleans_are_read_from_words_and_digits(cell, value):
    """What spreadsheets and people write for true and false is read."""
    assert read_boolean(cell).value is value


@pytest.mark.parametrize("cell", ["maybe", 2, 0.5, "t", [True], b"1", float("inf")])
def test_what_is_no_boolean_is_named(cell):
    """Nothing else counts as true or false."""
    assert read_boolean(cell).fault == "not-boolean"


@given(st.lists(NUMBER_LIKE, max_size=8))
@example([1, True, 1.0, "1", None])
def test_columns_are_read_like_their_cells(cells):
    """Reading a column of dtype object gives what reading each cell gives."""
    series = pd.Series(cells, dtype=object)
    for of_column, of_cell in ((integers, read_integer), (booleans, read_boolean)):
        _assert_agrees(of_column(series), [of_cell(cell) for cell in cells])


@given(
    st.sampled_from(["float64", "Float64", "float32", "double[pyarrow]"]),
    st.lists(st.one_of(st.none(), st.floats(width=32), st.integers(-(2**60), 2**60).map(float))),
)
def test_float_columns_are_read_like_their_cells(dtype, cells):
    """The fast way for floats agrees with the slow one, and knows how much a float can hold."""
    series = pd.Series(cells, dtype="float64").astype(dtype)
    kind = np.float32 if dtype == "float32" else float
    expected = [read_integer(None if pd.isna(cell) else kind(cell)) for cell in series.tolist()]
    _assert_agrees(integers(series), expected)


@given(
    st.sampled_from(["Int64", "UInt64", "int64[pyarrow]", "Int8", "uint64[pyarrow]"]),
    st.lists(st.one_of(st.none(), st.integers(0, 127), st.just(2**63 - 1))),
)
@example("UInt64", [2**64 - 1, 2**63, 1])
def test_integer_columns_are_read_like_their_cells(dtype, cells):
    """The fast way for integers agrees with the slow one, unsigned ones included."""
    cells = [cell if cell is None or "8" not in dtype else min(cell, 127) for cell in cells]
    _assert_agrees(integers(pd.Series(cells, dtype=dtype)), [read_integer(cell) for cell in cells])


@pytest.mark.parametrize("dtype", ["bool", "boolean", "bool[pyarrow]"])
def test_boolean_columns_are_no_integers(dtype):
    """True is not 1 in a column of seeds."""
    read = integers(pd.Series([True, False], dtype=dtype))
    assert read.faults["not-integer"].all()


def test_categories_strings_and_dictionaries_are_read():
    """Columns of any dtype go through their distinct values."""
    for dtype in (
        "category",
        "str",
        "string",
        "string[pyarrow]",
        pd.ArrowDtype(__import__("pyarrow").string()),
    ):
        assert integers(pd.Series(["1", None, "x", "1"], dtype=dtype)).numbers.tolist() == [1, 0, 0, 1]


@given(st.lists(st.one_of(NUMBER_LIKE, st.lists(st.integers(), max_size=1)), max_size=8))
@example(["a\0b", "a\0c", None])
def test_distinct_cells_stand_for_all(cells):
    """Every position gets its own cell back, of the same type."""
    found = distinct(pd.Series(cells, dtype=object))
    for cell, code in zip(cells, found.codes, strict=True):
        if is_missing(cell):
            assert code == -1
        else:
            assert type(found.cells[code]) is type(cell)
            assert found.cells[code] is cell or found.cells[code] == cell


def test_unused_categories_are_no_cells():
    """What no row holds is not looked at."""
    column = pd.Series(["a"], dtype=pd.CategoricalDtype(["a", "unused"]))
    assert distinct(column).cells == ["a"]


@given(st.one_of(NUMBER_LIKE, st.text(), st.binary()))
def test_cells_are_shown_on_one_short_line(cell):
    """Whatever a cell holds can be shown, stored and read."""
    shown = show(cell)
    if shown is None:
        assert is_missing(cell)
    else:
        assert 0 < len(shown) <= 60
        assert "\n" not in shown
        assert shown.encode()


def test_half_characters_are_written_out():
    """A lone surrogate can't be stored, so it is shown as its number."""
    assert show("a\ud83d") == "a\\ud83d"


def test_exact_end_is_where_neighbours_merge():
    """At the end, the next integer reads the same; before it, it does not."""
    end = exact_end(float)
    assert float(end) == float(end + 1)
    assert float(end - 1) != float(end)


def _assert_agrees(read, expected):
    assert read.is_given.tolist() == [one.value is not None for one in expected]
    assert read.numbers.tolist() == [int(one.value or 0) for one in expected]
    assert read.is_faulty.tolist() == [one.fault is not None for one in expected]
    for position, one in enumerate(expected):
        if one.fault:
            assert read.faults[one.fault][position]
