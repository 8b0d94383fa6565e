"""The grid: every row of the results stands in one cell, whatever the axes are."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dreamo_batch.display.grid import lay_out
from dreamo_batch.errors import UsageError
from tests.grids import results

SWEEP = {"prompt": ["b", "b", "a", "a"], "seed": [10, 9, 10, 9]}


def labels(axis):
    return [" / ".join(parts) for parts in axis.labels]


def cells(grid):
    n_rows, n_columns = grid.shape
    return [[grid.positions(row, column) for column in range(n_columns)] for row in range(n_rows)]


def test_prompts_stand_down_and_seeds_across():
    """Texts in the order of the table, numbers sorted as numbers."""
    grid = lay_out(results(SWEEP))
    assert (labels(grid.rows), labels(grid.columns)) == (["b", "a"], ["9", "10"])
    assert cells(grid) == [[[1], [0]], [[3], [2]]]


def test_missing_combinations_are_empty_cells():
    """A table that is no full product has gaps."""
    grid = lay_out(results(SWEEP).iloc[[0, 3]])
    assert cells(grid) == [[[], [0]], [[1], []]]


def test_seeds_stay_the_columns_where_counting_them_needs_as_many():
    """One prompt with many seeds beside others with the first of them; seeds that nobody shares are counted."""
    prompts = ["a", "a", "a", "a", "b", "c", "d", "e", "f"]
    shared = lay_out(results({"prompt": prompts, "seed": [1, 2, 3, 4, 1, 1, 1, 1, 1]}), ..., ...)
    assert (shared.columns.names, labels(shared.columns)) == (("seed",), ["1", "2", "3", "4"])
    other = lay_out(results({"prompt": prompts, "seed": range(9)}), ..., ...)
    assert (other.columns.names, other.shape) == (("number",), (6, 4))


def test_a_sample_of_a_product_stands_side_by_side():
    """A line for each job, where numbers would leave mostly gaps beside many combinations of inputs."""
    taken = {
        "prompt": list("aabbcdddde"),
        "image": list("yyxyxxyyyy"),
        "seed": [1, 4, 1, 2, 1, 1, 1, 3, 4, 1],
    }
    grid = lay_out(results(taken), ..., ...)
    assert (grid.rows.names, grid.shape) == (("prompt", "image", "seed"), (10, 1))
    assert labels(grid.rows)[:2] == ["a / y / seed 1", "a / y / seed 4"]


def test_pictures_that_are_only_counted_say_what_they_are():
    """A number tells nothing apart; neither does one column, whose rows stand side by side with their labels."""
    grid = lay_out(results({**SWEEP, "prompt": ["a", "b", "c", "d"]}), "seed", None)
    assert [entry.caption for entry in grid.shown()] == ["prompt b", "prompt d", "prompt a", "prompt c"]
    assert labels(lay_out(results({"prompt": "a", "seed": [7, 8]}), "seed", "prompt").rows) == [
        "seed 7",
        "seed 8",
    ]


def test_drawn_seeds_are_counted():
    """Seeds that were drawn differ in every row; they stand side by side, and each cell tells its own."""
    table = results({"prompt": ["a", "a", "b", "b"], "seed": [None, -1, None, 7]}, seed_sent=[11, 12, 13, 7])
    grid = lay_out(table)
    assert labels(grid.columns) == ["7", "drawn 1", "drawn 2"]
    assert cells(grid) == [[[], [0], [1]], [[3], [2], []]]
    assert [entry.caption for entry in grid.shown()] == ["seed 11", "seed 12", "", "seed 13"]


def test_a_row_that_was_never_sent_stands_where_its_table_has_its_seed():
    """An invalid row has a seed, unless that is what is wrong with it."""
    seeds = pd.Series([1, 2, "2", 1.5, 2**70], dtype=object)
    grid = lay_out(results({"prompt": list("aabcd"), "seed": seeds}, seed_sent=[1, 2, None, None, None]))
    assert labels(grid.columns) == ["1", "2", "drawn 1"]
    assert cells(grid) == [[[0], [1], []], [[], [2], []], [[], [], [3]], [[], [], [4]]]


@pytest.mark.parametrize(
    "dtype", ["int64[pyarrow]", "double[pyarrow]", "string", "category", "Float32", pd.SparseDtype("int64")]
)
def test_seeds_of_any_dtype_are_columns(dtype):
    """Arrow's numbers, which pandas reads with dtype_backend="pyarrow", can less than its own."""
    table = results({"prompt": ["a", "a"], "seed": pd.Series([10, 9]).astype(dtype)}, seed_sent=[10, 9])
    assert labels(lay_out(table).columns) == ["9", "10"]


