"""What commands print: aligned and harmless text, plain JSON, and the numbers they leave with."""

from __future__ import annotations

import datetime as dt
import errno
import io
import json

import click
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from dreamo_batch import errors
from dreamo_batch.cli import output
from dreamo_batch.cli.output import records
from dreamo_batch.text import aligned

cells = st.none() | st.integers() | st.text(max_size=80)


@given(st.lists(st.tuples(cells, cells, cells), max_size=5), st.none() | st.integers(1, 120))
def test_a_table_is_one_harmless_line_per_row(rows, width):
    """Whatever the cells hold, nothing but printable characters reaches the terminal, and no line is added."""
    text = aligned(["a", "b", "c"], rows, width=width)
    assert len(text.split("\n")) == len(rows) + 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text.replace("\n", ""))
    text.encode("utf-8")


@given(st.lists(st.tuples(cells, cells, st.just("x")), min_size=1, max_size=5), st.integers(50, 120))
def test_a_table_fits_the_terminal(rows, width):
    """Columns but the last are cut until the table fits."""
    names = ["a", "a long name", "c"]
    assert all(wcswidth(line) <= width for line in aligned(names, rows, width=width).split("\n"))


def test_columns_stand_below_each_other_with_chinese_and_emoji():
    """Wide characters count twice, accents not at all."""
    lines = aligned(["prompt", "seed"], [["雪山", 1], ["🦊", 22], ["e\u0301", 333]]).split("\n")
    assert len({wcswidth(line) for line in lines}) == 1


def test_a_long_cell_is_cut_with_a_mark_and_the_last_one_runs_on():
    """Prompts are shortened; the sentence at the end of a line is not, and a path keeps its end."""
    paths = aligned(["image", "message"], [[f"/data/{'雪' * 100}/hero_0002.png", "m"]]).split("\n")
    assert paths[1].startswith("…")
    assert "雪/hero_0002.png  m" in paths[1]
    text = aligned(["prompt", "message"], [["雪" * 100, "m" * 100]])
    assert "雪…" in text
    assert "m" * 100 in text


class Terminal(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("width", "n_rows", "is_listed"), [(80, 3, True), (200, 3, False), (80, 30, False)])
def test_a_table_far_wider_than_the_terminal_is_listed_and_no_amount_is_cut(
    monkeypatch, width, n_rows, is_listed
):
    """Broken lines were unreadable, and what is left of a cut amount is another one; many rows stay a table."""
    row = {f"a long name {i}": 10 * i for i in range(9)} | {"spent": "0.021255915", "last": None}
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    output.show_frame(pd.DataFrame([row] * n_rows, dtype=object))
    assert shown.getvalue().count("0.021255915") == n_rows
    assert ("a long name 8  80\n" in shown.getvalue()) == is_listed


def test_values_stand_in_one_column_whatever_letters_their_names_have(capsys):
    """Chinese names of columns are twice as wide as they have letters."""
    output.show_summary({"提示词": "on a beach", "n": [1, 2], "missing": None})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["提示词", "on", "a", "beach"], ["n", "1"], ["n", "2"]]
    values = ("on a beach", "1", "2")
    widths = {wcswidth(line.removesuffix(value)) for line, value in zip(lines, values, strict=True)}
    assert widths == {8}


def test_escape_sequences_are_shown_not_obeyed():
    """C0, C1 and direction marks become their names."""
    text = aligned(["prompt"], [["\x1b[2J\x9b31m\u202egnp.exe\r"]])
    assert r"\x1b[2J\x9b31m\u202egnp.exe\r" in text


def test_a_table_without_columns_or_rows_is_its_heading():
    """An empty table can be laid out."""
    assert aligned(["a", "b"], []) == "a  b"


def test_records_hold_plain_values_only():
    """Missing values of any kind are None, numbers are Python's, times and infinity are text, lists stay lists."""
    frame = pd.DataFrame(
        {
            "n": np.array([1, 2], dtype="int32"),
            "x": [np.nan, np.inf],
            "i": pd.array([2**63 - 1, None], dtype="Int64"),
            "b": pd.array([True, None], dtype="boolean"),
            "t": pd.to_datetime(["2026-01-02T03:04:05Z", None]).as_unit("us"),
            "c": pd.Categorical(["done", None]),
            "o": [("a", 1), np.float64(0.5)],
        }
    )
    first, second = records(frame)
    assert first == {
        "n": 1,
        "x": None,
        "i": 2**63 - 1,
        "b": True,
        "t": "2026-01-02T03:04:05+00:00",
        "c": "done",
        "o": ["a", 1],
    }
    assert second == {"n": 2, "x": "inf", "i": None, "b": None, "t": None, "c": None, "o": 0.5}
    assert type(first["n"]) is int
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_records_of_a_labelled_frame_begin_with_the_labels():
    """Index levels come first and never hide a column of the same name."""
    index = pd.MultiIndex.from_tuples([("a", 1)], names=["scene", "seed"])
    assert records(pd.DataFrame({"seed": [7]}, index=index)) == [{"scene": "a", "seed_index": 1, "seed": 7}]
    assert records(pd.DataFrame({"prompt": ["x"]}), with_labels=True) == [{"row": 0, "prompt": "x"}]


