"""Tables on disk: they come back as they were, or as text with one warning."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from datetime import time
from decimal import Decimal
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dreamo_batch import columns
from dreamo_batch.engine import checkpoint
from dreamo_batch.errors import DirectoryError
from dreamo_batch.jobs import tables
from dreamo_batch.jobs.prepare import Prepared
from dreamo_batch.jobs.references import ImageSource
from tests.fakes import job, prepared


def round_trip(tmp_path, user: pd.DataFrame) -> pd.DataFrame:
    """Write a table whose rows all have the same job, and read the user's part of it."""
    path = tmp_path / "jobs.parquet"
    checkpoint.write_jobs(path, user, prepared(*["a"] * len(user)), "t")
    return checkpoint.read_jobs(path).user


def test_a_job_is_described_by_its_first_row():
    """Rows that repeat it, and rows without a job, aren't it; nor is any row that of a job elsewhere."""
    user = pd.DataFrame({"n": [1, 2, 3, 4, 5]}, index=list("vwxyz"))
    describe = checkpoint.describer(user, prepared(None, "a", "b", "a", "b").rows)
    told = [json.loads(describe(job(name))) for name in "abc"]
    assert [(one["row"], one["columns"]) for one in told] == [("w", {"n": 2}), ("x", {"n": 3}), (None, {})]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.timedelta64(1, "D"), "1 days"),
        (np.timedelta64(1, "ns"), "1 nanoseconds"),
        (np.datetime64("2026"), "2026"),
        (np.timedelta64("NaT"), None),
        ("", ""),
        (np.array(1), None),
        (np.int8(1), 1),
    ],
)
def test_cells_of_numpy_are_described_as_json(cell, expected):
    """The journal keeps the user's cells of every attempt; none may stop a run."""
    user = pd.DataFrame({"cell": pd.Series([cell], dtype=object)})
    described = checkpoint.describer(user, prepared("a").rows)(job("a"))
    assert json.loads(described)["columns"] == {"cell": expected}


HALF = "\ud800"  # of a character, which no file takes


@pytest.mark.parametrize(
    ("cells", "dtype", "is_known"),
    [
        ([True, None], "boolean", True),
        ([2**62 + 1, None], "Int64", True),
        ([0.1, None], "Float64", True),
        (["2026-01-01", None], "datetime64[us, UTC]", True),
        (["2026-01-01", None], "datetime64[s]", False),
        (["a", None], "str", True),
        (["a", None], "category", True),
        ([2**63], "uint64", True),
        ([True, False], "bool", True),
        ([0.5], "float32", True),
        ([0.5], "float16", False),
        ([HALF], object, None),
        ([HALF], pd.StringDtype("python"), None),
        ([0.5], np.longdouble, None),
        ([1j], "complex128", None),
    ],
    ids=str,
)
def test_only_dtypes_that_a_file_surely_brings_back_are_not_tried(tmp_path, cells, dtype, is_known):
    """None marks what becomes text, since a file doesn't take it."""
    column = pd.Series(cells, dtype=dtype, name="x")
    with mock.patch.object(tables.io, "BytesIO", wraps=io.BytesIO) as tried:
        stored, changed = tables.storable(column.to_frame())
    assert (changed, tried.called) == (["x"] if is_known is None else [], not is_known)
    stored.to_parquet(tmp_path / "x.parquet")
    back = pd.read_parquet(tmp_path / "x.parquet")["x"]
    if is_known is not None:
        pd.testing.assert_series_equal(back.astype(column.dtype), column)  # seconds become milliseconds


