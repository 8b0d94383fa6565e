"""Exports: what other tools read back, what stays untouched, and what is refused."""

from __future__ import annotations

import base64
import codecs
import csv
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.results.export import inscribed

_LOAD = """
import hashlib, json, sys, datasets
place, options = sys.argv[1], json.loads(sys.argv[3])
data = datasets.load_dataset(place, split="train", cache_dir=sys.argv[2], **options)
lines = [dict(line) for line in data]
for line in lines:
    if hasattr(line["image"], "tobytes"):
        line["pixels"] = hashlib.sha256(line.pop("image").tobytes()).hexdigest()
print(json.dumps(lines, default=str))
"""
HOSTILE = '雨夜 | <script>alert(1)</script>\n"=cmd()" `x`'


@pytest.fixture(scope="module")
def bought(tmp_path_factory):
    """A run of two prompts by two seeds, one of them twice, with columns of the user's own."""
    folder = tmp_path_factory.mktemp("bought")
    Image.new("RGB", (64, 64), "orange").save(folder / "fox.png")
    jobs = dreamo.sweep(
        image=str(folder / "fox.png"), prompt=["on a beach", HOSTILE], seed=[1, 2**60], size="512x512"
    )
    jobs["scene|kind"] = ["a", "b", "c", "d"]
    jobs["file_name"] = "mine"
    jobs = pd.concat([jobs, jobs.head(1)], ignore_index=True)
    jobs.index = pd.Index([f"r{number}" for number in range(5)], name="label")
    with dreamo.LocalGateway(engine="flat") as gateway:
        dreamo.run(jobs, folder / "run", gateway=gateway, progress=False)
    return folder / "run"


