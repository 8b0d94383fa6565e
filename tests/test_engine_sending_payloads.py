"""Requests are built from the bytes the job was planned with, or not at all."""

from __future__ import annotations

import base64
import hashlib
import threading

import pytest

from dreamo_batch.engine import sending as payload
from dreamo_batch.engine.sending import ImageChanged, Payloads
from dreamo_batch.jobs.references import ImageSource
from tests.fakes import job, picture


def source(path, content: bytes, *, digest: str | None = None) -> ImageSource:
    """A picture on disk, sent as it is."""
    path.write_bytes(content)
    digest = digest or hashlib.sha256(content).hexdigest()
    return ImageSource("file", str(path), digest, str(path), digest)


def test_a_url_is_sent_as_it_is():
    """Nothing is read or fetched for a picture that the service fetches itself."""
    request = Payloads().request(job("a", seed=5))
    assert (request.image_urls, request.images_base64) == (("https://example.com/cat.png",), ())
    assert (request.prompt, request.seed, request.width, request.height, request.use_rephraser) == (
        "a cat called a",
        5,
        1328,
        1328,
        True,
    )


def test_a_file_is_sent_as_bare_base64(tmp_path):
    """Its bytes, unchanged, without a `data:` prefix."""
    content = picture()
    request = Payloads().request(job(image=source(tmp_path / "cat.png", content)))
    assert request.image_urls == ()
    assert base64.b64decode(request.images_base64[0], validate=True) == content


def test_the_corrected_copy_is_what_is_sent(tmp_path):
    """Where a fix was made, its bytes go out; the original may be anything by then."""
    (tmp_path / "fixed.png").write_bytes(b"fixed")
    digest = hashlib.sha256(b"fixed").hexdigest()
    image = ImageSource("file", "/gone/original.png", "00", str(tmp_path / "fixed.png"), digest)
    assert base64.b64decode(Payloads().request(job(image=image)).images_base64[0]) == b"fixed"


def test_a_changed_file_is_not_sent(tmp_path):
    """A picture that is another one by now would buy something nobody asked for."""
    image = source(tmp_path / "cat.png", b"before")
    (tmp_path / "cat.png").write_bytes(b"after")
    with pytest.raises(
        ImageChanged, match=r"cat\.png changed after the table was checked\. Nothing was sent"
    ):
        Payloads().request(job(image=image))


@pytest.mark.parametrize("what", ["gone", "a folder"])
def test_a_file_that_can_not_be_read_is_reported(tmp_path, what):
    """The message names the file and says what to do."""
    image = source(tmp_path / "cat.png", b"before")
    (tmp_path / "cat.png").unlink()
    if what == "a folder":
        (tmp_path / "cat.png").mkdir()
    with pytest.raises(ImageChanged, match=r"Can't read .*cat\.png any more \(.*Put it back"):
        Payloads().request(job(image=image))


def test_a_shared_picture_is_read_once(tmp_path, monkeypatch):
    """Rows that share a picture share its text, and what was read with the right digest stays right."""
    image = source(tmp_path / "cat.png", b"shared")
    payloads = Payloads()
    first = payloads.request(job("a", image=image))
    (tmp_path / "cat.png").unlink()
    assert payloads.request(job("b", image=image)).images_base64[0] is first.images_base64[0]
    assert payloads.n_cached_bytes == len(first.images_base64[0])


def test_the_cache_is_bounded(tmp_path):
    """The pictures used longest ago go first; one that is too large alone is kept by nobody."""
    payloads = Payloads(max_bytes=100)
    images = {
        name: source(tmp_path / name, name.encode() * 30) for name in ("a", "b", "c")
    }  # 40 bytes of base64
    for name in ("a", "b", "a", "c"):
        payloads.request(job(name, image=images[name]))
        assert payloads.n_cached_bytes <= 100
    for name in images:
        (tmp_path / name).unlink()
    assert payloads.request(job("a", image=images["a"])).images_base64
    assert payloads.request(job("c", image=images["c"])).images_base64
    with pytest.raises(ImageChanged):
        payloads.request(job("b", image=images["b"]))
    large = source(tmp_path / "large", bytes(1000))
    assert len(base64.b64decode(payloads.request(job(image=large)).images_base64[0])) == 1000
    assert payloads.n_cached_bytes <= 100


def test_workers_may_build_at_once(tmp_path, monkeypatch):
    """Two workers that read the same picture at the same time count it once."""
    content = bytes(3000)
    image = source(tmp_path / "cat.png", content)
    payloads, barrier = Payloads(), threading.Barrier(4)
    real = payload._read

    def slow(one):
        barrier.wait(5)
        return real(one)

    monkeypatch.setattr(payload, "_read", slow)
    requests = []
    threads = [
        threading.Thread(target=lambda: requests.append(payloads.request(job(image=image)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(request.images_base64[0]) for request in requests] == [4000] * 4
    assert payloads.n_cached_bytes == 4000


def test_an_expired_link_is_not_sent():
    """The service could not fetch the picture, and might bill the attempt; the local clock may be 5 minutes wrong."""
    link = "https://b.s3.amazonaws.com/a.png?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=0"
    image = ImageSource("url", link, "0", link, "0")
    assert Payloads(wall=lambda: 1577837159.0).request(job(image=image)).image_urls == (link,)
    with pytest.raises(ImageChanged, match="expired"):
        Payloads(wall=lambda: 1577837160.0).request(job(image=image))
