"""Embeddings, prompts and faces: preparation like the models' own, vectors kept, reasons where there is no value."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import math
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import metrics
from dreamo_batch.errors import UsageError
from dreamo_batch.metrics import Embedding, Face, PromptMatch
from tests import tiny_models

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_models.folder_of_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    prompts = ["a red picture", "a blue picture", "一只红色的猫"]
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt=prompts, seed=[1, 2], size="512x512", use_rephraser=False
    )
    dreamo.run(jobs, folder / "run", gateway="local", **QUIET)
    return folder / "run"


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("level", [math.nan, math.inf, 0.0])
def test_a_vector_that_points_nowhere_gives_no_value(level, run_dir, models, monkeypatch):
    """A model that overflows is not one that finds two pictures unlike."""
    monkeypatch.setattr(Embedding, "embed", lambda _, pictures: [np.full(8, level)] * len(pictures))
    measured = dreamo.measure(run_dir, Embedding(name="identity", path=models), **QUIET)
    assert measured["identity"].isna().all()
    assert set(measured["problem"]) == {"the model gave no usable vector"}


def bicubic(levels, n_out):
    """Resize the first axis as Pillow does: a cubic with a = -0.5, widened when it shrinks."""
    n_in = len(levels)
    scale = n_in / n_out
    support = 2 * max(scale, 1)
    rows = []
    for row in range(n_out):
        centre = (row + 0.5) * scale
        taps = np.arange(max(0, int(centre - support + 0.5)), min(n_in, int(centre + support + 0.5)))
        x = np.abs((taps - centre + 0.5) / max(scale, 1))
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        rows.append(np.tensordot(weights / weights.sum(), levels[taps], 1))
    return np.rint(np.clip(rows, 0, 255))


@pytest.mark.parametrize("size", [(512, 512), (600, 400), (333, 777), (224, 225)])
@pytest.mark.parametrize("preset", ["dinov2-small", "clip-vit-b32"])
def test_pictures_are_prepared_as_the_models_own_processors_do(size, preset):
    """Shorter side scaled bicubically, the middle cut out, levels normalised: computed here another way."""
    how = metrics.PRESETS[preset]["image"]
    with Image.open("data/coffee.jpg") as photo:
        # Without extremes, which are cut between the two passes, whose order is Pillow's.
        picture = photo.convert("RGB").resize(size, Image.Resampling.BOX).point(lambda level: 64 + level // 2)
    width, height = (int(how["resize_px"] * edge / min(size)) for edge in size)
    levels = bicubic(np.asarray(picture, float).transpose(1, 0, 2), width)
    levels = bicubic(levels.transpose(1, 0, 2), height)
    left, top = (width - 224) // 2, (height - 224) // 2
    expected = (levels[top : top + 224, left : left + 224] / 255 - how["mean"]) / how["std"]
    found = metrics.prepare(picture, how)
    assert found.shape == (3, 224, 224)
    assert found.dtype == np.float32
    one_level = 1.5 / 255 / min(how["std"])
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=one_level)


def test_faces_are_aligned_as_opencv_does():
    """Levels of cv2.FaceRecognizerSF.alignCrop of OpenCV 5.0 at the same landmarks."""
    landmarks = np.array([[230, 150], [300, 140], [270, 190], [245, 230], [305, 222]], float)
    with Image.open("data/grace_hopper.jpg") as picture:
        aligned = metrics.align(picture.convert("RGB"), landmarks)
    expected = [
        [[238, 161, 56], [254, 255, 253], [46, 28, 30], [65, 103, 176]],
        [[4, 9, 14], [14, 14, 14], [11, 10, 10], [80, 110, 172]],
        [[121, 33, 14], [177, 85, 63], [29, 12, 12], [126, 148, 215]],
        [[136, 92, 58], [220, 143, 107], [181, 75, 53], [115, 147, 204]],
    ]
    assert aligned.size == (112, 112)
    np.testing.assert_allclose(np.asarray(aligned, int)[::37, ::37], expected, atol=1)


def test_alignment_undoes_a_turn_a_scale_and_a_shift():
    """Landmarks of an aligned face that were moved anywhere come back."""
    aim = metrics._LANDMARKS
    for degrees, scale, shift in [(0, 1, (0, 0)), (30, 2.5, (100, -40)), (-170, 0.3, (5, 900))]:
        angle = math.radians(degrees)
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = metrics.similarity(aim @ turn.T + shift)
        np.testing.assert_allclose((aim @ turn.T + shift) @ matrix[:, :2].T + matrix[:, 2], aim, atol=1e-6)


def test_what_the_detector_found_is_decoded_as_opencv_does():
    """Score, box and landmarks of one cell, by the arithmetic of FaceDetectorYN, and nothing of the others."""
    found = {}
    for stride in (8, 16, 32):
        n = (640 // stride) ** 2
        found |= {f"{kind}_{stride}": np.zeros((1, n, 1)) for kind in ("cls", "obj")}
        found |= {f"bbox_{stride}": np.zeros((1, n, 4)), f"kps_{stride}": np.zeros((1, n, 10))}
    cell = 3 * 40 + 7  # row 3, column 7 of stride 16
    found["cls_16"][0, cell], found["obj_16"][0, cell] = 1.7, 0.81  # more than 1 counts as 1
    found["bbox_16"][0, cell] = 0.25, -0.5, 1.0, 0.0
    found["kps_16"][0, cell] = np.arange(10) / 10
    scores, boxes, landmarks = metrics.decode_faces(found, 0.7)
    assert scores == pytest.approx([0.9])
    width = 16 * math.e
    assert boxes[0] == pytest.approx([(7.25 * 16) - width / 2, 2.5 * 16 - 8, width, 16])
    assert landmarks[0, 0] == pytest.approx([7 * 16, 3.1 * 16])
    assert landmarks[0, 4] == pytest.approx([7.8 * 16, 3.9 * 16])


def test_embeddings_are_cosines_of_each_picture_and_its_reference(run_dir, models):
    """The class token is compared, whatever follows it; equal pictures have 1."""
    measured = dreamo.measure(
        run_dir, [Embedding(path=models), Embedding("clip-vit-b32", path=models)], **QUIET
    )
    assert measured["problem"].isna().all()
    assert measured["dinov2-small"].between(-1, 1).all()
    assert len(set(measured["dinov2-small"])) > 1
    metric = Embedding(path=models)
    picture = Image.open("data/mascot.png").convert("RGB")
    one, other = metric.embed([picture, picture])
    assert one.shape == (48,)
    assert metrics.cosine(one, other) == pytest.approx(1)


def test_prompts_are_matched_by_what_they_say(run_dir, models):
    """A red picture fits "red" better than "blue"; a prompt that the model can't read has no value and says why."""
    metric = PromptMatch(path=models)
    red, blue = (metric.embed([Image.new("RGB", (300, 300), colour)])[0] for colour in ("red", "blue"))
    text = metric.embed_prompt("a red picture")
    assert metrics.cosine(red, text) > 0.8 > metrics.cosine(blue, text)
    measured = dreamo.measure(run_dir, metric, **QUIET)
    is_chinese = measured["prompt"] == "一只红色的猫"
    assert measured["prompt_match"].isna().equals(is_chinese)
    assert measured.loc[is_chinese, "problem"].str.contains("isn't in Latin script").all()
    assert measured.loc[~is_chinese, "problem"].isna().all()