def test_a_table_without_its_seeds_tells_them_by_those_that_recur():
    """Where the column seed was dropped, seeds met twice are lines, and others are taken as drawn."""
    kept = results({"prompt": ["a", "b"]}, seed_sent=[5, 5])
    assert labels(lay_out(kept).columns) == ["5"]
    assert labels(lay_out(kept.assign(seed_sent=[5, 6])).columns) == ["drawn 1"]


def test_seeds_beyond_what_floats_hold_stay_apart():
    """Two seeds that are one as floats are two columns."""
    seeds = pd.array([2**62, 2**62 + 1], dtype="Int64")
    grid = lay_out(results({"prompt": "a", "seed": seeds}))
    assert labels(grid.columns) == [str(2**62), str(2**62 + 1)]


def test_axes_are_any_columns_and_nest():
    """Several columns make one axis, grouped by the first of them."""
    own = {
        "prompt": ["a", "b"] * 2,
        "size": ["1:1", "1:1", "16:9", "16:9"],
        "seed": 1,
        "note": [1.5, None, 1.5, 2.0],
    }
    grid = lay_out(results(own), ["prompt", "size"], ["note"])
    assert labels(grid.rows) == ["a / 1:1", "a / 16:9", "b / 1:1", "b / 16:9"]
    assert labels(grid.columns) == ["1.5", "2", "(none)"]


def test_size_is_given_by_width_and_height():
    """Where the table has no column size, its width and height are it; failing that, the picture's."""
    own = {"prompt": "a", "seed": [1, 1]}
    sized = results(own | {"width": [512, 640], "height": 512})
    assert labels(lay_out(sized, "prompt", "size").columns) == ["512x512", "640x512"]
    received = results(own, output_width=[512, None], output_height=[512, None])
    assert labels(lay_out(received, "prompt", "size").columns) == ["512x512", "(none)"]


def test_pictures_are_an_axis_by_what_they_are():
    """Paths by their names, told apart where those are alike; pictures in memory by content."""
    one = Image.new("RGB", (8, 8))
    own = {
        "prompt": "a",
        "seed": 1,
        "image": ["x/fox.png", "y/fox.png", b"GIF89a", bytearray(b"GIF89a"), one],
    }
    grid = lay_out(results(own), "image", "seed")
    assert labels(grid.rows) == ["fox.png (1)", "fox.png (2)", "picture (3)", "picture (4)"]
    assert grid.positions(2, 0) == [2, 3]


def test_without_columns_what_stands_in_a_line_is_counted():
    """And without rows there is one line."""
    table = results(SWEEP)
    assert cells(lay_out(table, "prompt", None)) == [[[0], [1]], [[2], [3]]]
    grid = lay_out(table, None, None)
    assert cells(grid) == [[[0], [1], [2], [3]]]
    assert grid.rows.names == ()


def test_rows_in_one_cell_are_distinguished():
    """By the columns of the user's own in which they differ, and by no others."""
    own = {"prompt": "a", "seed": 1, "size": ["1:1", "16:9"], "note": "same"}
    table = results(own)
    assert [entry.caption for entry in lay_out(table).entries(0, 0)] == ["size 1:1", "size 16:9"]
    assert [entry.caption for entry in lay_out(table).entries(0, 0, n_max=1)] == ["size 1:1"]
    rated = table.assign(rating=[5.0, 1.0], picked=pd.array([True, None], dtype="boolean"))
    assert [entry.caption for entry in lay_out(rated).entries(0, 0)] == ["size 1:1", "size 16:9"]


def test_every_status_is_reported_with_its_reason():
    """Class and message of what failed, and why a picture was not saved."""
    table = results(
        {"prompt": "a", "seed": range(5)},
        status=["failed", "completed", "completed", "pending", "invalid"],
        error_class=["task_lost", None, None, None, "invalid"],
        error_message=["not found\x1b[31m", None, None, None, "seed: odd"],
        output_error=[None, "HTTP 404", None, None, None],
        output_path=[None, None, "images/a.jpg", None, None],
        duplicate_of=[None, None, 1, None, None],
        cost=["0", "0.5", "0", None, None],
    )
    entries = lay_out(table).shown()
    assert [entry.kind for entry in entries] == ["failed", "unsaved", "picture", "pending", "invalid"]
    notes = [r"task_lost: not found\x1b[31m", "HTTP 404", "", "", "seed: odd"]
    assert [entry.note for entry in entries] == notes
    assert [entry.duplicate_of for entry in entries] == [None, None, 1, None, None]
    assert entries[1].title == "a, seed 1, HTTP 404, $0.50"
    assert ("cost", "$0.50") in entries[1].facts


