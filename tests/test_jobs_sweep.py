"""Axes become a table: products, groups that vary together, and a guard against explosions."""

from __future__ import annotations

import io
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dreamo_batch as dreamo
from dreamo_batch.errors import UsageError
from dreamo_batch.jobs.prepare import validate
from dreamo_batch.jobs.sweep import sweep
from tests.pictures import encoded, plain

URL = "https://example.com/cat.png"


@pytest.mark.no_cover
@given(st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_a_sweep_is_nested_loops(lengths):
    """Every combination once, the last axis varying fastest."""
    prompts, seeds, sizes, moods = (
        [f"prompt {number}" for number in range(lengths[0])],
        list(range(lengths[1])),
        ["1:1", "16:9", "512x512", "4:3"][: lengths[2]],
        list("abcd")[: lengths[3]],
    )
    table = sweep(image=URL, prompt=prompts, seed=seeds, size=sizes, mood=moods)
    rows = table[["prompt", "seed", "size", "mood"]].itertuples(index=False, name=None)
    assert list(rows) == list(itertools.product(prompts, seeds, sizes, moods))
    assert table.index.equals(pd.RangeIndex(math.prod(lengths)))


def test_only_what_is_given_becomes_a_column():
    """Columns are in the order of the signature, with the dtypes of the design."""
    table = sweep(
        image=URL, prompt="a", seed=[1, None], width=600, height=[700], use_rephraser=False, replicate=0
    )
    assert list(sweep(image=URL, prompt="a").columns) == ["image", "prompt"]
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        "image": "str",
        "prompt": "str",
        "seed": "Int64",
        "width": "Int64",
        "height": "Int64",
        "use_rephraser": "boolean",
        "replicate": "Int64",
    }


@pytest.mark.parametrize(
    "seeds",
    [
        range(3),
        [0, 1, 2],
        (0, 1, 2),
        np.arange(3),
        pd.Series([0, 1, 2], index=[5, 6, 7]),
        iter(range(3)),
        ["0", 1.0, 2],
    ],
)
def test_seeds_come_in_any_iterable(seeds):
    """Ranges, lists, arrays, Series and generators are all axes."""
    assert sweep(image=URL, prompt="a", seed=seeds)["seed"].tolist() == [0, 1, 2]


def test_large_seeds_stay_exact():
    """Beyond 2**53 a float would already be another seed."""
    assert sweep(image=URL, prompt="a", seed=[2**63 - 1, None])["seed"].tolist() == [2**63 - 1, pd.NA]


def test_n_seeds_leaves_the_drawing_to_the_run():
    """Eight pictures of one kind are eight rows without a seed."""
    table = sweep(image=URL, prompt=["a", "b"], n_seeds=8)
    assert len(table) == 16
    assert table["seed"].isna().all()
    assert str(table["seed"].dtype) == "Int64"


def test_sizes_are_names_text_or_pairs():
    """One pair is one size; a tuple of names is two."""
    assert sweep(image=URL, prompt="a", size=(1664, 936))["size"].tolist() == ["1664x936"]
    assert sweep(image=URL, prompt="a", size=("1:1", "16:9"))["size"].tolist() == ["1:1", "16:9"]
    assert sweep(image=URL, prompt="a", size=[(512, 600), "700x800"])["size"].tolist() == [
        "512x600",
        "700x800",
    ]


def test_groups_vary_together():
    """A group in zip pairs its members and multiplies with the rest."""
    table = sweep(image=URL, prompt=["a", "b"], seed=[1, 2], mood=["x", "y", "z"], zip=(("prompt", "seed"),))
    assert table[["prompt", "seed", "mood"]].to_numpy().tolist() == [
        [prompt, seed, mood] for prompt, seed in (("a", 1), ("b", 2)) for mood in "xyz"
    ]
    two = sweep(
        image=URL, prompt=["a", "b"], seed=[1, 2], p=[3, 4], q=[5, 6], zip=[["prompt", "p"], ("q", "seed")]
    )
    assert two[["prompt", "seed", "p", "q"]].to_numpy().tolist() == [
        ["a", 1, 3, 5],
        ["a", 2, 3, 6],
        ["b", 1, 4, 5],
        ["b", 2, 4, 6],
    ]


def test_one_group_may_be_given_as_it_is():
    """The outer brackets are easily forgotten."""
    assert len(sweep(image=URL, prompt=["a", "b"], n_seeds=2, zip=("prompt", "seed"))) == 2


