"""Reference pictures: looked at once, judged by their content, corrected where asked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import os
import stat
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngImageFile

from dreamo_batch import images
from dreamo_batch.engine import directory, pictures
from dreamo_batch.errors import StorageFailed
from dreamo_batch.jobs import references
from dreamo_batch.jobs.prepare import prepare, validate
from dreamo_batch.jobs.references import CheckOptions, ImageSource, Inputs, Source, check, read_source, repair
from dreamo_batch.likeness import read
from dreamo_batch.service import contract
from tests.pictures import encoded, noisy, opened, plain, png_claiming, turned

BASE = Path("/data")


def _codes(content, **how):
    return [one.code for one in check(Source("bytes", content=content), CheckOptions(BASE, **how)).findings]


def _findings_of(cell, tmp_path, **options):
    return validate(pd.DataFrame({"image": [cell], "prompt": ["a"]}), base_dir=tmp_path, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_as_the_service_wants_them_have_no_problem(kind, mode):
    """A whole JPEG or PNG within the limits is fine."""
    assert _codes(encoded(plain(mode=mode), kind)) == []


def test_alpha_and_palettes_are_fine():
    """PNG may be transparent; the service is not known to mind."""
    assert _codes(encoded(plain(mode="RGBA"))) == []
    assert _codes(encoded(plain(mode="P"))) == []


def test_progressive_and_two_picture_jpegs_are_jpegs():
    """What cameras and tools write under the name of JPEG is taken as one."""
    assert _codes(encoded(plain(), "JPEG", progressive=True)) == []
    assert _codes(encoded(plain(), "MPO", save_all=True, append_images=[plain()])) == []


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_other_formats_are_refused_but_can_be_fixed(kind):
    """The format is that of the content."""
    found = check(Source("bytes", content=encoded(plain(), kind)), CheckOptions(BASE)).findings
    assert [one.code for one in found] == ["image-format"]
    assert found[0].is_error
    assert "fix_images=True" in found[0].fix


def test_pictures_of_phones_are_converted_once_pillow_reads_them(monkeypatch):
    """With pillow-heif, which registers a format of this name."""
    monkeypatch.setattr(PngImageFile, "format", "HEIF")
    assert _codes(encoded(plain())) == ["image-format"]


def test_formats_that_are_not_converted_are_refused():
    """An icon is a picture, but none that a copy is made of."""
    assert _codes(encoded(plain(), "ICO")) == ["image-not-convertible"]


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"  <html>", "a web page"),
        (b"%PDF-1.7", "PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<svg xmlns=''>", "SVG"),
        (b"\x89PNG\r\n", "broken PNG"),
        (b"\xff\xd8\xff", "broken JPEG"),
        (b"hello", "readable picture; expected JPEG"),
    ],
)
def test_what_is_no_picture_is_named(content, guess):
    """The finding says what the file looks like instead."""
    found = check(Source("bytes", content=content), CheckOptions(BASE)).findings
    assert [one.code for one in found] == ["image-not-a-picture"]
    assert guess in found[0].message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_cut_off_pictures_are_found(kind, part):
    """A download that broke off is no picture, though its header is whole."""
    content = encoded(noisy(200, 200), kind)
    codes = _codes(content[: int(len(content) * part)])
    assert codes[-1] in {"image-damaged", "image-not-a-picture"}


def test_flipped_bits_in_a_png_are_found():
    """A PNG carries checksums, which are looked at."""
    content = bytearray(encoded(noisy(100, 100)))
    content[len(content) // 2] ^= 0xFF
    assert _codes(bytes(content)) == ["image-damaged"]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_pictures_never_raise(seed):
    """Whatever the bytes, there is an answer."""
    random = np.random.default_rng(seed)
    content = bytearray(encoded(noisy(40, 30), ["JPEG", "PNG", "GIF", "TIFF", "WEBP"][seed % 5]))
    for place in random.integers(0, min(len(content), 400), 6):
        content[place] = random.integers(0, 256)
    assert isinstance(references.examine(bytes(content)), tuple)


def test_an_empty_file_is_named():
    """Nothing is not a picture."""
    assert _codes(b"") == ["image-empty"]


def test_bombs_are_refused_unopened():
    """A few bytes that promise gigapixels are not decoded, fix or no fix."""
    for fix_images in (False, True):
        assert _codes(png_claiming(60_000, 60_000), fix_images=fix_images) == ["image-bomb"]
    found = check(Source("bytes", content=png_claiming(12_000, 14_950)), CheckOptions(BASE)).findings
    assert found[0].message.endswith("(179400000 pixels) exceeds limit of 178956970 pixels.")


def test_a_webp_is_a_bomb_at_fewer_pixels():
    """Decoding one takes three times the memory of a PNG of its size."""
    frames = [plain(2, 2, colour=colour) for colour in ("red", "blue")]
    animated = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    animated[24:30] = (7999).to_bytes(3, "little") + (7499).to_bytes(3, "little")
    assert _codes(bytes(animated)) == ["image-bomb"]


def test_size_limits_are_those_of_the_service():
    """4096 pixels a side are fine, one more is not; beyond 16:9 is doubtful."""
    assert _codes(encoded(plain(4096, 4000, "1"))) == []
    assert _codes(encoded(plain(4097, 4000, "1"))) == ["image-too-many-pixels"]
    assert _codes(encoded(plain(1600, 900, "1"))) == []
    assert _codes(encoded(plain(1366, 768, "1"))) == _codes(encoded(plain(768, 1366, "1"))) == []
    assert _codes(encoded(plain(1607, 900, "1"))) == []
    assert _codes(encoded(plain(1609, 900, "1"))) == ["image-extreme-ratio"]
    assert _codes(encoded(plain(900, 1609, "1"))) == ["image-extreme-ratio"]


def test_too_many_bytes_are_refused():
    """4.7 MB are fine; up to 4.7 MiB, which may be what the page means, it's a warning."""
    content = encoded(plain())
    codes = {
        n: [
            (one.code, one.severity)
            for one in check(Source("bytes", content=content.ljust(n, b"\0")), CheckOptions(BASE)).findings
        ]
        for n in (4_700_000, 4_700_001, 4_928_307, 4_928_308)
    }
    warned, refused = [("image-many-bytes", "warning")], [("image-too-many-bytes", "error")]
    assert list(codes.values()) == [[], warned, warned, refused]


