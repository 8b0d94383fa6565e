"""The contact sheet: every saved picture once, labelled, whatever else is wrong."""

from __future__ import annotations

import re
import subprocess

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFont

from dreamo_batch import fonts
from dreamo_batch.display import grid as grids
from dreamo_batch.display import sheet as sheets
from dreamo_batch.display.sheet import MARGIN, Layout, contact_sheet
from dreamo_batch.errors import UsageError
from tests.chinese_fonts import chinese_fonts
from tests.grids import draw
from tests.grids import results as grid_results

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def run_dir(tmp_path):
    for name, colour, size in (("red.png", RED, (64, 64)), ("blue.webp", BLUE, (128, 32))):
        Image.new("RGB", size, colour).save(tmp_path / name, lossless=True)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return tmp_path


def results(*paths, prompt="a fox"):
    return pd.DataFrame({"prompt": prompt, "scene": "snow", "seed_sent": 7, "output_path": list(paths)})


def colours(path, at_least=200):
    with Image.open(path) as sheet:
        counted = sheet.convert("RGB").getcolors(sheet.width * sheet.height)
    return {colour for n, colour in counted if n >= at_least}


def test_every_picture_is_shown_once(run_dir):
    """Two rows with one picture are one; damaged files are drawn as such, and not counted."""
    table = results("red.png", "blue.webp", "red.png", None, "broken.jpg", "gone.png")
    assert contact_sheet(table, run_dir / "sheet.png", run_dir=run_dir) == 2
    assert {RED, BLUE, (213, 94, 0)} <= colours(run_dir / "sheet.png")
    with Image.open(run_dir / "sheet.png") as sheet:
        assert sheet.width == 1340  # four of them
        assert sheet.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_rows_without_a_picture_are_reported_below(run_dir):
    """By what became of them; a sheet of which nothing is missing has no such line."""
    table = results("red.png", None, None, None).assign(
        status=["completed", "failed", "in_progress", "failed"]
    )
    drawn = sheets._PlainSheet(table, [run_dir] * 4, {"prompt": ""}, fonts.Fonts())
    assert drawn._foot == "without a picture: 2 failed, 1 in progress"
    (page,) = drawn.pages(lambda: None)
    (whole,) = sheets._PlainSheet(table[:1], [run_dir], {"prompt": ""}, fonts.Fonts()).pages(lambda: None)
    assert page.height > whole.height


@pytest.mark.parametrize("prompt", ["a fox in the snow, " * 42, "word" * 200, "x" * 800, "海边的小屋" * 130])
def test_captions_are_whole(run_dir, prompt):
    """The longest prompt that the service is known to take is not cut."""
    letters = fonts.Fonts()
    table = results("red.png", prompt=prompt)
    drawn = sheets._PlainSheet(table, [run_dir], {"prompt": ""}, letters)
    (row,) = table.to_dict("records")
    lines = drawn.caption(row)
    told = "".join(line for line, _ in lines[:-1])
    assert "".join(told.split()) == "".join(letters.drawable(prompt).split())
    assert all(font.getlength(line) <= 320 for line, font in lines)
    assert next(drawn.pages(lambda: None)).height >= 320 + 18 * len(lines)


def test_what_is_no_table_of_results_or_no_file_is_refused(run_dir):
    """In words; a sheet without axes needs the pictures only."""
    table = results("red.png")
    with pytest.raises(UsageError, match="no 'output_path' column"):
        contact_sheet(table[["prompt"]], run_dir / "sheet.png")
    (run_dir / "folder.png").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        contact_sheet(table, run_dir / "folder.png")
    few = table.drop(columns="seed_sent")
    assert contact_sheet(few, run_dir / "sheet.png", run_dir=run_dir) == 1


def test_nothing_to_show_is_no_file(run_dir):
    """Neither an empty sheet nor a half one is left behind."""
    assert contact_sheet(results("gone.png"), run_dir / "sheet.png", run_dir=run_dir) == 0
    assert not (run_dir / "sheet.png").exists()