@pytest.fixture
def run_dir(bought, tmp_path):
    """A copy of its own for each test."""
    return shutil.copytree(bought, tmp_path / "run")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "export"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def lines_of(folder):
    with (folder / "images/metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def with_format(run_dir, format_):
    """Give results whose first picture is of another format."""
    results = dreamo.load(run_dir)
    first = results.index[0]
    name = f"{results[columns.JOB_ID].iloc[0]}.{format_.lower()}"
    Image.new("RGB", (8, 8), "red").save(run_dir / "images" / name, format_)
    results.loc[first, columns.OUTPUT_PATH] = f"images/{name}"
    content = (run_dir / "images" / name).read_bytes()
    results.loc[first, columns.OUTPUT_BYTES] = len(content)
    results.loc[first, columns.OUTPUT_SHA256] = hashlib.sha256(content).hexdigest()
    return results.head(1)


def loaded_by_hugging_face(place, cache, **options):
    """Load a folder in a process of its own, since the loader leaves files open."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    command = [sys.executable, "-c", _LOAD, str(place), str(cache), json.dumps(options)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Tables.


@pytest.mark.parametrize("name", ["results.parquet", "results.csv"])
def test_rows_come_back_as_they_were(run_dir, folder, name):
    """Parquet and CSV give the results back, with the label as a column and what was submitted beside it."""
    told = dreamo.export(run_dir, folder)
    back, results = dreamo.read_table(folder / name), dreamo.load(run_dir)
    assert told == {"folder": str(folder), "rows": 5, "pictures": 4, "missing": 0}
    assert back["label"].tolist() == results.index.tolist()
    assert back["prompt"].tolist() == results["prompt"].tolist()
    given = [name for name in columns.OUTPUTS if name != "run_dir"]  # where it lay is nobody's business
    pd.testing.assert_frame_equal(back[given], results[given].reset_index(drop=True))
    assert back["width"].tolist() == [512] * 5
    assert back["use_rephraser"].tolist() == [True] * 5


def test_every_column_is_explained(run_dir, folder):
    """The dictionary has a line for each column, with unit and dtype, in CSV and for reading."""
    dreamo.export(run_dir, folder)
    described = dreamo.read_table(folder / "columns.csv").set_index("column")
    table = dreamo.read_table(folder / "results.parquet")
    assert described.index.tolist() == table.columns.tolist()
    assert described.loc["latency_s"].tolist() == ["float64", "s", columns.OUTPUTS["latency_s"].meaning]
    assert described.loc["scene|kind", "dtype"] == "str"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "\n| scene\\|kind | str |  | A column of the table" in readme
    assert "\n| `latency_s` | float64 | s | From sending" in readme


def test_formats_and_pictures_can_be_chosen(run_dir, folder):
    """One format as a word, and no pictures."""
    assert dreamo.export(run_dir, folder, formats="jsonl", pictures="none") == {
        "folder": str(folder),
        "rows": 5,
    }
    assert set(contents(folder)) == {"results.jsonl", "columns.csv", "README.md", "export.json"}


def test_cells_are_safe_for_spreadsheets_on_request(run_dir, folder):
    """CSV is verbatim unless asked otherwise."""
    results = dreamo.load(run_dir).assign(note="=1+1")
    dreamo.export(results, folder, excel_safe=True, pictures="none")
    assert ",'=1+1" in (folder / "results.csv").read_text(encoding="utf-8")
    for name in ("results.csv", "columns.csv"):
        assert (folder / name).read_bytes().startswith(codecs.BOM_UTF8)


def test_chosen_rows_are_exported_alone(run_dir, folder):
    """Rows of results are results; a directory that is not remembered can be named."""
    results = dreamo.load(run_dir)
    assert dreamo.export(results.iloc[[1, 2]], folder)["pictures"] == 2
    assert "run_dir" not in pd.read_csv(folder / "results.csv")
    results = results.drop(columns="run_dir")
    results.attrs.clear()
    with pytest.raises(dreamo.UsageError, match="run_dir="):
        dreamo.export(results, folder)
    assert dreamo.export(results, folder, run_dir=run_dir)["pictures"] == 4


@pytest.fixture(scope="module")
def two_runs(bought, tmp_path_factory):
    """Two directories of one name, each with pictures of its own of the same jobs."""
    again = tmp_path_factory.mktemp("other") / "run"
    jobs = dreamo.load(bought).iloc[:2].drop(columns=list(columns.OUTPUTS))
    with dreamo.LocalGateway(engine="preview") as gateway:
        dreamo.run(jobs, again, gateway=gateway, progress=False, base_dir=bought.parent)
    return [bought, again]


@pytest.mark.no_cover
def test_several_runs_are_one_export(two_runs, folder):
    """No picture takes the place of another, each row names its directory and its picture, and it can be repeated."""
    counts = dreamo.export(two_runs, folder, formats=["parquet", "csv", "xlsx"])
    assert (counts["rows"], counts["pictures"], counts["missing"]) == (7, 6, 0)
    table, results = dreamo.read_table(folder / "results.csv"), dreamo.load(two_runs)
    places = [f"{run_dir.parent.name}/run" for run_dir in two_runs]
    assert table["run_dir"].tolist() == [places[0]] * 5 + [places[1]] * 2
    for given, path, row in zip(
        results["run_dir"], table["output_path"], results["output_path"], strict=True
    ):
        assert (folder / path).read_bytes() == (Path(given) / row).read_bytes()
    assert {line["run_dir"] for line in lines_of(folder)} == set(places)
    before = contents(folder)
    assert dreamo.export(two_runs, folder, formats=["parquet", "csv", "xlsx"]) == counts
    assert contents(folder) == before


def test_rows_of_several_runs_are_exported_after_a_merge(two_runs, folder):
    """Tables put together with pandas keep what is needed to find the pictures."""
    first, second = map(dreamo.load, two_runs)
    notes = pd.DataFrame({"prompt": ["on a beach", HOSTILE], "note": ["x", "y"]})
    both = pd.concat([second, first]).merge(notes, on="prompt", how="left")
    assert dreamo.export(both, folder)["pictures"] == 6
    table = dreamo.read_table(folder / "results.csv")
    assert table["note"].notna().all()
    assert table["output_path"].nunique() == 6
    assert dreamo.export(both, folder, pictures="none")["rows"] == 7
    with pytest.raises(dreamo.UsageError, match="run directory itself"):
        dreamo.export(two_runs, two_runs[1])


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"own": np.array([1, 2], dtype="longdouble")}),
        pd.DataFrame({"own": [{1}, {2}]}),
        pd.DataFrame({"own": [print, None]}),
        pd.DataFrame({"own": pd.Series(["\ud800", "b"], dtype=object)}),
        pd.DataFrame({"own": [1, 2]}, index=pd.Index(["\ud800", 1], dtype=object)),
        pd.DataFrame(
            {"own": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=["prompt", "seed"])
        ),
        pd.DataFrame({"own": [1, 2], True: [3, 4]}),
        pd.DataFrame(
            {"own": [1, 2], "use_rephraser": [1.0, None], "width": ["512", None], "height": ["512", None]}
        ),
        pd.DataFrame(
            {"own": pd.array([[("a", 1)], []], dtype=pd.ArrowDtype(pa.map_(pa.string(), pa.int64())))}
        ),
        pd.DataFrame({"own": [1, 2], "seed": pd.arrays.SparseArray([1, 2])}),
        pd.DataFrame({"own": [1, 2], "size": [(512, 512), (512, 768)]}),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored as text", "ignore:.*stored as text")
def test_any_table_runs_and_is_exported(table, tmp_path, folder):
    """Whatever pandas can hold is stored, run again as it comes back, and written in every format."""
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "fox.png")
    jobs = table.assign(image=str(tmp_path / "fox.png"), prompt=["a", "b"])
    with dreamo.LocalGateway(engine="flat") as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
        dreamo.run(dreamo.load(tmp_path / "run"), tmp_path / "run", gateway=gateway, progress=False)
        assert len(gateway.invoice()) == 2
    assert dreamo.export(done, folder, formats=["parquet", "csv", "jsonl", "xlsx"])["pictures"] == 2
    assert done.index.equals(jobs.index)
    assert dreamo.costs(done)["rows"].tolist() == [2]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            pd.DataFrame({"own": pd.arrays.ArrowExtensionArray(pa.array(["a"], pa.string_view()))}),
            "column 'own'",
        ),
        (pd.DataFrame({"own": pd.Categorical(pd.Series(["\ud800"], dtype=object))}), "column 'own'"),
        (pd.DataFrame({"dreamo:job_id": ["x"]}), "names that begin with 'dreamo:'"),
    ],
)
def test_what_pandas_can_not_work_with_is_refused_before_buying(table, words, tmp_path):
    """In words, with what to do."""
    jobs = table.assign(image="data/mascot.png", prompt="a")
    with pytest.raises(dreamo.TableError, match=words):
        dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    assert not (tmp_path / "run" / "images").exists()


# Pictures.


def test_hugging_face_loads_the_pictures(run_dir, folder, tmp_path):
    """The image folder reads offline, each picture with its prompt, seed, job and cost."""
    pytest.importorskip("datasets")
    dreamo.export(run_dir, folder)
    loaded = loaded_by_hugging_face("imagefolder", tmp_path / "cache", data_dir=str(folder / "images"))
    results = dreamo.load(run_dir).drop_duplicates("job_id").set_index("job_id")
    assert len(loaded) == 4
    for line in loaded:
        row = results.loc[line["job_id"]]
        for name in ("prompt", "seed", "scene|kind"):
            assert line[name] == row[name]
        assert (line["cost"], line["file_name_text"]) == (row["cost_usd"], "mine")
        with Image.open(run_dir / row["output_path"]) as original:
            assert line["pixels"] == hashlib.sha256(original.tobytes()).hexdigest()


def test_a_line_tells_of_each_picture(run_dir, folder):
    """Relative names, the exact seed and cost, and the reference by name and digest, without its folders."""
    dreamo.export(run_dir, folder)
    lines, results = lines_of(folder), dreamo.load(run_dir)
    assert [line["file_name"] for line in lines] == [f"{job}.jpg" for job in results["job_id"].head(4)]
    assert [line["seed"] for line in lines] == ["1", str(2**60), "1", str(2**60)]
    assert {line["reference"] for line in lines} == {"fox.png"}
    digest = hashlib.sha256(Path(dreamo.load(run_dir)["image"].iloc[0]).read_bytes()).hexdigest()
    assert {line["image_digest"] for line in lines} == {digest}
    assert [line["cost"] for line in lines] == results["cost"].head(4).tolist()
    assert str(run_dir.parent) not in (folder / "images/metadata.csv").read_text(encoding="utf-8")


def test_pictures_are_the_very_bytes(run_dir, folder):
    """Without words in them, copies have the digest that the results tell."""
    dreamo.export(run_dir, folder)
    for line in lines_of(folder):
        content = (folder / "images" / line["file_name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == line["output_sha256"]


def test_links_share_the_file(run_dir, folder):
    """pictures="link" takes no space."""
    dreamo.export(run_dir, folder, pictures="link")
    name = lines_of(folder)[0]["file_name"]
    assert (folder / "images" / name).samefile(run_dir / "images" / name)


def test_where_there_are_no_links_there_are_copies(run_dir, folder, monkeypatch):
    """A disk without hard links gets the same pictures."""

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    assert dreamo.export(run_dir, folder, pictures="link")["pictures"] == 4
    name = lines_of(folder)[0]["file_name"]
    assert (folder / "images" / name).read_bytes() == (run_dir / "images" / name).read_bytes()


def test_pictures_that_are_gone_or_cut_are_counted(run_dir, folder):
    """They are missing in the folder and in its lines, and said."""
    gone, cut = sorted((run_dir / "images").iterdir())[:2]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    told = dreamo.export(run_dir, folder)
    assert (told["pictures"], told["missing"]) == (2, 2)
    assert len(lines_of(folder)) == 2


@pytest.mark.parametrize(
    ("options", "part"), [({}, "images"), ({"pictures": "link"}, "images"), ({"text": True}, "inputs")]
)
def test_pictures_that_changed_are_exported_with_a_warning(run_dir, folder, options, part):
    """Outputs of the same size and references, each time."""
    changed = next((run_dir / part).iterdir())
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^1 picture changed since the run \(.*\); exported as found$"):
            told = dreamo.export(run_dir, folder, **options)
        assert (told["pictures"], told["missing"]) == (4, 0)


def test_every_picture_of_a_task_is_exported_and_verified(tmp_path, folder, monkeypatch):
    """Further ones have a line each, at no cost; one that is damaged or gone is counted, and found by verify."""
    fetch = dreamo.Client.fetch

    def with_three_pictures(client, *arguments, **options):
        task = fetch(client, *arguments, **options)
        return replace(task, urls=task.urls * 3)

    monkeypatch.setattr(dreamo.Client, "fetch", with_three_pictures)
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "fox.png")
    jobs = dreamo.sweep(image=str(tmp_path / "fox.png"), prompt="on a beach", seed=[1, 2], size="512x512")
    with dreamo.LocalGateway(engine="flat") as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    assert dreamo.verify(tmp_path / "run") == []
    counts = dreamo.export(done, folder, text=True)
    assert (counts["pictures"], counts["missing"], counts["without_text"]) == (6, 0, 0)
    first = [f"{job}{number}.jpg" for job in done["job_id"] for number in ("", "-2", "-3")]
    lines = lines_of(folder)
    assert [line["file_name"] for line in lines] == first
    assert [line["cost"] == "0" for line in lines] == [False, True, True] * 2
    assert {(line["width"], line["height"], line["seed"]) for line in lines} == {
        ("512", "512", "1"),
        ("512", "512", "2"),
    }
    (tmp_path / "run/images" / first[1]).unlink()
    (tmp_path / "run/images" / first[2]).write_bytes(b"<html>")
    assert [line.split("; ")[0] for line in dreamo.verify(tmp_path / "run")] == [
        f"picture 2 of the task of images/{first[0]} is missing",
        f"images/{first[2]} is damaged",
    ]
    counts = dreamo.export(done, folder)
    assert (counts["pictures"], counts["missing"]) == (4, 2)


def test_a_table_names_no_file_elsewhere(run_dir, folder):
    """A path in a table leads neither out of the run directory nor out of the export."""
    results = dreamo.load(run_dir)
    (run_dir / "secret.jpg").write_bytes(b"private")
    paths = ["../secret.jpg", "/etc/passwd", "images/..", "images/a b.jpg", None]
    results[columns.OUTPUT_PATH] = pd.Series(paths, index=results.index, dtype="str")
    results[columns.OUTPUT_BYTES] = pd.array([7] * 5, dtype="Int64")
    assert dreamo.export(results, folder)["pictures"] == 0
    assert b"private" not in b"".join(contents(folder).values())


def test_rows_without_a_run_directory_are_still_a_table(run_dir, folder):
    """Where the directory is gone, the rows are written, and the pictures are missing."""
    results = dreamo.load(run_dir)
    shutil.rmtree(run_dir)
    assert dreamo.export(results, folder) == {"folder": str(folder), "rows": 5, "pictures": 0, "missing": 4}
    assert dreamo.read_table(folder / "results.parquet")["width"].isna().all()


# Words in pictures.


def test_jpeg_copies_tell_prompt_seed_and_job(run_dir, folder):
    """The comment is JSON; pixels and the run directory's own files are as before."""
    before = contents(run_dir / "images")
    told = dreamo.export(run_dir, folder, text=True)
    assert told["without_text"] == 0
    for line in lines_of(folder):
        with Image.open(folder / "images" / line["file_name"]) as copy:
            words = json.loads(copy.info["comment"])
            copied = np.asarray(copy)
        assert words == {"prompt": line["prompt"], "seed": int(line["seed"]), "job_id": line["job_id"]}
        with Image.open(run_dir / "images" / line["file_name"]) as original:
            assert np.array_equal(copied, np.asarray(original))
    assert contents(run_dir / "images") == before


def test_png_copies_tell_prompt_seed_and_job(run_dir, folder):
    """One text each, of these names."""
    dreamo.export(with_format(run_dir, "PNG"), folder, text=True)
    (line,) = lines_of(folder)
    with Image.open(folder / "images" / line["file_name"]) as copy:
        copy.load()
        assert {name: copy.text[name] for name in copy.text} == {
            name: line[name] for name in ("prompt", "seed", "job_id")
        }


def test_webp_copies_take_no_words(run_dir, folder):
    """They are exported as they are, and counted."""
    told = dreamo.export(with_format(run_dir, "WEBP"), folder, text=True)
    assert (told["pictures"], told["without_text"]) == (1, 1)


def test_words_keep_exif_first_and_pixels():
    """What a camera or the service had written stays, and the picture decodes to the same."""
    exif = Image.Exif()
    exif[0x010E] = "described"
    file = io.BytesIO()
    Image.effect_noise((40, 40), 80).save(file, "JPEG", exif=exif, dpi=(72, 72), comment="theirs")
    content = inscribed(file.getvalue(), {"prompt": "a"})
    with Image.open(io.BytesIO(content)) as copy, Image.open(file) as original:
        assert copy.getexif()[0x010E] == "described"
        assert copy.info["dpi"] == (72, 72)
        assert np.array_equal(np.asarray(copy), np.asarray(original))
        assert copy.info["comment"] == b'{"prompt": "a"}'
    assert b"theirs" in content


def test_words_come_last_in_a_png():
    """Where the service had used the same keyword, readers find ours."""
    file, info = io.BytesIO(), PngInfo()
    info.add_text("prompt", "theirs")
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    with Image.open(io.BytesIO(inscribed(file.getvalue(), {"prompt": "雪山"}))) as copy:
        assert copy.text["prompt"] == "雪山"


def test_a_jpeg_of_several_pictures_takes_no_words():
    """They are found by their distance, which words would change."""
    file = io.BytesIO()
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:])
    assert inscribed(file.getvalue(), {"prompt": "a"}) is None