def test_rotated_animated_and_deep_pictures_are_warned_of():
    """What the service may read otherwise than a viewer is said, without refusing it."""
    deep = encoded(Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)))
    animated = encoded(plain(), save_all=True, append_images=[plain(colour=(0, 0, 0))])
    for content, code in (
        (turned(), "image-rotated"),
        (animated, "image-animated"),
        (deep, "image-colours"),
        (encoded(plain(mode="CMYK"), "JPEG"), "image-colours"),
    ):
        found = check(Source("bytes", content=content), CheckOptions(BASE)).findings
        assert [(one.code, one.severity) for one in found] == [(code, "warning")]
    assert not check(Source("bytes", content=turned(99)), CheckOptions(BASE)).findings  # means nothing


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_frames_that_a_corrected_copy_leaves_out_are_said(kind):
    content = encoded(plain(), kind, save_all=True, append_images=[plain(colour=(0, 0, 0))])
    found = check(Source("bytes", content=content), CheckOptions(BASE, fix_images=True)).findings
    assert [one.code for one in found] == ["image-format", "image-animated"]
    assert found[1].message.startswith("The picture has 2 frames")


def test_rotation_is_read_from_png_too():
    """A PNG may carry the same note; its own reader would decode everything to find it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    assert _codes(encoded(plain(), exif=exif)) == ["image-rotated"]


def test_odd_places_are_named_and_never_hang(tmp_path):
    """Folders, pipes, devices and dangling links are told apart without being opened."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone.png")
    (tmp_path / "file").write_bytes(b"x")
    places = {
        ".": ("image-not-a-file", "a folder"),
        "pipe": ("image-not-a-file", "a pipe"),
        "/dev/null": ("image-not-a-file", "a device"),
        "dangling": ("image-not-found", str(tmp_path / "dangling")),
        "file/below.png": ("image-not-found", "below.png"),
        "a" * 300: ("image-unreadable", "too long"),
        "a\0b": ("image-unreadable", "valid UTF-8"),
        Path(os.fsdecode(b"caf\xe9.png")): ("image-unreadable", "rename the file"),
        "~nobody-has-this-name/a.png": ("image-unreadable", "home"),
    }
    for place, (code, words) in places.items():
        found = _findings_of(place, tmp_path)
        assert found["code"].tolist() == [code]
        assert words in found["message"][0]


def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    """Missing permission is a problem of the row."""

    def refuses(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret.png").write_bytes(encoded(plain()))
    monkeypatch.setattr(Path, "read_bytes", refuses)
    found = _findings_of("secret.png", tmp_path)
    assert found["code"].tolist() == ["image-unreadable"]
    assert "Permission denied" in found["message"][0]


def test_files_far_too_large_are_not_read(tmp_path):
    """A film is not loaded to learn that it is no picture."""
    path = tmp_path / "film.png"
    with path.open("wb") as file:
        file.truncate(references.READ_BYTES_MAX + 1)
    assert _findings_of(path, tmp_path, fix_images=True)["code"].tolist() == ["image-far-too-many-bytes"]


def test_each_file_is_read_once_however_often_it_is_named(tmp_path, monkeypatch):
    """Rows, spellings and columns may share a file; it is opened once."""
    (tmp_path / "cat.png").write_bytes(encoded(plain()))
    table = pd.DataFrame(
        {
            "image": ["cat.png", "./cat.png", Path("cat.png"), str(tmp_path / "cat.png"), None, "cat.png"],
            "image_path": [None, None, None, None, "cat.png", None],
            "prompt": "a",
            "use_rephraser": False,
        }
    )
    read = []
    load = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or load(path))
    assert validate(table, base_dir=tmp_path).empty
    assert len(read) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///path.png",
        "http://example.com:99999/a.png",
        "https://example.com/a b.png",
        "https://example.com/\x00",
        "https://user:secret@example.com/a.png",
        "http://[::1",
        "ftp://example.com/a.png",
        "s3://bucket/key.png",
        "file://server/a.png",
        "http://example.com:0/a.png",
    ],
)
def test_urls_that_can_not_be_used_are_refused(url):
    """A URL must be one that a stranger can fetch, and must not hand a password on."""
    assert read_source(url, BASE).code == "image-bad-url"


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("data:image/png;base64,AAEC", b"\0\1\2"),
        ("DATA:;base64,AAE", b"\0\1"),
        ("data:image/png;base64,AA%3D%3D", b"\0"),
        ("data:image/png;base64,AA\n EC", b"\0\1\2"),
        ("data:text/plain,a%20b", b"a b"),
    ],
)
def test_data_uris_are_decoded(uri, content):
    """Line breaks, percent signs and missing padding are common and harmless."""
    assert read_source(uri, BASE).content == content


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:;base64,A", "data:;base64,!!!!"])
def test_data_uris_that_can_not_be_decoded_are_refused(uri):
    """What is not base64 is no picture."""
    assert read_source(uri, BASE).code == "image-bad-data-uri"