@pytest.mark.parametrize(
    "name", ["aspect", "dimensions", "resolution", "needs", "heights", "models", "enhance"]
)
def test_an_axis_that_holds_no_values_of_the_argument_it_is_named_like_is_the_users_own(name):
    """Aspects of a subject are no sizes, and what somebody needs is no number of seeds."""
    table = sweep(dreamo.zipped(**{"prompt": ["a", "b"], name: ["front", "side"]}), image=URL)
    assert table[name].tolist() == ["front", "side"]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"zip": (("prompt", "sead"),)}, "'sead', which isn't an axis"),
        ({"zip": "prompts"}, "'prompts', which isn't an axis"),
        ({"zip": (("prompt", "seed"), ("seed", "mood"))}, "'seed' twice"),
        ({"zip": (("prompt", "mood"),)}, "prompt has 2, mood has 3"),
        ({"prompt": []}, "prompt: the axis is empty"),
        ({"prompt": {"a", "b"}}, "a set has no order"),
        ({"prompt": [5]}, "prompt: 5 is not a prompt"),
        ({"prompt": None}, "prompt is missing or empty"),
        ({"prompt": None, "promts": ["a"]}, "Pass prompt=, not promts="),
        ({"image": None, "imgae": URL}, "Pass image=, not imgae="),
        ({"seed": None, "seeds": [1, 2]}, "Pass seed=, not seeds=.*assign"),
        ({"seed": None, "sede": [1, 2]}, "Pass seed=, not sede="),
        ({"seed": None, "num_seeds": 4}, "Pass n_seeds=, not num_seeds="),
        ({"size": None, "sizes": ["1:1", "16:9"]}, "Pass size=, not sizes="),
        ({"size": None, "resolution": ["1:1", "16:9"]}, "Pass size=, not resolution="),
        ({"replicates": [1, 2]}, "Pass replicate=, not replicates="),
        ({"image2": [URL]}, "Pass image=, not image2="),
        ({"image": None}, "image: a picture is missing"),
        ({"image": "nothing/*.png"}, "no file matches 'nothing/\\*.png'"),
        ({"image": [["nothing/*.png"]]}, "no file matches 'nothing/\\*.png'"),
        ({"zip": 5}, "zip names 5"),
        ({"max_rows": pd.DataFrame({"a": [1]})}, "max_rows=a DataFrame"),
        ({"image": ["a.png", "no?.png"]}, "no file matches"),
        ({"seed": [42.5]}, "seed: 42.5 is not a whole number"),
        ({"seed": True}, "seed: True is not"),
        ({"seed": 2**63}, "is not a whole number .64 bits"),
        ({"width": "wide"}, "width: wide is not"),
        ({"size": "5:4"}, "size: 5:4 is neither"),
        ({"use_rephraser": "maybe"}, "use_rephraser: maybe is neither"),
        ({"n_seeds": 3}, "Pass seed or n_seeds"),
        ({"seed": None, "n_seeds": 0}, "n_seeds=0"),
        ({"max_rows": 2.5}, "max_rows=2.5"),
        ({"cost": [1]}, "my_cost"),
        ({"image_url": URL}, "not image_url="),
        ({"image_2": URL}, r"not image_2=; several of a row as image=\[\[one, two\]\]"),
        ({"prompt": "a\ud800"}, r"prompt: a\\ud800 isn't valid Unicode"),
        (
            {"image": ["caf\udce9.png"]},
            r"image: caf\\udce9.png isn't valid Unicode; correct it, or rename the file",
        ),
        ({"note": "\ud800"}, r"note: \\ud800 isn't"),
        ({"\ud800": 1}, r"\\ud800: \\ud800 isn't"),
    ],
)
def test_axes_that_can_not_be_meant_are_refused(axes, words):
    """The error names the axis, the value and what was expected."""
    with pytest.raises(UsageError, match=words):
        sweep(**({"image": URL, "prompt": ["a", "b"], "seed": [1, 2], "mood": [1, 2, 3]} | axes))


