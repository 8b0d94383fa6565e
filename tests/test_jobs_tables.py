"""Tables as files: dtypes come back, bad cells survive, and nothing is half written."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import functools
import inspect
import itertools
import json
import os
import sys
import threading
import warnings
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dreamo_batch import columns, files
from dreamo_batch.errors import TableError, UsageError
from dreamo_batch.jobs.cells import items_of
from dreamo_batch.jobs.fields import read_size
from dreamo_batch.jobs.prepare import validate
from dreamo_batch.jobs.tables import read_table, write_table
from tests.fakes import Unsayable
from tests.pictures import encoded, plain

URL = "https://example.com/cat.png"
SUFFIXES = [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx"]
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
NOT_BLANK = TEXT.filter(str.strip)  # a row of nothing but white space is a blank one, which no table has


@pytest.fixture
def result():
    """A result with every kind of value, and with every column missing once."""
    cells = {
        "image": ["cats/1.png", URL],
        "prompt": ["NA", 'a "cat",\nsleeping 猫 🐈'],
        "seed": pd.array([2**62 + 1, None], dtype="Int64"),
        "subject": ["007", "012"],
        columns.STATUS: pd.Categorical(["completed", "failed"], categories=list(columns.STATUSES)),
        columns.DUPLICATE_OF: pd.array([None, 0], dtype="Int64"),
        columns.SEED_SENT: pd.array([2**62 + 1, 2**31 - 1], dtype="Int64"),
        columns.JOB_ID: ["0" * 32, "12345678901234567890123456789012"],
        columns.TASK_ID: ["d1e2", None],
        columns.COST_USD: [0.0286, None],
        columns.COST: ["0.02860", None],
        columns.ERROR_CODE: [None, "003011001"],
        columns.ERROR_MESSAGE: [None, "=1+1"],
        columns.MAY_HAVE_BEEN_BILLED: pd.array([False, None], dtype="boolean"),
        columns.SUBMITTED_AT: pd.to_datetime(["2026-01-02T03:04:05.123456Z", None], utc=True),
    }
    frame = pd.DataFrame(cells)
    dtypes = columns.dtypes(columns.OUTPUTS) | {columns.STATUS: pd.CategoricalDtype(list(columns.STATUSES))}
    for name, dtype in dtypes.items():
        series = frame[name] if name in frame else pd.Series([None, None])
        frame[name] = series.astype(dtype)
    return frame


def _endless() -> list:
    cell: list = []
    cell.append(cell)
    return cell


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_results_come_back_identical(result, suffix, tmp_path):
    """Codes keep their zeros, seeds their digits, times their zone, and every dtype is as designed."""
    write_table(result, tmp_path / f"result{suffix}")
    pd.testing.assert_frame_equal(read_table(tmp_path / f"result{suffix}"), result)


def test_results_come_back_from_excel_but_for_precision(result, tmp_path):
    """A sheet keeps milliseconds; all else is as it was."""
    write_table(result, tmp_path / "result.xlsx")
    back = read_table(tmp_path / "result.xlsx")
    assert back.dtypes.to_dict() == result.dtypes.to_dict()
    times = [columns.SUBMITTED_AT]
    pd.testing.assert_frame_equal(back.drop(columns=times), result.drop(columns=times))
    assert abs(back[times[0]][0] - result[times[0]][0]) < pd.Timedelta("1ms")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_inputs_come_back_with_their_dtypes(suffix, tmp_path):
    """A table of jobs is the same after a round trip, missing cells and all."""
    table = pd.DataFrame(
        {
            "image": [URL, None],
            "prompt": ["None", "42"],
            "seed": pd.array([-1, None], dtype="Int64"),
            "size": ["16:9", None],
            "width": pd.array([None, 1328], dtype="Int64"),
            "use_rephraser": pd.array([True, None], dtype="boolean"),
            "replicate": pd.array([0, 1], dtype="Int64"),
            "score": [0.1, None],
            "count": [1, 2],
            "flag": [True, False],
            "code": ["012", "7"],
        }
    )
    write_table(table, tmp_path / f"jobs{suffix}")
    pd.testing.assert_frame_equal(read_table(tmp_path / f"jobs{suffix}"), table)


@settings(max_examples=settings.default.max_examples // 4)
@given(
    st.lists(st.tuples(TEXT, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), NOT_BLANK), min_size=1),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
@example([("a\x00b", None, "\x00"), ("a\ue000", 1, "b")], ".csv")
def test_any_text_survives_any_format(tmp_path_factory, rows, suffix):
    """Line breaks, quotes, separators and lone carriage returns come back as they were."""
    table = pd.DataFrame(rows, columns=["prompt", "seed", "image"]).astype({"prompt": "str", "image": "str"})
    table["seed"] = pd.array([seed for _, seed, _ in rows], dtype="Int64")
    path = tmp_path_factory.mktemp("tables") / f"jobs{suffix}"
    write_table(table, path)
    pd.testing.assert_frame_equal(read_table(path), table)


def test_bad_cells_survive_for_validation(tmp_path):
    """What can't be read as a number stays as it was written, and is shown so."""
    path = tmp_path / "jobs.csv"
    bad = ["42.5", "abc", "9223372036854775808", "True", "9007199254740993.0"]
    path.write_text("image,prompt,seed,use_rephraser\n" + "".join(f"{URL},a,{cell},{cell}\n" for cell in bad))
    table = read_table(path)
    assert table["seed"].tolist() == bad
    found = validate(table)
    assert found[found["column"] == "seed"]["value"].tolist() == bad
    assert found["code"].tolist().count("use_rephraser-not-boolean") == 4


def test_good_cells_of_every_spelling_are_typed(tmp_path):
    """What pandas and people write for seeds and switches becomes integers and booleans."""
    path = tmp_path / "jobs.csv"
    path.write_text(
        f"image,prompt,seed,use_rephraser\n{URL},a,42.0,yes\n{URL},a,,\n{URL},a,9223372036854775807,0\n"
    )
    table = read_table(path)
    assert table["seed"].tolist() == [42, pd.NA, 2**63 - 1]
    assert table["use_rephraser"].tolist() == [True, pd.NA, False]