@pytest.mark.parametrize(
    ("prompt", "is_read"),
    [("a café in Århus", True), ("42, 17!", True), ("кот", False), ("猫 cat 犬 鳥", True), ("", True)],
)
def test_prompts_in_another_script_are_not_read(prompt, is_read, models):
    assert (PromptMatch(path=models).embed_prompt(prompt) is not None) is is_read


def test_long_prompts_are_cut_where_the_model_ends(models):
    metric = PromptMatch(path=models)
    whole, longer, shorter = (metric.embed_prompt("red " * n + "fox") for n in (499, 77, 76))
    assert np.array_equal(whole, longer)
    assert not np.array_equal(whole, shorter)


def face(x=320, side=128):
    """A picture with one square that the small detector takes for a face."""
    picture = Image.new("RGB", (640, 640), "white")
    picture.paste("red", (x, 320, x + side, 320 + side))
    return picture


def test_the_largest_face_is_compared_and_its_absence_reported(models):
    """Faces in other places are alike, and a picture without one has no vector."""
    metric = Face(path=models)
    one, moved, none = metric.embed([face(), face(64), Image.new("RGB", (640, 640), "white")])
    assert none is None
    assert metrics.cosine(one, moved) == pytest.approx(1, abs=1e-3)


def test_pictures_without_a_face_are_missing_with_the_reason(run_dir, models):
    measured = dreamo.measure(run_dir, Face(path=models), **QUIET)
    assert measured["face"].isna().all()
    assert measured["problem"].str.startswith("no face was found").all()