@pytest.mark.parametrize(("n", "size"), [(1, (344, 384)), (4, (1340, 384)), (5, (1340, 756))])
def test_pictures_stand_four_across(run_dir, n, size):
    """A sheet is as wide as it needs to be."""
    for number in range(n):
        Image.new("RGB", (32, 32), RED).save(run_dir / f"{number}.png")
    contact_sheet(results(*(f"{number}.png" for number in range(n))), run_dir / "sheet.png", run_dir=run_dir)
    with Image.open(run_dir / "sheet.png") as sheet:
        assert sheet.size == size


def test_rows_of_wide_pictures_are_no_taller_than_those(run_dir):
    """The size of four square ones stands above."""
    for number in range(4):
        Image.new("RGB", (32, 16), RED).save(run_dir / f"{number}.png")
    contact_sheet(results(*(f"{number}.png" for number in range(4))), run_dir / "sheet.png", run_dir=run_dir)
    with Image.open(run_dir / "sheet.png") as sheet:
        assert sheet.size == (1340, 384 - 160)


@pytest.mark.parametrize("prompt", ["a fox " * 60, "雪山上的狐狸", "fox\n\x1b[31m", ""])
def test_any_prompt_can_stand_below(run_dir, prompt):
    """Long ones are cut, and what the font has no letters for is left out."""
    table = results("red.png", prompt=prompt)
    assert contact_sheet(table, run_dir / "sheet.png", run_dir=run_dir, labels=["scene", "prompt"]) == 1
    assert RED in colours(run_dir / "sheet.png")


def test_captions_tell_pictures_of_the_same_prompt_and_seed_apart(run_dir):
    """By whatever differs between them, a picture by its file's name; what all share isn't repeated."""
    table = results("red.png", "blue.png", prompt="snow").assign(
        seed=7, image=[["a/fox.png", "a/cup.jpg"], ["a/fox.png"]], ref_type="IP", scene=["x", "y"]
    )
    drawn = sheets._PlainSheet(table, [run_dir] * 2, grids.telling_apart(table), fonts.Fonts())
    captions = [[line for line, _ in drawn.caption(row)] for row in table.to_dict("records")]
    assert captions == [
        ["snow", "scene x", "image fox.png + cup.jpg", "seed 7"],
        ["snow", "scene y", "image fox.png", "seed 7"],
    ]
    assert grids.telling_apart(table[:1]) == {"prompt": ""}


