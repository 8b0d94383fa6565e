"""Every problem of every row at once, whatever the table looks like."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamo_batch import columns, plan
from dreamo_batch.errors import TableError, UsageError
from dreamo_batch.jobs.cells import HALF_WIDTH
from dreamo_batch.jobs.prepare import prepare, validate
from dreamo_batch.jobs.rules import RULES
from dreamo_batch.jobs.sweep import sweep
from dreamo_batch.jobs.tables import read_table
from dreamo_batch.results.load import load
from tests.pictures import plain
from tests.table_oracle import PRESETS, problems_of

URL = "https://example.com/cat.png"
MISSING = [None, float("nan"), pd.NA, pd.NaT, ""]
NUMBERS = [
    42,
    42.0,
    42.5,
    True,
    "42",
    "42.0",
    "42.5",
    "x",
    " ",
    0,
    2**31,
    2**63,
    -1,
    -2,
    2.0**53,
    "9" * 30,
    [1],
    b"1",
]
SIDES = [*NUMBERS, 511, 512, 1328, 2048, 2049, 4096, 8191, 8192, "1328", 0, -(2**63), 2**62]
SIZES = [
    *PRESETS,
    "1328x1328",
    "2048X2048",
    "2049 x 2040",
    "512x512",
    "1536x512",
    "512x1537",
    "1x1",
    "5:4",
    "big",
    (1664, 936),
    (1, True),
    7,
]
PROMPTS = ["a cat", "猫 🐈", "  ", "x" * 300, "x" * 301, "x" * 800, "x" * 801, "🐈" * 300, "\ud83d", 5, b"a"]
IMAGES = [URL, f"  {URL} ", "http://", "ftp://example.com/a.png", "https://localhost/a.png", 5, " ", "data:x"]
PICTURE_PROBLEMS = {
    "http://": "image-bad-url",
    "ftp://example.com/a.png": "image-bad-url",
    "https://localhost/a.png": "image-url-not-public",
    5: "image-not-a-source",
    "data:x": "image-bad-data-uri",
}


def _cells(*values):
    return st.sampled_from([*MISSING, *values])


ROWS = st.fixed_dictionaries(
    {"prompt": _cells(*PROMPTS), "image": _cells(*IMAGES)},
    optional={
        "image_url": _cells(*IMAGES),
        "seed": _cells(*NUMBERS),
        "width": _cells(*SIDES),
        "height": _cells(*SIDES),
        "size": _cells(*SIZES),
        "use_rephraser": _cells(True, False, "yes", "NO", 1, 0.0, 2, "maybe", "1.0"),
        "replicate": _cells(*NUMBERS),
    },
)


@pytest.mark.no_cover
@settings(max_examples=settings.default.max_examples // 4)
@given(st.lists(ROWS, min_size=1, max_size=12))
def test_validation_agrees_with_a_slow_reading_of_the_rules(rows):
    """The vectorised rules find exactly what one row after the other finds."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})
    found = validate(table)
    expected = problems_of(table, PICTURE_PROBLEMS.get)
    assert set(zip(found["position"], found["column"], found["code"], strict=True)) == expected
    assert found["severity"].tolist() == [RULES[code].severity for code in found["code"]]