USER = pd.DataFrame(
    {
        "prompt": ["a cat", "蓝 🦊", ""],
        "seed": pd.array([7, None, 2**62 + 1], dtype="Int64"),
        "score": [0.1, float("nan"), -1e300],
        "kind": pd.Categorical(["x", None, "y"], categories=["y", "x", "z"]),
        "when": pd.to_datetime(["2026-01-01", None, "2026-01-02"], utc=True, format="ISO8601"),
        "flag": pd.array([True, None, False], dtype="boolean"),
        "blob": [b"\x00\xff", None, b""],
    }
)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(3),
        pd.RangeIndex(10, 40, 10, name="row"),
        pd.Index(["b", "a", "b"], name="label"),
        pd.Index([5, 5, 5]),
        pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 2)], names=["group", None]),
        pd.MultiIndex.from_tuples([(1, "a"), (2, "b"), (3, "c")]),
        pd.date_range("2026-01-01", periods=3, name="day"),
        pd.Index(["a", "b", "c"], name="prompt"),
    ],
    ids=str,
)
def test_tables_come_back_on_their_index(tmp_path, index):
    """Values, dtypes, attempt and every kind of index survive."""
    user = USER.set_axis(index, axis=0)
    before = user.copy()
    back = round_trip(tmp_path, user)
    pd.testing.assert_frame_equal(back, user, check_freq=False)
    pd.testing.assert_frame_equal(user, before)


def test_an_empty_table_comes_back(tmp_path):
    """No rows, but columns and dtypes; Parquet keeps categories with the rows, so those go."""
    empty = USER.drop(columns="kind").iloc[:0]
    pd.testing.assert_frame_equal(round_trip(tmp_path, empty), empty, check_index_type=False)


def test_what_parquet_can_not_hold_becomes_text_with_one_warning(tmp_path):
    """One warning names every such column; missing cells stay missing; the user's own frame stays as it is."""
    picture = Image.new("RGB", (2, 2))
    user = pd.DataFrame(
        {
            "mask": [picture, None, picture],
            "mixed": [1, "two", None],
            "number": [1 + 2j, 3j, 0j],
            "fine": [1, 2, 3],
        }
    )
    with pytest.warns(UserWarning, match="Stored as text") as caught:
        back = round_trip(tmp_path, user)
    assert len(caught) == 1
    assert str(caught[0].message).endswith("can't hold it: mask, mixed, number.")
    assert back["mixed"].tolist()[:2] == ["1", "two"]
    assert back["mask"].notna().tolist() == [True, False, True]
    assert back["mixed"].notna().tolist() == [True, True, False]
    assert back["fine"].tolist() == [1, 2, 3]
    assert user["mask"].iloc[0] is picture


def test_names_that_are_no_text_become_text(tmp_path):
    """A column called 0 is stored as one called "0", and that is said."""
    user = pd.DataFrame([[1, "a"], [2, "b"]], columns=[0, "prompt"])
    with pytest.warns(UserWarning, match="the names of columns"):
        back = round_trip(tmp_path, user)
    assert list(back.columns) == ["0", "prompt"]


def test_an_index_that_parquet_can_not_hold_becomes_text(tmp_path):
    """Labels of several kinds are stored as they read."""
    user = USER.set_axis(pd.Index([1, "two", (3, 4)]), axis=0)
    with pytest.warns(UserWarning, match="the index"):
        back = round_trip(tmp_path, user)
    assert back.index.tolist() == ["1", "two", "(3, 4)"]


def test_text_that_utf8_can_not_hold_is_replaced(tmp_path):
    """A path of another encoding does not keep the table from being stored."""
    user = pd.DataFrame({"image": pd.Series(["caf\udce9.png"], dtype=object)})
    with pytest.warns(UserWarning, match="image"):
        assert round_trip(tmp_path, user)["image"].tolist() == ["caf\\udce9.png"]


