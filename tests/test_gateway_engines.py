"""The pictures of the local gateway: equal for equal requests, different otherwise, and labelled."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import dreamo_batch as dreamo
from dreamo_batch.gateway.engines import (
    DrawRequest,
    banner,
    engine_named,
    load_reference,
    picture_suffix,
    read_words,
)
from dreamo_batch.gateway.tasks import PATIENCE_S
from tests.flows import until
from tests.local_client import LocalClient

DATA = Path(__file__).parent.parent / "data"
MASCOT = (DATA / "mascot.png").read_bytes()
PHOTO = (DATA / "chelsea.jpg").read_bytes()
REQUEST = DrawRequest("a fox on the beach at sunset", 42, 512, 512, use_rephraser=True)
PURE_BLUE = (0, 0, 255)


def painted(
    request: DrawRequest = REQUEST, reference: bytes = MASCOT, engine: str = "preview"
) -> Image.Image:
    picture = engine_named(engine).generate(request, reference)
    image = Image.open(io.BytesIO(picture))
    image.load()
    assert image.size == (request.width, request.height)
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the colours of two thumbnails: what an eye sees from afar, 0 to 255."""
    small = (np.asarray(image.convert("RGB").resize((32, 32)), dtype=float) for image in (one, other))
    return float(np.abs(np.subtract(*small)).mean())


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def blue_share(image: Image.Image) -> float:
    """Share of the pixels that are blue and nothing else."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=int), -1, 0)
    return float(((blue > 120) & (red < 40) & (green < 40)).mean())


def test_the_limit_of_pixels_of_the_user_changes_nothing(monkeypatch):
    """The gateway draws in the user's process."""
    expected = engine_named("preview").generate(REQUEST, MASCOT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert engine_named("preview").generate(REQUEST, MASCOT) == expected
    assert picture_suffix(expected) == ".jpg"


@pytest.mark.parametrize("engine", ["flat", "preview"])
def test_equal_requests_give_equal_files(engine):
    """A repeated request gets the same bytes, from another engine object and another thread too."""
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: engine_named(engine).generate(REQUEST, MASCOT), range(4)))
    assert len(set(pictures)) == 1
    assert pictures[0].startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("engine", ["flat", "preview"])
@pytest.mark.parametrize(
    "change",
    [{"seed": 43}, {"prompt": "a fox on the beach at sunset!"}, {"use_rephraser": False}, {"width": 520}],
)
def test_different_requests_give_different_files(engine, change):
    """Any difference in the request makes the file differ."""
    other = engine_named(engine).generate(replace(REQUEST, **change), MASCOT)
    assert other != engine_named(engine).generate(REQUEST, MASCOT)


@pytest.mark.parametrize("engine", ["flat", "preview"])
def test_another_reference_gives_another_file(engine):
    """The reference counts, also where it is not looked at."""
    one, other = (engine_named(engine).generate(REQUEST, reference) for reference in (MASCOT, PHOTO))
    assert one != other


@pytest.mark.parametrize("engine", ["flat", "preview"])
@pytest.mark.parametrize(
    "size", [(512, 512), (512, 2048), (1664, 936), (4096, 512), (512, 4096), (8191, 512)]
)
def test_pictures_have_the_size_requested(engine, size):
    """All sizes that may be requested work, thin ones too, and the file says JPEG."""
    image = painted(replace(REQUEST, width=size[0], height=size[1]), engine=engine)
    assert image.size == size
    assert image.format == "JPEG"


@pytest.mark.parametrize("engine", ["flat", "preview"])
def test_files_say_what_they_are(engine):
    """EXIF and JPEG comment carry the label, and the comment the whole request."""
    request = replace(REQUEST, prompt="狐狸 \U0001f98a")
    image = painted(request, engine=engine)
    assert image.getexif()[ExifTags.Base.ImageDescription] == "Local preview, not a real DreamO result"
    assert image.getexif()[ExifTags.Base.Software] == f"dreamo-batch local gateway, engine {engine}"
    comment = json.loads(image.info["comment"])
    assert comment.pop("reference_crc32") > 0
    assert comment == {
        "engine": engine,
        "model": "spark_dreamo",
        "prompt": "狐狸 \U0001f98a",
        "seed": 42,
        "width": 512,
        "height": 512,
        "use_rephraser": True,
    }