def test_explosions_are_refused_with_their_count():
    """The message multiplies it out before any memory is taken."""
    with pytest.raises(
        UsageError, match=r"8,000,000 rows \(8 prompt x 1,000 seed x 1,000 mood\), more than max_rows=100,000"
    ):
        sweep(image=URL, prompt=list("abcdefgh"), seed=range(1000), mood=range(1000))
    assert len(sweep(image=URL, prompt="a", seed=range(3), max_rows=3)) == 3
    with pytest.raises(UsageError, match="max_rows=2"):
        sweep(image=URL, prompt="a", seed=range(3), max_rows=2)


def test_endless_axes_are_cut_off():
    """An endless generator is an explosion, not a hang."""
    with pytest.raises(UsageError, match="at least 100,001 rows"):
        sweep(image=URL, prompt="a", seed=itertools.count())
    with pytest.raises(UsageError, match="more than"):
        sweep(image=URL, prompt="a", n_seeds=10**12)


def test_patterns_find_files_in_order(tmp_path, monkeypatch):
    """A pattern stands for all files that match, sorted; folders and other rows are left alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs" / "sub.png").mkdir(parents=True)
    for name in ("b.png", "a.png", "c.jpg"):
        (tmp_path / "refs" / name).write_bytes(encoded(plain()))
    assert sweep(image="refs/*.png", prompt="a")["image"].tolist() == ["refs/a.png", "refs/b.png"]
    assert sweep(image=Path("refs/[ab].*"), prompt="a")["image"].tolist() == ["refs/a.png", "refs/b.png"]
    several = sweep(image=[["refs/[ab].png", Path("refs/*.jpg"), b"bytes"], ["refs/b.png"]], prompt="a")
    assert several["image"].tolist() == [["refs/a.png", "refs/b.png", "refs/c.jpg", b"bytes"], ["refs/b.png"]]
    mixed = sweep(image=[URL + "?v=[1]", "refs/*.jpg", Path("refs/a.png")], prompt="a")
    assert mixed["image"].tolist() == [URL + "?v=[1]", "refs/c.jpg", "refs/a.png"]
    assert validate(mixed).empty


def test_names_that_are_no_text_are_refused(tmp_path, monkeypatch):
    """A file name in another encoding can't be kept in a table."""
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(plain()))
    with pytest.raises(UsageError, match="rename the file"):
        sweep(image="*.png", prompt="a")


def test_a_pattern_in_a_closed_folder_matches_nothing(monkeypatch):
    """Of which `Path.exists` raises an error."""

    def refuses(path, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuses)
    with pytest.raises(UsageError, match="no file matches"):
        sweep(image="closed/*.png", prompt="a")