@pytest.mark.parametrize(
    "cell",
    [
        5,
        5.5,
        {"path": "a.png"},
        True,
        np.zeros((2, 2)),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_objects_are_no_pictures(cell, tmp_path):
    """The finding says what was found instead of a picture."""
    found = _findings_of(cell, tmp_path)
    assert found["code"].tolist() == ["image-not-a-source"]
    assert type(cell).__name__ in found["message"][0]


def test_one_picture_in_every_guise_is_one_picture(tmp_path):
    """Path, bytes, file and data: URI of the same bytes are the same job; memory is written once."""
    content = encoded(plain())
    (tmp_path / "cat.dat").write_bytes(content)
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    read_to_its_end = io.BytesIO(content)
    read_to_its_end.read()
    cells = ["cat.dat", Path("cat.dat"), content, bytearray(content), memoryview(content), uri]
    cells += [f"file://{tmp_path}/cat.dat", f"'file://localhost{tmp_path}/c%61t.dat'", io.BytesIO(content)]
    cells += [{"bytes": content, "path": "gone.png"}, {"bytes": None, "path": "cat.dat"}, read_to_its_end]
    table = pd.DataFrame({"image": pd.Series(cells, dtype=object), "prompt": "a", "seed": 1})
    prepared = prepare(table, CheckOptions(tmp_path, inputs=Inputs(tmp_path / "inputs")), entropy="e")
    digest = hashlib.sha256(content).hexdigest()
    assert len(prepared.jobs) == 1
    assert set(prepared.rows["image_digest"]) == {digest}
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [f"{digest}.png"]
    assert (tmp_path / "inputs" / f"{digest}.png").read_bytes() == content


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    """Planning leaves no trace, and gives the same jobs."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"image": [plain(), encoded(plain(), "GIF")], "prompt": "a", "seed": 1})
    planned = prepare(table, CheckOptions(fix_images=True, inputs=Inputs(None)), entropy="e")
    assert list(tmp_path.iterdir()) == []
    run = prepare(table, CheckOptions(fix_images=True, inputs=Inputs(tmp_path / "inputs")), entropy="e")
    assert list(planned.jobs) == list(run.jobs)
    assert planned.rows["image_sent_digest"].tolist() == run.rows["image_sent_digest"].tolist()
    assert [Path(place).name for place in run.rows["image_sent"]] == planned.rows["image_sent"].tolist()


def test_a_relative_folder_gives_absolute_places(tmp_path, monkeypatch):
    """What is recorded must still be found from another working directory."""
    monkeypatch.chdir(tmp_path)
    inputs = Inputs(directory.RunDirectory("runs/a").inputs)
    prepared = prepare(
        pd.DataFrame({"image": [plain()], "prompt": "a"}), CheckOptions(inputs=inputs), entropy="e"
    )
    assert Path(prepared.rows["image_sent"][0]).parent == tmp_path / "runs" / "a" / "inputs"


def test_a_refused_call_takes_away_only_what_it_made(tmp_path):
    """A picture that other rows were bought with stays, also if it had to be made again."""
    folder = tmp_path / "run" / "inputs"
    folder.mkdir(parents=True)
    (folder / "old.png").write_bytes(b"altered since")
    inputs = Inputs(folder)
    with contextlib.suppress(KeyboardInterrupt), inputs.undone_if_refused():
        for name in ("old.png", "new.png"):
            inputs.keep(name, encoded(plain()))
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["old.png"]
    assert (folder / "old.png").read_bytes() == encoded(plain())


def test_what_is_sent_is_what_stands_there(tmp_path):
    """The digest of what is sent is that of the file, so that the sender can check it."""
    (tmp_path / "cat.gif").write_bytes(encoded(plain(), "GIF"))
    (tmp_path / "cat.png").write_bytes(encoded(plain()))
    cells = ["cat.gif", "cat.png", plain(mode="RGBA"), encoded(plain(), "JPEG")]
    table = pd.DataFrame({"image": pd.Series(cells, dtype=object), "prompt": "a"})
    how = CheckOptions(tmp_path, fix_images=True, inputs=Inputs(tmp_path / "inputs"))
    for job in prepare(table, how, entropy="e").jobs.values():
        sent = Path(job.image.sent_location)
        assert sent.is_absolute()
        assert hashlib.sha256(sent.read_bytes()).hexdigest() == job.image.sent_digest
        assert stat.S_IMODE(sent.stat().st_mode) & 0o400


def test_pixels_are_distinguished_by_all_that_is_sent():
    """Mode, size, palette and transparency belong to a PIL image, its file name does not."""
    paletted = plain(mode="P")
    recoloured = paletted.copy()
    recoloured.putpalette([0, 255, 0] * 256)
    see_through = plain()
    see_through.info["transparency"] = (200, 30, 30)
    named = plain()
    named.filename = "cat.png"
    images = [plain(), plain(48, 64), plain(mode="L"), paletted, recoloured, see_through, named, plain()]
    table = pd.DataFrame({"image": pd.Series(images, dtype=object), "prompt": "a", "seed": 1})
    rows = prepare(table, entropy="e").rows
    assert rows["image_digest"].nunique() == 6
    assert rows["duplicate_of"].dropna().tolist() == [0, 0]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "PA", "I;16", "1"])
def test_pixels_of_many_modes_can_be_sent(mode):
    """Colours that PNG does not know by name are written as those it knows."""
    image = Image.new(mode, (8, 8))
    assert len(prepare(pd.DataFrame({"image": [image], "prompt": "a"}), entropy="e").jobs) == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (Image.new("F", (8, 8)), "image-numbers"),
        (Image.new("I", (8, 8)), "image-numbers"),
        (Image.new("RGB", (0, 8)), "image-empty"),
    ],
)
def test_pixels_that_can_not_be_sent_are_refused(image, code, tmp_path):
    """How to squeeze floats into a byte is the user's choice."""
    assert _findings_of(image, tmp_path)["code"].tolist() == [code]


def test_lazy_pixels_of_a_broken_file_are_a_problem_of_the_row(tmp_path):
    """Pillow reads a file late; that it is cut off shows only then."""
    content = encoded(noisy(100, 100), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "cut.jpg") as image:
        assert _findings_of(image, tmp_path)["code"].tolist() == ["image-damaged"]


def test_rotated_pixels_are_warned_of_and_turned(tmp_path):
    """A PIL image keeps its file's note on turning; so does the PNG made of it."""
    table = pd.DataFrame({"image": [opened(turned())], "prompt": "a"})
    assert validate(table)["code"].tolist() == ["image-rotated"]
    job = next(
        iter(
            prepare(table, CheckOptions(inputs=Inputs(tmp_path), fix_images=True), entropy="e").jobs.values()
        )
    )
    assert opened(Path(job.image.sent_location).read_bytes()).size == (40, 60)


def test_fixes_are_announced_and_not_made_by_validation(tmp_path):
    """Validation says what the run would do, and writes nothing."""
    (tmp_path / "cat.webp").write_bytes(encoded(plain(), "WEBP"))
    found = _findings_of("cat.webp", tmp_path, fix_images=True)
    assert found["severity"].tolist() == ["warning"]
    assert found["fix"][0] == "Nothing to do: the run sends a corrected copy, converted to JPEG or PNG."
    assert [path.name for path in tmp_path.iterdir()] == ["cat.webp"]


def test_a_picture_that_needs_no_fix_is_the_same_job_with_and_without(tmp_path):
    """Asking for fixes must not buy anew what was fine."""
    (tmp_path / "fine.png").write_bytes(encoded(plain()))
    (tmp_path / "turned.jpg").write_bytes(turned())
    table = pd.DataFrame({"image": ["fine.png", "turned.jpg"], "prompt": "a", "seed": 1})
    as_is = prepare(table, CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e")
    fixed = prepare(
        table, CheckOptions(tmp_path, fix_images=True, inputs=Inputs(tmp_path / "inputs")), entropy="e"
    )
    assert as_is.rows["job_id"][0] == fixed.rows["job_id"][0]
    assert as_is.rows["job_id"][1] != fixed.rows["job_id"][1]
    assert fixed.rows["image_sent"][0] == fixed.rows["image_source"][0]
    assert fixed.rows["image_digest"].tolist() == as_is.rows["image_digest"].tolist()


def test_a_copy_made_once_is_used_again(tmp_path, monkeypatch):
    """A later call finds the copy and need not make it, unless it was damaged."""
    table = pd.DataFrame({"image": [turned()], "prompt": "a"})
    how = CheckOptions(fix_images=True, inputs=Inputs(tmp_path))
    first = prepare(table, how, entropy="e")
    made = []
    monkeypatch.setattr(references, "repair", lambda content: made.append(content) or repair(content))
    assert prepare(table, how, entropy="e").jobs == first.jobs
    assert made == []
    Path(first.rows["image_sent"][0]).write_bytes(b"")
    assert prepare(table, how, entropy="e").jobs == first.jobs
    assert len(made) == 1


def test_repaired_pictures_have_no_problem_left():
    """Whatever was wrong, the copy is as the service wants it."""
    broken = [
        turned(),
        encoded(plain(5000, 100), "JPEG"),
        encoded(plain(), "TIFF"),
        encoded(plain(mode="CMYK"), "JPEG"),
        encoded(plain(mode="CMYK"), "TIFF"),
        encoded(Image.new("F", (8, 8), 3.0), "TIFF"),
        encoded(Image.new("I", (8, 8), 70_000), "TIFF"),
        encoded(Image.new("1", (8, 8)), "TIFF"),
        encoded(Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))),
        encoded(plain(mode="LA"), "WEBP"),
        encoded(plain(mode="P"), "GIF", save_all=True, append_images=[plain(mode="P", colour=(0, 0, 0))]),
        encoded(plain(), save_all=True, append_images=[plain(colour=(0, 0, 0))]),
        png_of_noise(),
    ]
    for content in broken:
        copy = repair(content)
        assert [one.code for one in references.examine(copy) if one.code != "image-extreme-ratio"] == []
        assert repair(content) == copy


def png_of_noise():
    return encoded(noisy(1600, 1200), compress_level=1)


def test_large_noise_is_squeezed_below_the_limit():
    """A PNG of 5.8 MB becomes a JPEG that the service takes."""
    content = png_of_noise()
    assert len(content) > contract.INPUT_BYTES_MAX.value
    copy = repair(content)
    assert copy.startswith(b"\xff\xd8")
    assert len(copy) <= contract.INPUT_BYTES_ADVISED.value


def test_even_the_lowest_quality_may_need_a_smaller_picture(monkeypatch):
    """If no quality is small enough, the picture shrinks until one is."""
    monkeypatch.setattr("dreamo_batch.jobs.references._BYTES_MAX", 20_000)
    copy = opened(repair(encoded(noisy(300, 300), "JPEG")))
    assert max(copy.size) < 300


def test_threads_decode_so_many_pixels_at_a_time(monkeypatch):
    """Memory must not add up over threads; a picture larger than all the room goes alone."""
    room, inside, most = images._PixelBudget(1000), [], []
    monkeypatch.setattr(images, "_memory", room)

    def decode(n_pixels):
        with room.reserved(n_pixels):
            inside.append(n_pixels)
            most.append(sum(min(one, 1000) for one in inside))
            inside.remove(n_pixels)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [400, 700, 5000, 300] * 50))
    assert max(most) <= 1000
    assert repair(turned()) == repair(turned())