def test_comment_holds_the_longest_prompt():
    """A prompt that would burst a JPEG comment is cut, and the picture still opens."""
    image = painted(replace(REQUEST, prompt="\U0001f98a" * 20_000), engine="flat")
    assert len(json.loads(image.info["comment"])["prompt"]) == 5000


def test_preview_is_signed_in_the_picture():
    """White words on a dark band stand in the lower left corner, and name the seed."""
    grey = np.asarray(painted().convert("L"), dtype=int)
    corner = grey[480:510, 5:300]
    assert corner.max() - corner.min() > 90
    assert "not a real DreamO result · seed 42" in banner(42)


def test_seeds_look_different():
    """Six seeds of one prompt are far from each other, seen as thumbnails."""
    images = [painted(replace(REQUEST, prompt="a fox in the mountains", seed=seed)) for seed in range(6)]
    pairs = [difference(one, other) for k, one in enumerate(images) for other in images[:k]]
    assert min(pairs) > 8
    assert np.mean(pairs) > 25


def test_prompts_look_different():
    """Different scenes, and words that are not known, are far from each other."""
    prompts = ["beach", "space", "snowy night", "cafe", "a wug", "a gostak", "forest", "城市"]
    images = [painted(replace(REQUEST, prompt=prompt)) for prompt in prompts]
    pairs = [difference(one, other) for k, one in enumerate(images) for other in images[:k]]
    assert min(pairs) > 8


@pytest.mark.parametrize(
    ("english", "chinese", "scene"),
    [
        ("on the beach", "在沙滩上", "coast"),
        ("in the mountains", "山顶", "mountains"),
        ("in the snow", "雪地里", "snow"),
        ("in a forest", "在森林里", "forest"),
        ("desert", "沙漠", "desert"),
        ("city streets", "城市街头", "city"),
        ("in outer space", "在太空", "space"),
        ("in a garden", "在花园里", "meadow"),
        ("in the sky", "天空中", "sky"),
    ],
)
def test_scenes_are_read_in_both_languages(english, chinese, scene):
    """English and Chinese name the same scenes, and each can be painted, light or dark."""
    for prompt in (english, chinese):
        assert read_words(prompt)["scene"] == scene
    for hour in ("dawn", "night"):
        image = painted(replace(REQUEST, prompt=f"{english} at {hour}", seed=5))
        assert image.convert("L").getextrema()[1] > 60


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox in the rain",
        "下雪了",
        "樱花飘落",
        "northern lights",
        "cyberpunk",
        "on the left",
        "red",
        "半身像",
        "distant",
    ],
)
def test_what_the_prompt_asks_for_changes_the_look(prompt):
    """Weather, hour, colour and framing are seen in the picture."""
    assert difference(painted(replace(REQUEST, prompt=prompt)), painted(replace(REQUEST, prompt=""))) > 3


def test_words_are_matched_whole():
    """A scene's word inside another word isn't that scene; plurals are."""
    assert "scene" not in read_words("a handsome barista")
    assert read_words("two foxes on beaches")["scene"] == "coast"


def test_colours_named_tint_the_picture():
    """A red and a blue picture of the same seed differ in red and blue."""
    means = {
        name: np.asarray(painted(replace(REQUEST, prompt=f"{name} meadow at noon"))).mean(axis=(0, 1))
        for name in ("crimson", "azure")
    }
    assert means["crimson"][0] - means["crimson"][2] > means["azure"][0] - means["azure"][2] + 15


def test_a_figure_with_alpha_is_cut_out():
    """Only what the alpha shows is pasted: green lies under it and is not seen."""
    sheet = Image.new("RGBA", (200, 200), (0, 255, 0, 0))
    sheet.paste((0, 0, 255, 255), (60, 40, 140, 200))
    image = painted(replace(REQUEST, prompt="desert at noon"), encoded(sheet))
    red, green, blue = np.moveaxis(np.asarray(image, dtype=int), -1, 0)
    assert blue_share(image) > 0.05
    assert not ((green > 200) & (red < 90) & (blue < 90)).any()