def test_a_file_may_be_named_like_a_pattern(tmp_path, monkeypatch):
    """What exists is a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat [1].png").write_bytes(encoded(plain()))
    assert sweep(image="cat [1].png", prompt="a")["image"].tolist() == ["cat [1].png"]


def test_pictures_in_memory_are_single_values():
    """Bytes, files, arrays and PIL images are iterable or array-like, but are one picture each."""
    for picture in (
        encoded(plain()),
        bytearray(b"x"),
        plain(),
        io.BytesIO(b"x\ny"),
        np.asarray(plain()),
        np.asarray(plain(mode="L")),
    ):
        table = sweep(image=picture, prompt=["a", "b"])
        assert len(table) == 2
        assert table["image"].dtype == object
        assert table["image"][1] is picture
    assert len(sweep(image=[plain(), URL], prompt="a", seed=range(2))) == 4
    assert len(sweep(image=np.array([["a.png", "b.png"], ["c.png", "d.png"]]), prompt="a")) == 2
    assert sweep(image=np.str_(URL), prompt=np.str_("a"), seed=np.array(7))["seed"].tolist() == [7]
    data_uri = "data:image/png;base64,*?["
    assert sweep(image=data_uri, prompt="a")["image"].tolist() == [data_uri]


def test_columns_of_the_users_own_may_hold_anything():
    """Lists, dicts, missing values and dates are carried along."""
    table = sweep(
        image=URL, prompt="a", box=[[1, 2], [3, 4]], note=None, info={"a": 1}, day=pd.Timestamp("2024-01-01")
    )
    assert table["box"].tolist() == [[1, 2], [3, 4]]
    assert table["note"].tolist() == [None, None]
    assert table["info"].tolist() == [{"a": 1}] * 2
    assert table["day"].dtype.kind == "M"


def test_many_constant_columns_are_no_dimension_each():
    """Constants do not multiply."""
    notes = {f"note_{number}": number for number in range(100)}
    assert sweep(image=URL, prompt=["a", "b"], **notes).shape == (2, 102)
    for n in (1, 2):
        sampled = sweep(image=URL, prompt=["a", "b", "c"], sample=n, **notes)
        assert sampled.shape == (n, 102)
        assert sampled["prompt"].is_unique


def test_a_pattern_says_what_it_misses_by_capitals(tmp_path):
    """A camera's folder has IMG_1.JPG beside img_2.jpg; what is left out is named, or names what was meant."""
    for name in ("IMG_1.JPG", "img_2.jpg", "IMG_3.Jpg", "a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"misses 2 files.*IMG_1\.JPG.*IMG_3\.Jpg"):
        found = sweep(image=str(tmp_path / "*.jpg"), prompt="a")
    assert found["image"].tolist() == [str(tmp_path / "img_2.jpg")]
    assert len(sweep(image=str(tmp_path / "*.[jJ][pP][gG]"), prompt="a")) == 3
    with pytest.raises(UsageError, match=r"only in letter case: .*IMG_1\.JPG"):
        sweep(image=str(tmp_path / "IMG*[a-z].jpeg").replace("[a-z].jpeg", "1.jpg"), prompt="a")
    with pytest.raises(UsageError, match=r"only in letter case: .*IMG_1\.JPG"):
        sweep(image=str(tmp_path / "[h-j]mg_1.[!k]*"), prompt="a")
    with pytest.raises(UsageError, match="no file matches") as caught:
        sweep(image=str(tmp_path / "*.webp"), prompt="a")
    assert "capitals" not in str(caught.value)


@pytest.mark.parametrize(("there", "written"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_a_pattern_matches_in_any_unicode_form(tmp_path, there, written):
    """What is seen is the same, so the pattern means it."""
    (tmp_path / f"{there}1.png").write_bytes(b"")
    found = sweep(image=str(tmp_path / f"{written}*.png"), prompt="a")["image"]
    assert found.tolist() == [str(tmp_path / f"{there}1.png")]


# Templates and samples.


def test_names_in_a_template_are_filled_in_and_kept_as_columns(tmp_path):
    """The template stands beside the prompt; double braces are braces; lines of a file are an axis."""
    (tmp_path / "places.txt").write_text("\ufeffbeach\r\n\r\n  Wald \n", encoding="utf-8")
    table = dreamo.sweep(
        image=URL,
        template=["a {animal} in {place}", "{{raw}} { animal }, {place}"],
        animal=["fox", "owl"],
        place=dreamo.lines(tmp_path / "places.txt"),
        seed=1,
    )
    assert table.columns.tolist() == ["image", "prompt", "prompt_template", "seed", "animal", "place"]
    assert table["prompt"].tolist()[:5] == [
        "a fox in beach",
        "a fox in Wald",
        "a owl in beach",
        "a owl in Wald",
        "{raw} fox, beach",
    ]
    assert table["prompt_template"].nunique() == 2
    assert str(table["prompt"].dtype) == "str"
    numbers = dreamo.sweep(image=URL, template="{n} cats, seed {seed}", n=[1, 2], seed=[3])
    assert numbers["prompt"].tolist() == ["1 cats, seed 3", "2 cats, seed 3"]


def test_names_match_however_their_letters_are_composed():
    """Python composes the names of arguments; a template from a macOS file, or a dictionary, may not."""
    composed, apart = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    for template, name in ((apart, composed), (composed, apart)):
        tied = dreamo.zipped(**{name: ["big", "small"], "animal": ["fox", "owl"]})
        for axes in ([tied], []):
            own = {} if axes else {name: ["big"], "animal": ["fox"]}
            table = dreamo.sweep(*axes, image="cat.png", template=f"a {{{template}}} {{animal}}", **own)
            assert table["prompt"][0] == "a big fox"
            assert composed in table


def test_numbers_in_a_template_are_written_as_they_were_passed():
    """A column of numbers has one type, in which 2 beside 0.5 is 2.0."""
    table = dreamo.sweep(image="cat.png", template="{n} cats", n=[2, 0.5, "many"])
    assert table["prompt"].tolist() == ["2 cats", "0.5 cats", "many cats"]
    assert dreamo.sweep(image="cat.png", template="{n} cats", n=[2, 0.5])["prompt"].tolist() == [
        "2 cats",
        "0.5 cats",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "a {x}"}, r"\{x\} isn't an axis\. Pass x=, or"),
        (
            {"template": "a {image}"},
            r"\{image\} isn't an axis\. Use another name, such as \{subject\}, and pass",
        ),
        ({"template": "a {x}", "y": [1]}, r"\{x\} isn't an axis; the axes are y"),
        ({"template": "a {x}", "x": [1], "mood": ["m"]}, "mood: no template names this axis"),
        ({"template": "\uff5bx\uff5d", "x": ["a"]}, r"Write \{x\} .*not the full-width \uff5b and \uff5d"),
        ({"template": "a {"}, "can't read 'a {'"),
        ({"template": "a {0}"}, "names in braces"),
        ({"template": "a {x!r}", "x": [1]}, "names in braces"),
        ({"template": "a {x}", "x": ["a", None]}, "x: a value is missing"),
        ({"template": "a", "prompt": "b"}, "not both"),
        ({}, "Pass prompt="),
        ({"template": 3}, "^template: 3 is not a prompt; expected text"),
        ({"template": ["{x}", "a"], "x": [1], "zip": ("template", "x")}, "template has 2, x has 1"),
        ({"prompt": "a", "prompt_template": "b"}, "template="),
        ({"prompt": "a", "sample": 0}, "sample=0"),
        ({"prompt": "a", "sample": 1, "entropy": -1}, "entropy=-1"),
        ({"prompt": "a", "sample": 1, "entropy": "x"}, "entropy='x'"),
        ({"prompt": ["a", "b"], "sample": 1, "entropy": 1.5}, "entropy=1.5"),
        (
            {"prompt": ["a", "b"], "seed": [1, 2], "zip": {"prompt": "seed"}},
            "zip: expected one name, or a list",
        ),
        ({"prompt": ""}, "^prompt: '' is not a prompt"),
        (
            {"prompt": pd.DataFrame({"prompt": ["a"]})},
            r"^prompt: a table can't be an axis.*table\['prompt'\]",
        ),
        ({"prompt": io.StringIO("a\nb\n")}, r"^prompt: .*dreamo\.lines\(path\)"),
        ({"template": "{sample}"}, r"Use another name, such as \{subject\}"),
        ({"template": "{x}", "x": [["a", "b"]]}, "x: a value is a list, so the template"),
        ({"template": "{x}", "x": [b"a"]}, "x: a value is a bytes, so the template"),
    ],
)
def test_templates_that_can_not_be_filled_in_are_refused(options, words):
    """The error names what is unknown, unused or missing."""
    with pytest.raises(UsageError, match=words):
        dreamo.sweep(image=URL, **options)