BROKEN = encoded(noisy(400, 300), "JPEG")[:-4000]


def test_a_pipe_or_device_is_never_waited_for(tmp_path):
    """Rows that name one are invalid; reports and galleries draw their references all the same."""
    os.mkfifo(tmp_path / "cat.png")
    assert images.small_picture(tmp_path / "cat.png", 64) is None
    assert images.small_picture(Path("/dev/zero"), 64) is None


@pytest.mark.parametrize(
    "content", [BROKEN, encoded(noisy(80, 60))[:-300], encoded(noisy(80, 60), "WEBP")[:-300]]
)
def test_the_users_switches_change_no_verdict(monkeypatch, content):
    """Notebooks switch Pillow's checks off, or make errors of its warnings; afterwards all is as they set it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "image-damaged" in _codes(content)
    with pytest.raises(pictures.NotAPicture):
        pictures.inspect_picture(content)
    assert images.small_picture(io.BytesIO(content), 64) is None
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, None)


def test_a_log_that_fails_changes_no_verdict(monkeypatch):
    """Pillow logs each chunk of a PNG file while it reads it; its level is afterwards as the user set it."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [SimpleNamespace(level=0, handle=lambda _: 1 / 0)])
    logging.getLogger("PIL").setLevel(logging.DEBUG)
    try:
        assert _codes(encoded(plain())) == []
        assert logging.getLogger("PIL").level == logging.DEBUG
    finally:
        logging.getLogger("PIL").setLevel(logging.NOTSET)