@pytest.mark.no_cover
@settings(max_examples=settings.default.max_examples // 8)
@given(st.lists(st.tuples(st.integers(-3, 2**40), st.sampled_from([400, 512, 1328, 3000])), max_size=8))
def test_typed_columns_are_judged_like_untyped_ones(rows):
    """The dtype of a column makes no difference to what is wrong with it."""
    table = pd.DataFrame(rows, columns=["seed", "width"]).assign(image=URL, prompt="a cat", height=1328)
    expected = problems_of(table, dict[object, str]().get)
    for dtype in ("int64", "Int64", "float64", "object", "str", "category", "int64[pyarrow]"):
        found = validate(table.astype({"seed": dtype, "width": dtype}))
        assert set(zip(found["position"], found["column"], found["code"], strict=True)) == expected


def test_a_good_row_has_no_problem():
    """Nothing is said where nothing is wrong, and the empty answer has its dtypes."""
    found = validate(pd.DataFrame({"image": [URL], "prompt": ["a cat"], "seed": [42.0], "size": ["16:9"]}))
    assert found.empty
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == columns.dtypes(columns.PROBLEMS)


def test_a_problem_says_what_and_what_to_do():
    """Each line names row, column, rule, cell, what was expected and what to do."""
    table = pd.DataFrame({"image": [URL], "prompt": ["x" * 900], "seed": [42.5]}, index=["first"])
    found = validate(table)
    assert found["row"].tolist() == ["first", "first"]
    assert found["code"].tolist() == ["prompt-very-long", "seed-not-integer"]
    assert found["value"].tolist() == ["x" * 59 + "…", "42.5"]
    assert found["severity"].tolist() == ["warning", "error"]
    assert found["message"][0].startswith(
        "The prompt has 900 characters; for spark_dreamo at most 300 are advised"
    )
    assert found["model"].fillna("").tolist() == ["spark_dreamo", ""]
    assert found["fix"].str.endswith(".").all()


@pytest.mark.parametrize(
    "row",
    [
        {f"p{'/' * 50_000}q": 1},
        {"prompt": "{" * 50_000},
        {"prompt": "<a " + "=" * 200_000},
        {"image": f"https://a.example/{' ' * 50_000}a.png"},
    ],
    ids=["name", "braces", "tag", "link"],
)
def test_very_long_texts_are_read_at_once(row):
    """As when the first line of a file is not its header, or something else was pasted into a cell."""
    began_at = time.process_time()
    validate(pd.DataFrame([{"prompt": "a", "image": plain()} | row]))
    assert time.process_time() - began_at < 5


def test_a_column_named_nearly_like_one_that_is_read_is_reported():
    """Once for the table, not where the right one is there as well, and the rows can be submitted."""
    table = pd.DataFrame(
        {"image": [URL] * 2, "prompt": ["a", "b"], "Seeds ": [1, 2], "SIZE": "1:1", "speed": 3}
    )
    found = validate(table)
    assert found[["position", "column", "code", "severity"]].to_numpy().tolist() == [
        [0, "size", "column-not-read", "warning"],
        [0, "Seeds ", "column-not-read", "warning"],
    ]
    assert found["message"][0].startswith("Read column 'SIZE' as 'size'.")
    assert found["message"][1] == "Ignored column 'Seeds'; did you mean 'seed'?"
    assert found["fix"][1] == "Rename to seed, or to something else if the column is yours."
    assert validate(table.drop(columns="SIZE").assign(seed=[1, 2], size="1:1")).empty
    assert validate(table.head(0)).empty


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("widht", "width"),
        ("heigth", "height"),
        ("hight", "height"),
        ("seeed", "seed"),
        ("modle", "model"),
        ("Use Rephrasser", "use_rephraser"),
        ("gidance_scale1", "guidance_scale1"),
        ("weight", None),
        ("mode", None),
        ("speed", None),
        ("need", None),
        ("with", None),
    ],
)
def test_a_slip_of_the_fingers_is_asked_about(name, meant):
    """Other words are the user's own."""
    table = pd.DataFrame({"image": [URL], "prompt": "a", name: 1})
    messages = validate(table)["message"].tolist()
    assert messages == ([f"Ignored column {name!r}; did you mean {meant!r}?"] if meant else [])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("random_seeds", "seed"),
        ("种子", "seed"),
        ("Höhe", "height"),
        ("resolution", "size"),
        ("rephrase", "use_rephraser"),
        ("width (px)", "width"),
        ("Height_px", "height"),
        ("Seed #", "seed"),
    ],
)
def test_other_words_for_inputs_are_asked_about(name, meant):
    test_a_slip_of_the_fingers_is_asked_about(name, meant)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["imagePath", "prompt"], "Rename 'imagePath' to 'image'"),
        (["图片", "提示词"], "Rename '提示词' to 'prompt'. Rename '图片' to 'image'"),
        (pd.MultiIndex.from_tuples([("in", "image")]), "get_level_values.0.; -1 is the last level"),
        (
            ["Upload image", "Input.prompt"],
            "Rename 'Input.prompt' to 'prompt'. Rename 'Upload image' to 'image'",
        ),
        (
            ["cat.png", "a cat"],
            r"it has cat\.png, a cat\. Every .* the first line of a file names the columns",
        ),
        (["prompt_of_image", "x"], "it has prompt_of_image, x. Every row"),
        (["image,prompt"], r"it has image,prompt\. .*separated as sep= says\."),
        (["Bild", "Beschreibung"], "Rename 'Beschreibung' to 'prompt'. Rename 'Bild' to 'image'"),
        (pd.MultiIndex.from_tuples([("image",), ("prompt",)]), r"MultiIndex \(1 level\)"),
        (pd.MultiIndex.from_tuples([("in", "image"), ("in", "prompt")]), r"MultiIndex \(2 levels\)"),
    ],
)
def test_absent_columns_are_looked_for_under_other_names(names, words):
    with pytest.raises(TableError, match=words):
        validate(pd.DataFrame([[URL, "a"][: len(names)]], columns=names))