@pytest.mark.parametrize(
    ("make", "file", "given", "made"),
    [
        (Embedding, "model.onnx", TensorProto.FLOAT16, TensorProto.FLOAT16),
        (Embedding, "model.onnx", TensorProto.DOUBLE, TensorProto.DOUBLE),
        (PromptMatch, "text_model.onnx", TensorProto.INT32, TensorProto.FLOAT16),
        (Face, "face_detection_yunet_2023mar.onnx", TensorProto.FLOAT16, TensorProto.FLOAT),
        (Face, "face_recognition_sface_2021dec.onnx", TensorProto.FLOAT16, TensorProto.FLOAT16),
    ],
)
def test_models_get_numbers_of_the_types_they_take(make, file, *, given, made, models, tmp_path):
    """Those exported at half precision say the same; long vectors of theirs don't overflow."""
    folder = shutil.copytree(models, tmp_path / "retyped")
    tiny_models.retype(folder / file, given, made)
    whole, retyped = (
        [*metric.embed([face()]), *([metric.embed_prompt("red")] if make is PromptMatch else [])]
        for metric in (make(path=models), make(path=folder))
    )
    similar = [metrics.cosine(one, other) for one, other in zip(whole, retyped, strict=True)]
    assert similar == pytest.approx([1.0] * len(whole), abs=1e-3)