@pytest.mark.parametrize("limit", [None, 10, 10**12])
def test_limits_are_ours_whatever_those_of_pillow_are(monkeypatch, limit):
    """Some switch Pillow's own limit off, others set it low."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert _codes(png_claiming(60_000, 60_000)) == ["image-bomb"]
    assert _codes(encoded(plain())) == []
    assert pictures.inspect_picture(encoded(plain()))[0] == "png"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_warnings_that_are_errors_change_no_verdict():
    """The filter stands while a picture is opened, and is gone after, also when the user's own context ends between."""
    odd = encoded(plain(), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _codes(odd) == []
        with images.opened(io.BytesIO(png_claiming(12_000, 14_900))) as huge:  # Pillow warns of half of this
            assert huge.size == (12_000, 14_900)
        with images.opened(io.BytesIO(odd)), warnings.catch_warnings():
            assert len(warnings.filters) > len(before)
        assert images.pillow_settings._FILTER not in warnings.filters
    assert warnings.filters == before


def test_what_a_user_sets_meanwhile_stays(monkeypatch):
    """Only what is still ours is taken back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with images.opened(io.BytesIO(encoded(plain()))):
        Image.MAX_IMAGE_PIXELS = 7
    assert Image.MAX_IMAGE_PIXELS == 7


RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))


@pytest.mark.parametrize(
    ("image", "kind", "codes"),
    [
        (RAMP.astype("float32"), "TIFF", ["image-format", "image-numbers"]),
        ((RAMP * 255).astype("int32"), "TIFF", ["image-format", "image-levels"]),
        ((RAMP * 1e6).astype("int32"), "TIFF", ["image-format", "image-numbers"]),
        ((RAMP * 65535).astype("int32"), "TIFF", ["image-format"]),
        ((RAMP * 255 - 100).astype("int32"), "TIFF", ["image-format", "image-numbers"]),
        ((RAMP * 1023).astype("uint16"), "PNG", ["image-colours", "image-levels"]),
        ((RAMP * 4095).astype("uint16"), "PNG", ["image-colours", "image-levels"]),
        ((RAMP * 4095).astype("uint16"), "TIFF", ["image-format", "image-colours", "image-levels"]),
        ((RAMP * 16383).astype("uint16"), "PNG", ["image-colours", "image-levels"]),
        ((RAMP * 65535).astype("uint16"), "PNG", ["image-colours"]),
        ((RAMP * 65535).astype("uint16"), "TIFF", ["image-format", "image-colours"]),
        (np.zeros((48, 64), "uint16"), "PNG", ["image-colours"]),
    ],
)
def test_numbers_that_are_no_levels_are_refused(image, kind, codes):
    """A picture that would come out black is never sent; how to scale it is the user's choice, fix or no fix."""
    content = encoded(Image.fromarray(image), kind)
    assert _codes(content) == _codes(content, fix_images=True) == codes
    found = check(Source("bytes", content=content), CheckOptions(BASE, fix_images=True, inputs=Inputs(None)))
    assert (found.image is None) == any("levels" in code or "numbers" in code for code in codes)


def test_deep_colours_that_are_nearly_black_are_refused():
    """12 bits in 16 happen in colour too, where Pillow shows only the upper half."""
    deep = {most: _png_16((RAMP * most).astype(">u2")) for most in (4095, 65535)}
    assert _codes(deep[4095]) == ["image-colours", "image-levels"]
    assert _codes(deep[65535]) == ["image-colours"]


def _png_16(levels):
    height, width = levels.shape
    lines = b"".join(b"\0" + np.repeat(line, 3).tobytes() for line in levels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_deep_grey_has_one_reading(tmp_path):
    """A corrected copy, a thumbnail, and what is measured show the same grey."""
    content = encoded(Image.fromarray((RAMP * 65535).astype("uint16")))
    (tmp_path / "a.png").write_bytes(content)
    copy = np.asarray(opened(repair(content)).convert("L")).astype(int)
    shown = np.asarray(images.small_picture(io.BytesIO(content), 64).convert("L")).astype(int)
    measured = np.asarray(read(tmp_path / "a.png", hashlib.sha256(content).hexdigest()).convert("L")).astype(
        int
    )
    assert np.abs(copy - shown).max() <= 1
    assert np.abs(copy - measured).max() <= 1
    assert (copy.min(), copy.max()) == (0, 255)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16B", ">u2"), ("I;16L", "<u2"), ("I;16N", "=u2")])
def test_deep_pixels_of_any_byte_order_are_one_picture(mode, dtype, tmp_path):
    """Pillow, which gives such pixels of a TIFF, would clip them at 255 where it converts them."""
    levels = (RAMP * 65535).astype("uint16")
    image = Image.frombytes(mode, levels.shape[::-1], levels.astype(dtype).tobytes())
    table = pd.DataFrame({"image": [image], "prompt": ["a"]})
    (job,) = prepare(table, CheckOptions(inputs=Inputs(tmp_path)), entropy="e").jobs.values()
    assert np.array_equal(np.asarray(Image.open(job.image.sent_location)), levels)
    assert validate(table, base_dir=tmp_path)["code"].tolist() == ["image-colours"]


def test_a_copy_of_one_colour_is_not_sent(monkeypatch):
    """White lines on nothing vanish where transparency must go."""
    image = Image.new("RGBA", (64, 48), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (10, 10, 20, 20))
    content = encoded(image, "TIFF")
    monkeypatch.setattr("dreamo_batch.jobs.references._BYTES_MAX", 100)
    monkeypatch.setattr("dreamo_batch.jobs.references._encode_jpeg", lambda image, _: encoded(image, "JPEG"))
    how = CheckOptions(BASE, fix_images=True, inputs=Inputs(None))
    assert [one.code for one in check(Source("bytes", content=content), how).findings] == [
        "image-copy-uniform"
    ]
    assert repair(encoded(Image.new("RGBA", (8, 8), (255, 255, 255, 255)), "TIFF"))


def test_fixing_keeps_what_is_seen():
    """Turned upright, colours and transparency kept, deep greys scaled rather than clipped."""
    upright = opened(repair(turned(6)))
    assert upright.size == (40, 60)
    assert upright.getpixel((20, 5))[0] > 200
    grey = opened(repair(encoded(Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)))))
    assert grey.getpixel((0, 0)) == 128
    cutout = plain(mode="RGBA")
    cutout.putalpha(0)
    assert opened(repair(encoded(cutout, "WEBP", lossless=True))).mode == "RGBA"
    assert opened(repair(encoded(plain(mode="RGBA"), "WEBP", lossless=True))).mode == "RGB"