def test_axes_tied_together_are_one_axis():
    """As `zip` does; each may be an axis of a row's or of the user's own."""
    pairs = dreamo.zipped(animal=["fox", "owl"], seed=[1, 2])
    table = dreamo.sweep(pairs, image=URL, template="a {animal} at {place}", place=["sea", "hill"])
    assert table[["prompt", "seed"]].to_numpy().tolist() == [
        ["a fox at sea", 1],
        ["a fox at hill", 1],
        ["a owl at sea", 2],
        ["a owl at hill", 2],
    ]
    with pytest.raises(UsageError, match="seed is an axis twice"):
        dreamo.sweep(pairs, image=URL, prompt="a", seed=3)
    with pytest.raises(UsageError, match="same number of values"):
        dreamo.sweep(dreamo.zipped(a=[1], b=[1, 2]), image=URL, prompt="a")
    for unnamed, named in (([], {"a": [1]}), ([["a"], [1]], {})):
        with pytest.raises(UsageError, match="two or more by name"):
            dreamo.zipped(*unnamed, **named)
    with pytest.raises(UsageError, match="sample isn't an axis; pass it to sweep itself"):
        dreamo.sweep(dreamo.zipped(sample=[1, 2], prompt=["a", "b"]), image=URL)
    with pytest.raises(UsageError, match=r"Pass zipped\(...\) without a name"):
        dreamo.sweep(dreamo.zipped(prompt=["a"], more=dreamo.zipped(a=[1], b=[2])), image=URL)
    with pytest.raises(
        UsageError, match=r"Pass zipped\(...\) without a name, before the others.* not pair=."
    ):
        dreamo.sweep(pair=dreamo.zipped(a=[1], b=[2]), image=URL, template="a {a} on {b}")
    with pytest.raises(UsageError, match="by name"):
        dreamo.sweep(["a"], image=URL, prompt="a")