@pytest.mark.parametrize("seed", ["1e3", "1,000", "0x10", "\uff11\uff0c\uff10\uff10\uff10", "\u00b2", "NA"])
def test_a_number_in_other_words_says_how_to_write_it(seed):
    """None is guessed: a comma may be a decimal one."""
    found = validate(pd.DataFrame({"image": [URL], "prompt": "a", "seed": seed}))
    assert found["code"].tolist() == ["seed-not-integer"]
    assert "plain digits, such as 1000" in found["fix"][0]


@pytest.mark.parametrize(
    "size", ["\uff11\uff16\uff1a\uff19", "16\uff1a9", "\uff12\uff10\uff14\uff18\uff0a1152"]
)
def test_digits_and_signs_of_full_width_are_read(size):
    """As keyboards for Chinese and Japanese write them."""
    told = {"image": URL, "prompt": "a", "use_rephraser": False}
    wide = pd.DataFrame([told | {"seed": "\uff0b\uff11\uff12", "size": size}])
    plain = pd.DataFrame([told | {"seed": 12, "size": size.translate(HALF_WIDTH)}])
    assert validate(wide).empty
    ids = [prepare(table, entropy="0").rows["job_id"].tolist() for table in (wide, plain)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    "cell", [np.frombuffer(b"\x89PNG", "uint8"), [137, 80, 78], (1.5,), np.zeros((2, 2)), np.array(1)]
)
def test_numbers_for_a_picture_are_one_problem(cell):
    """Not one for each of a million bytes."""
    found = validate(pd.DataFrame({"image": pd.Series([cell], dtype=object), "prompt": ["a"]}))
    assert found["code"].tolist() == ["image-not-a-source"]


