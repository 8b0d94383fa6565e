"""The picture cache: what is kept of each picture for speed, also when files are damaged, cut short or gone."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import threading
import warnings
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns, files, images, likeness
from dreamo_batch.display import grid
from dreamo_batch.engine import picture_cache
from dreamo_batch.engine.picture_cache import PictureFile, PictureSummary, Thumbnail
from dreamo_batch.engine.pictures import save
from tests.pictures import encoded, noisy

QUIET = {"progress": False}
METRICS = ("appearance", "colour", "shape")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Six pictures of a run."""
    run_dir = tmp_path_factory.mktemp("cached") / "run"
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt=["a", "b"], seed=[1, 2, 3], size="512x512", use_rephraser=False
    )
    dreamo.run(jobs, run_dir, gateway="local", **QUIET)
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def _no_decoding(monkeypatch):
    """Fail where a whole picture would be decoded to be shown or compared, or summarised again."""
    open_picture = images.opened
    decoded = []

    def look(source, **options):
        if isinstance(source, Path) and source.parent.name == "images":
            decoded.append(source)
        return open_picture(source, **options)

    def summarise(source, **options):
        decoded.append(source)
        return open_picture(source, **options)

    monkeypatch.setattr(images, "opened", look)
    monkeypatch.setattr(picture_cache, "opened", summarise)
    monkeypatch.setattr(likeness, "opened", summarise)
    grid._reduce.cache_clear()
    yield
    assert decoded == []


def digests(run_dir):
    return set(dreamo.load(run_dir)["output_sha256"])


def pictures(run_dir):
    done = dreamo.load(run_dir)
    return [
        PictureFile(run_dir, run_dir / path, digest)
        for path, digest in zip(done["output_path"], done["output_sha256"], strict=True)
    ]


def made_up(number: int, n_bytes: int = 1) -> tuple[str, PictureSummary]:
    content = str(number).encode()
    return hashlib.sha256(content).hexdigest(), PictureSummary(
        n_bytes, Thumbnail(b"jpeg" + content, 3, 2), b"print"
    )


def fingerprints(run_dir, digests):
    return picture_cache._read(run_dir, digests, (columns.BYTES, columns.FINGERPRINT))


def kept(run_dir) -> set[str]:
    return set(fingerprints(run_dir, [made_up(number)[0] for number in range(600)]))


def test_a_run_keeps_the_look_of_each_picture_it_saves(finished):
    """In one table, whose columns are described; the thumbnails are small pictures."""
    table = pd.read_parquet(finished / picture_cache.NAME)
    assert table.columns.tolist() == list(columns.PICTURE_CACHE)
    assert set(table[columns.SHA256]) == digests(finished)
    with Image.open(io.BytesIO(table[columns.THUMBNAIL][0])) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (320, 320)
        assert thumbnail.size == tuple(table[[columns.THUMBNAIL_WIDTH, columns.THUMBNAIL_HEIGHT]].iloc[0])
    assert not (finished / picture_cache.TAIL).exists()


@pytest.mark.usefixtures("_no_decoding")
def test_what_a_run_saved_is_shown_and_compared_without_decoding_it(finished, tmp_path):
    """Gallery, sheets and diversity read the summaries; only large cells of a sheet need more than a thumbnail."""
    assert dreamo.gallery(finished).to_html(**QUIET).count("<img") == 7
    assert dreamo.contact_sheet(finished, tmp_path / "plain.png", **QUIET) == 6
    assert dreamo.diversity(finished, **QUIET)["pictures"].tolist() == [3, 3]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut short", "altered", "another version"])