def test_words_too_long_for_a_jpeg_are_left_out():
    """A comment holds 64 kB."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    assert inscribed(file.getvalue(), {"prompt": "x" * 70_000}) is None


# The folder.


def test_the_same_export_again_changes_nothing(run_dir, folder):
    """Every file has the same bytes, and pictures are not even written."""
    dreamo.export(run_dir, folder, text=True)
    before = contents(folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    dreamo.export(run_dir, folder, text=True)
    assert contents(folder) == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()} == times


def test_other_rows_take_the_place_of_the_first(run_dir, folder):
    """What an earlier export had put there and this one has not is gone; other people's files stay."""
    dreamo.export(run_dir, folder)
    (folder / "images" / "notes.txt").write_text("mine")
    dreamo.export(dreamo.load(run_dir).tail(1), folder, formats="csv")
    assert len(list((folder / "images").glob("*.jpg"))) == 1
    assert not (folder / "results.parquet").exists()
    assert (folder / "images" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "images/metadata.csv"])
def test_files_of_others_are_never_replaced(run_dir, folder, name):
    """Neither one that was there before, nor one of ours that somebody changed; nothing is written then."""
    (folder / "images").mkdir(parents=True)
    (folder / name).write_text("theirs")
    with pytest.raises(dreamo.UsageError, match=name):
        dreamo.export(run_dir, folder)
    assert contents(folder) == {name: b"theirs"}
    (folder / name).unlink()
    dreamo.export(run_dir, folder)
    with (folder / name).open("a") as file:
        file.write("labelled by hand")
    before = contents(folder)
    with pytest.raises(dreamo.UsageError, match="changed since"):
        dreamo.export(run_dir, folder)
    assert contents(folder) == before


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "write",
    [
        dreamo.export,
        dreamo.report,
        lambda run_dir, place: dreamo.gallery(run_dir).to_html(place),
        lambda run_dir, place: dreamo.contact_sheet(run_dir, place.with_suffix(".png")),
        lambda run_dir, place: dreamo.contact_sheet(run_dir, place.with_suffix(".pdf")),
        lambda run_dir, place: dreamo.write_table(dreamo.load(run_dir), place.with_suffix(".csv")),
    ],
)
def test_what_can_not_be_written_is_said_in_words(run_dir, write):
    """Of every file and folder that the user names; /proc takes no files, not even of root."""
    with pytest.raises(dreamo.UsageError, match=r"/proc/x\S* can't be written: No such file or directory"):
        write(run_dir, Path("/proc/x.html"))