def test_vectors_are_kept_by_picture_and_model(run_dir, models, monkeypatch):
    """The second call runs no model; another model or setting has vectors of its own."""
    metric = Embedding(path=models)
    first = dreamo.measure(run_dir, metric, **QUIET)
    kept = pq.read_table(run_dir / "metrics.parquet").to_pandas()
    assert set(kept["version"]) == {metric.version}
    assert len(kept) == len(first) + 1  # and the reference

    def refuse(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(metrics._Network, "run", refuse)
        pd.testing.assert_frame_equal(dreamo.measure(run_dir, metric, **QUIET), first)
        with pytest.raises(AssertionError):
            dreamo.measure(run_dir, Embedding("clip-vit-b32", path=models), **QUIET)
    assert Face(path=models).version != Face(path=models, min_score=0.8).version


def test_absent_faces_are_kept_too(run_dir, models, monkeypatch):
    first = dreamo.measure(run_dir, Face(path=models), **QUIET)
    monkeypatch.setattr(Face, "embed", None)
    pd.testing.assert_frame_equal(dreamo.measure(run_dir, Face(path=models), **QUIET), first)


def test_pictures_that_are_gone_or_changed_say_so(run_dir, models):
    done = dreamo.load(run_dir)
    (run_dir / done["output_path"].iloc[0]).unlink()
    (run_dir / done["output_path"].iloc[1]).write_bytes(b"<html>")
    measured = dreamo.measure(run_dir, Embedding(path=models, batch_size=2), **QUIET)
    assert measured["problem"].iloc[0].endswith("is gone")
    assert measured["problem"].iloc[1].endswith("was changed")
    assert measured["dinov2-small"].isna().tolist() == [True, True, False, False, False, False]


def test_metrics_have_names(run_dir, models, monkeypatch):
    """`rank` and `measure` take them by name, beside columns and built-in ones."""
    by_name = {"identity": Embedding(name="identity", path=models), "prompt_match": PromptMatch(path=models)}
    monkeypatch.setattr("dreamo_batch.results.measure.NAMED", by_name)
    ranked = dreamo.rank(run_dir, by=["identity", "prompt_match", "-cost_usd"], **QUIET)
    assert {"identity", "prompt_match", "rank"} <= set(ranked.columns)
    assert ranked["rank"].notna().sum() == 4
    assert set(metrics.BY_NAME) == {"identity", "prompt_match", "face"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Embedding("dinov3"), "'dinov2-small', 'clip-vit-b32'"),
        (lambda: PromptMatch("dinov2-small"), "Pass one of 'clip-vit-b32'"),
        (lambda: Face("clip-vit-b32"), "'yunet-sface'"),
        (lambda: Face(min_score=0), "min_score=0"),
        (lambda: Face(min_score="high"), "min_score='high'"),
        (lambda: Embedding(path=5), "path must be a path"),
        (lambda: Embedding(batch_size=0), "batch_size=0"),
    ],
)
def test_wrong_arguments_are_reported(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_a_folder_without_the_files_is_reported(tmp_path, run_dir):
    with pytest.raises(
        UsageError, match=r"There is no model.onnx in .*huggingface.co/onnx-community/dinov2-small"
    ):
        dreamo.measure(run_dir, Embedding(path=tmp_path), **QUIET)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UsageError, match=r"model.onnx' is a file; pass the folder"):
        dreamo.measure(run_dir, Embedding(path=tmp_path / "model.onnx"), **QUIET)
    tiny_models.of_pictures(tmp_path / "model.onnx", "another_output", with_patches=True)
    with pytest.raises(UsageError, match=r"can't be run as the image model of 'dinov2-small' \("):
        dreamo.measure(run_dir, Embedding(path=tmp_path), **QUIET)
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="can't be loaded as an ONNX model"):
        dreamo.measure(run_dir, Embedding(path=tmp_path), **QUIET)


def whole_batch(folder):
    """A mean over all pictures: one vector where each has one."""
    nodes = [
        onnx.helper.make_node("ReduceMean", ["pixel_values"], ["last_hidden_state"], axes=[0, 1], keepdims=0)
    ]
    inputs, outputs = (
        {name: (tiny_models.FLOAT, shape)}
        for name, shape in (("pixel_values", ["n", 3, 224, 224]), ("last_hidden_state", [224, 224]))
    )
    tiny_models.save(folder / "model.onnx", nodes, inputs, outputs)


def with_four_dimensions(folder, n="n"):
    nodes = [onnx.helper.make_node("GlobalAveragePool", ["pixel_values"], ["last_hidden_state"])]
    inputs, outputs = (
        {name: (tiny_models.FLOAT, [n, 3, side, side])}
        for name, side in (("pixel_values", 224), ("last_hidden_state", 1))
    )
    tiny_models.save(folder / "model.onnx", nodes, inputs, outputs)


def of_a_later_format(folder):
    model = onnx.load(folder / "model.onnx")
    model.ir_version = 99
    onnx.save(model, folder / "model.onnx")


