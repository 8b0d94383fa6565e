"""Pictures on disk: whole, checked and in place at once, or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dreamo_batch import files
from dreamo_batch.engine import pictures
from dreamo_batch.engine.pictures import NotAPicture
from tests.fakes import picture

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def huge_png(side_px: int) -> bytes:
    """A few bytes that stand for a picture of that many pixels a side."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = side_px.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("file_format", "suffix"), FORMATS.items())
def test_a_picture_is_saved_under_its_job(tmp_path, file_format, suffix):
    """Format and size come from the bytes, name from the job, and the hash is that of the file."""
    content = picture(file_format, (12, 9))
    saved = pictures.save(content, "a" * 32, tmp_path)
    assert saved == pictures.Saved(
        f"images/{'a' * 32}.{suffix}", hashlib.sha256(content).hexdigest(), len(content), 12, 9
    )
    assert (tmp_path / saved.path).read_bytes() == content
    assert pictures.is_in_place(tmp_path, saved.path, saved.n_bytes)
    assert pictures.is_unaltered(tmp_path, saved.path, saved.sha256)
    assert [path.name for path in (tmp_path / "images").iterdir()] == [f"{'a' * 32}.{suffix}"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>Too many requests</body></html>",
        b'{"message": "busy"}',
        b"GIF89a" + bytes(100),
        picture("GIF"),
        picture("BMP"),
        picture("TIFF"),
        b"\xff\xd8\xff\xe0" + bytes(50),
        b"RIFF\x00\x00\x00\x00WEBP",
        picture("PNG")[:60],
    ],
)
def test_a_placeholder_is_refused_and_leaves_nothing(tmp_path, content):
    """What is not a whole JPEG, PNG or WebP is not saved, and the message shows how it starts."""
    with pytest.raises(
        NotAPicture, match=rf"expected a whole JPEG, PNG or WEBP file, got {len(content)} bytes starting b"
    ):
        pictures.save(content, "a", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_cut_short_is_refused(file_format):
    """Half a picture looks like one at its beginning, so it is decoded to the end."""
    content = picture(file_format, (64, 48))
    assert pictures.inspect_picture(content)[1:] == (64, 48)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(NotAPicture):
            pictures.inspect_picture(content[: int(len(content) * part)])


def test_a_small_file_of_a_huge_picture_is_refused(tmp_path):
    """What would fill the memory is refused by its size, before it is decoded."""
    for side_px in (8193, 12_000, 60_000):
        with pytest.raises(NotAPicture):
            pictures.save(huge_png(side_px), "a", tmp_path)
    assert pictures.PICTURE_PIXELS_MAX == 8192 * 8192


def test_looking_leaves_the_filters_of_warnings_alone():
    """Workers look at pictures side by side; the process's own settings stay what they were."""
    import warnings

    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [pictures.inspect_picture(picture()) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@settings(max_examples=settings().max_examples // 2)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_altered_bytes_are_a_picture_or_are_refused(file_format, data):
    """Whatever a decoder makes of damaged bytes, nothing but one kind of error comes out."""
    content = bytearray(picture(file_format, (16, 16)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        suffix, width_px, height_px = pictures.inspect_picture(content)
    except NotAPicture as error:
        assert str(len(content)) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert suffix in FORMATS.values()
        assert 0 < width_px * height_px <= pictures.PICTURE_PIXELS_MAX


def test_a_decoder_that_fails_in_its_own_way_refuses_one_picture(monkeypatch):
    """An exception nobody foresaw over one file is no reason to stop a run."""

    def explode(_self):
        raise IndexError("deep inside")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    with pytest.raises(NotAPicture):
        pictures.inspect_picture(picture("PNG", (5, 5)))


def test_several_pictures_in_one_jpeg_are_a_jpeg(tmp_path):
    """A JPEG that cameras put a second picture into is saved like any other."""
    path = tmp_path / "two.jpg"
    Image.new("RGB", (8, 8)).save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert pictures.inspect_picture(path.read_bytes()) == ("jpg", 8, 8)


def test_a_picture_replaces_an_earlier_one_at_once(tmp_path):
    """A reader sees the old picture or the new one."""
    first, second = picture("PNG", (4, 4)), picture("PNG", (40, 40))
    pictures.save(first, "a", tmp_path)
    seen = set()
    is_done = threading.Event()

    def look():
        while not is_done.is_set():
            seen.add((tmp_path / "images" / "a.png").read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    for content in (second, first) * 20:
        pictures.save(content, "a", tmp_path)
    is_done.set()
    thread.join()
    assert seen <= {first, second}


def test_two_who_save_the_same_picture_do_not_mix(tmp_path):
    """A call taken over may still be saving what its successor saves too."""
    contents = [picture("PNG", (side, side)) for side in (10, 60)]
    errors = []

    def save(content):
        try:
            for _ in range(30):
                pictures.save(content, "a", tmp_path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (tmp_path / "images" / "a.png").read_bytes() in contents
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_a_disk_that_refuses_leaves_the_old_picture(tmp_path, monkeypatch):
    """If the new bytes can't be made durable, the old file and nothing else is there."""
    pictures.save(picture("PNG", (4, 4)), "a", tmp_path)

    def refuse(_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "fsync_file", refuse)
    with pytest.raises(OSError, match="space"):
        pictures.save(picture("PNG", (40, 40)), "a", tmp_path)
    assert pictures.inspect_picture((tmp_path / "images" / "a.png").read_bytes()) == ("png", 4, 4)
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_what_is_gone_or_altered_is_not_in_place(tmp_path):
    """Existence and size are checked quickly, the bytes when asked."""
    saved = pictures.save(picture(), "a", tmp_path)
    assert not pictures.is_in_place(tmp_path, None, 5)
    assert not pictures.is_in_place(tmp_path, saved.path, saved.n_bytes + 1)
    path = tmp_path / saved.path
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert pictures.is_in_place(tmp_path, saved.path, saved.n_bytes)
    assert not pictures.is_unaltered(tmp_path, saved.path, saved.sha256)
    path.unlink()
    assert not pictures.is_in_place(tmp_path, saved.path, saved.n_bytes)
    assert not pictures.is_unaltered(tmp_path, saved.path, saved.sha256)


def test_replacing_writes_beside_and_leaves_nothing_on_failure(tmp_path):
    """A writer that fails half way changes nothing."""
    path = tmp_path / "note.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        assert temporary.parent == tmp_path
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        files.replace(path, half)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(FileNotFoundError) as missing:
        files.replace(tmp_path / "none" / "note.txt", half)
    assert missing.value.filename == str(tmp_path / "none" / "note.txt")
    files.replace(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert stat.S_ISREG(path.stat().st_mode)