@pytest.mark.parametrize("size", [np.array(5), (512,), (512, None), ("a", 2), "(1, 2, 3)", "[]", {1, 2}])
def test_sizes_that_are_no_two_numbers_are_refused(size):
    found = validate(pd.DataFrame({"image": [URL], "prompt": "a", "size": pd.Series([size], dtype=object)}))
    assert found["code"].tolist() == ["size-unknown"]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("a\0b", "prompt-control-characters"),
        ("\x1b$B", "prompt-control-characters"),
        ("caf\x82", "prompt-control-characters"),
        (
            "un caf\u00c3\u00a9",
            "prompt-garbled",
        ),  # UTF-8 read as Windows-1252, as Mac Roman, and as what it isn't
        ("un caf\u221a\u00a9", "prompt-garbled"),
        ("un caf\ufffd", "prompt-garbled"),
        ("\u4e00\u53ea\u732b".encode("gbk").decode(), "prompt-garbled"),
        *(
            (
                "\u732b\u304c caf\u00e9 \u2014 \u043a\u043e\u0442, \u732b".encode().decode(
                    encoding, "replace"
                ),
                "prompt-garbled",
            )
            for encoding in ("cp1250", "cp1251", "cp437", "cp850", "gbk", "cp932", "cp949", "big5")
        ),
        ("it\u9225\u6a9a 5", "prompt-garbled"),
        ("\u4e00\u53ea\u732b\u5728\u96ea\u5730".encode("gbk").decode("latin-1"), "prompt-garbled"),
        *(
            (prompt, "prompt-garbled")
            for prompt in ("????", "?\u00f3d?", "m?\u00fcde", "?? a cat", "a ?ld man")
        ),
        *(
            (prompt, None)
            for prompt in (
                "who? what?! why??",
                "a caf\u00e9 (why?) \u201cquoi ?\u201d",
                "\u732b",
                "\u4e00\u53ea\u732b",
                "\u5fb7\u5dde",
                "\u0434\u0456\u0457",
                "M\u016e\u017dE b\u00fdt",
                "10\u00d7\u0434",
                "\u5979\u662f\u8c01?\u4e00\u4e2a\u5973\u5b69",
                "\u3069\u3053?\u3053\u3053!",
                "Wer ist da?\u00c4rzte! what!?Really",
            )
        ),
        *(
            (prompt, "prompt-leftover")
            for prompt in (
                "a [SUBJECT] on a hill",
                "a shop named '[BRAND NAME]'",
                "a sign that says \u201c[Your text here]\u201d",
                "a <subject>",
                "$animal in the snow",
                "%(animal)s",
                "a __animal__",
                "a cat --ar 16:9",
                "cat::2",
                "(a cat:1.2)",
                "a cat\nNegative prompt: dog",
                "a cat<br />",
                "cats &amp; dogs",
                "caf\\u00e9",
                "a cat\\na dog",
                "a%20cat",
                'a ""big"" cat',
                "'- a cat",
                "['a cat']",
            )
        ),
        *(
            (prompt, None)
            for prompt in (
                "a rock--no, a cat -- really - at 16:9 (late: 5.30)",
                "R&B; Q&A & co",
                "100% wool, $5, A$AP, 5 < 6 > 4, <3",
                "black&white; salt&pepper; Schwarz&Weiss; copy&paste",
                "a film still (1:2.39), 50%20 mix",
                "a man --no, wait-- letters --c--",
                "Negative space\nSteps: 3 of stone",
                "a sign that says \u201c[STOP]\u201d, and '[GO]'",
                "[cat], [NSFW2] :: \\o/ __ \u2014 'tis",
            )
        ),
        (
            "\u00abCAF\u00c9\u00bb, \u041a\u043e\u0442, na\u00efve \u03b1\u03b2, 5 \u00b5\u043c, \u05e9\u05b8\u05dc",
            None,
        ),
        ("BEYONC\u00c9\u2019S MEN\u00dc\u2013CARD", None),
        ("nan", "prompt-no-value"),
        ("NA", "prompt-no-value"),
        (" #REF! ", "prompt-no-value"),
        *(
            (word, "prompt-no-value")
            for word in ("<NA>", "\\N", "[NULL]", "(null)", "undefined", "[object Object]")
        ),
        *(
            (word, "prompt-no-value")
            for word in ("#NV", "#WERT!", "#\u00bfNOMBRE?", "#SPILL!", "Err:502", "#####")
        ),
        *(
            (prompt, "prompt-in-quotes")
            for prompt in (
                '"a cat"',
                " 'a\n\"big\" cat' ",
                "`a cat`",
                "\u201ca cat\u201d",
                "\u201ea cat\u201c",
                "\u2018a cat\u2019s hat\u2019",
                "\u00aba cat\u00bb",
            )
        ),
        ('"a" and "b"', None),
        ("\u201ca\u201d and \u201cb\u201d", None),
        ("\u2018a\u2019 and \u2018b\u2019", None),
        ("'tis a cats' home of 'em", None),
        ("#1 of ten cats!", None),
        ("a\tb\r\n\fc\x85", None),
        ("none of them", None),
        ("a nan", None),
    ],
)
def test_prompts_that_nobody_wrote_are_warned_of(prompt, code):
    """What wrong encodings, conversions to text and broken formulas leave."""
    found = validate(pd.DataFrame({"image": [URL], "prompt": [prompt]}))
    assert found["code"].tolist() == ([code] if code else [])
    assert (found["severity"] == "warning").all()


class _Mute:
    def __str__(self):
        raise ValueError("no connection")

    __repr__ = __hash__ = __eq__ = __str__


@pytest.mark.parametrize("name", ["prompt", "image", "seed", "note"])
def test_cells_that_can_not_say_what_they_are_are_named_by_their_type(name):
    """An object of a database raises once its connection is closed; two of them are two."""
    table = pd.DataFrame({"image": [URL, URL], "prompt": ["a", "b"], "seed": [1, 2]}, dtype=object)
    table[name] = [_Mute(), _Mute()]
    table.index = pd.Index([_Mute(), "x"], dtype=object)
    found = validate(table)
    assert found["row"].tolist() == ([] if name == "note" else ["<_Mute>", "x"])
    assert set(found["value"]) <= {"<_Mute>"}