def test_an_export_that_was_cut_short_goes_on(run_dir, folder, monkeypatch):
    """A full disk leaves whole files only, and the next call ends the work."""
    from dreamo_batch import files

    replace, written = files.replace, []

    def fill_up(path, write):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        replace(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(files, "replace", fill_up)
        with pytest.raises(dreamo.UsageError, match="can't be written: No space"):
            dreamo.export(run_dir, folder)
    assert not list(folder.rglob(".partial-*"))
    assert dreamo.export(dreamo.load(run_dir).head(1), folder)["pictures"] == 1
    assert len(list((folder / "images").glob("*.jpg"))) == 1


@pytest.mark.parametrize(
    "manifest",
    ["[]", "{", '{"sha256": {"../run/run.json": "0"}}', '{"sha256": {}, "pending": ["/etc/passwd"]}'],
)
def test_a_list_that_is_not_ours_is_refused(run_dir, folder, manifest):
    """A manipulated list can't make an export delete anything."""
    folder.mkdir()
    (folder / "export.json").write_text(manifest)
    with pytest.raises(dreamo.UsageError, match=r"export\.json"):
        dreamo.export(run_dir, folder)
    assert (run_dir / "run.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"formats": ["csv", "docx"]}, "docx"),
        ({"pictures": "move"}, "move"),
        ({"text": True, "pictures": "link"}, "can't be links"),
    ],
)
def test_options_are_checked_first(run_dir, folder, options, words):
    """Nothing is written for an option that can't be used."""
    with pytest.raises(dreamo.UsageError, match=words):
        dreamo.export(run_dir, folder, **options)
    assert not folder.exists()