@pytest.mark.parametrize("word", ["NA", "NaN", "nan", "<NA>", "NULL"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_a_missing_input_is_missing_in_the_words_of_other_programs(suffix, word, tmp_path):
    """R, pandas and SQL write such words into every cell without a value; a prompt may be one, and is warned of."""
    inputs = ["seed", "size", "width", "model", "use_rephraser", "replicate", "image_2"]
    table = pd.DataFrame(
        {"image_1": [URL] * 2, "prompt": ["a", word], **{name: [word] * 2 for name in inputs}}
    )
    write_table(table.assign(own=word), tmp_path / f"jobs{suffix}")
    table = read_table(tmp_path / f"jobs{suffix}")
    assert table[inputs].isna().all(axis=None)
    assert validate(table)["code"].tolist() == ["prompt-no-value"]
    assert table["prompt"].tolist() == ["a", word]


def test_a_file_of_names_alone_is_a_table_without_rows(tmp_path):
    """What a filter left of a larger one."""
    (tmp_path / "jobs.csv").write_text("image,prompt,seed,size\n", encoding="utf-8")
    assert read_table(tmp_path / "jobs.csv").shape == (0, 4)


def test_a_result_that_went_through_r_is_read(result, tmp_path):
    """R writes NA for what is missing, rows have names, and 1e+05 is a whole number."""
    table = result.assign(seed=pd.array([10**5, None], dtype="Int64"))
    path = tmp_path / "results.csv"
    table.to_csv(path, na_rep="NA", quoting=csv.QUOTE_NONNUMERIC)
    path.write_text(path.read_text(encoding="utf-8").replace(",100000,", ",1e+05,"), encoding="utf-8")
    assert ",1e+05," in path.read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(read_table(path), table)


@pytest.mark.parametrize(
    ("cells", "dtype", "first"),
    [
        (["1", "2"], "int64", 1),
        (["0", "-5"], "int64", 0),
        (["1", ""], "Int64", 1),
        (["9223372036854775807", "1"], "int64", 2**63 - 1),
        (["9223372036854775808", "1"], "str", "9223372036854775808"),
        (["007", "012"], "str", "007"),
        (["+1", "2"], "str", "+1"),
        (["-0", "1"], "float64", 0.0),
        (["0.5", "2"], "float64", 0.5),
        (["0.5", ""], "float64", 0.5),
        (["1e-07", "2.5e+20"], "float64", 1e-07),
        (["inf", "1.0"], "float64", float("inf")),
        (["NaN", "1.0"], "float64", float("nan")),
        (["1e999", "1"], "str", "1e999"),
        (["1e+999", "1"], "str", "1e+999"),
        (["12e5", "34e7"], "str", "12e5"),
        (["1234567890123456", "0.5"], "str", "1234567890123456"),
        (["True", "False"], "bool", True),
        (["TRUE", ""], "boolean", True),
        (["true", "False"], "str", "true"),
        (["NA", "1"], "str", "NA"),
        (["2024-01-01", "x"], "str", "2024-01-01"),
        (["", ""], "str", float("nan")),
        ([" 1", "2"], "str", " 1"),
        (["1.", "2"], "str", "1."),
    ],
)
def test_columns_of_the_users_own_are_guessed_without_loss(cells, dtype, first, tmp_path):
    """A number is one only if it gives its text back; identifiers stay text."""
    path = tmp_path / "jobs.csv"
    path.write_text("a,own\n" + "".join(f"x,{cell}\n" for cell in cells))
    own = read_table(path)["own"]
    assert str(own.dtype) == dtype
    assert own[0] == first or (pd.isna(own[0]) and pd.isna(first))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_attempt_marks_and_utf_16_are_read(encoding, tmp_path):
    """What Excel writes for "CSV UTF-8" and "Unicode text" is read."""
    path = tmp_path / "jobs.csv"
    path.write_bytes("image,prompt\r\ncat.png,猫 🐈\r\n".encode(encoding))
    assert read_table(path).to_dict("records") == [{"image": "cat.png", "prompt": "猫 🐈"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b",\n,\n", "is empty"),
        (b"image,prompt\na,b\nc,d,e\n", "line 3 has 3 cells, but the first line names 2 columns"),
        (b"sep=,\r\nimage,prompt\r\n\r\nc,d,e\r\n", "line 4 has 3 cells"),
        (b'image,prompt\na,"b\n', "line 2: a quote is opened but never closed"),
        (b'image,prompt\na,"b,1\nc,d" ,2\n', "lines 2 to 3: text follows a closing quote"),
        (b'image,prompt\n"a""b" x,c\n', "line 2: text follows a closing quote"),
        (b'image,prompt\n"a\nb",c\nd,e,f\n', "line 4 has 3 cells"),
        ("image,prompt\na,b\n狗,c\n".encode("gbk"), "line 3 contains the byte 0xb9"),
        ("image,prompt\n".encode("utf-16")[:-1], "not UTF-16"),
        (b"image,prompt,prompt\na,b,c\n", "several columns are named 'prompt'"),
        (b"image,prompt,\na,b,c\n", "column 3 has cells but no name"),
        (b"image prompt\na b,c\n", "names 1 column, separated by ','"),
        (b'image, prompt\na, "b, c"\n', 'Put straight quotes (") right around text'),
        # Quotes that close in another row, and would swallow it whole.
        (
            b'image,prompt,n\na.png,"b,1\nc.png,d",2\n',
            "lines 2 to 3: a quote opened in one row is closed in another",
        ),
        (b'image,prompt,n\n\na.png,"b,1\nc.png,d,2\ne.png,f",3\n', "lines 3 to 5: a quote opened in one row"),
        (b'prompt,Image Path\n"a,HTTPS://b/1\nc",HTTPS://b/2\n', "lines 2 to 3: a quote opened in one row"),
        # Names that stand elsewhere.
        (
            b"My jobs\n\nimage,prompt\na,b\n",
            "the first line names 1 column, separated by ','. If 'My jobs' is a title, delete it.",
        ),
        (
            b"My jobs,\n,x\nImage,Prompt\na,b\n",
            "column 2 has cells but no name. If 'My jobs' is a title, delete it.",
        ),
        # What may be one or a thousand.
        (b"image;prompt;seed\na;b;1.000\n", "column 'seed': '1.000' may mean thousands or decimals"),
        (b"image\tprompt\tWidth\na\tb\t512\na\tb\t1,024\n", "column 'Width': '1,024' may mean thousands"),
    ],
)
def test_torn_files_are_refused_with_the_line(content, words, tmp_path):
    """The error says where and what to do."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=words.replace("(", "[(]").replace(")", "[)]")):
        read_table(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("first", ["", "sep=%s\r\n"])
def test_what_separates_is_found_in_the_first_line(separator, suffix, first, tmp_path):
    """By the names that are read, whatever the suffix says; Excel's own first line is understood."""
    path = tmp_path / f"jobs{suffix}"
    said = first % separator if first else ""
    path.write_text(
        said
        + separator.join(["image", "Prompt", '"a, b; c"'])
        + f'\r\nx{separator}"1{separator}2"{separator}\r\n'
    )
    table = read_table(path, sep=None if separator in "\t|" else separator)
    assert table.iloc[0, :2].tolist() == ["x", f"1{separator}2"]


def test_decimal_commas_of_a_file_with_semicolons_are_numbers(tmp_path):
    """Found where no cell has a point; a prompt with a comma stays as it is; it can be given."""
    path = tmp_path / "jobs.csv"
    path.write_text("image;prompt;weight\na;1,5;0,25\nb;a, b;1\n")
    assert read_table(path)["weight"].tolist() == [0.25, 1.0]
    assert read_table(path)["prompt"].tolist() == ["1,5", "a, b"]
    assert read_table(path, decimal=".")["weight"].tolist() == ["0,25", "1"]


def test_a_size_proves_no_decimal_comma_and_is_shown_as_written(tmp_path):
    """Its comma stands between width and height."""
    path = tmp_path / "jobs.tsv"
    path.write_text(f"image\tprompt\tsize\tweight\n{URL}\ta\t1024,768\t1.250\n")
    table = read_table(path)
    assert table["weight"].tolist() == [1.25]
    assert validate(table)["value"].tolist() == ["1024,768"]


@pytest.mark.parametrize(
    ("text", "decimal", "seeds", "weights"),
    [
        ("1.000;2,5", None, [1000], [2.5]),
        ("1.000.000;1.234,5", ",", [1_000_000], [1234.5]),
        ("1.000;2.5", None, [1], [2.5]),
        ("1,000;2", ",", [1], [2]),
        ("1.000;2", ".", [1], [2]),
        ("1|2,5", None, [1], [2.5]),
        ("1\t0,250", None, [1], [0.25]),
        ("1;2,500", None, [1], ["2,500"]),
    ],
)
def test_a_point_separates_thousands_only_where_commas_are_decimal(text, decimal, seeds, weights, tmp_path):
    """Which some cell must show, or the user must say."""
    path = tmp_path / "jobs.csv"
    separator = next(one for one in ";|\t" if one in text)
    path.write_text(
        separator.join(["image", "prompt", "seed", "weight"]) + f"\na{separator}1,5{separator}{text}\n"
    )
    table = read_table(path, decimal=decimal)
    assert [table["seed"].tolist(), table["weight"].tolist()] == [seeds, weights]
    assert table["prompt"].tolist() == ["1,5"]


@pytest.mark.parametrize("cell", ["a, big\nb, small", "a.png\nb.png", '"a.png, b\nc'])
def test_a_cell_of_several_lines_is_no_torn_row(cell, tmp_path):
    """Only where each line has all the cells, and a picture where pictures are."""
    write_table(pd.DataFrame({"image": ["x.png"], "prompt": [cell], "seed": [1]}), tmp_path / "jobs.csv")
    assert read_table(tmp_path / "jobs.csv")["prompt"].tolist() == [cell]


def test_blank_rows_are_left_out_and_said(tmp_path):
    """Not those at the end of the file, which are none."""
    path = tmp_path / "jobs.csv"
    path.write_text("image,prompt\na,b\n,\n\f\nc,d\n,\n\n")
    with pytest.warns(UserWarning, match=r"^(?!.*fewer cells).*skipped 2 blank rows \(lines 3, 4\)"):
        table = read_table(path)
    assert table["image"].tolist() == ["a", "c"]
    assert table.index.tolist() == [0, 1]


def test_rows_that_end_early_are_said(tmp_path):
    """Some programs leave out empty cells at the end; or the file was cut off."""
    path = tmp_path / "jobs.csv"
    path.write_text('"sep=;"\r\nimage;prompt;seed\r\na;b;1\r\nc;d')
    with pytest.warns(UserWarning, match=r"1 row with fewer cells .* \(line 4\). Was the file cut off\?"):
        assert read_table(path)["seed"].isna().tolist() == [False, True]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32"])
def test_other_encodings_are_not_taken_for_text_with_zero_bytes(tmp_path, encoding):
    path = tmp_path / "jobs.csv"
    path.write_text("image,prompt\na,b\n", encoding=encoding)
    with pytest.raises(TableError, match=r"line 1 contains the byte 0x00\. Save it as UTF-8"):
        read_table(path)


def test_quotes_within_a_cell_and_long_cells_are_read_verbatim(tmp_path):
    """A quote in the middle opens nothing, and a picture in a cell may be long."""
    path = tmp_path / "jobs.csv"
    path.write_text('image,prompt\n5" tall,"say ""hi""\nthere"\n' + "x" * 300_000 + ",b\n")
    table = read_table(path)
    assert table.iloc[0].tolist() == ['5" tall', 'say "hi"\nthere']
    assert len(table["image"][1]) == 300_000


def test_columns_are_renamed_on_request(tmp_path):
    """A name that is not there is an error."""
    path = tmp_path / "jobs.json"
    path.write_text('[{"pic": "a", "prompt": "b"}]')
    assert read_table(path, rename={"pic": "image"}).columns.tolist() == ["image", "prompt"]
    with pytest.raises(TableError, match="no column 'pics' to rename; did you mean 'pic'"):
        read_table(path, rename={"pics": "image"})


@pytest.mark.parametrize(
    ("rename", "names"),
    [
        ({"pic": "image"}, "'Image ' and 'pic' would both mean 'image'"),
        ({"pic": "IMAGE"}, "'Image ' and 'pic' would both mean 'image'"),
        ({"own": "pic"}, "'pic' and 'own' would both mean 'pic'"),
        ({"own": "x", "pic": "x"}, "'pic' and 'own' would both mean 'x'"),
        ({"own": "Seed", "pic": "seed"}, "'pic' and 'own' would both mean 'seed'"),
        ({"Image ": "prompt"}, "'Image ' and 'prompt' would both mean 'prompt'"),
        ({"Own": "y"}, "no column 'Own' to rename; did you mean 'own'"),
        ({"own": " "}, "new name of column 'own' must be text"),
        ({"own": None}, "new name of column 'own' must be text"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet", ".xlsx"])
def test_a_name_never_means_two_columns_after_renaming(rename, names, suffix, tmp_path):
    """Exactly or in another spelling: the error names both columns."""
    path = tmp_path / f"jobs{suffix}"
    write_table(pd.DataFrame([["a", "b", "c", "d"]], columns=["Image ", "prompt", "pic", "own"]), path)
    with pytest.raises((TableError, UsageError), match=names):
        read_table(path, rename=rename)


def test_names_may_be_swapped_and_kept(tmp_path):
    """All columns are renamed at once."""
    path = tmp_path / "jobs.csv"
    path.write_text("image, text ,Prompt\na,b,c\n")
    assert read_table(path, rename={"image": "Prompt", "Prompt": "image"}).columns.tolist() == [
        "Prompt",
        " text ",
        "image",
    ]
    assert read_table(path, rename={"image": "image"}).columns.tolist() == ["image", " text ", "Prompt"]


def test_columns_have_the_dtype_of_what_they_mean(tmp_path):
    """A prompt of digits stays text, whatever the spelling of its column."""
    path = tmp_path / "jobs.csv"
    path.write_text("Image Path,PROMPT,Seed,Use-Rephraser\n1,42,7,yes\n2,43,,\n")
    table = read_table(path)
    assert [str(dtype) for dtype in table.dtypes] == ["str", "str", "Int64", "boolean"]
    assert table["PROMPT"].tolist() == ["42", "43"]


@pytest.mark.parametrize(("suffix", "content"), [(".jsonl", "{0}"), (".json", "[{0}]")])
def test_a_name_used_twice_in_an_object_is_refused(suffix, content, tmp_path):
    """Other readers keep the last value and say nothing."""
    path = tmp_path / f"jobs{suffix}"
    path.write_text(content.format('{"image": "a", "prompt": "b", "prompt": "c"}'))
    with pytest.raises(TableError, match="several values named 'prompt'"):
        read_table(path)


def test_lines_may_end_as_they_once_did_on_a_mac(tmp_path):
    """A lone carriage return ends a line, too."""
    path = tmp_path / "jobs.csv"
    path.write_bytes(b"image;prompt\ra;b\r\rc;d\r")
    with pytest.warns(UserWarning, match=r"1 blank row \(line 3\)"):
        assert read_table(path).to_numpy().tolist() == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("above", ["   \n", ";;;;\n", "\n \n;\n"])
def test_lines_of_blanks_and_separators_above_the_names_are_nothing(above, tmp_path):
    """Spreadsheets export the empty rows above a table."""
    path = tmp_path / "jobs.csv"
    path.write_text(f"{above}image;prompt\na;b, c\n")
    assert read_table(path).to_numpy().tolist() == [["a", "b, c"]]


def test_problems_name_the_lines_of_the_file(tmp_path):
    """Blank lines, cells of several lines and a first line of Excel's count, as in the user's editor."""
    pair = pd.DataFrame(
        {"image": "https://example.com/a.png", "prompt": ["a", None, None], "seed": ["1", "2", "x"]}
    )
    path = tmp_path / "jobs.csv"
    path.write_text('sep=,\nimage,prompt,seed\n{0},"a\nb",1\n\n{0},,2\n{0},,x\n'.format(pair["image"][0]))
    with pytest.warns(UserWarning, match=r"1 blank row \(line 5\)"):
        table = read_table(path)
    found = validate(table)
    assert found["line"].tolist() == [6, 7, 7]
    assert "prompt-missing in 2 rows (lines 6, 7; column prompt)" in repr(found)
    assert "seed-not-integer in line 7 (column seed, x)" in repr(found)
    assert validate(table.iloc[[2, 1]])["line"].isna().all()
    assert validate(type(table)(table))["line"].isna().all()
    table.index = pd.Index([2, 1, 0])
    assert validate(table)["line"].isna().all()
    pair.to_excel(tmp_path / "jobs.xlsx", index=False, startrow=2)
    assert validate(read_table(tmp_path / "jobs.xlsx"))["line"].tolist() == [5, 6, 6]
    pair.to_json(tmp_path / "jobs.jsonl", orient="records", lines=True)
    assert validate(read_table(tmp_path / "jobs.jsonl"))["line"].tolist() == [2, 3, 3]
    pair.to_json(tmp_path / "jobs.json", orient="records")
    assert "prompt-missing in 2 rows (1, 2; column prompt)" in repr(
        validate(read_table(tmp_path / "jobs.json"))
    )


def test_rows_that_look_alike_are_named_by_their_lines(tmp_path):
    """Both of them."""
    path = tmp_path / "jobs.csv"
    path.write_text("image,prompt\nhttps://example.com/a.png,a\nhttps://example.com/a.png,a\u200b\n")
    assert "in line 3 (column prompt, a\u200b): The prompt looks like that of line 2" in repr(
        validate(read_table(path))
    )


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '{"a":\n1}\n{"a": 2}', '{"a": 1}\n[2]'])
def test_json_that_is_no_list_of_objects_is_refused(content, tmp_path):
    """It says what was expected."""
    path = tmp_path / "jobs.json"
    path.write_text(content)
    with pytest.raises(TableError, match=r"list of objects|JSON Lines"):
        read_table(path)


def test_json_lines_are_read_also_in_a_file_named_json(tmp_path):
    """Their problems, too, name the line."""
    path = tmp_path / "jobs.json"
    row = json.dumps({"image": URL, "prompt": "a {cat}"})
    path.write_text(f"\ufeff{row}\r\n\r\n{row}\r\n", encoding="utf-8")
    table = read_table(path)
    assert table["prompt"].tolist() == ["a {cat}"] * 2
    assert set(validate(table)["line"]) == {1, 3}
    path.write_text(f'{row}\n{{"image": "b.png",}}\n')
    with pytest.raises(TableError, match="line 2 is not JSON"):
        read_table(path)


def test_an_index_written_by_pandas_is_an_index_again(tmp_path):
    """A first column without a name is what to_csv makes of the index."""
    table = pd.DataFrame({"image": [URL, URL], "prompt": ["a", "b"]}, index=["x", "x"])
    table.to_csv(tmp_path / "named.csv")
    table.reset_index(drop=True).to_csv(tmp_path / "counted.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "named.csv"), table)
    assert isinstance(read_table(tmp_path / "counted.csv").index, pd.RangeIndex)


def test_empty_columns_without_a_name_are_dropped(tmp_path):
    """Spreadsheets leave trailing separators."""
    path = tmp_path / "jobs.csv"
    path.write_text("image,prompt,,\na,b,,\n")
    assert list(read_table(path).columns) == ["image", "prompt"]


def test_a_table_without_rows_is_a_table(tmp_path):
    """Names alone are a table with nothing to do."""
    for suffix in (".csv", ".xlsx"):
        write_table(pd.DataFrame({"image": [], "prompt": []}), tmp_path / f"jobs{suffix}")
        table = read_table(tmp_path / f"jobs{suffix}")
        assert list(table.columns) == ["image", "prompt"]
        assert table.empty


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_an_index_that_means_something_becomes_columns(suffix, tmp_path):
    """Formats without an index keep its labels beside the rest; Parquet keeps the index."""
    table = pd.DataFrame(
        {"prompt": ["a", "b"]}, index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["k", None])
    )
    write_table(table, tmp_path / f"jobs{suffix}")
    assert read_table(tmp_path / f"jobs{suffix}").to_numpy().tolist() == [["x", 1, "a"], ["y", 2, "b"]]
    write_table(table, tmp_path / "jobs.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "jobs.parquet"), table)
    for names, written in (
        (["prompt", "prompt"], ["prompt_index", "prompt_index_index"]),
        ([1, "1"], ["1", "1_index"]),
    ):
        write_table(table.rename_axis(names), tmp_path / f"jobs{suffix}")
        assert list(map(str, read_table(tmp_path / f"jobs{suffix}"))) == [*written, "prompt"]


def test_json_lines_keep_values_as_they_are(tmp_path):
    """Numbers stay numbers, text stays text, lists stay lists; a missing key is a missing cell."""
    path = tmp_path / "jobs.jsonl"
    records = [
        {"prompt": "a", "seed": 2**60, "own": "7", "tags": ["x"], "ratio": 1, "flag": True},
        {"prompt": "b", "ratio": 0.5, "flag": None, "seed": None, "late": 1, "tags": None},
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8-sig")
    table = read_table(path)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        "prompt": "str",
        "seed": "Int64",
        "own": "str",
        "tags": "object",
        "ratio": "float64",
        "flag": "boolean",
        "late": "Int64",
    }
    assert table["seed"][0] == 2**60
    assert table["tags"][0] == ["x"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("{}\n{'a'}\n", "line 2 is not JSON"), ("\n[1]\n", "line 2 is a list"), ("5", "line 1 is an int")],
)
def test_lines_that_are_no_objects_are_refused(text, words, tmp_path):
    """The error names the line."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(text)
    with pytest.raises(TableError, match=words):
        read_table(path)


def test_json_lines_that_are_not_utf_8_are_refused(tmp_path):
    """Other encodings are not guessed."""
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(TableError, match="not UTF-8"):
        read_table(path)


def test_json_lines_write_what_json_does_not_know_as_text(tmp_path):
    """Times, infinities and other objects become text, numpy's numbers numbers."""
    path = tmp_path / "jobs.jsonl"
    cells = [
        np.int64(5),
        np.float64("nan"),
        float("inf"),
        pd.Timestamp("2024-01-01"),
        dt.date(2024, 1, 1),
        {"a": 1},
        pd.NA,
    ]
    write_table(pd.DataFrame({"own": pd.Series(cells, dtype=object)}), path)
    written = [json.loads(line)["own"] for line in path.read_text().splitlines()]
    assert written == [5, None, "inf", "2024-01-01T00:00:00", "2024-01-01", {"a": 1}, None]


def test_excel_cells_are_read_for_what_was_meant(tmp_path):
    """A ratio that became a time of day, numbers and booleans are read; formulas have their value."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (
        ["image", "prompt", "size", "seed", "use_rephraser", None],
        [URL, "NA", dt.time(16, 9), 42, True, None],
        [URL, "a", "1:1", None, None, None],
        [None, None, None, None, None, None],
    ):
        book.active.append(row)
    book.save(tmp_path / "jobs.xlsx")
    table = read_table(tmp_path / "jobs.xlsx")
    assert len(table) == 2
    assert table["prompt"].tolist() == ["NA", "a"]
    assert table["seed"].tolist() == [42, pd.NA]
    assert validate(table)["code"].tolist() == ["prompt-no-value"]


def test_excel_never_makes_a_formula_of_text(tmp_path):
    """Text stays text, whatever it begins with."""
    openpyxl = pytest.importorskip("openpyxl")
    table = pd.DataFrame({"prompt": ["=1+1", "+1", "-1", "@x", "a\x00b"], "seed": [2**53 + 1, 1, 2, 3, 4]})
    table["at"] = pd.to_datetime(["2024-01-01T08:00+08:00"] * 5).astype("datetime64[us, Asia/Shanghai]")
    write_table(table, tmp_path / "jobs.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "jobs.xlsx").active
    assert [cell.data_type for cell in sheet["A"][1:]] == ["s"] * 5
    assert [cell.value for cell in sheet["B"][1:]] == [str(2**53 + 1), 1, 2, 3, 4]
    assert sheet["C"][1].value == dt.datetime(2024, 1, 1, 0, 0)  # noqa: DTZ001 - a sheet has no zones
    assert read_table(tmp_path / "jobs.xlsx")["prompt"].tolist() == table["prompt"].tolist()


@settings(max_examples=settings.default.max_examples // 10)
@given(st.lists(TEXT | st.text("_x0041\r\x00A", min_size=1), min_size=1))
def test_any_text_survives_a_sheet(tmp_path_factory, prompts):
    """Control characters, line ends and what looks like an escape come back too."""
    path = tmp_path_factory.mktemp("tables") / "jobs.xlsx"
    write_table(pd.DataFrame({"prompt": prompts, "image": URL}), path)
    assert read_table(path)["prompt"].tolist() == prompts


@pytest.mark.parametrize("name", ["_x0041_", "x\ry", "x\x01y", "=x", "#N/A"])
def test_any_name_survives_a_sheet(name, tmp_path):
    """A column is written like a cell."""
    write_table(pd.DataFrame({"prompt": ["#REF!"], name: ["#N/A"]}), tmp_path / "jobs.xlsx")
    assert read_table(tmp_path / "jobs.xlsx").to_dict("list") == {"prompt": ["#REF!"], name: ["#N/A"]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_half_characters_do_not_stop_a_write(suffix, tmp_path):
    """No file of text can hold them; they are written out."""
    table = pd.DataFrame({"own": pd.Series(["a\ud83d"], dtype=object)})
    table["b"] = 1
    table.columns = pd.Index(["own", "b\ud83d"], dtype=object)
    for excel_safe in (True, False):
        write_table(table, tmp_path / f"jobs{suffix}", excel_safe=excel_safe)
        assert read_table(tmp_path / f"jobs{suffix}")["own"].tolist() == ["a\\ud83d"]
    assert read_table(tmp_path / f"jobs{suffix}").columns.tolist() == ["own", "b\\ud83d"]
    with pytest.raises(TableError, match="half a character in its name"):
        validate(table)


def test_numbers_that_a_sheet_keeps_only_roughly_are_no_seeds(tmp_path):
    """A sheet has 53 bits for a number: what it shows for a longer seed is another one."""
    seeds = [9007199254740993, 4611686018427387905, -1234567890123456789, 2**53 - 1]
    table = pd.DataFrame({"image": URL, "prompt": ["a", "b", "c", "d"], "seed": seeds})
    table.to_excel(tmp_path / "jobs.xlsx", index=False)
    problems = validate(read_table(tmp_path / "jobs.xlsx"))
    assert problems.loc[problems["code"] == "seed-inexact", "position"].tolist() == [0, 1, 2]


def test_times_with_zones_in_mixed_columns_become_utc(tmp_path):
    """A sheet knows no zones, whatever the dtype of the column."""
    zone = dt.timezone(dt.timedelta(hours=8))
    table = pd.DataFrame({"own": pd.Series([dt.datetime(2024, 1, 1, 8, tzinfo=zone), "x"], dtype=object)})
    write_table(table, tmp_path / "jobs.xlsx")
    assert read_table(tmp_path / "jobs.xlsx")["own"][0] == dt.datetime(2024, 1, 1, 0)  # noqa: DTZ001 - as above


def test_an_empty_sheet_is_refused(tmp_path):
    """A workbook without a cell names no columns."""
    openpyxl = pytest.importorskip("openpyxl")
    openpyxl.Workbook().save(tmp_path / "jobs.xlsx")
    with pytest.raises(TableError, match="first sheet is empty"):
        read_table(tmp_path / "jobs.xlsx")


def test_what_does_not_fit_into_a_sheet_is_refused(tmp_path, monkeypatch):
    """Nothing is cut off silently."""
    for text in ("a" * 40_000, "😀" * 20_000, "\r\n" * 5_000):
        with pytest.raises(TableError, match="40,000 characters"):
            write_table(pd.DataFrame({"prompt": [text]}), tmp_path / "jobs.xlsx")
    monkeypatch.setattr("dreamo_batch.jobs.tables._ROWS", 1)
    with pytest.raises(TableError, match="2 rows don't fit"):
        write_table(pd.DataFrame({"prompt": ["a", "b"]}), tmp_path / "jobs.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".jsonl"])
def test_a_file_in_another_encoding_is_read_as_told(tmp_path, suffix):
    """Excel in China saves CSV as GB18030; unless told, nothing is guessed, and the error says what to pass."""
    table = pd.DataFrame({"image": ["\u732b.png"], "prompt": ["\u4e00\u53ea\u732b\uff0c\u96ea\u5730"]})
    write_table(table, tmp_path / f"utf{suffix}")
    path = tmp_path / f"jobs{suffix}"
    path.write_bytes((tmp_path / f"utf{suffix}").read_text("utf-8").encode("gb18030"))
    read = read_table(path, encoding="gb18030")
    assert read.astype(object).to_dict("list") == table.astype(object).to_dict("list")
    assert read_table(tmp_path / f"utf{suffix}", encoding="utf-8").equals(read)
    # As Excel saves "CSV UTF-8" and "Unicode text": the first is GB18030, too, of other letters.
    for written, named in (("utf-8-sig", "gb18030"), ("utf-16", "latin-1"), ("utf-32", "utf-32")):
        (tmp_path / f"marked{suffix}").write_bytes(path.read_bytes().decode("gb18030").encode(written))
        assert read_table(tmp_path / f"marked{suffix}", encoding=named).equals(read)
    with pytest.raises(TableError, match=r"is not UTF-8 text.*or pass encoding=, such as gb18030"):
        read_table(path)
    (tmp_path / f"odd{suffix}").write_bytes(b"\xff\xff")
    with pytest.raises(TableError, match=r"is not gb18030 text.*\(.*\)\.$"):
        read_table(tmp_path / f"odd{suffix}", encoding="gb18030")
    for unknown in ("gb18031", "undefined", "hex", 7):
        with pytest.raises(UsageError, match=f"encoding=.?{unknown}.?: Python knows no such encoding"):
            read_table(path, encoding=unknown)


def test_a_workbook_is_not_blamed_for_an_old_openpyxl(tmp_path, monkeypatch):
    """What is too old is named, and what to install; the file may be sound."""
    write_table(pd.DataFrame({"prompt": ["a"]}), tmp_path / "jobs.xlsx")
    monkeypatch.setattr("openpyxl.__version__", "3.1.0")
    with pytest.raises(TableError, match=r"version '3\.1\.0'.*pip install 'dreamo-batch\[excel\]'") as raised:
        read_table(tmp_path / "jobs.xlsx")
    assert "not a readable Excel workbook" not in str(raised.value)


def test_excel_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    """The extra is named."""
    (tmp_path / "jobs.xlsx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UsageError, match=r"dreamo-batch\[excel\]"):
        read_table(tmp_path / "jobs.xlsx")
    with pytest.raises(UsageError, match=r"^Excel files need .*dreamo-batch\[excel\]"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "other.xlsx")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("jobs.parquet", b"PAR1", "not a readable Parquet file"),
        ("jobs.xlsx", b"PK", "not a readable Excel workbook: File is not a zip file"),
        ("jobs.xls", b"x", "Unknown format of 'jobs.xls'"),
        ("jobs", b"x", "Unknown format of 'jobs'"),
        ("jobs.csv.gz", b"x", "suffix '.gz'.*Unpack compressed files"),
        ("jobs.csv", b"PK\3\4", "looks like a ZIP archive or office file"),
        ("jobs.csv", b"\xd0\xcf\x11\xe0", "looks like an old or encrypted office file"),
        ("jobs.txt", b"\x1f\x8b", "looks like a file compressed with gzip"),
        ("jobs.tsv", b"PAR1\x15\4", "looks like Parquet"),
        ("jobs.csv", b"BZh91AY&SY\xd6", "looks like a compressed file"),
        ("jobs.txt", b"(\xb5/\xfd\x04", "looks like a compressed file"),
        ("jobs.json", b"\x1f\x8b\x08", "not UTF-8 text .it looks like a file compressed with gzip"),
        ("jobs.parquet", b"ARROW1\0\0", "Parquet file .it looks like Arrow or Feather"),
        ("jobs.xlsx", b"\xd0\xcf\x11\xe0", "workbook .it looks like an old or encrypted office file"),
        ("jobs.xlsx", b"<html><table>", "workbook .it looks like a web page"),
        ("jobs.csv", b"\xef\xbb\xbf[{", "looks like JSON"),
        ("jobs.csv", b"<!DOCTYPE html>", "looks like a web page"),
        ("jobs.csv", b"<table><tr><th>image</th></tr></table>", "looks like a web page"),
        ("jobs.txt", b"INSERT INTO jobs (image, prompt) VALUES ('cat.png', 'a cat');", "looks like SQL"),
        ("jobs.csv", b"| image | prompt |\n|---|:-:|\n| cat.png | a cat |\n", "it is drawn"),  # Markdown
        (
            "jobs.txt",
            b" image | prompt\n-------+--------\n cat.png | a cat\n(1 row)\n",
            "it is drawn",
        ),  # psql
        ("jobs.txt", b"+-------+--------+\n| image | prompt |\n+-------+--------+\n", "it is drawn"),  # MySQL
        ("jobs.txt", b'"image" "prompt"\n"1" "cat.png" "a cat"\n', "separator .,"),  # R's write.table
        ("jobs.md", b"| image |", "save other tables as .csv"),
        ("jobs.json", b'{"records": [{"fields": {}}]}', "Take a list out of the object"),  # Airtable
        ("jobs.json", b'{"image": {"0": "cat.png"}}', 'orient="records"'),
        ("jobs.json", b"[1,]", "no comma after the last item"),
    ],
)
def test_files_of_another_kind_are_refused(name, content, words, tmp_path):
    """The error says what was expected."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=words):
        read_table(tmp_path / name)


def test_places_that_are_no_file_are_refused(tmp_path):
    """A missing file, a folder, and a folder that is missing are told apart."""
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match="No file at"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match="is a folder"):
        read_table(str(tmp_path / "folder.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TableError, match="is a pipe or a device"):
        read_table(tmp_path / "pipe.csv")
    (tmp_path / "pipe.csv").unlink()
    with pytest.raises(TableError, match="No folder at"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "none" / "jobs.csv")
    with pytest.raises(TableError, match=r"folder\.csv is a folder"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "folder.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore:Stored as text")
def test_cells_that_have_no_text_are_written(tmp_path, suffix):
    """Their class stands for them; a signalling NaN is missing."""
    cells = [Unsayable(), Decimal("sNaN"), [Unsayable()], "plain"]
    frame = pd.DataFrame({"note": pd.Series(cells, dtype=object), "n": range(4)})
    write_table(frame, tmp_path / f"jobs{suffix}")
    back = read_table(tmp_path / f"jobs{suffix}")["note"]
    assert (back[0], back.isna().tolist()) == ("<Unsayable>", [False, True, False, False])
    assert back[3] == "plain"


@pytest.mark.parametrize("method", ["read_bytes", "stat"])
def test_reading_reports_what_the_system_says(method, tmp_path, monkeypatch):
    """Permission denied, to the file or to its folder, is no traceback."""

    def refuses(path, **_options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "jobs.csv").write_text("a\n1\n")
    monkeypatch.setattr(Path, method, refuses)
    with pytest.raises(TableError, match="can't be read: Permission denied"):
        read_table(tmp_path / "jobs.csv")


def test_doubled_columns_are_not_written(tmp_path):
    """A file with two columns of one name could not be read again."""
    with pytest.raises(TableError, match="share a name"):
        write_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), tmp_path / "jobs.csv")


def test_csv_is_verbatim_unless_asked(tmp_path):
    """Data is data; the apostrophe is for those who open the file in a spreadsheet."""
    table = pd.DataFrame({"prompt": ["=1+1", "a"], "own": pd.Categorical(["-x", None]), "n": [-1, 2]})
    write_table(table, tmp_path / "plain.csv")
    write_table(table, tmp_path / "safe.tsv", excel_safe=True)
    assert (tmp_path / "plain.csv").read_text() == "prompt,own,n\n=1+1,-x,-1\na,,2\n"
    safe = (tmp_path / "safe.tsv").read_bytes()
    assert safe == b"\xef\xbb\xbfprompt\town\tn\n'=1+1\t'-x\t-1\na\t\t2\n"


def test_text_written_for_a_spreadsheet_is_read_back_the_same(tmp_path):
    """Excel takes UTF-8 without its mark for the code page of the machine."""
    write_table(pd.DataFrame({"prompt": ["雨夜的城市街道"]}), tmp_path / "safe.csv", excel_safe=True)
    assert (tmp_path / "safe.csv").read_bytes().startswith(b"\xef\xbb\xbfprompt")
    assert read_table(tmp_path / "safe.csv").to_dict("list") == {"prompt": ["雨夜的城市街道"]}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx"])
@pytest.mark.parametrize("excel_safe", [True, False])
def test_text_guarded_from_spreadsheets_is_read_back_the_same(tmp_path, suffix, excel_safe):
    """A prompt that came back with an apostrophe would be bought again."""
    prompts = ["=1+1", "-a cat", "@home", "+1", "'=quoted", "''-twice", "'tis", "\ttab", "a'=b", "-1"]
    table = pd.DataFrame({"prompt": prompts, "image": "-fox.png", "seed": ["-1"] * 10, "=own": prompts})
    table["note"] = [None, *prompts[1:]]
    write_table(table, tmp_path / f"jobs.{suffix}", excel_safe=excel_safe)
    again = read_table(tmp_path / f"jobs.{suffix}")
    assert again["note"].isna().tolist() == table["note"].isna().tolist()
    assert again.astype({"seed": str}).fillna("").to_dict("list") == table.fillna("").to_dict("list")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A file is replaced whole or not at all."""
    path = tmp_path / "jobs.txt"
    path.write_text("old")
    with pytest.raises(TypeError):
        files.replace(path, lambda temporary: temporary.write_text(b"half"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_become_data_uris_and_stay_the_same_picture(tmp_path):
    """A table with pictures in memory can be written; bytes survive it."""
    content = encoded(plain())
    wrapped = {"bytes": content, "path": None}  # as Hugging Face datasets hold it
    for suffix, cell in itertools.product((".csv", ".jsonl"), (content, wrapped)):
        table = pd.DataFrame({"image": pd.Series([cell, URL], dtype=object), "prompt": "a"})
        write_table(table, tmp_path / f"jobs{suffix}")
        back = read_table(tmp_path / f"jobs{suffix}")
        assert back["image"][0] == "data:image/png;base64," + base64.b64encode(content).decode()
        assert validate(back).empty


def test_a_warning_in_a_thread_names_the_package_rather_than_the_library_of_threads(tmp_path):
    """Nothing of the user's is on its stack, unless the thread calls a function of theirs."""

    def write():
        write_table(pd.DataFrame({5: [1]}), tmp_path / "jobs.parquet")

    ours = functools.partial(write_table, pd.DataFrame({5: [1]}), tmp_path / "jobs.parquet")
    for target, file in ((write, __file__), (ours, inspect.getfile(write_table))):
        thread = threading.Thread(target=target)
        with warnings.catch_warnings(record=True, action="always") as told:
            thread.start()
            thread.join()
        assert [one.filename for one in told] == [file]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".xlsx"])