def test_transparency_is_laid_on_white_only_when_it_must_go(monkeypatch):
    """A cutout too large for a PNG becomes a JPEG on white."""
    monkeypatch.setattr("dreamo_batch.jobs.references._BYTES_MAX", 20_000)
    cutout = noisy(100, 100, 4)
    cutout.putalpha(Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (100, 50))))
    copy = opened(repair(encoded(cutout)))
    assert copy.format == "JPEG"


def test_colour_profiles_survive_unless_colours_are_converted():
    """A profile belongs to its colours."""
    assert opened(repair(encoded(plain(), "TIFF", icc_profile=b"profile"))).info["icc_profile"] == b"profile"
    cmyk = encoded(plain(mode="CMYK"), "JPEG", icc_profile=b"profile")
    assert "icc_profile" not in opened(repair(cmyk)).info


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_colours_of_other_profiles_are_reported_and_converted(mode):
    """As phones and cameras write them; what is shown and sent looks like the picture in its own program."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Its red is green.
    odd = srgb.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    red = Image.new(mode, (64, 64), "red")
    assert references.examine(encoded(red, icc_profile=srgb)) == ()
    content = encoded(red, icc_profile=odd)
    (told,) = references.examine(content)
    assert (told.code, "a colour profile other than sRGB" in told.message) == ("image-colours", True)
    copy = opened(repair(content))
    assert "icc_profile" not in copy.info
    for seen in (copy, images.small_picture(content, 32), images.upright_rgb(opened(content))):
        assert np.abs(np.subtract(seen.getpixel((5, 5))[:3], (0, 255, 0))).max() <= 2
    assert references.examine(repair(content)) == ()


def test_pictures_that_can_not_be_fixed_after_all_are_refused(monkeypatch):
    """What only shows when the copy is made is still a problem of the row, not of the run."""

    def fails(content):
        raise OSError("broken data stream")

    monkeypatch.setattr(references, "repair", fails)
    checked = check(
        Source("bytes", content=turned()), CheckOptions(BASE, fix_images=True, inputs=Inputs(None))
    )
    assert checked.image is None
    assert [one.code for one in checked.findings] == ["image-damaged"]


def test_a_folder_that_can_not_be_written_stops_the_run(tmp_path):
    """A full or missing disk is no problem of one row."""
    (tmp_path / "file").write_bytes(b"")
    table = pd.DataFrame({"image": [turned()], "prompt": "a"})
    for fix_images in (False, True):
        with pytest.raises(StorageFailed, match="Nothing was sent"):
            prepare(
                table,
                CheckOptions(inputs=Inputs(tmp_path / "file" / "inputs"), fix_images=fix_images),
                entropy="e",
            )


def test_files_that_are_gone_keep_their_identity_if_they_are_known(tmp_path):
    """A resumed run finds what it bought though the picture was deleted since."""
    for name, content in (("cat.png", encoded(plain())), ("turned.jpg", turned())):
        (tmp_path / name).write_bytes(content)
    table = pd.DataFrame({"image": ["cat.png", "turned.jpg"], "prompt": "a", "seed": 1})
    how = CheckOptions(tmp_path, fix_images=True, inputs=Inputs(tmp_path / "inputs"))
    before = prepare(table, how, entropy="e")
    known = {job.image.location: job.image for job in before.jobs.values()}
    for name in table["image"]:
        (tmp_path / name).unlink()
    assert prepare(table, how, entropy="e").problems["code"].tolist() == ["image-not-found"] * 2
    after = prepare(table, replace(how, known_images=known), entropy="e")
    assert after.jobs == before.jobs
    kinds = [["image-gone", "warning"], ["image-kept", "warning"]]  # a corrected copy is still there
    assert after.problems[["code", "severity"]].to_numpy().tolist() == kinds


def test_known_pictures_do_not_hide_what_is_there_now(tmp_path):
    """Only files that can't be read are remembered; a changed one is a new job."""
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(plain()))
    old = ImageSource("file", str(path), "0" * 64, str(path), "0" * 64)
    table = pd.DataFrame({"image": [path], "prompt": "a"})
    rows = prepare(table, CheckOptions(known_images={str(path): old}, inputs=Inputs(None)), entropy="e").rows
    assert rows["image_digest"][0] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_picture_with_another_suffix_is_offered(tmp_path):
    """Annotation tools leave the suffix out, converted tables keep the old one; full width looks nearly the same."""
    (tmp_path / "Cat.png").write_bytes(encoded(plain()))
    for name in ("cat.jpg", "cat", "\uff23at.png"):
        assert f"But there is {tmp_path / 'Cat.png'}" in _findings_of(name, tmp_path)["message"][0]