def test_places_and_tables_that_do_not_do(run_dir, folder):
    """The run directory itself, a file, and a table that is no results are refused."""
    with pytest.raises(dreamo.UsageError, match="run directory itself"):
        dreamo.export(run_dir, run_dir)
    folder.write_text("a file")
    with pytest.raises(dreamo.UsageError, match="not a folder"):
        dreamo.export(run_dir, folder)
    with pytest.raises(dreamo.UsageError, match="Not a results table"):
        dreamo.export(pd.DataFrame({"prompt": ["a"]}), folder)
    with pytest.raises(
        dreamo.UsageError, match="folder is empty"
    ):  # not a temporary folder that is gone by then
        dreamo.export(run_dir, "")
    (nowhere := folder.with_name("nowhere")).symlink_to("missing")
    with pytest.raises(dreamo.UsageError, match="not a folder"):
        dreamo.export(run_dir, nowhere)


def test_an_empty_table_is_an_empty_export(tmp_path, folder):
    """No rows, no pictures, and every column explained."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a", seed=[1]).head(0)
    dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    assert dreamo.export(tmp_path / "run", folder)["rows"] == 0
    assert len(dreamo.read_table(folder / "results.parquet")) == 0


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hugging Face hub's HTTP API that takes a dataset."""

    calls: list[tuple[str, str]]
    files: dict[str, bytes]
    is_refused = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.calls.append((self.path, self.headers.get("Authorization", "")))
        if self.is_refused:
            self.send_error(403)
            return
        url = f"http://{self.headers['Host']}/datasets/me/foxes"
        answer = {"url": url, "name": "me/foxes", "id": "1"}
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            answer = {
                "files": [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                ]
            }
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}"}
        self.answer(answer)

    def do_GET(self):
        self.answer({"id": "me/foxes", "sha": "0" * 40, "siblings": [], "private": True, "tags": []})

    def answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def stand_in_hub(**settings):
    handler = type("Standing", (Hub,), {"calls": [], "files": {}, **settings})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def uploaded(url, run_dir, home, *arguments):
    command = [sys.executable, "-m", "dreamo_batch", "export", str(run_dir), *arguments]
    env = os.environ | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secret",
        "DREAMO_API_KEY": "sk-1234567",
    }
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_an_export_becomes_a_dataset_on_the_hub(run_dir, tmp_path):
    """In one commit to a private dataset, with a card that says how the pictures were made; read back as bytes."""
    with stand_in_hub() as (hub, url):
        done = uploaded(url, run_dir, tmp_path / "home", "--to", "hf://datasets/me/foxes", "--format", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["url"].endswith(f"/datasets/me/foxes/commit/{'0' * 40}")
    assert "folder" not in told  # it was a temporary one
    assert hub.calls[0][0] == "/api/repos/create"
    assert {token for _, token in hub.calls} == {"Bearer hf_secret"}
    local = tmp_path / "local"
    dreamo.export(run_dir, local, progress=False)
    written = {
        path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()
    }
    assert hub.files == written
    card = hub.files["README.md"].decode()
    assert card.startswith("---\npretty_name: Results of dreamo-batch\n")
    for part in (
        "draws previews, not the model's pictures",  # it says so wherever it is read
        "The 4 distinct jobs combined 1 reference image and 2 prompts with 2 seeds, at 512x512 pixels.",
        "All 4 jobs completed, at a known cost of $0.01",
    ):
        assert part in card
    assert not any(b"hf_secret" in content or b"sk-1234567" in content for content in hub.files.values())


@pytest.mark.parametrize("pictures", ["copy", "none"])
def test_a_dataset_is_read_by_its_name_alone(pictures, run_dir, folder, tmp_path):
    """Its card leads the loader to the pictures, of which there may be one, or to the table if there are none."""
    dreamo.export(dreamo.load(run_dir).iloc[[0]], folder, pictures=pictures, progress=False)
    (line,) = loaded_by_hugging_face(folder, tmp_path / "cache")
    assert line["seed"] == 1
    assert ("pixels" in line) == (pictures == "copy")


def test_the_card_names_the_licence_that_was_passed(run_dir, tmp_path):
    """In the header that the hub reads, also from the shell; what isn't an identifier would break that header."""
    dreamo.export(run_dir, tmp_path / "one", licence="cc-by-4.0", progress=False)
    assert "\nlicense: cc-by-4.0\ntags:\n" in (tmp_path / "one" / "README.md").read_text()
    for licence in ("CC BY 4.0", "", "mit\ntags: x"):
        with pytest.raises(dreamo.UsageError, match="expected an identifier of the hub, such as cc-by-4"):
            dreamo.export(run_dir, tmp_path / "two", licence=licence, progress=False)


def test_a_refused_upload_keeps_the_folder_and_says_why(run_dir, tmp_path):
    folder = tmp_path / "folder"
    with stand_in_hub(is_refused=True) as (_, url):
        done = uploaded(
            url, run_dir, tmp_path / "home", "--to", "hf://datasets/me/foxes", "--output", str(folder)
        )
    assert done.returncode == 2
    assert "Can't upload to me/foxes (" in done.stderr
    assert f"The export is in {folder}" in done.stderr
    assert "hf_secret" not in done.stderr
    assert (folder / "export.json").exists()
    with stand_in_hub(is_refused=True) as (_, url):
        done = uploaded(url, run_dir, tmp_path / "home", "--to", "hf://datasets/me/foxes")
    assert "The export is in" not in done.stderr  # but in a folder that is gone


@pytest.mark.parametrize(
    "to", ["me/foxes", "hf://models/me/foxes", "hf://datasets/me", "https://hub/me/foxes", 3]
)
def test_an_address_that_is_no_dataset_is_refused_before_anything_is_written(run_dir, tmp_path, to):
    with pytest.raises(dreamo.UsageError, match="hf://datasets/OWNER/NAME"):
        dreamo.export(run_dir, tmp_path / "folder", to=to)
    assert not (tmp_path / "folder").exists()


def test_uploading_without_the_extra_names_it(run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(dreamo.UsageError, match=r"pip install 'dreamo-batch\[hub\]'"):
        dreamo.export(run_dir, to="hf://datasets/me/foxes")


def test_an_export_needs_a_place(run_dir):
    with pytest.raises(dreamo.UsageError, match="Pass a folder"):
        dreamo.export(run_dir)