def test_a_picture_without_alpha_is_a_card():
    """The whole picture is shown, with a light border around it."""
    reference = encoded(Image.new("RGB", (200, 200), PURE_BLUE))
    image = painted(replace(REQUEST, prompt="desert at night"), reference)
    assert blue_share(image) > 0.1
    assert (np.asarray(image).min(axis=2) > 235).mean() > 0.01


def test_framing_words_set_the_figure_s_size_and_place():
    """Close-ups are large, wide shots small, left is left and right is right."""
    sheet = Image.new("RGBA", (100, 100))
    sheet.paste((0, 0, 255, 255), (30, 0, 70, 100))
    reference = encoded(sheet)
    image = {
        word: painted(replace(REQUEST, prompt=f"{word} desert at noon"), reference)
        for word in ("close-up", "distant", "left", "right", "远景")
    }
    assert blue_share(image["close-up"]) > 4 * blue_share(image["distant"]) > 0
    assert blue_share(image["close-up"]) > 4 * blue_share(image["远景"])
    left_half = (0, 0, 256, 512)
    assert blue_share(image["left"].crop(left_half)) > 0.1
    assert blue_share(image["right"].crop(left_half)) == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_references_of_every_mode_are_read(mode):
    """Grey, palette, 16-bit and CMYK pictures are shown in their own brightness."""
    if mode == "I;16":
        reference = encoded(Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)))
    elif mode == "I":
        reference = encoded(Image.fromarray(np.full((40, 40), 40_000, dtype=np.int32)), "TIFF")
    else:
        kind = {"CMYK": "JPEG", "PA": "TIFF"}.get(mode, "PNG")
        reference = encoded(Image.new("RGB", (40, 40), (200, 200, 200)).convert(mode), kind)
    loaded = load_reference(reference, 64)
    assert loaded.mode == "RGBA"
    assert loaded.getpixel((20, 20))[0] > 140
    assert painted(reference=reference).size == (512, 512)


def test_palette_transparency_cuts_out():
    """A PNG with a transparent palette colour has alpha, like one with an alpha channel."""
    sheet = Image.new("P", (40, 40), 0)
    sheet.putpalette([0, 255, 0, 0, 0, 255])
    sheet.paste(1, (10, 10, 30, 40))
    red, green, blue = np.moveaxis(
        np.asarray(painted(reference=encoded(sheet, transparency=0)), dtype=int), -1, 0
    )
    assert not ((green > 200) & (red < 90) & (blue < 90)).any()


def test_references_are_turned_upright():
    """EXIF orientation is followed, so that phones' pictures do not lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_reference(encoded(Image.new("RGB", (80, 40)), "JPEG", exif=exif), 200).size == (40, 80)


def test_a_reference_is_decoded_once_and_may_be_style_and_figure_at_once():
    """The rows of a table share few references, and a picture may be passed twice."""
    load_reference.cache_clear()
    draw = engine_named("preview").generate
    twice = replace(REQUEST, model="spark_multi_dreamo", ref_types=("STYLE", "IP"))
    both = draw(twice, MASCOT, MASCOT)
    assert load_reference.cache_info().misses == 1
    load_reference.cache_clear()
    assert draw(twice, MASCOT, MASCOT) == both
    pictures = [
        Image.open(io.BytesIO(one)) for one in (both, draw(replace(twice, ref_types=("STYLE",)), MASCOT))
    ]
    assert difference(*pictures) > 5


def test_large_references_are_reduced():
    """No more of a reference is kept than the picture can show."""
    assert load_reference(encoded(Image.new("L", (4096, 2048))), 512).size == (512, 256)


def test_an_invisible_figure_is_treated_as_a_card():
    """A fully transparent reference has nothing to cut out, and is no error."""
    assert painted(reference=encoded(Image.new("RGBA", (20, 20)))).size == (512, 512)


@pytest.mark.parametrize("shape", [(1, 1), (1, 600), (600, 1)])
def test_the_smallest_references_are_shown(shape):
    """Slivers and single pixels of any shape are fitted in."""
    assert painted(reference=encoded(Image.new("RGB", shape, PURE_BLUE))).size == (512, 512)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (b"", "cannot identify"),
        (b"<html>not a picture</html>", "cannot identify"),
        (PHOTO[: len(PHOTO) // 2], "truncated"),
        ((DATA / "faulty" / "huge_on_paper.png").read_bytes(), "pixels"),
    ],
)
def test_unreadable_references_are_refused_in_words(reference, reason):
    """What is no picture, broken or a bomb is a ValueError that says so."""
    with pytest.raises(ValueError, match=f"can't be read: .*{reason}"):
        engine_named("preview").generate(REQUEST, reference)


def test_pictures_between_a_bomb_and_the_limit_are_refused():
    """Pictures that Pillow would open but that are far beyond the service's limit are not decoded."""
    with pytest.raises(ValueError, match="27040000 pixels"):
        load_reference(encoded(Image.new("1", (5200, 5200))), 64)