@pytest.mark.parametrize(
    "name",
    [
        "Seed",
        "\ufeffseed",
        "seed\u200b",
        "\xadseed",
        "\u2060seed",
        "\uff53\uff45\uff45\uff44",
        " SEED ",
        "\u200eseed\u200f",
    ],
)
def test_a_name_spelled_otherwise_is_taken_for_what_it_means(name):
    """Case, blanks, width and what can't be seen make no other column; one notice says so."""
    found = validate(pd.DataFrame({"image": [URL], "prompt": "a", name: [-7]}))
    assert set(found["code"]) == {"column-not-read", "seed-out-of-range"}
    with pytest.raises(TableError, match=r"both mean 'seed'. Rename or drop"):
        validate(pd.DataFrame({"image": [URL], "prompt": "a", name: [1], "seed": 2}))


def test_longer_names_are_taken_for_what_they_mean():
    """Blanks and hyphens stand for the underscore."""
    table = pd.DataFrame({"Image-URL": [URL], "PROMPT": "a", "Use Rephraser": ["maybe"]})
    found = validate(table)
    [note] = found.loc[found["code"] == "column-not-read", "message"]
    assert (
        note
        == "Read column 'Image-URL' as 'image_url', 'PROMPT' as 'prompt', 'Use Rephraser' as 'use_rephraser'."
    )


def test_tables_of_other_libraries_are_taken():
    """Whatever hands out Arrow data is a table; integers beside a gap stay exact."""
    table = pa.table({"image": [URL, URL], "prompt": ["a", "b"], "seed": [2**62, None]})
    assert validate(table)["value"].tolist() == [str(2**62)]
    texts = pa.array([["a"], None], pa.list_(pa.string_view()))  # as polars hands them out
    union = pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])])
    odd = table.append_column("tags", texts).append_column("union", union)
    assert validate(odd)["value"].tolist() == [str(2**62)]


def test_pictures_in_a_table_of_polars_are_taken():
    """Arrow is given their addresses only."""
    column = SimpleNamespace(name="image", dtype="Object", to_list=lambda: [plain()])

    class Polars:
        columns = ("image", "prompt")
        get_columns = staticmethod(lambda: [column])
        table = pa.table({"image": pa.array([b"12345678"], pa.binary(8)), "prompt": ["a"]})
        __arrow_c_stream__ = table.__arrow_c_stream__

    assert validate(Polars()).empty


def test_tables_of_other_libraries_that_can_not_be_taken_are_refused():
    """With the reason, rather than as what they aren't."""
    with pytest.raises(
        TableError, match="The pyarrow table can't become a DataFrame: Value 1 has non-zero nano"
    ):
        validate(pa.table({"image": [URL], "prompt": ["a"], "x": pa.array([1], pa.time64("ns"))}))
    for table, words in (
        (type("Lazy", (), {"collect": None})(), r"not a Lazy. Call .collect\(\) first."),
        (pa.table({"image": [URL]}).to_reader(), r"not a RecordBatchReader. Call .read_all\(\) first."),
        (
            type("Modin", (), {"to_pandas": None, "columns": None})(),
            r"not a Modin. Call .to_pandas\(\) first.",
        ),
        (pd.DataFrame, "Expected a pandas DataFrame, not a type"),
        (
            type("Broken", (), {"columns": None, "__arrow_c_stream__": lambda *_: 1 / 0})(),
            "can't become a DataFrame",
        ),
    ):
        with pytest.raises(TableError, match=words):
            validate(table)


@pytest.mark.filterwarnings("ignore:The .future.infer_string. option")
def test_pandas_without_its_dtype_of_text_is_refused(tmp_path):
    """It would write the word nan where nothing is."""
    jobs = pd.DataFrame({"image": [URL], "prompt": "a"})
    with pd.option_context("future.infer_string", False):
        for call in (
            lambda: validate(jobs),
            lambda: read_table(tmp_path / "jobs.csv"),
            lambda: load(tmp_path),
        ):
            with pytest.raises(UsageError, match=r"future.infer_string is False.* Set it to True"):
                call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: validate(pd.DataFrame({"image": ["a.png"], "prompt": "a"})),
        lambda: sweep(image="*.png", prompt="a"),
        lambda: read_table("jobs.csv"),
        lambda: load("runs/first"),
        lambda: plan(pd.DataFrame({"image": [URL], "prompt": "a"}), "runs/first"),
    ],
    ids=["validate", "sweep", "read_table", "load", "plan"],
)
def test_a_working_directory_that_is_gone_is_said(call, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match=r"can't be used: the working directory is gone. Change to another"):
        call()
    monkeypatch.chdir(tmp_path)