@pytest.mark.parametrize("picture", [plain(), [plain()], np.asarray(plain()), [np.asarray(plain())]])
def test_what_a_file_can_not_hold_is_written_as_text_with_one_warning(suffix, picture, tmp_path):
    """PIL images, arrays of levels and mixed columns are described rather than lost without a word."""
    table = pd.DataFrame({"prompt": "a", 5: [Image.new("L", (1, 1)), None]})
    table.insert(0, "image", pd.Series([picture, URL], dtype=object))
    table.attrs["note"] = object()
    with pytest.warns(UserWarning, match="image, 5") as caught:
        write_table(table, tmp_path / f"jobs{suffix}")
    assert [warning.filename for warning in caught] == [__file__]
    back = read_table(tmp_path / f"jobs{suffix}")
    assert list(back.columns) == ["image", "prompt", "5"]
    is_array = isinstance(picture[0] if isinstance(picture, list) else picture, np.ndarray)
    assert (suffix == ".parquet" and is_array) or "PIL" in str(back["image"][0])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_and_paths_in_lists_come_back(suffix, tmp_path):
    """As numbers and paths, not as how Python shows these; also inside of objects."""
    images, own = pd.Series([[Path("a.png"), Path("b.png")]]), pd.Series([np.array([1.5, 2])])
    table = pd.DataFrame({"image": images, "own": own, "more": [{"x": np.array([1])}]})
    table["times"] = pd.Series([np.array(["2024-05-01"], dtype="datetime64[ns]")])
    write_table(table, tmp_path / f"jobs{suffix}")
    back = read_table(tmp_path / f"jobs{suffix}")
    assert str(items_of(back["times"][0])[0]).startswith("2024-05-01")
    assert items_of(back["image"][0]) == ["a.png", "b.png"]
    assert items_of(back["own"][0]) == [1.5, 2]
    assert suffix != ".jsonl" or back["more"][0] == {"x": [1]}