def test_unknown_engines_are_refused_with_the_names_there_are():
    """A typo is answered with the choices."""
    with pytest.raises(
        ValueError,
        match=r"No engine is named 'preveiw'; choose one of flat, preview, or package.module:Class\.",
    ):
        engine_named("preveiw")


@pytest.mark.parametrize("engine", ["flat", "preview"])
@pytest.mark.parametrize("prompt", ["", " ", "\ud83e", "\0", "🦊" * 400, "b" * 800])
def test_odd_prompts_are_painted(engine, prompt):
    """Empty, broken, foreign and very long prompts get pictures too."""
    assert painted(replace(REQUEST, prompt=prompt, seed=-1), engine=engine).size == (512, 512)


class Counting:
    """An engine of the user's: batches of up to four, on one thread, with a model that is loaded first."""

    name = "counting"
    batch_size = 4
    device = "cpu"

    def __init__(self, before_first=lambda: None):
        self.batches, self.is_warm, self.threads = [], False, set()
        self.before_first = before_first

    def warm_up(self):
        self.is_warm = True

    def generate_batch(self, requests, references):
        assert self.is_warm
        assert {len(of_one) for of_one in references} == {1}
        self.threads.add(threading.get_ident())
        if not self.batches:
            self.before_first()
        self.batches.append([(request.width, request.height) for request in requests])
        time.sleep(0.05)
        if any(request.prompt == "broken" for request in requests):
            raise RuntimeError("out of memory")
        return [encoded(Image.new("RGB", (r.width, r.height), "red"), "WEBP") for r in requests]


class Single:
    """The least that an engine needs."""

    name = "single"

    def generate(self, request, reference):
        assert reference == MASCOT
        return encoded(Image.new("RGB", (request.width, request.height)), "PNG")


def test_an_engine_gets_batches_of_one_size(tmp_path):
    """From one thread, whole ones also where sizes alternate, and its pictures reach their rows."""
    engine = Counting(before_first=lambda: until(lambda: len(gateway.invoice()) == 16))
    jobs = dreamo.sweep(
        image="data/mascot.png",
        prompt="a fox",
        seed=range(1, 9),
        size=["512x512", "768x512"],
        use_rephraser=False,
    )
    # The invoice waits for pictures that are due; these are not yet.
    with dreamo.LocalGateway(engine=engine, latency="fixed:1") as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, max_in_flight=16, progress=False)
    assert set(done["status"]) == {"completed"}
    assert done["output_path"].str.endswith(".webp").all()
    sizes = done["output_width"].astype(str) + "x" + done["output_height"].astype(str)
    assert (sizes == done["size"]).all()
    assert all(len(set(batch)) == 1 and len(batch) <= 4 for batch in engine.batches)
    assert sum(map(len, engine.batches)) == 16
    assert len(engine.batches) <= 5  # perhaps one that had nothing to wait for, then full ones
    assert len(engine.threads) == 1