def test_looks_that_are_missing_or_damaged_are_made_again(finished, run_dir, damage):
    """Bit by bit the same, and kept again."""
    path = run_dir / picture_cache.NAME
    content = path.read_bytes()
    match damage:
        case "gone":
            path.unlink()
        case "another version":
            path.write_bytes(content.replace(b"dreamo_cache", b"dreamo_cachi"))
        case _:
            damaged = {
                "empty": b"",
                "cut short": content[:-20],
                "altered": content[:900] + b"?" + content[901:],
            }
            path.write_bytes(damaged[damage])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        measured = dreamo.measure(run_dir, METRICS, **QUIET)
    assert ["summaries of its pictures are made again" in str(one.message) for one in told] == (
        [] if damage in {"gone", "another version"} else [True]
    )
    pd.testing.assert_frame_equal(measured, dreamo.measure(finished, METRICS, **QUIET))
    again = pd.read_parquet(path).set_index(columns.SHA256)
    before = pd.read_parquet(finished / picture_cache.NAME).set_index(columns.SHA256)
    pd.testing.assert_frame_equal(again.loc[before.index], before)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_look_made_on_saving_is_that_of_the_file(tmp_path, kind):
    """Whether the picture is decoded anyway, or once more at a fraction."""
    content = encoded(noisy(900, 700), kind)
    saved = save(content, "a" * 32, tmp_path)
    of_file = picture_cache.summarise_picture(content)
    picture = PictureFile(tmp_path, tmp_path / saved.path, saved.sha256)
    assert picture_cache.read_fingerprints([picture]) == {saved.sha256: of_file.fingerprint}
    assert picture_cache.read_thumbnails([picture]) == [of_file.thumbnail]