def test_lists_and_bytes_stay_what_they_are_in_parquet(tmp_path):
    """What Parquet can hold is not turned into text."""
    table = pd.DataFrame({"tags": [["x"], ["y", "z"]], "image": [b"one", b"two"]})
    write_table(table, tmp_path / "jobs.parquet")
    back = read_table(tmp_path / "jobs.parquet")
    assert [list(tags) for tags in back["tags"]] == [["x"], ["y", "z"]]
    assert back["image"].tolist() == [b"one", b"two"]


def test_edited_results_are_refused_rather_than_misread(result, tmp_path):
    """An output that no longer reads as designed names its row and cell."""
    for name, cell in (
        (columns.STATUS, "finished"),
        (columns.SEED_SENT, "1.5"),
        (columns.COST_USD, "cheap"),
        (columns.SUBMITTED_AT, "yesterday"),
        (columns.MAY_HAVE_BEEN_BILLED, "perhaps"),
    ):
        edited = result.astype(object)
        edited.loc[1, name] = cell
        write_table(edited, tmp_path / "result.csv")
        with pytest.raises(
            TableError, match=f"Column '{name}' of a result can't be read: row 1 contains '{cell}'"
        ):
            read_table(tmp_path / "result.csv")


def test_parquet_of_other_programs_gets_the_designed_dtypes(result, tmp_path):
    """Polars and others write categories as text and times in nanoseconds."""
    foreign = result.astype({columns.STATUS: "str", columns.SUBMITTED_AT: "datetime64[ns, UTC]"})
    foreign.to_parquet(tmp_path / "result.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "result.parquet"), result)


def test_integers_of_other_programs_keep_their_digits_beside_missing_cells(tmp_path):
    """Of which pandas makes floats."""
    table = pa.table(
        {"image": ["a", "b"], "seed": [2**53 + 1, None], "id": pa.array([None, 2**64 - 1], pa.uint64())}
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    read = read_table(tmp_path / "jobs.parquet")
    assert read["seed"].tolist() == [2**53 + 1, pd.NA]
    assert read["id"].tolist() == [pd.NA, 2**64 - 1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"at": pa.array([1], pa.time64("ns"))}), "is not a readable Parquet file.*: Value 1 has"),
        (
            pa.table([[1], [2]], names=["a", "a"]),
            "is not a readable Parquet file.*: Multiple matches for .*a",
        ),
    ],
)
def test_parquet_that_pandas_can_not_hold_is_refused_in_words(table, words, tmp_path):
    pq.write_table(table, tmp_path / "jobs.parquet")
    with pytest.raises(TableError, match=words):
        read_table(tmp_path / "jobs.parquet")


