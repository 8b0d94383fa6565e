"""The gallery: what it draws, that it says no more than it should, and what it weighs."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.display import gallery as galleries
from dreamo_batch.display.gallery import UNFOLDED_MAX, gallery
from dreamo_batch.display.grid import THUMBNAIL_BYTES_MAX, make_thumbnail, thumbnails_of
from dreamo_batch.engine.picture_cache import PictureFile
from dreamo_batch.errors import UsageError
from tests.grids import BLUE, GREEN, RED, Page, draw, results

EVIL = '</script><img src=x onerror="alert(1)">\x1b[31m&'


@pytest.fixture
def table(tmp_path):
    draw(tmp_path, "reference.png", GREEN)
    own = {"image": str(tmp_path / "reference.png"), "prompt": ["a", "a", "b", "b"], "seed": [1, 2, 1, 2]}
    return results(
        own,
        status=["completed", "failed", "completed", "completed"],
        error_class=[None, "task_lost", None, None],
        output_path=[
            draw(tmp_path, "images/one.png", RED),
            None,
            "images/gone.png",
            draw(tmp_path, "two.jpg", BLUE),
        ],
        output_sha256=["1" * 64, None, "2" * 64, "3" * 64],
        job_id=["j1", "j2", "j3", "j4"],
    )


@pytest.fixture
def shown(table, tmp_path):
    return gallery(table, run_dir=tmp_path)


def test_a_cell_is_drawn_as_what_it_is(shown):
    """A picture, a failure with its reason, and a file that is gone."""
    page = Page(shown.fragment())
    assert page.kinds == ["picture", "failed", "gone", "picture"]
    assert [image["alt"] for image in page.all("img")] == [
        "reference reference.png",
        "a, seed 1",
        "b, seed 2",
    ]
    assert {"task_lost", "images/gone.png", "2 pictures", "1 failed"} <= set(page.texts)


def test_a_missing_combination_is_a_gap(table, tmp_path):
    """Said to be missing, not left out."""
    page = Page(gallery(table.drop(index=1), run_dir=tmp_path).fragment())
    assert [cell["title"] for cell in page.all("td") if cell.get("class") == "dg-none"] == [
        "not in the table"
    ]


def test_a_grid_of_one_column_uses_the_width(table, tmp_path):
    """One seed and many prompts made a long column; a column of counted pictures has no heading to tell."""
    one, counted = table[table["seed"] == 1], {"rows": "prompt", "columns": None}
    pages = [
        Page(gallery(part, run_dir=tmp_path, **axes).fragment()) for part, axes in ((one, {}), (one, counted))
    ]
    flowing = ["dg-flow" in page.all("div")[0]["class"] for page in pages]
    assert flowing == [True, True]
    assert ["hidden" in page.all("thead")[0] for page in pages] == [False, True]
    assert [gallery(part, run_dir=tmp_path, page_rows=1).n_pages for part in (table, one)] == [2, 1]
    for part in (table, one[:1]):  # both axes vary, or neither
        assert "dg-flow" not in Page(gallery(part, run_dir=tmp_path).fragment()).all("div")[0]["class"]


def test_the_reference_stands_beside_its_rows_where_they_differ(table, tmp_path):
    """Beside rows, over columns, or once."""
    draw(tmp_path, "other.png", RED)
    mixed = table.assign(image=[table["image"][0]] * 2 + [str(tmp_path / "other.png")] * 2)
    by_row = gallery(mixed, run_dir=tmp_path).fragment()
    assert re.findall(
        r'<th scope="row"><div class="dg-references"><figure><img[^>]*alt="([^"]*)"', by_row
    ) == [
        "reference reference.png",
        "reference other.png",
    ]
    over = gallery(mixed, "seed", "image", run_dir=tmp_path).fragment()
    assert over.count('<th scope="col"><div class="dg-references">') == 2
    several = mixed.assign(image=[[*mixed["image"][:1], one] for one in mixed["image"]])
    assert (
        gallery(several, "seed", "prompt", run_dir=tmp_path).fragment().count('"col"><div class="dg-ref') == 2
    )


def test_several_references_in_a_line_are_counted(table, tmp_path):
    """Three are drawn at once, the others are unfolded."""
    names = [str(tmp_path / draw(tmp_path, f"r{n}.png")) for n in range(4)]
    several = table.assign(image=[names[:2], names[2:], names[1:3], names[:1]], prompt=["a", "a", "b", "b"])
    page = Page(gallery(several, "prompt", "seed", run_dir=tmp_path).fragment())
    assert "+1 more" in page.texts
    assert "reference r3.png" in [image["alt"] for image in page.all("img")]


@pytest.mark.parametrize("kind", ["bytes", "uri", "pixels", "url", "missing", "nonsense"])
def test_a_reference_may_be_anything(table, tmp_path, kind):
    """Pictures in memory are drawn; one at a URL is named and not fetched."""
    content = (tmp_path / "reference.png").read_bytes()
    uri = "data:image/png;base64," + __import__("base64").b64encode(content).decode()
    cell = {
        "bytes": content,
        "uri": uri,
        "pixels": Image.new("RGBA", (9, 9)),
        "url": "https://example.com/a%20fox.png?key=1",
        "missing": None,
        "nonsense": 3,
    }[kind]
    with_cell = table.assign(image=pd.Series([cell] * 4, dtype=object))
    page = Page(gallery(with_cell, run_dir=tmp_path).fragment())
    n_drawn = len(page.all("img")) - 2
    assert n_drawn == (1 if kind in {"bytes", "uri", "pixels"} else 0)
    assert ("reference a fox.png" in page.texts) == (kind == "url")


def crowd(table, n, **own):
    """Repeat a row that has a picture."""
    return pd.concat([table.iloc[[0]]] * n, ignore_index=True).assign(**own)


def test_several_rows_of_a_cell_are_shown_and_the_others_unfolded(table, tmp_path):
    """Four at once, the others behind what counts them; every one is a picture, in the cell and in the count."""
    shown = gallery(crowd(table, 6, tag=range(6)), "prompt", "seed", run_dir=tmp_path)
    page = Page(shown.fragment())
    assert page.kinds == ["picture"] * 6
    assert {"+2 more", "tag 0", "tag 5", "6 pictures"} <= set(page.texts)
    assert "file missing or damaged" not in shown.to_html()
    at_once, unfolded = shown.fragment().split('<details class="dg-more">')
    assert [at_once.count("<img"), unfolded.count("<img")] == [1 + 4, 2]  # the reference, too


def test_a_cell_says_how_many_rows_it_does_not_even_unfold(table, tmp_path):
    """The count knows them as the pictures that they are, and one that is gone as gone."""
    many = crowd(table, UNFOLDED_MAX + 3)
    many.loc[UNFOLDED_MAX + 2, "output_path"] = "images/gone.png"
    shown = gallery(many, "prompt", "seed", run_dir=tmp_path)
    texts = Page(shown.fragment()).texts
    assert {f"{UNFOLDED_MAX + 2} pictures", "1 file missing or damaged", f"+{UNFOLDED_MAX - 1} more"} <= set(
        texts
    )
    assert any(text.startswith("3 more not shown here") for text in texts)
    assert "3 more not shown here" in shown.widget().content["html"]


@pytest.mark.parametrize("name", ["image", "size", "use_rephraser", "replicate", "run_dir", "tag"])
def test_columns_that_tell_rows_of_a_cell_apart_join_the_axes(table, tmp_path, name):
    """Whatever was varied, every row has a cell of its own unless the user chose the axes."""
    values = {"use_rephraser": [True, False], "replicate": [0, 1], "image": ["a.png", "b.png"]}
    varied = crowd(table, 2, **{name: values.get(name, ["1:1", "16:9"])})
    shown = gallery(varied, run_dir=tmp_path)
    assert name in (*shown.grid.rows.names, *shown.grid.columns.names)
    assert [len(shown.grid.positions(*cell)) for cell in np.ndindex(shown.grid.shape)] == [1, 1]
    assert gallery(varied, "prompt", "seed", run_dir=tmp_path).grid.shape == (1, 1)


def test_columns_that_others_determine_do_not_join(table, tmp_path):
    """One picture for each prompt is no second axis, and neither is a name for each row."""
    told = table.assign(image=["a.png", "a.png", "b.png", "b.png"], name=list("wxyz"))
    assert gallery(told, run_dir=tmp_path).grid.rows.names == ("prompt",)


def test_drawn_seeds_are_counted_for_each_picture_and_replicate(table, tmp_path):
    """What was asked for in different ways does not share a line of drawn seeds."""
    drawn = table.assign(prompt="a", seed=None, seed_sent=[7, 8, 9, 10], image=["a.png", "b.png"] * 2)
    shown = gallery(drawn, run_dir=tmp_path)
    assert shown.grid.rows.names == ("prompt", "image")
    assert shown.grid.columns.labels == (("drawn 1",), ("drawn 2",))
    again = gallery(drawn.assign(image="a.png", replicate=[0, 0, 1, 1]), run_dir=tmp_path)
    assert (again.grid.rows.names, again.grid.columns.names) == (("prompt",), ("seed", "replicate"))
    assert again.grid.columns.labels[0] == ("drawn 1", "replicate 0")


def test_seeds_that_leave_mostly_gaps_are_counted(tmp_path):
    """Each prompt with a seed of its own makes one column, and the seed stands below its picture."""
    lonely = results({"prompt": [f"p{n}" for n in range(6)], "seed": range(6)})
    shown = gallery(lonely, run_dir=tmp_path)
    assert shown.grid.shape == (6, 1)
    assert shown.grid.entries(3, 0)[0].caption == "seed 3"


def test_a_row_that_a_merge_left_without_results_says_so(table, tmp_path):
    """It is neither an error nor a picture that is gone."""
    notes = pd.DataFrame({"prompt": ["a", "b", "c"], "note": ["x", "y", "z"]})
    merged = notes.merge(table, on="prompt", how="left")
    assert "no_result" in Page(gallery(merged, run_dir=tmp_path).fragment()).kinds


def test_a_duplicate_says_so(table, tmp_path):
    """It shows the picture of the row that was bought."""
    doubled = table.assign(duplicate_of=pd.array([None, None, None, 0], dtype="Int64"))
    assert "duplicate" in Page(gallery(doubled, run_dir=tmp_path).fragment()).texts


def test_nothing_of_the_table_is_markup(table, tmp_path):
    """Prompts, labels and messages stay words, on the page, in attributes, and out of the script."""
    evil = table.assign(
        prompt=EVIL, note=EVIL, error_message=EVIL, image="https://example.com/" + EVIL, job_id=[EVIL] * 4
    )
    evil.index = pd.Index([EVIL + str(n) for n in range(4)])
    page = Page(gallery(evil, ["prompt", "note"], run_dir=tmp_path, title=EVIL).to_html())
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert len(page.all("script")) == 1
    assert EVIL.replace("\x1b", r"\x1b") in page.texts


def test_a_page_needs_no_network_and_may_not_use_one(shown):
    """Nothing is fetched, and the policy forbids it; only the script that is there may run."""
    text = shown.to_html()
    policy = next(meta["content"] for meta in Page(text).all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[\w+/=]+'", policy)
    assert not re.search(r"https?:|url\(|@import|(src|href)=\"(?!data:)", text)


@pytest.mark.parametrize("name", ["results.csv", "folder.html"])
def test_a_page_replaces_nothing_but_a_page(shown, tmp_path, name):
    """A table of the user's would be lost."""
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=r"a name that ends in \.html|is a folder"):
        shown.to_html(tmp_path / name)