@pytest.mark.parametrize("cell", [["a.png"], ("a.png",), np.array(["a.png"], dtype=object), [Path("a.png")]])
def test_a_list_of_one_picture_is_that_picture(cell, tmp_path):
    """The service's own `image_urls` is such a list, so people write it."""
    (tmp_path / "a.png").write_bytes(encoded(plain()))
    table = pd.DataFrame({"image": pd.Series([cell], dtype=object), "prompt": "a", "seed": 1})
    (listed,) = prepare(table, CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e").jobs
    (bare,) = prepare(
        table.assign(image="a.png"), CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e"
    ).jobs
    assert listed == bare


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ([], "image-missing"),
        ([None], "image-missing"),
        (["a.png", "a.png"], "image-too-many"),
        ([["a.png"]], "image-not-a-source"),
        (np.zeros((1, 4)), "image-not-a-source"),
        ("[{[1]: 2}]", "image-not-found"),
        ("[" * 99_000 + "]" * 99_000, "image-unreadable"),
    ],
)
def test_other_lists_are_no_picture(cell, code, tmp_path):
    """The default model takes exactly one."""
    (tmp_path / "a.png").write_bytes(encoded(plain()))
    table = pd.DataFrame({"image": pd.Series([cell], dtype=object), "prompt": "a"})
    assert validate(table, base_dir=tmp_path)["code"].tolist() == [code]


COMPOSED, DECOMPOSED = "caf\u00e9/\u00e9.png", "cafe\u0301/e\u0301.png"


@pytest.mark.parametrize(
    ("there", "written"),
    [
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        (DECOMPOSED, "cafe\u0301/\u00e9.png"),
        ("a.png", " a.png\n"),
        ("a.png", "'a.png'"),
        ("a.png", "\u201ca.png\u201d"),
        ("b c/a.png", '"b c/a.png" '),
        (" a.png", "a.png"),
        ("a.png", "{base}/a.png\r"),
        ("a.png", '"{base}/a.png"'),
        ("a.png", " {base}/a.png"),
        ("a.png", "\u202a{base}/a.png"),
    ],
)
def test_a_path_that_is_there_in_another_spelling_is_found(there, written, tmp_path):
    """Disks keep other Unicode forms than editors write, and cells carry blanks and quotes along."""
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(encoded(plain()))
    table = pd.DataFrame({"image": [written.replace("{base}", str(tmp_path))], "prompt": "a", "seed": 1})
    assert validate(table, base_dir=tmp_path).empty
    (job,) = prepare(table, CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e").jobs.values()
    assert Path(job.image.location).read_bytes() == encoded(plain())


def test_a_quoted_link_is_that_link():
    """A quote can't begin a URL; at its end it may belong to it."""
    assert read_source(' "https://example.com/a.png" ', BASE) == read_source(
        "https://example.com/a.png", BASE
    )
    assert read_source("https://example.com/a'", BASE).location == "https://example.com/a'"


@pytest.mark.parametrize(
    "written",
    [
        "cat.png (https://h.example/cat.png)",  # Airtable
        "![cat](https://h.example/cat.png)",
        "<https://h.example/cat.png>",
        "www.h.example/cat.png",
        "https//h.example/cat.png",
    ],
)
def test_a_link_in_other_words_is_no_file(written, tmp_path):
    """It isn't guessed, but asked for."""
    assert "write only the link" in _findings_of(written, tmp_path)["message"][0]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("$HOME/cat.png", "Variables such as $HOME aren't expanded"),
        ("${DATA}/cat.png", "Variables such as $HOME aren't expanded"),
        ("%USERPROFILE%\\cat.png", "Variables such as $HOME aren't expanded"),
        ("iVBORw0KGgoAAAANSUhEUg" * 300, "put data:image/png;base64, before it"),
        ("image/png;base64,iVBORw0KGgo", "as data:image/png;base64,..."),
        ("base64," + "iVBORw0KGgoAAAANSUhEUg" * 300, "as data:image/png;base64,..."),
        ("/9j/4AAQSkZJRgABAQAAAQABAAD", "put data:image/png;base64, before it"),
        (repr(encoded(plain()))[:3000], "This is how Python prints bytes"),
        (repr(encoded(plain(), "JPEG"))[:100], "This is how Python prints bytes"),
        ("<PIL.Image.Image image mode=RGB size=9x9 at 0x7F>", "This is how Python prints a picture"),
        (str(np.asarray(plain())), "This is how Python prints a picture"),
        ("My%20Page%20ab12/cat.png", "My%20Page%20ab12/cat.png."),  # Notion
        ("C:\\Users\\me\\cat.png", "Windows paths can't be read here"),
        ("C:/Users/me/cat.png", "Windows paths can't be read here"),
        ("file:///C:/cat.png", "Windows paths can't be read here"),
        ("![cat](cat.png)", "without Markdown or HTML"),
        ('<img src="cat.png">', "without Markdown or HTML"),
        ("cat.png, dog.png", "Write several pictures of a row as a list"),  # Notion
        ("/data/upload/1/cat.png", "Label Studio"),
        ("{'bytes': None, 'path': 'cat.png'}", "only the path in it"),
        ("PosixPath('cat.png')", "only the path in it"),
        ("cats/*.png", "use sweep(image=...)"),
        ("cats/*", "use sweep(image=...)"),
        ("*/cat.png", "use sweep(image=...)"),
        ("cats/cat?.jpg", "use sweep(image=...)"),
    ],
)
def test_a_path_that_other_programs_write_says_what_to_write(written, words, tmp_path):
    """The path as it was written tells where it comes from."""
    message = _findings_of(written, tmp_path)["message"][0]
    assert words in message
    assert ("$HOME" in message) == ("$HOME" in words)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_array_of_levels_is_the_picture_that_pil_makes_of_it(mode, tmp_path):
    """A picture is the same job however it is held in memory."""
    image = plain(mode=mode)
    levels = np.asarray(image)
    held = [image, levels, *([levels[:, :, np.newaxis]] if mode == "L" else [])]
    table = pd.DataFrame({"image": pd.Series(held, dtype=object), "prompt": "a", "seed": 1})
    rows = prepare(table, CheckOptions(tmp_path, inputs=Inputs(None)), entropy="e").rows
    assert set(rows["duplicate_of"][1:]) == {0}