@pytest.mark.parametrize(("suffix", "content"), [(".json", "[%s]"), (".jsonl", "%s\n")])
def test_half_characters_in_json_are_for_validation_to_report(suffix, content, tmp_path):
    path = tmp_path / f"jobs{suffix}"
    path.write_text(
        content % '{"image": "https://a.com/b.png", "prompt": "a \\ud83d", "own": {"\\udc00": "\\ud83d"}}'
    )
    table = read_table(path)
    assert table["prompt"].tolist() == ["a \ud83d"]
    assert validate(table)["code"].tolist() == ["prompt-not-unicode"]
    write_table(table, path)
    assert read_table(path)["own"].tolist() == [{"\udc00": "\ud83d"}]
    path.write_text(content % '{"a\\ud83d": 1}')
    with pytest.raises(TableError, match="half a character in its name"):
        read_table(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_equal_as_text_stay_columns_of_their_own(suffix, tmp_path):
    """Nothing is lost, and what was written can be read."""
    table = pd.DataFrame([[1, 2, 3, 4]], columns=pd.Index([1, "1", None, ""], dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_table(table, tmp_path / f"jobs{suffix}")
    assert sorted(read_table(tmp_path / f"jobs{suffix}").iloc[0].tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_neither_pandas_engines_nor_the_limit_of_csv_matter(suffix, tmp_path):
    table = pd.DataFrame({"image": ["a.png"], "prompt": ["b" * 200]})
    before = csv.field_size_limit(10)
    try:
        with pd.option_context("io.parquet.engine", "fastparquet", "io.excel.xlsx.reader", "calamine"):
            write_table(table, tmp_path / f"jobs{suffix}")
            pd.testing.assert_frame_equal(read_table(tmp_path / f"jobs{suffix}"), table)
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_categories_are_names(suffix, tmp_path):
    table = pd.DataFrame([["a", "b"]], columns=pd.CategoricalIndex(["image", "prompt"]))
    write_table(table, tmp_path / f"jobs{suffix}")
    assert read_table(tmp_path / f"jobs{suffix}").columns.tolist() == ["image", "prompt"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "cell",
    [
        np.array(5),
        dt.time(1, tzinfo=dt.UTC),
        np.timedelta64(1, "D"),
        np.datetime64(10**18, "s"),
        _endless(),
        {"within": _endless()},
    ],
)
def test_odd_cells_do_not_stop_a_write(suffix, cell, tmp_path):
    table = pd.DataFrame({"image": ["a"], "own": pd.Series([cell], dtype=object)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_table(table, tmp_path / f"jobs{suffix}")
    assert read_table(tmp_path / f"jobs{suffix}")["image"].tolist() == ["a"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_durations_are_written_as_text(suffix, tmp_path):
    """A sheet would hold them as days, and show none of the hours."""
    table = pd.DataFrame({"image": ["a"], "own": pd.to_timedelta(["1 days 02:03:04"])})
    write_table(table, tmp_path / f"jobs{suffix}")
    assert read_table(tmp_path / f"jobs{suffix}")["own"].tolist() == ["1 days 02:03:04"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [(512, 768), [512, 768], np.array([512, 768])])
def test_sizes_of_two_numbers_come_back(suffix, size, tmp_path):
    table = pd.DataFrame({"image": URL, "prompt": "a", "size": pd.Series([size, "1:1"], dtype=object)})
    write_table(table, tmp_path / f"jobs{suffix}")
    read = read_table(tmp_path / f"jobs{suffix}")
    assert validate(read).empty
    assert read_size(read["size"][0]) == (512, 768)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_of_arrow_become_data_uris_too(kind, tmp_path):
    pictures = pd.arrays.ArrowExtensionArray(pa.array([b"\xff\xd8", None], kind))
    write_table(pd.DataFrame({"image": pictures}), tmp_path / "jobs.jsonl")
    assert (
        tmp_path / "jobs.jsonl"
    ).read_text() == '{"image": "data:image/jpeg;base64,/9g="}\n{"image": null}\n'


def test_other_sheets_are_said(tmp_path):
    """Only the first one is read; an empty one holds nothing."""
    path = saved(tmp_path, [URL, "a", 1, "x"])
    book = pytest.importorskip("openpyxl").load_workbook(path)
    for title, row in {"Monday": ["Image", "prompt"], "Empty": []}.items():
        book.create_sheet(title).append(row)
    book.save(path)
    with pytest.warns(UserWarning, match="only the first sheet is read, not 'Monday'. Save each"):
        assert len(read_table(path)) == 1


def test_names_that_come_again_are_a_row_that_can_not_be_submitted(tmp_path):
    """As where files were joined: no such picture is there."""
    (tmp_path / "jobs.csv").write_text(f"image,prompt\n{URL},b\n\nimage,prompt\n{URL},d\n")
    with pytest.warns(UserWarning, match="blank row"):
        table = read_table(tmp_path / "jobs.csv")
    assert validate(table)[["line", "code"]].to_numpy().tolist() == [[4, "image-not-found"]]


def test_a_sheet_with_a_title_says_where_its_names_must_be(tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["Jobs of Monday"], [], ["image", "prompt", "seed"], [URL, "a", 1]):
        book.active.append(row)
    book.save(tmp_path / "jobs.xlsx")
    with pytest.raises(
        TableError, match=r"column 3 has cells but no name\. If 'Jobs of Monday' is a title, delete it\. Name"
    ):
        read_table(tmp_path / "jobs.xlsx")


def saved(folder: Path, *rows: list[object]) -> Path:
    """Save rows below the names of a table of jobs with openpyxl, which calculates no formula."""
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["image", "Prompt", "seed", "own"], *rows):
        book.active.append(row)
    book.save(folder / "jobs.xlsx")
    return folder / "jobs.xlsx"


def rewritten(path: Path, part: str, old: bytes, new: bytes) -> Path:
    """Change bytes of one part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_what_a_sheet_hides_is_counted(tmp_path):
    """Rows hidden by hand or by a filter would be bought by surprise; blank ones, and the header, are nothing."""
    path = saved(tmp_path, *([URL, "a", n, "x"] for n in range(1, 12)))
    assert len(read_table(path)) == 11
    book = pytest.importorskip("openpyxl").load_workbook(path)
    sheet = book.active
    for number in (1, 3, 5, 50):
        sheet.row_dimensions[number].hidden = True
    for letter in "DH":
        sheet.column_dimensions[letter].hidden = True
    book.create_sheet("other")
    sheet.sheet_state, book.active = "hidden", 1
    book.save(path)
    with pytest.warns(
        UserWarning, match=r"hidden .* the sheet 'Sheet', 2 rows \(3, 5\), 1 column \(own\)\. D"
    ):
        assert len(read_table(path)) == 11


def test_blank_rows_of_a_sheet_are_left_out_and_said(tmp_path):
    """Those above the header silently, those among the rows with their number in the sheet."""
    openpyxl = pytest.importorskip("openpyxl")
    path = tmp_path / "jobs.xlsx"
    book = openpyxl.Workbook()
    for row in ([None], ["image", "prompt"], ["a", "b"], [None], ["c", "d"]):
        book.active.append(row)
    book.save(path)
    with pytest.warns(UserWarning, match=r"skipped 1 blank row \(row 4\)"):
        table = read_table(path)
    assert table.to_numpy().tolist() == [["a", "b"], ["c", "d"]]


def test_errors_and_formulas_without_a_value_are_no_empty_cells(tmp_path):
    """In a column of numbers they are shown with their cell; in one of texts the file is refused."""
    table = read_table(saved(tmp_path, [URL, "a fox", "#REF!", "=A1+1"]))
    assert table["seed"].tolist() == ["#REF! (cell C2)"]
    assert table["own"].tolist() == ["formula never calculated (cell D2)"]
    assert "seed-not-integer" in validate(table)["code"].tolist()
    for cell in ("#N/A", "=A1"):
        with pytest.raises(TableError, match="cell B2"):
            read_table(saved(tmp_path, [URL, cell, 1, ""]))


def test_faults_of_a_sheet_are_found_wherever_they_stand(tmp_path):
    """A row of nothing but formulas is a row, whole numbers beside an error are read, an address is never cut off."""
    with pytest.raises(TableError, match=r"formula never calculated .cell A3"):
        read_table(saved(tmp_path, [URL, "a", 1], ["=X1", "=X2", "=X3"]))
    below = saved_below_a_blank_row(tmp_path, [URL, "#N/A", 1])
    with pytest.raises(TableError, match=r"#N/A .cell B3"):
        read_table(below)
    far = [None] * 23 + ["#DIV/0!"]
    with pytest.raises(TableError, match="column 28 has cells but no name"):
        read_table(saved(tmp_path, [URL, "a", 1, 2, *far]))
    with pytest.raises(TableError, match=r"#DIV/0! .cell AB1"):
        read_table(saved_names(tmp_path, far))
    with pytest.raises(TableError, match=r"formula never calculated .cell E1"):
        read_table(saved_names(tmp_path, ["=X1"]))
    long = read_table(saved(tmp_path, [URL, "a", "=VLOOKUP(A1,Sheet2!A1:B1000,2,FALSE)"]))
    assert validate(long)["value"][0].endswith("(cell C2)")


def saved_below_a_blank_row(folder: Path, row: list[object]) -> Path:
    """Save a sheet whose first row is blank."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(saved(folder, row))
    book.active.insert_rows(1)
    book.save(folder / "jobs.xlsx")
    return folder / "jobs.xlsx"


def saved_names(folder: Path, names: list[object]) -> Path:
    """Save a sheet that has further names in its first row."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(saved(folder, [URL, "a", 1, 2]))
    for number, name in enumerate(names, start=5):
        book.active.cell(1, number, name)
    book.save(folder / "jobs.xlsx")
    return folder / "jobs.xlsx"


def test_an_error_among_the_outputs_of_a_result_is_refused(result, tmp_path):
    """An id or a path that is an error would be taken for one."""
    openpyxl = pytest.importorskip("openpyxl")
    write_table(result, tmp_path / "result.xlsx")
    book = openpyxl.load_workbook(tmp_path / "result.xlsx")
    place = list(result.columns).index(columns.TASK_ID) + 1
    book.active.cell(2, place, "#N/A")
    book.save(tmp_path / "result.xlsx")
    with pytest.raises(TableError, match=r"#N/A \(cell [A-Z]+2"):
        read_table(tmp_path / "result.xlsx")


def test_a_formula_may_be_of_an_array_and_may_give_empty_text(tmp_path):
    """What was calculated counts, empty text as a missing cell."""
    openpyxl = pytest.importorskip("openpyxl")
    array = openpyxl.worksheet.formula.ArrayFormula("C2:C3", "=A1:A2")
    assert read_table(saved(tmp_path, [URL, "a", array]))["seed"].tolist() == [
        "formula never calculated (cell C2)"
    ]
    path = saved(tmp_path, [URL, "a", "=X1"])
    part = "xl/worksheets/sheet1.xml"
    table = read_table(rewritten(path, part, b'<c r="C2">', b'<c r="C2" t="str">'))
    assert table["seed"].isna().tolist() == [True]


def test_a_zero_for_a_formula_that_waits_for_its_calculation_is_no_value(tmp_path):
    """Some programs write 0 until a spreadsheet program has calculated; other zeros are zeros."""
    part = "xl/worksheets/sheet1.xml"
    path = saved(tmp_path, [URL, "a", "=X1", 0])
    path = rewritten(path, part, b"<f>X1</f><v />", b"<f>X1</f><v>0</v>")
    table = read_table(path)
    assert table["seed"].tolist() == ["formula never calculated (cell C2)"]
    assert table["own"].tolist() == [0]
    path = rewritten(path, "xl/workbook.xml", b'fullCalcOnLoad="1"', b"")
    assert read_table(path)["seed"].tolist() == [0]


def test_line_ends_and_escapes_survive_a_sheet(tmp_path):
    """A carriage return and a text that looks like an escape come back; an escape of another program is undone."""
    openpyxl = pytest.importorskip("openpyxl")
    texts = ["a\r\nb", "a\rb", "_x0041_", "_x005F_x0041_", "__x000D_", "_x0041\r"]
    write_table(pd.DataFrame({"image": URL, "prompt": texts}), tmp_path / "jobs.xlsx")
    assert read_table(tmp_path / "jobs.xlsx")["prompt"].tolist() == texts
    book = openpyxl.Workbook()
    book.active.append(["image", "prompt"])
    book.active.append([URL, "a_x000D_b_x4E2D_"])
    book.active.append([URL, "_xD83D__xDE00_ _xD83D_"])
    book.save(tmp_path / "other.xlsx")
    assert read_table(tmp_path / "other.xlsx")["prompt"].tolist() == ["a\rb中", "😀 \ufffd"]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_beyond_those_of_a_sheet_are_text(tmp_path, zone):
    pytest.importorskip("openpyxl")
    far = pd.Series([10**15], dtype="datetime64[s]").dt.tz_localize(zone)
    write_table(pd.DataFrame({"prompt": ["a"], "far": far}), tmp_path / "jobs.xlsx")
    assert read_table(tmp_path / "jobs.xlsx")["far"].tolist() == ["31690708-07-05 01:46:40"]