def test_each_picture_stands_above_its_own_caption(run_dir):
    """In the order of the table."""
    table = results("red.png", "blue.webp").assign(prompt=["a fox", "a fox in the snow, " * 20])
    (page,) = sheets._PlainSheet(table, [run_dir] * 2, {"prompt": ""}, fonts.Fonts()).pages(lambda: None)
    halves = np.split(np.asarray(page)[:, : page.width // 2 * 2], 2, axis=1)
    shows = [[(half == colour).all(axis=2).any() for colour in (RED, BLUE)] for half in halves]
    assert shows == [[True, False], [False, True]]
    last_ink = [np.flatnonzero((half.max(axis=2) < 100).any(axis=1))[-1] for half in halves]
    assert last_ink[0] < last_ink[1] - 50


@pytest.mark.parametrize("labels", [["seed", "prompt"], ["prompt", "seed_sent"], "prompt"])
def test_the_seed_stands_once_below_a_picture(run_dir, monkeypatch, labels):
    """Also where it is one of the columns to write."""
    drawn, caption = [], sheets._PlainSheet.caption
    monkeypatch.setattr(sheets._PlainSheet, "caption", lambda *own: drawn.append(caption(*own)) or drawn[0])
    contact_sheet(results("red.png").assign(seed=-1), run_dir / "sheet.png", run_dir=run_dir, labels=labels)
    assert [line for line, _ in drawn[0]] == ["a fox", "seed 7"]


@pytest.mark.parametrize(("n_across", "n_pages"), [(1, 60), (4, 3), (12, 1)])
def test_a_pdf_without_axes_has_pages_for_paper(run_dir, n_across, n_pages):
    """Rather than one that is as long as a hundred pictures."""
    for number in range(60):
        (run_dir / f"{number}.png").hardlink_to(run_dir / "red.png")
    table = results(*(f"{number}.png" for number in range(60)))
    assert contact_sheet(table, run_dir / "sheet.pdf", run_dir=run_dir, n_across=n_across) == 60
    pdf = (run_dir / "sheet.pdf").read_bytes()
    assert int(re.findall(rb"/Count (\d+)", pdf)[-1]) == n_pages
    boxes = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+)", pdf)
    assert max(float(height) / float(width) for width, height in boxes) <= 1.02 * 297 / 210


@pytest.mark.parametrize("prompt", ["a fox", "雪山上的狐狸"])
def test_only_letters_without_a_font_are_left_out(run_dir, prompt):
    """One that no font has does not take the others with it."""
    sheets = [run_dir / "with.png", run_dir / "without.png"]
    for sheet, text in zip(sheets, (f"{prompt}\U0010fffe", prompt), strict=True):
        contact_sheet(results("red.png", prompt=text), sheet, run_dir=run_dir)
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_no_more_than_a_hundred_on_a_page(run_dir):
    """Each page of a large run stays a picture that can be opened; none of the pictures is left out."""
    names = [f"{number}.png" for number in range(101)]
    for name in names:
        (run_dir / name).hardlink_to(run_dir / "red.png")
    assert contact_sheet(results(*names), run_dir / "sheet.png", run_dir=run_dir) == 101
    assert (run_dir / "sheet-2.png").exists()
    assert contact_sheet(results(*names), run_dir / "sheet.pdf", run_dir=run_dir, n_across=12) == 101
    pdf = (run_dir / "sheet.pdf").read_bytes()
    assert re.findall(rb"/Count (\d+)", pdf)[-1] == b"2"
    assert "sheet".encode("utf-16-be") in pdf  # its title
    assert "partial".encode("utf-16-be") not in pdf


# With axes.

CHINESE = "雪山上的狐狸"


def sweep(folder, n_rows=2, n_columns=3, **own):
    names = [draw(folder, f"{n}.png", (n % 200, 40, 90)) for n in range(n_rows * n_columns)]
    prompts = [f"prompt {row}" for row in range(n_rows) for _ in range(n_columns)]
    return grid_results(
        {"prompt": prompts, "seed": list(range(n_columns)) * n_rows, **own}, output_path=names
    )


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without a font for Chinese."""
    monkeypatch.setattr(fonts, "machine_fonts", lambda: ())


def test_a_grid_has_every_picture_and_a_box_for_every_other_cell(tmp_path):
    """Failed, gone and missing cells are drawn; the count is that of pictures."""
    table = sweep(tmp_path).drop(index=5)
    table.loc[0, ["status", "error_class", "output_path"]] = ["failed", "task_lost", None]
    (tmp_path / "1.png").unlink()
    assert contact_sheet(table, tmp_path / "sheet.png", run_dir=tmp_path, rows="prompt", columns="seed") == 3
    found = colours(tmp_path / "sheet.png", at_least=20_000)
    assert {(2, 40, 90), (3, 40, 90), (4, 40, 90), (251, 239, 230)} <= found
    assert (0, 40, 90) not in found


@pytest.mark.parametrize(
    ("name", "start"), [("s.png", b"\x89PNG"), ("s.jpg", b"\xff\xd8"), ("s.pdf", b"%PDF")]
)
def test_a_grid_is_written_by_its_ending(tmp_path, name, start):
    """As a picture or for print."""
    contact_sheet(sweep(tmp_path), tmp_path / name, run_dir=tmp_path, rows="prompt", title="Foxes")
    assert (tmp_path / name).read_bytes().startswith(start)
    contact_sheet(sweep(tmp_path), tmp_path / name, run_dir=tmp_path)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_large_grid_takes_several_pages(tmp_path):
    """All in one PDF, or in files that are numbered; no picture is lost."""
    table = sweep(tmp_path, 11, 7)
    axes = {"rows": "prompt", "columns": "seed"}
    assert contact_sheet(table, tmp_path / "s.pdf", run_dir=tmp_path, **axes) == 77
    n_pages = int(re.findall(rb"/Count (\d+)", (tmp_path / "s.pdf").read_bytes())[-1])
    assert contact_sheet(table, tmp_path / "s.jpg", run_dir=tmp_path, **axes) == 77
    names = sorted(path.name for path in tmp_path.glob("s*.jpg"))
    assert len(names) == n_pages > 1
    assert names == [*(f"s-{number}.jpg" for number in range(2, n_pages + 1)), "s.jpg"]


def test_a_grid_of_one_column_fills_the_paper(tmp_path):
    """Its rows stand side by side, each with its label and references below; a picture ends where the grid does."""
    table = sweep(tmp_path, 12, 1)
    table["image"] = table["output_path"].map(lambda name: str(tmp_path / name))
    assert contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, rows="prompt", columns="seed") == 12
    assert not (tmp_path / "s-2.png").exists()
    contact_sheet(table[:2], tmp_path / "two.png", run_dir=tmp_path, rows="prompt", columns="seed")
    with Image.open(tmp_path / "s.png") as sheet, Image.open(tmp_path / "two.png") as two:
        assert two.width < sheet.width <= sheets.PAPERS["a4"][0]
        assert {(0, 40, 90), (1, 40, 90), (11, 40, 90)} <= colours(tmp_path / "s.png", 100 * 100)


def test_paper_and_endings_that_there_are_not_are_refused(tmp_path):
    """With those that there are."""
    with pytest.raises(UsageError, match="'a4', 'letter'"):
        contact_sheet(sweep(tmp_path), tmp_path / "s.png", run_dir=tmp_path, rows="prompt", paper="a3")
    with pytest.raises(UsageError, match=r"\.png, \.jpg"):
        contact_sheet(sweep(tmp_path), tmp_path / "s.tiff", run_dir=tmp_path)
    with pytest.raises(UsageError, match=r"No folder .*none to write s\.png to"):
        contact_sheet(sweep(tmp_path), tmp_path / "none" / "s.png", run_dir=tmp_path)
    with pytest.raises(UsageError, match="labels: no column 'prompts'; did you mean 'prompt'"):
        contact_sheet(sweep(tmp_path), tmp_path / "s.png", run_dir=tmp_path, labels="prompts")
    with pytest.raises(UsageError, match="font"):
        contact_sheet(sweep(tmp_path), tmp_path / "s.png", run_dir=tmp_path, font=tmp_path / "0.png")


@pytest.mark.parametrize("paper", ["a4", "letter"])
@pytest.mark.parametrize("n_columns", [1, 2, 4, 5, 10, 11, 40])
@pytest.mark.parametrize("aspect", [0.1, 0.43, 1.0, 2.3, 9.0])
def test_a_page_holds_what_it_is_to_hold(paper, n_columns, aspect):
    """Nothing reaches over an edge, and cells stay large enough to see."""
    wanted = {"aspect": aspect, "paper": paper, "head": 266, "caption": 56}
    for layout in (Layout(50, n_columns, **wanted), Layout(50, 1, is_one_column=True, is_cut=True, **wanted)):
        assert layout.left(layout.n_columns - 1) + layout.cell_width <= layout.width - MARGIN
        assert layout.top + layout.n_rows * layout.row_step <= layout.height - MARGIN
        assert layout.cell_width >= 200


def test_without_a_font_labels_become_codes(tmp_path, no_fonts):
    """Drawn short, told in a file beside the sheet, which goes when it is no longer needed."""
    table = sweep(tmp_path)
    table["prompt"] = [CHINESE] * 3 + ["fox"] * 3
    axes = {"rows": "prompt", "columns": "seed"}
    contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, **axes, title=CHINESE)
    legend = (tmp_path / "s.png.legend.csv").read_text(encoding="utf-8-sig").splitlines()
    assert legend == ["code,label", f"T1,{CHINESE}"]  # one code for one text, wherever it stands
    contact_sheet(sweep(tmp_path), tmp_path / "s.png", run_dir=tmp_path, **axes)
    assert not (tmp_path / "s.png.legend.csv").exists()


def test_with_a_font_chinese_is_drawn(tmp_path):
    """In letters, and no legend is needed."""
    chinese = chinese_fonts()
    table = sweep(tmp_path).assign(prompt=CHINESE)
    contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, rows="prompt", columns="seed")
    assert not (tmp_path / "s.png.legend.csv").exists()
    assert fonts.Fonts(chinese[0]).font_for(CHINESE, 20) is not None


def test_letters_are_known_to_be_lacking(no_fonts):
    """The built-in font draws Latin, and is not taken for one that draws Chinese."""
    letters = fonts.Fonts()
    assert letters.font_for('a fox, "far" away: 100 % …', 20) is not None
    assert letters.font_for(CHINESE, 20) is None
    dejavu = fonts.Fonts(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    assert dejavu.drawable("a \u0e2a\u0e38\u0e31\u0e49 b") == "a b"  # Thai, with its vowels and tones


@pytest.mark.parametrize("answer", ["", "/nowhere/font.ttf"])
def test_a_machine_that_knows_of_no_font_has_none(monkeypatch, answer):
    """What fontconfig says is believed only if it is there and has the letters."""
    monkeypatch.setattr(fonts, "_KNOWN", {"folders": (), "names": (), "paths": ()})
    answered = subprocess.CompletedProcess([], 0, stdout=answer)
    monkeypatch.setattr(fonts.subprocess, "run", lambda *_, **__: answered)
    monkeypatch.setattr(fonts.shutil, "which", lambda _: "/usr/bin/fc-match" if answer else None)
    assert fonts.machine_fonts.__wrapped__() == ()


@pytest.mark.parametrize("text", ["", "a", "a fox " * 50, "word" * 90, CHINESE * 30, "a" * 5_000])
def test_lines_fit_and_lose_nothing_before_they_are_full(text):
    """Broken between words where there are any; what does not fit is cut, and that is said."""
    font = ImageFont.load_default(20)
    lines = fonts.wrapped(text, font, 120, 3)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= 120 for line in lines)
    told = "".join(lines).replace(" ", "")
    whole = text.replace(" ", "")
    assert told == whole or (told.endswith("…") and whole.startswith(told[:-1]))


def test_no_line_of_chinese_begins_with_a_comma_or_ends_with_an_open_bracket():
    font = ImageFont.load_default(20)
    text = "\u4e00\u53ea\u5c0f\u732b\uff0c\u5728\u6d77\u8fb9\uff08\u591c\uff09\u3002"
    lines = fonts.wrapped(text, font, round(font.getlength("\u4e00" * 4)) + 1, 9)
    assert lines == ["\u4e00\u53ea\u5c0f", "\u732b\uff0c\u5728\u6d77", "\u8fb9", "\uff08\u591c\uff09\u3002"]


def test_references_and_further_rows_of_a_cell_have_their_place(tmp_path):
    """Beside rows, over columns or once at the top; rows that would share a cell stand side by side."""
    draw(tmp_path, "r1.png", (250, 250, 0), size=(300, 300))
    draw(tmp_path, "r2.png", (0, 250, 250), size=(300, 300))
    first, second = str(tmp_path / "r1.png"), str(tmp_path / "r2.png")
    table = sweep(tmp_path, image=[first] * 3 + [second] * 3, tag=range(6))
    sheet = tmp_path / "s.png"
    for axes in (
        {"rows": "prompt", "columns": "seed"},
        {"rows": "seed", "columns": "image"},
        {"rows": "image"},
    ):
        contact_sheet(table, sheet, run_dir=tmp_path, **axes)
        assert {(250, 250, 0), (0, 250, 250)} <= colours(sheet, at_least=10_000)
    for images in ([[first, second]] * 6, [[first, second]] * 3 + [[first]] * 3):
        contact_sheet(table.assign(image=images), sheet, run_dir=tmp_path, rows="prompt", columns="seed")
        assert {(250, 250, 0), (0, 250, 250)} <= colours(sheet, at_least=10_000)
    crowded = contact_sheet(table.assign(image=first), sheet, run_dir=tmp_path, rows="image", columns=[])
    assert crowded == 6
    assert (250, 250, 0) in colours(sheet, at_least=10_000)
    assert (
        contact_sheet(
            table.assign(prompt="a", seed=1, seed_sent=1),
            sheet,
            run_dir=tmp_path,
            rows="prompt",
            columns="seed",
        )
        == 6
    )


@pytest.mark.parametrize("prompt", ["a fox in the snow, " * 42, "word" * 200])
@pytest.mark.parametrize(
    "axes", [{"rows": "prompt", "columns": "seed"}, {"rows": "seed", "columns": "prompt"}]
)
def test_labels_of_a_grid_are_whole(tmp_path, prompt, axes):
    """In small letters where there is room for it, else below the grid, and never beyond an edge."""
    table = sweep(tmp_path, 2, 5)
    table["prompt"] += prompt
    contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, **axes)
    legend = tmp_path / "s.png.legend.csv"
    assert legend.exists() == (axes["columns"] == "prompt")
    if legend.exists():
        assert prompt.strip() in legend.read_text(encoding="utf-8-sig")
    with Image.open(tmp_path / "s.png") as sheet:
        edge = sheet.convert("L").crop((sheet.width - 30, 0, sheet.width, sheet.height))
        assert edge.getextrema() == (255, 255)


class OneScriptEach(fonts.Fonts):
    """Has Chinese letters in one font and Latin ones in another."""

    def font_for(self, text, size_px):
        scripts = {letter in CHINESE for letter in text if letter > " "}
        return None if len(scripts) > 1 else ImageFont.load_default(size_px)


def test_labels_that_no_font_has_together_have_lines_of_their_own(run_dir):
    table = results("red.png", prompt=CHINESE[:3])
    drawn = sheets._PlainSheet(table, [run_dir], {"prompt": "", "scene": ""}, OneScriptEach())
    (row,) = table.to_dict("records")
    assert [line for line, _ in drawn.caption(row)] == [CHINESE[:3], "snow", "seed 7"]


def test_codes_are_explained_on_each_page(tmp_path, no_fonts, monkeypatch):
    """That of the title, too."""
    feet = []
    monkeypatch.setattr(sheets._GridSheet, "_with_foot", lambda _, page, __, foot: feet.append(foot) or page)
    table = sweep(tmp_path, 9, 2).assign(prompt=[f"{CHINESE} {n // 2}" for n in range(18)])
    axes = {"rows": "prompt", "columns": "seed"}
    contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, **axes, title=CHINESE)
    codes = [[line.partition(":")[0] for line in foot[:-1]] for foot in feet]
    assert [foot[0] for foot in codes] == ["T1"] * len(feet)
    assert [code for foot in codes for code in foot[1:]] == [f"P{n}" for n in range(1, 10)]


def test_a_long_legend_makes_the_page_longer(tmp_path, no_fonts):
    """What the codes stand for is never cut off at the end of the paper."""
    table = sweep(tmp_path, 4, 2)
    table["prompt"] = [f"{CHINESE} {'a long prompt ' * 50} {n}" for n in (0, 0, 1, 1, 2, 2, 3, 3)]
    contact_sheet(table, tmp_path / "s.pdf", run_dir=tmp_path, rows="prompt", columns="seed")
    contact_sheet(table, tmp_path / "s.png", run_dir=tmp_path, rows="prompt", columns="seed")
    with Image.open(tmp_path / "s.png") as sheet:
        below = sheet.convert("L").crop((0, sheet.height - 40, sheet.width, sheet.height))
        assert below.getextrema() == (255, 255)
        assert sheet.height > 0


@pytest.mark.parametrize("axes", [{}, {"rows": ..., "columns": ...}])
def test_the_limit_of_pixels_of_the_user_changes_nothing(tmp_path, monkeypatch, axes):
    """Neither a picture nor a caption is too large for a sheet."""
    fonts._has.cache_clear()
    fonts.machine_fonts.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert contact_sheet(sweep(tmp_path), tmp_path / "s.png", run_dir=tmp_path, **axes) == 6