def with_shorter_words(folder):
    model = onnx.load(folder / "text_model.onnx")
    words = onnx.numpy_helper.to_array(model.graph.initializer[0])[:, :32]
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(words, "words"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 32
    onnx.save(model, folder / "text_model.onnx")


@pytest.mark.parametrize(
    ("metric", "spoil", "words"),
    [
        (
            Embedding,
            whole_batch,
            r"model.onnx gave an array of \(224, 224\) for 7, not a vector for each",
        ),
        (Embedding, with_four_dimensions, r"array of \(7, 3, 1, 1\) for 7, not a vector for each"),
        (Embedding, lambda folder: with_four_dimensions(folder, 1), r"can't be run as .*Got: 7 Expected: 1"),
        (Embedding, of_a_later_format, r"can't be loaded as an ONNX model \(.*version: 99"),
        (PromptMatch, with_shorter_words, "Vectors of 48 and 32 numbers"),
        (
            PromptMatch,
            lambda at: (at / "tokenizer.json").write_text("{}"),
            r"tokenizer.json can't be read as a token",
        ),
        (
            PromptMatch,
            lambda at: (at / "tokenizer.json").write_bytes(b"\xff"),
            r"can't be read as a tokenizer \(",
        ),
    ],
)
def test_files_that_are_no_such_model_are_reported_in_one_line(metric, spoil, words, run_dir, models):
    """By `measure`, and by `search` before anything is bought."""
    folder = shutil.copytree(models, run_dir.with_name("spoilt"))
    spoil(folder)
    made = metric(path=folder)
    with pytest.raises(UsageError, match=words) as told:
        dreamo.measure(run_dir, made, **QUIET)
    assert "\n" not in str(told.value)
    if metric is PromptMatch:
        jobs = dreamo.sweep(image="data/mascot.png", prompt="a red picture", size="512x512")
        with pytest.raises(UsageError, match=words):
            dreamo.search(jobs, run_dir / "new", accept=made >= 0.1, max_cost=1, gateway="local", **QUIET)
        assert not (run_dir / "new").exists()


@pytest.mark.parametrize(("missing", "metric"), [("onnxruntime", Embedding), ("tokenizers", PromptMatch)])
def test_a_missing_extra_is_named(missing, metric, models, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    made = metric(path=models)
    with pytest.raises(UsageError, match=r"pip install 'dreamo-batch\[identity\]'"):
        made.embed_prompt("red") if metric is PromptMatch else made.embed([Image.new("RGB", (9, 9))])


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hugging Face hub that serves files by revision."""

    content = b""
    paths: list[str]

    def do_HEAD(self):
        if "/resolve/" not in self.path:
            self.send_error(404)
            return
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.path.split("/resolve/")[1].split("/")[0])
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if "/resolve/" in self.path:
            self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("is_as_expected", [True, False])
def test_weights_come_from_the_hub_by_revision_and_digest(tmp_path, models, is_as_expected):
    """A stand-in for the hub serves the file once; bytes of another digest are refused."""
    content = (models / "model.onnx").read_bytes()
    handler = type("Served", (Hub,), {"content": content, "paths": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256(content).hexdigest() if is_as_expected else "0" * 64
    script = (
        "import sys; from PIL import Image; from dreamo_batch.metrics import Embedding\n"
        "from dreamo_batch import metrics\n"
        f"metrics.PRESETS['dinov2-small']['files']['image']['sha256'] = {digest!r}\n"
        "print(Embedding().embed([Image.new('RGB', (300, 300), 'red')])[0].shape)\n"
    )
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
        )
    finally:
        server.shutdown()
        server.server_close()
    revision = metrics.PRESETS["dinov2-small"]["files"]["image"]["revision"]
    assert handler.paths[0] == f"/onnx-community/dinov2-small/resolve/{revision}/onnx/model.onnx"
    if is_as_expected:
        assert done.stdout.strip() == "(48,)", done.stderr
    else:
        assert "isn't the file that 'dinov2-small' was made with" in done.stderr


@pytest.mark.parametrize("away", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_internet_the_error_says_what_to_do(tmp_path, away):
    """At once: nothing is tried again."""
    script = "from dreamo_batch.metrics import Face; from PIL import Image; Face().embed([Image.new('RGB', (9, 9))])"
    env = os.environ | {"HF_HOME": str(tmp_path)} | away
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "Retrying" not in done.stderr
    assert "put face_detection_yunet_2023mar.onnx" in last
    assert "pass path=FOLDER" in last


def test_presets_name_revision_digest_licence_and_source():
    for preset in metrics.PRESETS.values():
        assert {"meaning", "licence", "source", "tried"} <= set(preset)
        for file in preset["files"].values():
            assert len(file["revision"]) == 40
            assert len(file["sha256"]) == 64


def test_calibration_finds_the_value_that_separates(tmp_path, models):
    """Two subjects in two colours: every metric tells them apart, and says at which value."""
    for subject, colour in {"tomato": (250, 30, 30), "sky": (30, 60, 250)}.items():
        (tmp_path / subject).mkdir()
        for number in range(4):
            noise = np.random.default_rng(number).integers(-20, 21, (300, 300, 3))
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(
                tmp_path / subject / f"{number}.png"
            )
    (tmp_path / "sky" / "notes.txt").write_text("not a picture")

    def difference(one, other):
        return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())

    less = dreamo.Metric("difference", difference, higher_is_better=False)
    for metric in ("colour", Embedding(path=models, batch_size=3), less):
        found = dreamo.calibrate(metric, tmp_path, **QUIET)
        assert (found.n_same, found.n_others, found.n_missing) == (12, 16, 0)
        assert found.auc == 1.0
        best = found.roc.loc[found.roc["threshold"] == found.threshold].iloc[0]
        assert best.tolist()[1:] == [1.0, 0.0]
        assert found.threshold_for(0) == found.threshold
        with pytest.raises(UsageError, match="expected a share from 0 to 1"):
            found.threshold_for("0.01")
    frame = pd.DataFrame(
        [(one.parent.name, one) for one in sorted(tmp_path.rglob("*.png"))], columns=["subject", "image"]
    )
    folders = {name: tmp_path / name for name in ("sky", "tomato")}
    of_folder = dreamo.calibrate("colour", tmp_path, **QUIET)
    assert (
        of_folder
        == dreamo.calibrate("colour", frame, **QUIET)
        == dreamo.calibrate("colour", folders, **QUIET)
    )
    assert dreamo.calibrate("colour", tmp_path, max_pairs=5, **QUIET).n_others == 5


def test_a_metric_that_fails_or_takes_batches_is_calibrated(tmp_path):
    """What raises is missing, as in `measure`; a batch of one is a batch."""
    pictures = {"a": ["data/mascot.png"] * 2, "b": ["data/coffee.jpg"] * 2, "c": ["data/chelsea.jpg"] * 2}

    def size_only(references, outputs):
        if any(one.size == (600, 400) for one in references + outputs):
            raise ValueError("too wide")
        return [float(one.size == other.size) for one, other in zip(references, outputs, strict=True)]

    found = dreamo.calibrate(dreamo.Metric("size", size_only, is_batched=True), pictures, **QUIET)
    assert (found.auc, found.n_same, found.n_missing) == (1.0, 2, 9)


def test_a_curve_of_scores_that_overlap_is_that_of_the_ranks(tmp_path):
    """The area is the chance that a pair of the same scores higher, ties counting half (Mann and Whitney)."""
    pictures = {}
    for subject, number in itertools.product(range(4), range(6)):
        path = tmp_path / f"{subject} {number}.png"
        Image.new("RGB", (8, 8), (subject, number, 0)).save(path)
        pictures.setdefault(str(subject), []).append(path)
    scores = {True: [], False: []}

    def score(one, other):
        (subject, number, _), (another, second, _) = one.getpixel((0, 0)), other.getpixel((0, 0))
        is_same = subject == another
        value = (
            3 + (7 * number * second + subject) % 6 if is_same else (5 * number + 3 * second + another) % 7
        )
        scores[is_same].append(value)
        return value

    calibrated = dreamo.calibrate(dreamo.Metric("made up", score), pictures, **QUIET)
    same, others = np.array(scores[True]), np.array(scores[False])
    assert (calibrated.n_same, calibrated.n_others) == (len(same), len(others)) == (60, 216)
    wins = (same[:, None] > others).mean() + (same[:, None] == others).mean() / 2
    assert calibrated.auc == pytest.approx(wins)
    for threshold, found, taken in calibrated.roc.to_numpy():
        assert found == pytest.approx((same >= threshold).mean())
        assert taken == pytest.approx((others >= threshold).mean())


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ({"a": ["data/mascot.png"]}, "at least two subjects"),
        ({"a": "data/mascot.png"}, "found 1 subject with 1 picture."),  # not a picture a letter
        ({"a": ["data/mascot.png"] * 2}, "at least two subjects"),
        ({"a": ["data/mascot.png"] * 2, "b": ["data/gone.png"]}, "No picture at data/gone.png"),
        ({"a": ["data/mascot.png"] * 2, "b": ["data/SOURCES.csv"]}, "can't be read as a picture"),
        ("data/nowhere", "No folder at data/nowhere"),
        (pd.DataFrame({"image": ["a.png"]}), "no column 'subject'"),
        (
            pd.DataFrame({"subject": ["a", "a"], "image": ["data/mascot.png", None]}),
            "Row 1 of the table of pictures has no image",
        ),
        (
            pd.DataFrame({"subject": ["a", " ", "b"], "image": ["data/mascot.png"] * 3}, index=list("xyz")),
            "Row y of the table of pictures has no subject",
        ),
        (3, "paths or a folder by subject"),
    ],
)
def test_too_few_or_unreadable_pictures_are_reported(pictures, words):
    with pytest.raises(UsageError, match=words):
        dreamo.calibrate("colour", pictures, **QUIET)


def test_calibrating_what_has_no_subjects_or_no_values(models):
    def broken(one, other):
        raise RuntimeError("no model here")

    with pytest.raises(UsageError, match="no subjects to tell apart"):
        dreamo.calibrate(PromptMatch(path=models), {}, **QUIET)
    pictures = {"a": ["data/mascot.png"] * 2, "b": ["data/coffee.jpg"] * 2}
    with pytest.raises(UsageError, match=r"same subject \(broken failed: RuntimeError: no model here\)"):
        dreamo.calibrate(broken, pictures, **QUIET)
    with pytest.raises(UsageError, match="no value for any two pictures of the same subject"):
        dreamo.calibrate(Face(path=models, min_score=1.0), pictures, **QUIET)


def test_several_references_are_measured_each_and_their_mean_leaves_styles_out(tmp_path, models):
    """A column for each reference by its place; a prompt is one, whatever the references."""
    jobs = dreamo.sweep(
        image=[["data/mascot.png", "data/coffee.jpg"], "data/coffee.jpg"],
        prompt="a red picture",
        seed=1,
        model="spark_multi_dreamo",
        size="512x512",
        use_rephraser=False,
    )
    both, style = jobs.iloc[:1], jobs.iloc[:1].assign(ref_type="IP,STYLE")
    table = pd.concat([both, style, jobs.iloc[1:].assign(ref_type="STYLE")], ignore_index=True)
    done = dreamo.run(table, tmp_path / "run", gateway="local", **QUIET)
    asked = ["colour", Embedding("dinov2-small", name="identity", path=models), PromptMatch(path=models)]
    found = dreamo.measure(done, asked, **QUIET)
    assert list(found.columns[3:-1]) == [
        *("colour", "colour_1", "colour_2", "identity", "identity_1", "identity_2", "prompt_match")
    ]
    for name in ("colour", "identity"):
        first, second = found[f"{name}_1"], found[f"{name}_2"]
        assert found[name].tolist() == pytest.approx([(first[0] + second[0]) / 2, first[1], first[2]])
        assert second[1] != first[1]
        assert np.isnan(second[2])
    assert found["problem"].isna().all()
    alone = dreamo.measure(done.assign(colour=1.0).iloc[2:], "colour", **QUIET)
    assert "colour_1" not in alone
    with pytest.raises(
        UsageError, match=r"To rank by a column that measure\(\) returned, join it to the results"
    ):
        dreamo.rank(done, by="colour_1", **QUIET)
    by_first = dreamo.rank(done.join(found["colour_1"]), by="colour_1", within=None, **QUIET)
    assert by_first["colour_1"].tolist() == sorted(found["colour_1"], reverse=True)
    best = dreamo.rank(done.iloc[:2], by="colour", within=None, **QUIET)
    assert best["colour"].tolist() == sorted(found["colour"][:2], reverse=True)