@pytest.mark.no_cover
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    share=st.floats(0, 1),
    entropy=st.integers(0, 2**32),
)
def test_a_sample_is_even_over_every_axis_and_repeatable(lengths, share, entropy):
    """No row twice, each value as often as another give or take one, and the same call gives the same rows."""
    n_all = math.prod(lengths)
    n = max(1, round(share * n_all))
    axes = {f"a{number}": range(length) for number, length in enumerate(lengths)}
    table = dreamo.sweep(image=URL, prompt="a", sample=n, entropy=entropy, **axes)
    assert len(table) == len(table.drop_duplicates()) == n
    for name, values in axes.items():
        counts = table[name].value_counts().reindex(values, fill_value=0)
        assert counts.max() - counts.min() <= 1
    again = dreamo.sweep(image=URL, prompt="a", sample=n, entropy=entropy, **axes)
    pd.testing.assert_frame_equal(table, again)


def test_how_a_sample_was_taken_stays_with_its_results(tmp_path):
    """So that anyone can take it again."""
    jobs = sweep(
        image="data/mascot.png", prompt=["a", "b"], seed=[1, 2, 3], size="512x512", sample=2, entropy=9
    )
    sample = {"rows": 2, "of": 6, "entropy": 9}
    with dreamo.LocalGateway(engine="flat") as gateway:
        done = dreamo.run(jobs, tmp_path, gateway=gateway, progress=False)
        dreamo.resume(tmp_path, gateway=gateway, progress=False)
    assert jobs.attrs["dreamo_sample"] == done.attrs["dreamo_sample"] == sample
    assert dreamo.load(tmp_path).attrs["dreamo_sample"] == sample
    jobs.attrs["notes"] = object()  # anything else that a user keeps there stays behind
    dreamo.write_table(jobs, tmp_path / "jobs.parquet")
    assert dreamo.read_table(tmp_path / "jobs.parquet").attrs == {"dreamo_sample": sample}
    jobs.attrs["dreamo_sample"] = {"entropy": np.int64(5)}  # the user's own, which JSON can't hold as it is
    dreamo.write_table(jobs, tmp_path / "jobs.parquet")
    assert dreamo.read_table(tmp_path / "jobs.parquet").attrs == {"dreamo_sample": {"entropy": "5"}}


def test_a_sample_of_a_product_too_large_to_make_is_drawn_at_once():
    """Only the rows drawn are made; each axis must still be finite."""
    axes = {f"a{number}": range(1_000) for number in range(5)}
    table = dreamo.sweep(image=URL, prompt="a", sample=50, **axes)
    assert table["a4"].nunique() == 50
    with pytest.raises(UsageError, match="more than max_rows=10"):
        dreamo.sweep(image=URL, prompt="a", sample=5, max_rows=10, endless=itertools.count())


def test_a_sweep_shows_what_it_came_to():
    """Axes, rows, distinct jobs, and rows that are the same job; what is made from it is a plain table."""
    table = dreamo.sweep(image=URL, prompt=["a", "a", "b"], seed=[1, 2], use_rephraser=False)
    assert table.summary() == "6 rows: 3 prompt x 2 seed; 4 distinct jobs."
    assert "2 rows are the same job as an earlier one" in repr(table)
    assert "2 rows are the same job" in table._repr_html_()
    drawn = dreamo.sweep(image=URL, prompt="a", n_seeds=3, sample=2)
    assert drawn.summary() == "2 rows: an even sample of 3 (3 seed; entropy 0); 2 distinct jobs."
    assert type(table.head(2)) is pd.DataFrame


@pytest.mark.parametrize("left", ["{animal}", "{{animal}}", "\uff5b\u52a8\u7269\uff5d"])
def test_braces_left_in_a_prompt_are_warned_of(left):
    """As if a name had not been filled in, said as it stands there; the row can be submitted."""
    table = pd.DataFrame({"image": [URL] * 2, "prompt": [f"a {left}", "a fox"], "seed": [1, 1]})
    found = dreamo.validate(table)
    assert found[["position", "severity", "code"]].to_numpy().tolist() == [
        [0, "warning", "prompt-has-braces"]
    ]
    assert f"still contains {left}," in found["message"][0]