def test_a_path_that_the_locale_can_not_spell_is_said(tmp_path):
    """Python takes UTF-8 for file names in most locales, so only an interpreter of its own meets another."""
    ascii_names = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = """
import pandas as pd
import dreamo_batch as dreamo
print(dreamo.validate(pd.DataFrame({"image": ["\\u72d0.png"], "prompt": "a"}))["message"][0])
dreamo.load("\\u72d0")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env=os.environ | ascii_names,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("The file can't be read: 'ascii' codec can't encode character '\\u72d0'")
    assert (
        "can't be used: it contains half a character (a lone surrogate), or one that no file name"
        in ended.stderr
    )


@pytest.mark.parametrize("code", RULES)
def test_rules_are_written_alike(code):
    """Every rule has a short name in kebab case and ends its sentences."""
    rule = RULES[code]
    assert rule.code == code
    assert set(code) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert rule.message.endswith((".", "{hint}", "{what}"))
    assert rule.fix.endswith(".") != bool(rule.repair)


@pytest.mark.parametrize(
    "index",
    [
        ["a", "a"],
        pd.MultiIndex.from_tuples([("x", 1), ("x", 1)]),
        pd.DatetimeIndex(["2024-01-01", "2024-01-02"], tz="Asia/Shanghai"),
        pd.CategoricalIndex(["猫", None]),
        pd.Index([float("nan"), "\ud83d"], dtype=object),
    ],
)
def test_any_index_is_carried_as_text(index):
    """Labels may repeat, be tuples, times or missing; the position tells rows apart."""
    table = pd.DataFrame({"image": [URL, URL], "prompt": ["", ""]}, index=index)
    found = validate(table)
    assert found["position"].tolist() == [0, 1]
    assert found["row"].dtype == "str"


def test_columns_of_any_dtype_stay_as_they_are(tmp_path):
    """The user's own columns are neither read nor changed."""
    table = pd.DataFrame(
        {
            "image": [URL, None],
            "prompt": pd.array(["a", None], dtype="string[pyarrow]"),
            "lists": [[1], {"a": 2}],
            "mixed": [1, "x"],
            "category": pd.Categorical(["a", None]),
            "time": pd.to_datetime(["2024-01-01", None]).tz_localize("Asia/Tokyo"),
            "period": pd.period_range("2024", periods=2, freq="M"),
            "seed": pd.array([1, None], dtype="int64[pyarrow]"),
            7: [b"bytes", object],
        },
        index=["same", "same"],
    )
    before = table.copy(deep=True)
    assert set(validate(table)["code"]) == {"image-missing", "prompt-missing"}
    pd.testing.assert_frame_equal(table, before)


def test_an_empty_table_has_no_problem():
    """No rows, no problems; the columns are still looked at."""
    assert validate(pd.DataFrame({"image": [], "prompt": []})).empty


def test_columns_of_nothing_but_missing_cells_are_read():
    """A column that pandas could not type is a column of missing cells."""
    table = pd.DataFrame(
        {"image": [URL], "prompt": ["a"], "seed": [None], "size": [np.nan], "use_rephraser": [pd.NA]}
    )
    assert validate(table).empty


def test_aliases_of_the_image_column_are_read():
    """A table may call its pictures by what they are."""
    assert validate(pd.DataFrame({"image_url": [URL], "prompt": ["a"]})).empty
    found = validate(pd.DataFrame({"image_path": ["none.png"], "prompt": ["a"]}))
    assert found[["column", "code"]].to_numpy().tolist() == [["image_path", "image-not-found"]]