def test_results_are_stored_without_a_second_warning(tmp_path):
    """The table has said it already."""
    frame = pd.DataFrame({"mixed": [1, "two"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.write_frame(tmp_path / "results.parquet", frame, {"covers": 3})
    back, meta = checkpoint.read_frame(tmp_path / "results.parquet")
    assert (back["mixed"].tolist(), meta) == (["1", "two"], {"covers": 3})
    assert checkpoint.read_table_meta(tmp_path / "results.parquet") == {"covers": 3}


def test_decisions_and_jobs_come_back(tmp_path):
    """Jobs in order, duplicates, seeds beyond what a float holds, and rows that can't be submitted."""
    path = tmp_path / "jobs.parquet"
    table = prepared("a", None, "b", "a")
    image = ImageSource("file", "/p/cat.png", "d1", "/p/fixed.png", "d2")
    jobs = {"a": job("a", seed=2**62 + 1, image=image), "b": job("b", seed=-1)}
    rows = table.rows.copy()
    rows[columns.SEED_SENT] = pd.array([2**62 + 1, None, -1, 2**62 + 1], dtype="Int64")
    for name, value in zip(
        (columns.IMAGE_SOURCE, columns.IMAGE_DIGEST, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST),
        zip(
            ("/p/cat.png", "d1", "/p/fixed.png", "d2"), ("https://example.com/cat.png", "00") * 2, strict=True
        ),
        strict=True,
    ):
        rows[name] = pd.array([value[0], None, value[1], value[0]], dtype="str")
    checkpoint.write_jobs(path, pd.DataFrame({"n": range(4)}), Prepared(jobs, rows, table.problems), "id-1")
    back = checkpoint.read_jobs(path)
    assert back.table_id == "id-1"
    assert back.prepared.jobs == jobs
    assert list(back.prepared.jobs) == ["a", "b"]
    pd.testing.assert_frame_equal(back.rows, rows)
    assert back.prepared.problems.empty


def test_a_table_of_nothing_but_invalid_rows_comes_back(tmp_path):
    """It has no jobs, and says why."""
    path = tmp_path / "jobs.parquet"
    checkpoint.write_jobs(path, pd.DataFrame({"n": [1, 2]}), prepared(None, None), "t")
    back = checkpoint.read_jobs(path)
    assert back.prepared.jobs == {}
    assert back.rows[columns.ERROR_MESSAGE].tolist() == ["prompt: it is blank"] * 2


def test_pictures_kept_in_the_directory_move_with_it(tmp_path):
    """What is under `inputs/` is looked for where the directory is now."""
    before = tmp_path / "before"
    (before / "inputs").mkdir(parents=True)
    (before / "inputs" / "cat.png").touch()
    sent = str(before / "inputs" / "cat.png")
    table = prepared("a")
    table.rows[columns.IMAGE_SENT] = pd.array([sent], dtype="str")
    checkpoint.write_jobs(before / "jobs.parquet", pd.DataFrame({"n": [1]}), table, "t")
    assert checkpoint.read_jobs(before / "jobs.parquet").rows[columns.IMAGE_SENT].tolist() == [sent]
    before.rename(tmp_path / "after")
    (moved,) = checkpoint.read_jobs(tmp_path / "after" / "jobs.parquet").rows[columns.IMAGE_SENT]
    assert moved == str(tmp_path / "after" / "inputs" / "cat.png")


@pytest.mark.parametrize("n_of_group", [4, 2], ids=["in one part", "in several parts"])
def test_reference_pictures_of_the_last_table_are_known(tmp_path, monkeypatch, n_of_group):
    """Each by where it was, also where the parts of a large table name them in another order; none without a table."""
    monkeypatch.setattr(checkpoint, "_GROUP", n_of_group)
    path = tmp_path / "jobs.parquet"
    assert checkpoint.known_images(path) == {}
    table = prepared("a", None, "b", "a")
    image = job("a").image
    other = replace(image, location=f"{image.location}2", digest="other", sent_digest="other")
    for name, value, value_of_other in zip(
        (columns.IMAGE_SOURCE, columns.IMAGE_DIGEST, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST),
        (image.location, image.digest, image.sent_location, image.sent_digest),
        (other.location, other.digest, other.sent_location, other.sent_digest),
        strict=True,
    ):
        table.rows[name] = pd.array([value, None, value_of_other, value], dtype="str")
    checkpoint.write_jobs(path, pd.DataFrame({"n": range(4)}), table, "t")
    assert checkpoint.known_images(path) == {image.location: image, other.location: other}
    path.write_bytes(b"not Parquet")
    assert checkpoint.known_images(path) == {}


def test_a_missing_table_is_no_run_directory(tmp_path):
    """The message names the file that is not there."""
    with pytest.raises(DirectoryError, match=r"No run directory at .* \(it has no jobs\.parquet\)"):
        checkpoint.read_jobs(tmp_path / "jobs.parquet")
    (tmp_path / "run.json").touch()  # as a call leaves it that was refused before it began
    with pytest.raises(DirectoryError, match=r"No table is stored in .* \(it has no jobs\.parquet\)"):
        checkpoint.read_jobs(tmp_path / "jobs.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all", None])
def test_a_table_that_can_not_be_read_says_what_to_do(tmp_path, content):
    """Cut, foreign or without our note: what was bought is in the ledger, so run again."""
    path = tmp_path / "jobs.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(DirectoryError, match="Run the table again on this directory"):
        checkpoint.read_jobs(path)


def test_folder_names_with_a_meaning_elsewhere_have_none_here(tmp_path):
    """A run directory called `seed=3` adds no column to the table."""
    folder = tmp_path / "seed=3"
    folder.mkdir()
    pd.testing.assert_frame_equal(round_trip(folder, USER), USER)


def test_a_table_is_replaced_at_once(tmp_path):
    """What can't be written leaves the old table in place."""
    path = tmp_path / "jobs.parquet"
    checkpoint.write_jobs(path, pd.DataFrame({"n": [1]}), prepared("a"), "old")
    with pytest.raises(TypeError):
        checkpoint.write_frame(path, pd.DataFrame({"n": np.arange(3)}), {"bad": object()})
    assert checkpoint.read_jobs(path).table_id == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["jobs.parquet"]


def _endless() -> list:
    cell: list = []
    cell.append({"within": (cell,)})
    return cell


ODD = {
    "a list that holds itself": lambda: [_endless(), 1, None],
    "bins": lambda: pd.cut(pd.Series([1.0, 2.0, 3.0]), 2),
    "intervals": lambda: pd.Series(pd.interval_range(0, 3)),
    "empty structs": lambda: [{}, {}, {}],
    "nested empty structs": lambda: [{"exif": {}}] * 3,
    "numpy times": lambda: pd.Series([np.datetime64("2026"), np.timedelta64(1, "D"), None], dtype=object),
    "beyond 64 bits": lambda: pd.Series([2**70, 1, None], dtype=object),
    "sparse": lambda: pd.arrays.SparseArray([0, 0, 1]),
    "half an emoji": lambda: pd.Series(["a", "\ud83d", None], dtype=object),
    "half an emoji in a category": lambda: pd.Categorical(pd.Index(["a", "\ud83d", "a"], dtype=object)),
    "mixed": lambda: pd.Series([1, "a", object()], dtype=object),
    "complex": lambda: [1j, 2j, 3j],
    "periods": lambda: pd.period_range("2026-01", periods=3, freq="M"),
    "lengths of time": lambda: pd.to_timedelta([1, 2, 3], unit="s"),
    "times with zones": lambda: pd.date_range("2026-01-01", periods=3, tz="Asia/Shanghai"),
    "two zones": lambda: [pd.Timestamp("2026", tz="UTC"), pd.Timestamp("2026", tz="Asia/Tokyo"), None],
    "half floats": lambda: np.array([1, 2, 3], dtype=np.float16),
    "sets": lambda: [{1}, {2}, set()],
    "arrays": lambda: [np.zeros(2), np.zeros((2, 2)), None],
    "frames": lambda: [pd.DataFrame({"a": [1]})] * 3,
    "decimals": lambda: [Decimal("0.1"), Decimal("1e40"), None],
    "numbered categories": lambda: pd.Categorical([3, 1, 3]),
} | {
    str(kind): lambda kind=kind, cells=cells: pd.array(cells, dtype=pd.ArrowDtype(kind))
    for kind, cells in {
        pa.dictionary(pa.int8(), pa.string()): ["x", "y", "x"],
        pa.list_(pa.string()): [["a"], [], None],
        pa.struct([("a", pa.int64())]): [{"a": 1}, {"a": None}, None],
        pa.map_(pa.string(), pa.int64()): [[("a", 1)], [], None],
        pa.decimal128(20, 10): [Decimal("0.1"), None, Decimal(1)],
        pa.binary(): [b"\xff", None, b""],
        pa.time64("us"): [time(1), None, time(2)],
        pa.string(): ["a", None, "b"],
        pa.int64(): [2**62, None, 1],
    }.items()
}


@pytest.mark.parametrize("name", ODD)
def test_any_column_that_pandas_holds_is_stored_and_read_again(tmp_path, name):
    """As it is or as text, beside a plain column that is not touched by it."""
    frame = pd.DataFrame(
        {"plain": [1, 2, 3], "odd": ODD[name]()}, index=pd.Index(["a", "b", "c"], name="label")
    )
    checkpoint.write_frame(tmp_path / "odd.parquet", frame, {})
    again, _ = checkpoint.read_frame(tmp_path / "odd.parquet")
    assert again["plain"].tolist() == [1, 2, 3]
    assert again.index.tolist() == ["a", "b", "c"]
    assert len(again["odd"]) == 3


@pytest.mark.parametrize(
    "names",
    [[1, "1", "1.1"], ["\ud83d", "?", "a"], [("a", 1), None, 2.5], [pd.Timestamp("2026"), True, b"x"]],
)
def test_any_names_of_columns_are_stored_apart(tmp_path, names):
    """Names that are the same as text are told apart by a number."""
    frame = pd.DataFrame([[1, 2, 3]])
    frame.columns = pd.Index(names, dtype=object, tupleize_cols=False)
    checkpoint.write_frame(tmp_path / "odd.parquet", frame, {})
    again, _ = checkpoint.read_frame(tmp_path / "odd.parquet")
    assert again.iloc[0].tolist() == [1, 2, 3]
    assert again.columns.is_unique


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["a", "\ud83d"], dtype=object),
        pd.Index([(1, "a"), "b"], dtype=object),
        pd.Index([{}.keys(), 2], dtype=object),
        pd.MultiIndex.from_tuples([("a", object()), ("b", 1)]),
        pd.IntervalIndex.from_breaks([0, 1, 2]),
        pd.PeriodIndex(["2026", "2027"], freq="Y"),
        pd.CategoricalIndex(["a", "b"]),
        pd.Index([2**70, 1], dtype=object),
        pd.Index([1, 2], name="\ud83d"),
        pd.Index([1, 2], name=("a", 1)),
    ],
    ids=range(10),
)
def test_any_index_is_stored_and_read_again(tmp_path, index):
    """What Parquet can't hold of it is text."""
    checkpoint.write_frame(tmp_path / "odd.parquet", pd.DataFrame({"plain": [1, 2]}, index=index), {})
    again, _ = checkpoint.read_frame(tmp_path / "odd.parquet")
    assert again["plain"].tolist() == [1, 2]


def test_notes_of_pandas_that_can_not_be_read_lock_nobody_out(tmp_path):
    """The rows are read without them: the index is found by its name."""
    path = tmp_path / "odd.parquet"
    checkpoint.write_frame(
        path, pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="label")), {"table_id": "t"}
    )
    table = pq.read_table(path)
    notes = table.schema.metadata[b"pandas"].replace(
        b'"numpy_type": "int64"', b'"numpy_type": "list<x>[pyarrow]"'
    )
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"pandas": notes}), path)
    again, meta = checkpoint.read_frame(path)
    assert again["a"].to_dict() == {"x": 1, "y": 2}
    assert meta == {"table_id": "t"}