def test_any_index_is_taken():
    """Rows are told by their labels, also where two are alike, or of several levels."""
    index = pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 2), ("y", 3)])
    grid = lay_out(results(SWEEP, index=index))
    assert grid.entry(2).row == "y, 2"
    assert cells(grid) == [[[1], [0]], [[3], [2]]]


def test_pages_cover_the_grid():
    """Across first, then down; each cell is on one page."""
    own = {"prompt": [f"p{row}" for row in range(5) for _ in range(3)], "seed": list(range(3)) * 5}
    grid = lay_out(results(own))
    pages = [grid.page(number, 2, 2) for number in range(1, 7)]
    assert [(page.shown_rows, page.shown_columns) for page in pages[:3]] == [
        (range(2), range(2)),
        (range(2), range(2, 3)),
        (range(2, 4), range(2)),
    ]
    assert {page.n_pages for page in pages} == {6}  # the last one is shorter
    assert sorted(entry.position for page in pages for entry in page.shown()) == list(range(15))
    assert len(grid.shown()) == 15
    with pytest.raises(UsageError, match="pages 1 to 6"):
        grid.page(7, 2, 2)


def test_an_empty_table_is_an_empty_grid():
    """One page, without a line."""
    grid = lay_out(results({"prompt": [], "seed": []}))
    assert (grid.shape, grid.n_pages, grid.page(1, 5, 5).shown()) == ((0, 0), 1, [])


@pytest.mark.parametrize(
    ("rows", "across", "words"),
    [
        ("promt", "seed", "no column 'promt'; did you mean 'prompt'"),
        ("prompt", ["prompt"], "named twice"),
        ("prompt", "size", "has no size"),
    ],
)
def test_axes_that_can_not_be_are_refused(rows, across, words):
    """With the name, and those that there are."""
    with pytest.raises(UsageError, match=words):
        lay_out(results(SWEEP).drop(columns="output_width"), rows, across)


def test_a_table_without_results_is_refused():
    """What run() and load() give is asked for, each column once."""
    with pytest.raises(UsageError, match="no 'status' column"):
        lay_out(pd.DataFrame(SWEEP))
    table = results(SWEEP)
    with pytest.raises(UsageError, match="Two columns are named 'seed'"):
        lay_out(pd.concat([table, table[["seed"]]], axis=1))


def test_half_characters_tell_cells_apart():
    """Pandas can't make text of them."""
    notes = pd.Series([f"\ud83d{n}" for n in range(len(results(SWEEP)))], dtype=object)
    grid = lay_out(results(SWEEP).assign(note=notes), "note", "seed")
    assert grid.rows.labels[0] == ("\\ud83d0",)
    assert len(grid.rows) == len(notes)


VALUES = st.one_of(
    st.none(), st.integers(0, 3), st.booleans(), st.text(max_size=2), st.just([1]), st.just(b"x")
)


@pytest.mark.no_cover
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, st.one_of(st.none(), st.integers(-1, 3))), max_size=12))
def test_every_row_stands_in_one_cell(lines):
    """Whatever the table holds, no row is lost and none stands twice."""
    own = {
        name: pd.Series([line[n] for line in lines], dtype=object) for n, name in enumerate(("prompt", "tag"))
    }
    seeds = pd.array([line[2] for line in lines], dtype="Int64")
    table = results(own | {"seed": seeds}, seed_sent=seeds)
    for axes in (("prompt", "seed"), ("prompt", ["tag", "seed"]), (None, "tag"), ("seed", None)):
        entries = lay_out(table, *axes).shown()
        assert sorted(entry.position for entry in entries) == list(range(len(lines)))


def test_on_paper_each_job_has_a_cell_of_its_own():
    """Jobs that would share one are counted across; rows of one job are one, and rows without a job are not."""
    own = {"prompt": ["a", "a", "a", "a", "b"], "seed": 1}
    grid = lay_out(results(own, job_id=["j1", "j2", "j1", None, "j3"]), is_spread=True)
    assert labels(grid.columns) == ["seed 1 / number 1", "seed 1 / number 2", "seed 1 / number 3"]
    assert cells(grid) == [[[0, 2], [1], [3]], [[4], [], []]]
    assert lay_out(results(own, job_id=["j1", "j1", "j1", "j1", "j3"]), is_spread=True).shape == (2, 1)