def test_an_empty_alias_beside_a_picture_is_no_second_source():
    """Two columns may share the work, row by row."""
    table = pd.DataFrame({"image": [URL, None], "image_url": ["", URL], "prompt": ["a", "b"]})
    assert validate(table).empty


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame(), "no columns at all"),
        (pd.DataFrame({"prompt": ["a"]}), "no column 'image'"),
        (pd.DataFrame({"image": ["a"]}), "no column 'prompt'"),
        (
            pd.DataFrame({"prompt": ["a"]}, index=pd.Index(["a"], name="image")),
            r"call \.reset_index\(\) first",
        ),
        (pd.DataFrame({"imagee": ["a"], "prompt": ["a"]}), "Rename 'imagee' to 'image'"),
        (pd.DataFrame([["a", "b", "c"]], columns=["image", "prompt", "prompt"]), "share a name: prompt"),
        (pd.DataFrame({"image": ["a"], "prompt": ["a"], "cost": [1]}), "my_cost"),
        (pd.DataFrame([["a", "b"]], columns=[["image", "prompt"], ["", ""]]), "2 levels"),
        ([{"image": "a"}], "not a list"),
        (SimpleNamespace(to_dataframe=len, compute=len), r"Call \.to_dataframe\(\) first"),  # xarray
        (pd.DataFrame({f"column {number}": [1] for number in range(30)}), "and 10 more"),
    ],
)
def test_tables_with_the_wrong_columns_are_refused(table, words):
    """What can't be a table of jobs is refused at once, with what to do."""
    with pytest.raises(TableError, match=words):
        validate(table)


def test_a_result_may_be_run_again():
    """A frame with all of the toolkit's columns is a result, not a clash."""
    table = pd.DataFrame({"image": [URL], "prompt": ["a"]}).reindex(
        columns=["image", "prompt", *columns.OUTPUTS]
    )
    assert validate(table).empty


def test_relative_paths_start_at_the_folder_given(tmp_path, monkeypatch):
    """A table's paths are looked up beside it, or in the working directory, and the finding says where."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"image": ["none.png"], "prompt": ["a"]})
    assert str(tmp_path / "none.png") in validate(table)["message"][0]
    assert str(tmp_path / "refs") in validate(table, base_dir="refs")["fix"][0]
    (tmp_path / "jobs.csv").touch()
    with pytest.raises(UsageError, match=r"base_dir is a file, .*jobs\.csv\. Pass the folder"):
        validate(table, base_dir="jobs.csv")


def test_many_rows_are_read_at_once():
    """Rules look at columns, not at rows; a problem of every row is listed for every row."""
    n_rows = 50_000
    table = pd.DataFrame(
        {
            "image": np.resize([URL, "https://example.com/dog.png"], n_rows),
            "prompt": np.resize([f"a cat {number}" for number in range(1000)], n_rows),
            "seed": np.arange(1, n_rows + 1),
            "width": 1328,
            "height": 1328,
        }
    )
    assert validate(table)["code"].tolist() == ["seed-sweep-rephrased"]
    assert validate(table.assign(use_rephraser=False)).empty
    assert len(validate(table.assign(width=100))) == n_rows


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("a caf\u00e9\n", "line ends"),
        ("a  caf\u00e9", "white space"),
        ("a\u00a0caf\u00e9 ", "white space"),
        ("\ufeffa caf\u00e9", "invisible characters"),
        ("a ca\u00adf\u00e9", "invisible characters"),
        ("a cafe\u0301", "Unicode form"),
        ("a \ufeff cafe\u0301", "white space, invisible characters and Unicode form"),
    ],
)
def test_rows_that_look_alike_are_warned_of(other, what):
    """They would be bought as two jobs; the warning names the earlier row and what differs."""
    table = pd.DataFrame({"image": URL, "prompt": ["a caf\u00e9", other], "seed": 1}, index=["x", "y"])
    found = validate(table)
    assert found[["row", "severity", "code"]].to_numpy().tolist() == [["y", "warning", "prompt-looks-equal"]]
    assert "row x" in found["message"][0]
    assert f"only in {what};" in found["message"][0]


def test_rows_that_differ_in_more_are_not_warned_of():
    """Another seed, size or picture makes another picture anyway; so does what can be seen."""
    prompts = ["a fox", "a fox ", "a fax", "A fox", "\U0001f469\u200d\U0001f469", "\U0001f469\U0001f469"]
    assert validate(pd.DataFrame({"image": URL, "prompt": prompts, "seed": range(1, 7)})).empty
    assert len(validate(pd.DataFrame({"image": URL, "prompt": prompts}))) == 1
    assert validate(pd.DataFrame({"image": [URL, URL + "?1"], "prompt": ["a fox", "a fox "]})).empty