def test_a_picture_is_saved_whatever_becomes_of_its_look(tmp_path, monkeypatch):
    """What is paid for never depends on what is kept for speed."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(picture_cache, "summarise_picture", fail)
    saved = save(encoded(noisy(64, 64)), "a" * 32, tmp_path)
    assert (tmp_path / saved.path).is_file()
    monkeypatch.setattr("dreamo_batch.engine.pictures.reduced", fail)
    save(encoded(noisy(64, 64)), "b" * 32, tmp_path)
    assert not (tmp_path / picture_cache.TAIL).exists()


def test_a_record_cut_short_by_a_crash_costs_only_itself(tmp_path):
    """Those before and after it are found, wherever it was cut, and survive a merge."""
    for number in range(2):
        picture_cache.keep(tmp_path, *made_up(number))
    tail = tmp_path / picture_cache.TAIL
    whole = tail.read_bytes()
    length = len(whole) // 2
    for cut in range(1, length):
        tail.write_bytes(whole[: length + cut])
        picture_cache.keep(tmp_path, *made_up(2))
        assert kept(tmp_path) == {made_up(0)[0], made_up(2)[0]}
    picture_cache.merge(tmp_path)
    assert kept(tmp_path) == {made_up(0)[0], made_up(2)[0]}
    assert not tail.exists()


def test_altered_records_are_left_out(tmp_path):
    """No flipped bit is shown as a picture."""
    picture_cache.keep(tmp_path, *made_up(0))
    tail = tmp_path / picture_cache.TAIL
    whole = tail.read_bytes()
    for place in range(len(whole)):
        tail.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept(tmp_path) == set()


def test_a_small_tail_waits_beside_a_large_table(tmp_path):
    """So that resuming a large run for a few rows rewrites nothing; the newer summary of a picture counts."""
    for number in range(500):
        picture_cache.keep(tmp_path, *made_up(number))
    picture_cache.merge(tmp_path)
    picture_cache.keep(tmp_path, *made_up(500))
    picture_cache.keep(tmp_path, *made_up(0, n_bytes=2))
    before = (tmp_path / picture_cache.NAME).read_bytes()
    picture_cache.merge(tmp_path)
    assert (tmp_path / picture_cache.NAME).read_bytes() == before
    assert len(kept(tmp_path)) == 501
    assert fingerprints(tmp_path, [made_up(0)[0]])[made_up(0)[0]] == (2, b"print")
    for number in range(600):
        picture_cache.keep(tmp_path, *made_up(number, n_bytes=3))
    picture_cache.merge(tmp_path)
    table = pd.read_parquet(tmp_path / picture_cache.NAME)
    assert sorted(table[columns.SHA256]) == sorted(made_up(number)[0] for number in range(600))
    assert set(table[columns.BYTES]) == {3}


def test_many_threads_keep_looks_at_once(tmp_path):
    """Records never mix."""

    def work(start):
        for number in range(start, start + 100):
            picture_cache.keep(tmp_path, *made_up(number))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 600, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept(tmp_path)) == 600


def replaced(path, way):
    """Replace a picture, or only its times, in one of the ways in which that happens."""
    content, before = path.read_bytes(), path.stat()
    if way != "touched":
        small = encoded(Image.new("RGB", (40, 20), "red"), "JPEG")
        path.write_bytes(small if way == "of another size" else small.ljust(len(content), b"\0"))
    if way != "of another size":
        at = before.st_mtime_ns + (-1 if way == "of the same size, and older" else 1) * 10**9
        os.utime(path, ns=(at, at))


@pytest.mark.usefixtures("_no_decoding")
def test_a_picture_that_was_only_touched_or_copied_is_the_same(run_dir):
    """Nothing is said, and nothing decoded again."""
    for picture in pictures(run_dir):
        replaced(picture.path, "touched")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "changed" not in dreamo.gallery(run_dir).to_html(**QUIET)
        assert dreamo.diversity(run_dir, **QUIET)["pictures"].tolist() == [3, 3]


@pytest.mark.parametrize(
    "way", ["of another size", "of the same size, and newer", "of the same size, and older"]
)
def test_a_changed_picture_is_shown_as_it_is_now(run_dir, way):
    """A summary belongs to bytes, not to a name; whoever shows it is warned, once."""
    first = pictures(run_dir)[0]
    replaced(first.path, way)
    assert picture_cache.read_thumbnails([first]) == [None]
    with pytest.warns(UserWarning, match=f"1 picture changed since saved .*{first.path.name}"):
        drawn = grid.thumbnails_of([first], grid.THUMBNAIL_BYTES_MAX)
    assert (drawn[0].width, drawn[0].height) == (40, 20)
    for show in (
        lambda: dreamo.contact_sheet(run_dir, run_dir.parent / "sheet.pdf"),
        lambda: dreamo.gallery(run_dir).to_html(run_dir.parent / "page.html"),
        lambda: dreamo.report(run_dir, run_dir.parent / "report.html"),
    ):
        with pytest.warns(UserWarning, match="changed since saved") as told:
            show()
        assert [one.filename for one in told] == [__file__]  # at the user's line, and nothing of ours
    assert "was changed" in dreamo.measure(run_dir, **QUIET)["problem"][0]


def test_a_directory_that_can_not_be_written_to_is_looked_at_all_the_same(run_dir, monkeypatch):
    """It warns once that the summaries aren't kept."""

    def refuse(*_, **_options):
        raise PermissionError(13, "Permission denied")

    (run_dir / picture_cache.NAME).unlink()
    monkeypatch.setattr(picture_cache, "keep", refuse)
    with pytest.warns(
        UserWarning, match=r"picture-cache\.parquet can't be written \(Permission denied\)"
    ) as told:
        assert dreamo.measure(run_dir, **QUIET)["appearance"].notna().all()
    assert len(told) == 1
    monkeypatch.undo()
    monkeypatch.setattr(files, "replace", refuse)
    with pytest.warns(UserWarning, match=r"picture-cache\.parquet can't be written \(Permission denied\)"):
        dreamo.measure(run_dir, **QUIET)
    monkeypatch.undo()
    assert len(fingerprints(run_dir, digests(run_dir))) == 6


def test_the_ledger_never_believes_the_looks(run_dir):
    """With summaries of other pictures, or garbage in their place, the run stands as it stood."""
    before = dreamo.load(run_dir)
    (run_dir / picture_cache.NAME).write_bytes(b"garbage")
    (run_dir / picture_cache.TAIL).write_bytes(b"garbage")
    pd.testing.assert_frame_equal(dreamo.load(run_dir), before)
    assert dreamo.verify(run_dir, **QUIET) == []
    assert set(dreamo.plan(before, run_dir)["action"]) == {"reuse"}