@pytest.fixture
def shown_as():
    """Choose the format, as `--format` does, until the test is over."""
    token = output.shown_as.set(output.TABLE)
    yield output.shown_as.set
    output.shown_as.reset(token)


def test_what_json_has_no_word_for_becomes_text(capsys, shown_as):
    """Dates and strange objects are written as in a file."""
    shown_as("json")
    told = [dt.datetime(2026, 1, 2, tzinfo=dt.UTC), b"x", pd.NaT]
    output.show_frame(pd.DataFrame({"a": pd.Series(told, dtype=object)}))
    written = [record["a"] for record in json.loads(capsys.readouterr().out)]
    assert written == ["2026-01-02 00:00:00+00:00", "b'x'", None]


def test_an_empty_frame_is_an_empty_json_list(capsys, shown_as):
    """No rows are no records, and a sentence on a terminal."""
    shown_as("json")
    output.show_frame(pd.DataFrame({"a": []}))
    assert json.loads(capsys.readouterr().out) == []
    shown_as("table")
    output.show_frame(pd.DataFrame({"a": []}), if_empty="No attempts.")
    assert capsys.readouterr().out == "No attempts.\n"


def test_a_summary_as_csv_has_every_status(capsys, shown_as):
    """Columns don't depend on what happened."""
    shown_as("csv")
    output.show_summary({"rows": 1, "by_status": {"failed": 1}, "damage": ["a is gone", "b is gone"]})
    head, *rest = capsys.readouterr().out.split("\n", 1)
    assert head == "rows,pending,submitting,in_progress,completed,failed,invalid,ambiguous,damage"
    assert rest == ['1,0,0,0,0,1,0,0,"a is gone\nb is gone"\n']


def test_a_summary_as_lines_lists_every_damage(capsys):
    """A list takes a line for each of its entries."""
    output.show_summary({"rows": 1, "by_status": {}, "damage": ["a", "b"], "max_cost_usd": None})
    assert capsys.readouterr().out == "rows    1\ndamage  a\ndamage  b\n"


class Gone:
    """A stream whose other end is gone."""

    def write(self, _):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def fileno(self):
        raise OSError("no file")


def test_a_reader_that_left_is_no_error(monkeypatch):
    """Neither data nor hints fail when nobody reads them."""
    monkeypatch.setattr("sys.stdout", Gone())
    monkeypatch.setattr("sys.stderr", Gone())
    assert output.emit("data\n") is None
    assert output.hint("hint") is None


def results(*rows):
    return pd.DataFrame(rows, columns=["status", "output_path"])


@pytest.mark.parametrize(
    ("rows", "with_pictures", "code"),
    [
        ([("completed", "a.jpg"), ("completed", "b.jpg")], True, 0),
        ([], True, 0),
        ([("completed", None)], True, 1),
        ([("completed", None)], False, 0),
        ([("completed", "a.jpg"), ("failed", None)], True, 1),
        ([("ambiguous", None)], False, 1),
        ([("invalid", None)], False, 1),
        ([("failed", None), ("in_progress", None)], True, 3),
        ([("pending", None)], False, 3),
        ([("submitting", None)], False, 3),
    ],
)
def test_code_of_results(rows, with_pictures, code):
    """0 only if every row is completed and saved; 3 as long as a row is open."""
    assert output.code_of_results(results(*rows), with_pictures=with_pictures) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.exceptions.Exit(0), 0),
        (click.UsageError("no such option"), 2),
        (click.ClickException("not agreed"), 2),
        (errors.UsageError("x"), 2),
        (errors.TableError("x"), 2),
        (errors.InvalidTable("x", pd.DataFrame()), 2),
        (errors.SettingsError("x"), 2),
        (errors.PriceUnknown("x"), 2),
        (errors.DirectoryLocked("x"), 2),
        (errors.OtherService("x"), 2),
        (errors.LedgerDamaged("x"), 2),
        (errors.BudgetReached("x"), 3),
        (errors.AccessRefused("x"), 3),
        (errors.KeyMissing("x"), 3),
        (errors.StorageFailed("x"), 3),
        (errors.ServiceUnreachable("x"), 3),
        (errors.ServiceError("x"), 3),
        (KeyboardInterrupt(), 3),
        (click.Abort(), 3),
        (PermissionError(errno.EACCES, "denied"), 2),
        (OSError(errno.ENOSPC, "full"), 3),
        (BrokenPipeError(errno.EPIPE, "gone"), 3),
        (ModuleNotFoundError("fastapi", name="fastapi"), 2),
        (RuntimeError("a bug"), 3),
    ],
)
def test_code_of_error(error, code):
    """Every way to end early has its code."""
    assert output.code_of_error(error) == code


def test_every_error_of_the_toolkit_has_a_code():
    """2 for what can't be done, 3 for what was stopped: no error is left to chance."""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.DreamoError):
            error = kind.__new__(kind)
            stopped = isinstance(error, errors.RunStopped | errors.ServiceError)
            assert output.code_of_error(error) == (3 if stopped else 2), name