def test_the_tasks_of_a_batch_end_with_it():
    """Not one by one with the batches after it, which would then be of one picture each."""
    gates = [threading.Event() for _ in range(3)]

    class Gated(Counting):
        def generate_batch(self, requests, references):
            assert gates[len(self.batches)].wait(30)
            return super().generate_batch(requests, references)

    engine = Gated()
    with dreamo.LocalGateway(engine=engine) as gateway, LocalClient(gateway) as client:
        tasks = [client.create(seed=seed, width=512, height=512) for seed in range(1, 10)]
        with ThreadPoolExecutor(len(tasks)) as pool:
            polls = [pool.submit(client.poll, task) for task in tasks]
            time.sleep(0.3)  # each waits for its picture
            for gate in gates[:2]:
                gate.set()
            until(lambda: len(engine.batches) == 2)
            n_ended = sum(map(len, engine.batches))
            _, waiting = wait(polls[:n_ended], timeout=0.5 * PATIENCE_S)
            gates[2].set()
    assert n_ended < len(tasks)
    assert not waiting
    assert {poll.result()["status"] for poll in polls[:n_ended]} == {"completed"}


def test_a_gateway_shows_its_engine_and_where_that_runs():
    """Also while it isn't running, and of an engine that has no device."""
    assert (
        repr(dreamo.LocalGateway(engine=Counting())) == "<LocalGateway, not running, engine counting on cpu>"
    )
    with dreamo.LocalGateway(engine=Single()) as gateway:
        assert repr(gateway) == f"<LocalGateway, {gateway.base_url}, engine single>"


def test_an_engine_that_fails_fails_its_tasks(tmp_path):
    jobs = dreamo.sweep(image="data/mascot.png", prompt=["broken"], seed=[1, 2], size="512x512")
    with dreamo.LocalGateway(engine=Counting()) as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    assert set(done["status"]) == {"failed"}
    assert set(done["error_message"]) == {"Internal generation error: RuntimeError: out of memory"}


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: sys.exit("no GPU"), "Internal generation error: SystemExit: no GPU"),
        (lambda: (_ for _ in ()).throw(ValueError("too long\nby far")), "Invalid parameter: too long"),
        (
            lambda: None,
            "Internal generation error: TypeError: the engine returned NoneType, not a JPEG, PNG or WebP file",
        ),
        (
            lambda: b"GIF89a",
            "Internal generation error: TypeError: the engine returned bytes, not a JPEG, PNG or WebP file",
        ),
        (
            lambda: "a.png",
            "Internal generation error: TypeError: the engine returned str, not a JPEG, PNG or WebP file",
        ),
    ],
)
def test_what_an_engine_does_wrong_fails_its_row_and_no_thread(act, says, tmp_path):
    """One thread makes both pictures, so the second would wait for ever."""
    engine = type("Wrong", (), {"name": "wrong", "generate": lambda *_: act()})
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=[1, 2], size="512x512")
    with dreamo.LocalGateway(engine=engine()) as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    assert set(done["error_message"]) == {says}


def test_bytes_are_a_picture(tmp_path):
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=[1], size="512x512")
    with dreamo.LocalGateway(engine=f"{__name__}:Single") as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    assert done["output_path"].str.endswith(".png").all()


def test_a_price_by_the_second_is_that_of_the_time_it_took(tmp_path):
    """Shared by the pictures of a batch; the precharge knows none before the first."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=range(1, 5), size="512x512")
    engine = Counting()
    with dreamo.LocalGateway(engine=engine, price_per_second="0.5") as gateway:
        done = dreamo.run(jobs, tmp_path / "run", gateway=gateway, max_in_flight=4, progress=False)
        spent = sum(float(line["cost"]) for line in gateway.invoice())
    assert spent >= 0.5 * 0.05 * len(engine.batches)
    assert float(done["cost_usd"].sum()) == pytest.approx(spent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "nothing"}, "package.module:Class"),
        ({"engine": "no.such.module:Engine"}, "can't be loaded"),
        ({"engine": f"{__name__}:Missing"}, "can't be loaded"),
        ({"engine": object()}, r"no generate\(\) method"),
        ({"engine": type("Idle", (Single,), {"n_threads": 0})}, r"n_threads is 0; expected a whole number"),
        (
            {"engine": type("Odd", (Single,), {"batch_size": "2"})},
            r"batch_size is '2'; expected a whole number",
        ),
        ({"price": "0.1", "price_per_second": "0.1"}, "not both"),
        ({"price_per_second": "fast"}, "plain decimal number"),
    ],
)
def test_what_is_no_engine_or_price_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        dreamo.LocalGateway(**options)