def test_pictures_are_linked_where_the_page_moves_with_them(shown, tmp_path):
    """From within the run directory only."""
    inside = Page(shown.to_html(tmp_path / "gallery.html").read_text(encoding="utf-8"))
    assert [a["href"] for a in inside.all("a")] == ["images/one.png", "images/gone.png", "two.jpg"]
    (tmp_path / "a b").mkdir()
    deeper = Page(shown.to_html(tmp_path / "a b" / "gallery.html").read_text(encoding="utf-8"))
    assert deeper.all("a")[0]["href"] == "../images/one.png"
    assert Page(shown.to_html(tmp_path.parent / "elsewhere.html").read_text(encoding="utf-8")).all("a") == []
    assert (tmp_path / "gallery.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_notebook_shows_one_page_and_says_where_the_others_are(table, tmp_path):
    """Turned with page()."""
    paged = gallery(table, run_dir=tmp_path, page_rows=1, page_columns=1)
    assert "page 1 of 4" in paged._repr_html_()
    assert "rows 1 to 1 of 2, columns 1 to 1 of 2" in Page(paged._repr_html_()).texts
    assert Page(paged.page(4).fragment()).kinds == ["picture"]
    assert repr(paged) == "<gallery of 4 rows: 2 x 2 cells, prompt by seed, page 4 of 4>"
    assert repr(gallery(table[:1], run_dir=tmp_path)).startswith("<gallery of 1 row: 1 x 1 cells")
    with pytest.raises(UsageError, match="pages 1 to 4"):
        paged.page(5)
    with pytest.raises(UsageError, match="page_rows=0: expected a whole number of at least 1"):
        gallery(table, run_dir=tmp_path, page_rows=0)


def test_an_empty_table_says_so(tmp_path):
    """Rather than show nothing."""
    empty = gallery(results({"prompt": [], "seed": []}), run_dir=tmp_path)
    assert "nothing to show" in empty.fragment()
    assert "nothing to show" in empty.to_html()


def test_rows_are_chosen_by_label_or_by_mask(shown, table):
    """They come back as rows of the results, in their order."""
    assert shown.selection.empty
    assert shown.select([3, 0]).index.tolist() == [0, 3]
    assert shown.select(table["seed"] == 2)["prompt"].tolist() == ["a", "b"]
    assert shown.select(["1", "3"]).index.tolist() == [1, 3]  # as retry(rows=["1"]) takes them
    assert shown.select(None).empty
    assert shown.selection.attrs == table.attrs
    with pytest.raises(UsageError, match="Row 9 is not in the table"):
        shown.select([9])


def test_a_gallery_of_a_run_that_goes_on(tmp_path):
    """A directory is enough, and rows that are not done are shown as what they are."""
    draw(tmp_path, "reference.png")
    jobs = dreamo.sweep(image=str(tmp_path / "reference.png"), prompt="a", seed=range(3), size="512x512")
    faults = {"script": {"create": ["fail_099", "drop_after_accept"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False, max_in_flight=1)
    (tmp_path / "reference.png").rename(tmp_path / "run" / "moved.png")
    seen = dreamo.gallery(tmp_path / "run")
    assert Page(seen.fragment()).kinds == ["failed", "ambiguous", "picture"]
    assert seen.run_dir == tmp_path / "run"


def test_a_reference_that_changed_since_it_was_sent_says_so(tmp_path):
    """Where the run directory has no copy of it."""
    draw(tmp_path, "reference.png")
    jobs = dreamo.sweep(image=str(tmp_path / "reference.png"), prompt="a", seed=range(2), size="512x512")
    done = dreamo.run(jobs, tmp_path / "run", gateway="local", keep_references=False, progress=False)
    changed = "reference.png (changed since sent)"
    assert changed not in dreamo.gallery(done).fragment()
    draw(tmp_path, "reference.png", (9, 9, 9))
    assert changed in dreamo.gallery(done).fragment()


def noisy_run(folder, n_rows, n_columns, n_files=40):
    """A large grid of pictures that compress badly, as many cells as are asked for on few files."""
    noise = np.random.default_rng(1)
    names = []
    for number in range(n_files):
        Image.fromarray(noise.integers(0, 256, (320, 320, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        names.append(f"{number}.jpg")
    n = n_rows * n_columns
    own = {"prompt": np.repeat([f"{row}, " + "a long prompt " * 60 for row in range(n_rows)], n_columns)}
    paths = [names[position % n_files] for position in range(n)]
    return results(
        own | {"seed": np.tile(range(n_columns), n_rows)},
        output_path=paths,
        output_sha256=[path * 8 for path in paths],
        job_id=[f"{n:064x}" for n in range(n)],
        task_id=[f"{n:032x}" for n in range(n)],
        cost="0.028571428571",
    )


@pytest.mark.no_cover
def test_a_gallery_of_five_thousand_pictures_stays_small(tmp_path):
    """A page of all of them under 12 MB, what a notebook keeps under 3, whatever the pictures are."""
    large = gallery(noisy_run(tmp_path, 250, 20), run_dir=tmp_path)
    assert len(large._repr_html_().encode()) < 3_000_000
    page = large.to_html()
    assert page.count("<img") == 5_000
    assert len(page.encode()) < 12_000_000


def test_pictures_beyond_the_limit_are_said_to_be_left_out(table, tmp_path, monkeypatch):
    """They are not taken for gone, and what is gone is not taken for one of them."""
    monkeypatch.setattr(galleries, "EMBEDDED_MAX", 1)
    page = Page(gallery(table, run_dir=tmp_path).to_html())
    assert page.kinds == ["picture", "failed", "gone", "picture"]
    assert "picture not embedded" in page.texts


def test_thumbnails_are_made_once(tmp_path):
    """By what is kept of a picture, never for a file that is gone."""
    path = tmp_path / draw(tmp_path, "a.png", RED)
    first, again = (
        thumbnails_of([PictureFile(tmp_path, path, None)], THUMBNAIL_BYTES_MAX)[0] for _ in range(2)
    )
    assert first is again
    path.unlink()
    assert thumbnails_of([PictureFile(tmp_path, path, None)], THUMBNAIL_BYTES_MAX) == [None]


def test_thumbnails_are_small_upright_and_on_white(tmp_path):
    """At most 320 px, turned as the camera notes, transparency on white, any mode."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (600, 300), RED).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("I;16", (40, 40), 7).save(tmp_path / "deep.png")
    names = ("turned.jpg", "clear.png", "deep.png")
    upright, clear, deep = thumbnails_of(
        [PictureFile(tmp_path, tmp_path / name, None) for name in names], THUMBNAIL_BYTES_MAX
    )
    assert (upright.width, upright.height) == (160, 320)
    assert deep is not None
    import io

    assert min(Image.open(io.BytesIO(clear.content)).getpixel((20, 20))) > 250


def test_what_is_no_picture_has_no_thumbnail(tmp_path):
    """Damaged files, folders and impossible names are gone rather than an error."""
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    paths = [tmp_path / "half.jpg", tmp_path, tmp_path / "a\0b"]
    assert (
        thumbnails_of([PictureFile(tmp_path, path, None) for path in paths], THUMBNAIL_BYTES_MAX)
        == [None] * 3
    )
    assert make_thumbnail(b"no picture", 1_000) is None