def test_a_file_open_as_text_is_said(tmp_path):
    """It isn't taken for a path."""
    (tmp_path / "a.txt").write_text("a.png")
    with (tmp_path / "a.txt").open() as file:
        found = _findings_of(file, tmp_path)
    assert found["code"].tolist() == ["image-unreadable"]
    assert "in mode 'rb'" in found["fix"][0]


def test_a_path_with_other_capitals_is_named(tmp_path):
    """It is another file on most disks, so it is not taken for the one that is written."""
    (tmp_path / "Refs").mkdir()
    (tmp_path / "Refs" / "A.PNG").write_bytes(encoded(plain()))
    found = _findings_of("refs/a.png", tmp_path)
    assert found["code"].tolist() == ["image-not-found"]
    assert str(tmp_path / "Refs" / "A.PNG") in found["message"][0]
    (tmp_path / "Refs" / "a.Png").write_bytes(encoded(plain()))
    assert "did you mean" not in _findings_of("refs/a.png", tmp_path)["message"][0]
    assert "did you mean" not in _findings_of("refs/b.png", tmp_path)["message"][0]


_PEAK = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from dreamo_batch.engine.pictures import inspect_picture
from dreamo_batch.jobs.references import examine

def content(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

def peak_mb():
    if sys.platform == "linux":  # where a process inherits the peak of the one that started it
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2

gif = content(Image.new("P", (7000, 7000)), "GIF")
frames = content(Image.new("P", (600, 600)), "GIF", save_all=True, append_images=[Image.new("P", (600, 600), 1)] * 50)
png = content(Image.new("RGB", (5000, 5000)), "PNG")
Image.new("L", (7000, 7000)).load()
before = peak_mb()
with ThreadPoolExecutor(16) as pool:
    list(pool.map(examine, [gif, frames] * 8))
    list(pool.map(inspect_picture, [png] * 16))
print(peak_mb() - before)
"""


def test_bombs_at_once_take_no_more_memory_than_one():
    """16 threads decode small files of huge pictures; without a bound they take 1 GB together."""
    told = subprocess.run([sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True)
    assert float(told.stdout) < 500


_PEAK_OF_A_COPY = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from dreamo_batch.images import small_picture
from dreamo_batch.jobs.references import repair

side = 8400
buffer = io.BytesIO()
Image.linear_gradient("L").resize((side, side)).convert("LA").save(buffer, "PNG", compress_level=1)
make = {"corrected": repair, "shrunk": lambda content: small_picture(content, 300)}[sys.argv[1]]
with ThreadPoolExecutor(2) as pool:
    list(pool.map(make, [buffer.getvalue()] * 2))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
if sys.platform == "linux":  # where a process inherits the peak of the one that started it
    peak = 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(peak / (4 * side * side))
"""


@pytest.mark.parametrize("made", ["corrected", "shrunk"])
def test_a_copy_of_a_huge_picture_takes_little_more_than_the_picture(made):
    """Several at once, too: it is converted a few rows at a time; in one piece it takes five times its memory."""
    told = subprocess.run(
        [sys.executable, "-c", _PEAK_OF_A_COPY, made], check=True, capture_output=True, text=True
    )
    assert float(told.stdout) < 3


def test_a_huge_picture_is_corrected_like_a_small_one():
    """In strips or at once, turned or not: the copy shows the same."""
    small = Image.fromarray((np.indices((300, 420)).sum(0) % 256).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    huge = small.resize((420 * 20, 300 * 20), Image.Resampling.BICUBIC)
    repaired = [opened(repair(encoded(one, exif=exif))) for one in (small, huge)]
    assert repaired[1].size == (2926, 4096)
    copies = [one.resize((300, 420), Image.Resampling.BOX) for one in repaired]
    assert np.abs(np.subtract(*(np.asarray(one, dtype=int) for one in copies))).mean() < 4
