"""Seeds over a real socket: measured, compared and ranked, with pictures that are missing, altered, or never came."""

from __future__ import annotations

import shutil
import sys
import threading
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns, files, likeness, parallel
from dreamo_batch.engine import picture_cache
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.images import upright_rgb
from dreamo_batch.results import measure as measuring
from tests.scripted_server import ScriptedServer, answer

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two prompts by three seeds; one seed twice, one row doubled, one row failed."""
    folder = tmp_path_factory.mktemp("seeds")
    jobs = dreamo.sweep(
        image="data/mascot.png",
        prompt=["on a beach", "in the snow"],
        seed=[1, 2, 3],
        size="512x512",
        use_rephraser=False,
    )
    jobs = pd.concat([jobs, jobs.iloc[[0]].assign(replicate=1), jobs.iloc[[5]]])
    jobs["replicate"] = jobs["replicate"].astype("Int64")
    jobs.index = list("abcdefgh")
    faults = {"script": {"create": [{"fault": "slow", "seconds": 0}, "fail_099"]}}
    with dreamo.LocalGateway(engine="preview", faults=faults) as gateway:
        dreamo.run(jobs, folder / "run", gateway=gateway, max_in_flight=1, **QUIET)
    return folder / "run"


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def picture(run_dir, label):
    return run_dir / dreamo.load(run_dir).loc[label, "output_path"]


class Counted:
    """A metric that knows how often it was asked."""

    version = "1"

    def __init__(self, name="counted"):
        self.name, self.n = name, 0
        self._lock = threading.Lock()

    def __call__(self, reference, output):
        with self._lock:
            self.n += 1
        return output.width / reference.width


def test_a_run_has_the_failed_row_that_the_tests_are_about(finished):
    """The second row failed; everything else has its picture."""
    done = dreamo.load(finished)
    assert done["status"].tolist() == ["completed", "failed", *["completed"] * 6]
    assert done.loc["h", "duplicate_of"] == 5


# Measuring.


def test_every_picture_is_measured_once_and_remembered(run_dir):
    """Rows of the same job, and pictures of the same bytes, share a value; another call measures nothing."""
    counted = Counted()
    measured = dreamo.measure(run_dir, [counted, "appearance"], **QUIET)
    assert counted.n == 5
    assert measured.index.tolist() == list("abcdefgh")
    assert set(measured["counted"].dropna()) == {0.5}
    assert measured.loc["h", "appearance"] == measured.loc["f", "appearance"]
    again = dreamo.measure(run_dir, [counted, "appearance"], **QUIET)
    assert counted.n == 5
    pd.testing.assert_frame_equal(again, measured)
    kept = pd.read_parquet(run_dir / measuring.NAME)
    assert kept.columns.tolist() == list(columns.METRICS)
    assert kept["metric"].tolist() == ["counted"] * 5


def test_a_value_is_that_of_the_function_on_both_pictures(run_dir):
    """A function gets reference and output in this order, upright, RGB, and in full size."""
    seen = {}

    def looked(reference, output):
        seen["sizes"], seen["modes"] = (reference.size, output.size), (reference.mode, output.mode)
        return 1

    measured = dreamo.measure(dreamo.load(run_dir).loc[["a"]], ["appearance", looked], **QUIET)
    with Image.open("data/mascot.png") as reference, Image.open(picture(run_dir, "a")) as output:
        size = reference.size
        paper = Image.alpha_composite(Image.new("RGBA", size, "white"), reference.convert("RGBA")).convert(
            "RGB"
        )
        # The built-in scores are of pictures decoded at a fraction of their size.
        whole = measuring.BUILT_IN["appearance"](paper, output.convert("RGB"))
        assert measured.loc["a", "appearance"] == pytest.approx(whole, abs=0.01)
    assert seen == {"sizes": (size, (512, 512)), "modes": ("RGB", "RGB")}


def test_rows_without_a_picture_have_no_value_and_say_why(run_dir):
    """Failed, gone, altered, damaged: missing, never 0 and never an exception."""
    picture(run_dir, "c").unlink()
    picture(run_dir, "d").write_bytes(b"<html>")
    measured = dreamo.measure(run_dir, **QUIET)
    assert measured["appearance"].isna().to_dict() == {label: label in "bcd" for label in "abcdefgh"}
    problems = measured["problem"]
    assert problems["b"].startswith("failed: ")
    assert problems["c"].endswith("is gone")
    assert problems["d"].endswith("was changed")
    assert problems[list("aefgh")].isna().all()


def test_a_reference_that_is_gone_changed_or_far_away(tmp_path):
    """Nothing is measured against another picture than the one that was sent; one at a URL is not fetched."""
    reference = tmp_path / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(reference)
    content = answer(reference.read_bytes(), Content_Type="image/png")
    with ScriptedServer([content]) as host, dreamo.LocalGateway(engine="flat") as gateway:
        table = pd.DataFrame(
            {"image": [str(reference), f"{host.url}/cat.png"], "prompt": "a", "seed": [1, 1]}
        )
        options = {"gateway": gateway, "keep_references": False} | QUIET
        done = dreamo.run(table.assign(size="512x512"), tmp_path / "run", **options)
    done["status"] = done["status"].astype(str)
    Image.new("RGB", (64, 64), "blue").save(reference)
    changed = dreamo.measure(done, **QUIET)["problem"]
    assert "reference reference.png was changed" in changed[0]
    assert changed[1] == "its reference is at a URL, which is not fetched"
    reference.unlink()
    assert "reference reference.png is gone" in dreamo.measure(done, **QUIET)["problem"][0]
    row = done.iloc[[0]].assign(job_id="another")
    assert "its reference is unknown" in dreamo.measure(row, **QUIET)["problem"][0]


def test_a_metric_that_breaks_is_reported_once_and_measured_anew(run_dir):
    """One picture's exception is no other's; NaN and None mean that there was nothing to measure."""
    state = {"is_broken": True}

    def picky(reference, output):
        if state["is_broken"]:
            raise ValueError("no face")
        return float("nan")

    metric = dreamo.Metric("picky", picky, version="1")
    with pytest.warns(UserWarning, match=r"picky failed: ValueError: no face \(5 of 5 pictures\)"):
        broken = dreamo.measure(run_dir, [metric, "shape"], **QUIET)
    assert broken["picky"].isna().all()
    assert broken.loc["a", "problem"] == "picky failed: ValueError: no face"
    assert broken["shape"].notna().sum() == 7
    state["is_broken"] = False
    mended = dreamo.measure(run_dir, metric, **QUIET)
    assert mended.loc["a", "problem"] == "nothing to measure"
    state["is_broken"] = True
    assert dreamo.measure(run_dir, metric, **QUIET).loc["a", "problem"] == "nothing to measure"  # remembered


def test_own_metrics_share_what_is_read_and_each_measures_what_it_lacks(run_dir, monkeypatch):
    """Decoding takes most of the time; a value that is remembered isn't made again beside a new metric."""
    read, n_read = likeness.read, Counter()

    def counting(path, sha256):
        n_read[path.suffix] += 1
        return read(path, sha256)

    monkeypatch.setattr(likeness, "read", counting)
    old, new, other = Counted(), Counted("new"), Counted("other")
    dreamo.measure(run_dir, old, n_workers=1, **QUIET)
    n_read.clear()
    measured = dreamo.measure(run_dir, [old, new, other], n_workers=1, **QUIET)
    assert n_read[".jpg"] == 5
    assert (old.n, new.n, other.n) == (5, 5, 5)
    assert measured["new"].equals(measured["counted"])
    assert measured["other"].equals(measured["counted"])


def test_without_a_version_nothing_is_remembered(run_dir):
    """Nobody could tell a function's values from those of an older one."""
    counted = Counted()
    counted.version = None
    dreamo.measure(run_dir, counted, **QUIET)
    dreamo.measure(run_dir, counted, **QUIET)
    assert counted.n == 10
    assert not (run_dir / measuring.NAME).exists()
    counted.version = 2
    dreamo.measure(run_dir, counted, **QUIET)
    assert pd.read_parquet(run_dir / measuring.NAME)["version"].unique().tolist() == ["2"]


def test_a_damaged_file_of_values_is_measured_again(run_dir):
    """It warns, and the file is whole afterwards."""
    first = dreamo.measure(run_dir, Counted(), **QUIET)
    path = run_dir / measuring.NAME
    for damaged in (path.read_bytes()[:-20], b"", _altered(path.read_bytes())):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"metrics\.parquet can't be read .* measured again"):
            again = dreamo.measure(run_dir, Counted(), **QUIET)
        pd.testing.assert_frame_equal(again, first)
        assert len(pd.read_parquet(path)) == 5


def _altered(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 255]) + content[41:]


def test_a_file_of_another_schema_is_measured_again(run_dir):
    """What an older or newer version had written there is no value of ours."""
    pd.DataFrame({"x": [1]}).to_parquet(run_dir / measuring.NAME)
    with pytest.warns(UserWarning, match="measured again"):
        dreamo.measure(run_dir, Counted(), **QUIET)


def test_a_directory_that_can_not_be_written_to_is_measured_all_the_same(run_dir, monkeypatch):
    """It says that the values are not kept."""

    def refuse(path, write):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "replace", refuse)
    with pytest.warns(UserWarning, match=r"can't be written \(Permission denied\); the values aren't kept"):
        measured = dreamo.measure(run_dir, Counted(), **QUIET)
    assert measured["counted"].notna().sum() == 7


def test_two_at_once_keep_both_their_values(run_dir):
    """The later one to write reads first what the other has put there."""
    one, other = measuring.Cache([run_dir]), measuring.Cache([run_dir])
    for cache, metric in ((one, "a"), (other, "b")):
        cache.put(run_dir, measuring.Key("00", "", metric, "1"), measuring.Value(1.0))
    one.save()
    other.save()
    assert sorted(pq.read_table(run_dir / measuring.NAME)["metric"].to_pylist()) == ["a", "b"]


def test_many_at_once_never_leave_a_damaged_file(run_dir):
    """Threads that measure the same directory get along, and leave a file that can be read."""
    failures = []

    def work(number):
        try:
            metric = dreamo.Metric(f"m{number}", lambda _reference, _output: float(number), version="1")
            dreamo.measure(run_dir, metric, n_workers=1, **QUIET)
        except Exception as error:  # noqa: BLE001 - told in the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(pd.read_parquet(run_dir / measuring.NAME)["metric"]) <= {f"m{n}" for n in range(6)}
    assert list(run_dir.glob(".partial-*")) == []


def test_an_interrupt_keeps_what_was_measured(run_dir):
    """Of a slow metric nothing is lost that was done."""
    asked = []

    def stops(reference, output):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        dreamo.measure(run_dir, dreamo.Metric("slow", stops, version="1"), n_workers=1, **QUIET)
    assert len(pd.read_parquet(run_dir / measuring.NAME)) == 3


def test_a_run_is_not_disturbed(run_dir):
    """Measuring takes no lock and changes no file of the run."""
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    dreamo.measure(run_dir, **QUIET)
    dreamo.diversity(run_dir, **QUIET)
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    changed = {path.name for path in after if before.get(path) != after[path]}
    assert changed == {picture_cache.TAIL}  # the summary of the reference
    assert dreamo.verify(run_dir) == []


def test_results_of_unknown_origin_and_other_tables_are_refused(run_dir):
    """The pictures have to be found, and a table has to have some."""
    done = dreamo.load(run_dir)
    done = done.drop(columns="run_dir")
    done.attrs = {}
    for function in (dreamo.measure, dreamo.diversity, dreamo.near_duplicates, dreamo.compare_replicates):
        with pytest.raises(UsageError, match="run_dir="):
            function(done)
        assert len(function(done, run_dir=run_dir, **QUIET)) >= 0
        with pytest.raises(UsageError, match="Not a results table"):
            function(pd.DataFrame({"prompt": ["a"]}))
    with_run_dir = dreamo.load(run_dir).rename(columns={"prompt": "text"})
    for function in (
        dreamo.measure,
        lambda table: dreamo.rank(table, within=None),
        lambda table: dreamo.export(table, run_dir / "none"),
        lambda table: dreamo.compare(table, by="seed", within=None),
    ):
        with pytest.raises(UsageError, match="no 'prompt' column"):
            function(with_run_dir)


def test_several_runs_in_one_table_are_measured_each_in_its_own_directory(run_dir, tmp_path):
    """Rows of a concat find their pictures, references and kept values by the column `run_dir`."""
    other = shutil.copytree(run_dir, tmp_path / "other")
    picture(other, "d").unlink()
    joined = pd.concat([dreamo.load(run_dir), dreamo.load(other)])
    measured = dreamo.measure(joined, ["shape", Counted()], **QUIET)
    assert measured.index.tolist() == list("abcdefgh") * 2
    assert measured["shape"].iloc[:8].isna().tolist() == [label == "b" for label in "abcdefgh"]
    # The deleted picture has the bytes of the one in the other directory.
    pd.testing.assert_frame_equal(measured.iloc[8:], measured.iloc[:8])
    assert (run_dir / measuring.NAME).is_file()
    assert dreamo.diversity(joined, by="run_dir", **QUIET)["pictures"].tolist() == [6, 6]
    ranked = dreamo.rank(joined, by="shape", within=["run_dir", "prompt"], **QUIET)
    assert ranked["rank"].notna().sum() == 12
    assert len(dreamo.near_duplicates(joined, by=["prompt", "seed"], max_bits=0, max_delta_e=0, **QUIET)) >= 6
    assert len(dreamo.compare_replicates(joined, **QUIET)) == 8
    picture(run_dir, "d").unlink()
    assert dreamo.measure(joined, **QUIET).loc["d", "problem"].str.endswith("is gone").all()


# Comparing.


def test_diversity_counts_each_job_once(run_dir):
    """Failed rows are counted apart, doubled rows not at all; a replicate is as close as can be."""
    told = dreamo.diversity(run_dir, **QUIET).set_index("prompt")
    assert told["pictures"].to_dict() == {"in the snow": 3, "on a beach": 3}
    assert told["unseen"].to_dict() == {"in the snow": 0, "on a beach": 1}
    assert told.loc["on a beach", ["hash_min", "delta_e_min", "near_duplicates"]].tolist() == [0, 0, 1]
    assert told.loc["on a beach", ["row_a", "row_b"]].tolist() == ["a", "g"]
    assert told.loc["in the snow", "hash_min"] > 0
    whole = dreamo.diversity(run_dir, by=None, **QUIET)
    assert whole[["pictures", "unseen"]].to_numpy().tolist() == [[6, 1]]


def test_diversity_is_the_mean_and_the_least_of_all_pairs(run_dir):
    """The same numbers, pair by pair."""
    from itertools import combinations

    opened = []
    for label in "def":
        with Image.open(picture(run_dir, label)) as one:
            opened.append(upright_rgb(one))
    bits = [likeness.distance(*map(likeness.perceptual_hash, pair)) for pair in combinations(opened, 2)]
    far = [likeness.mean_delta_e(*map(likeness.thumbnail, pair)) for pair in combinations(opened, 2)]
    told = dreamo.diversity(run_dir, **QUIET).set_index("prompt").loc["in the snow"]
    # A JPEG decoded at a fraction of its size, and colours kept as 16 bits, differ by next to nothing.
    assert told["hash_mean"] == pytest.approx(np.mean(bits), abs=1.5)
    assert told["delta_e_mean"] == pytest.approx(np.mean(far), abs=0.5)
    assert told["delta_e_min"] == pytest.approx(min(far), abs=0.5)


def test_groups_of_one_or_none_have_no_distance(run_dir):
    """There is nothing to compare, which is not 0."""
    told = dreamo.diversity(dreamo.load(run_dir).loc[["a", "b"]], by="seed", **QUIET)
    assert told["pictures"].tolist() == [1, 0]
    assert told[["hash_mean", "hash_min", "delta_e_mean", "delta_e_min", "row_a"]].isna().all(axis=None)
    assert told["near_duplicates"].tolist() == [0, 0]


@pytest.mark.no_cover
def test_near_duplicates_are_named(run_dir):
    """Which two, how far apart, in which group; the closest first, within the limit."""
    found = dreamo.near_duplicates(run_dir, **QUIET)
    line = found.iloc[0]
    assert len(found) == 1
    assert line[["prompt", "row_a", "row_b", "seed_a", "seed_b"]].tolist() == ["on a beach", "a", "g", 1, 1]
    assert line["is_same_file"]
    assert line["path_a"] != line["path_b"]
    wide = dreamo.near_duplicates(run_dir, by=None, max_bits=64, max_delta_e=200, **QUIET)
    assert len(wide) == 15
    assert wide["delta_e"].is_monotonic_increasing
    few = dreamo.near_duplicates(run_dir, by=None, max_bits=64, max_delta_e=200, limit=2, **QUIET)
    pd.testing.assert_frame_equal(few, wide.head(2))
    none = dreamo.near_duplicates(run_dir, max_bits=0, max_delta_e=0, by="seed", **QUIET)
    assert {name: str(d) for name, d in none.dtypes.items() if name != "seed"} == columns.dtypes(
        columns.NEAR_DUPLICATES
    )


def test_the_limit_holds_while_blocks_are_gathered(run_dir, monkeypatch):
    """However many pairs there are, only the closest are held."""
    monkeypatch.setattr(likeness, "_BLOCK_BYTES", 1)
    wide = {"by": None, "max_bits": 64, "max_delta_e": 200, **QUIET}
    few = dreamo.near_duplicates(run_dir, limit=1, **wide)
    pd.testing.assert_frame_equal(few, dreamo.near_duplicates(run_dir, **wide).head(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bits": -1},
        {"max_delta_e": "x"},
        {"max_bits": True},
        {"limit": 0},
        {"n_workers": 0},
        {"by": "no"},
        {"by": "1ns"},
        {"by": 3},
    ],
)
def test_what_can_not_be_compared_by_is_refused(run_dir, wrong):
    """The message names the argument."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        dreamo.near_duplicates(run_dir, **wrong, **QUIET)


def test_a_folder_for_pictures_that_is_none_is_refused(run_dir):
    """Not taken for one in which no two pictures are alike."""
    results = dreamo.load(run_dir)
    assert len(
        dreamo.near_duplicates(results, run_dir=run_dir, max_bits=np.int64(64), max_delta_e=200, **QUIET)
    )
    for function in (dreamo.measure, dreamo.diversity, dreamo.near_duplicates, dreamo.compare_replicates):
        with pytest.raises(DirectoryError, match="No run directory at"):
            function(results, run_dir=run_dir / "none", **QUIET)
        assert function(results.head(0), **QUIET).empty


def test_pictures_are_looked_at_once(run_dir, monkeypatch):
    """Calls read what the run kept; a picture that is gone since is not compared."""
    first = dreamo.diversity(run_dir, **QUIET)

    def refuse(*args):
        raise AssertionError(args)

    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "summarise_picture", refuse)
        pd.testing.assert_frame_equal(dreamo.diversity(run_dir, **QUIET), first)
    picture(run_dir, "d").unlink()
    assert dreamo.diversity(run_dir, **QUIET)["unseen"].tolist() == [1, 1]


def test_replicates_of_a_run_are_compared_for_nothing(run_dir):
    """The local gateway draws the same again, byte by byte."""
    done = dreamo.load(run_dir)
    line = dreamo.compare_replicates(done, **QUIET)
    assert line[["row_a", "row_b", "replicate_a", "replicate_b"]].to_numpy().tolist() == [["a", "g", 0, 1]]
    assert line[["is_same_file", "is_same_pixels"]].all(axis=None)
    assert line[["pixel_difference", "hash_distance", "delta_e"]].to_numpy().tolist() == [[0.0, 0, 0.0]]
    assert dreamo.compare_replicates(done.drop(index="g"), **QUIET).empty
    picture(run_dir, "g").unlink()
    gone = dreamo.compare_replicates(done, **QUIET).iloc[0]
    assert gone["problem"].endswith("is gone")
    assert (
        gone[["is_same_file", "is_same_pixels", "pixel_difference", "hash_distance", "delta_e"]].isna().all()
    )


def test_replicates_that_differ_say_by_how_much(run_dir):
    """Another picture in the second's place, also one of another size, or none."""
    done = dreamo.load(run_dir)
    beach = done.loc["c", ["output_path", "output_sha256"]]
    done.loc["g", ["output_path", "output_sha256"]] = beach.to_numpy()
    line = dreamo.compare_replicates(done, **QUIET).iloc[0]
    assert not line["is_same_file"]
    assert not line["is_same_pixels"]
    assert line["pixel_difference"] > 5
    assert line["delta_e"] > 5
    _replace_picture(run_dir, done, "g", Image.new("RGB", (512, 600)))
    line = dreamo.compare_replicates(done, **QUIET).iloc[0]
    assert pd.isna(line["pixel_difference"])
    assert not line["is_same_pixels"]
    done["status"] = done["status"].astype(str).where(done.index != "g", "ambiguous")
    assert dreamo.compare_replicates(done, **QUIET).loc[0, "problem"] == "ambiguous"


def _replace_picture(run_dir, done, label, image):
    import hashlib

    path = run_dir / "images" / "other.png"
    image.save(path)
    done.loc[label, "output_path"] = "images/other.png"
    done.loc[label, "output_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


# Ranking.


def test_ranking_measures_what_it_needs(run_dir):
    """Metrics and columns together; the failed row stands last and says why."""
    ranked = dreamo.rank(run_dir, by=["appearance", "-latency_s"], **QUIET)
    assert ranked.index.tolist()[-1] == "b"
    assert ranked["prompt"].tolist() == ["in the snow"] * 3 + ["on a beach"] * 4
    assert "h" not in ranked.index
    assert ranked.loc["b", "problem"].startswith("failed: ")
    assert ranked.loc["b", ["score", "rank"]].isna().all()
    best = dreamo.best_seeds(ranked)
    counts = best.set_index("seed_sent").loc[[1, 2, 3], ["ranked", "unranked"]]
    assert counts.to_numpy().tolist() == [[2, 0], [1, 1], [2, 0]]
    assert best["seed_sent"].tolist()[-1] == 2


# Probing.


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture
def jobs():
    return dreamo.sweep(image="data/mascot.png", prompt="on a beach", n_seeds=8, size="512x512")


def test_a_probe_buys_each_row_twice_and_says_what_that_costs(jobs, gateway, tmp_path, capsys):
    """Both of a pair have the same seed, drawn where there was none; the same call again buys nothing."""
    sentence = "Probing buys 2 rows twice: 4 new attempts, for up to $0.0"
    probed = dreamo.probe_seeds(jobs, tmp_path / "probe", k=2, max_cost="1", gateway=gateway)
    assert probed["row_a"].tolist() == probed["row_b"].tolist() == ["0", "4"]
    assert probed["is_same_file"].all()
    seeds = [line["seed"] for line in gateway.invoice()]
    assert len(seeds) == 4
    assert sorted(set(seeds)) == sorted(probed["seed_sent"])
    assert sentence in capsys.readouterr().err
    again = dreamo.probe_seeds(jobs, tmp_path / "probe", k=2, max_cost="1", gateway=gateway)
    assert len(gateway.invoice()) == 4
    assert "Probing buys" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(again, probed)
    dreamo.probe_seeds(jobs, tmp_path / "probe", k=3, max_cost="1", gateway=gateway, **QUIET)
    assert len(gateway.invoice()) == 6


def test_a_probe_that_is_not_covered_buys_nothing(jobs, gateway, tmp_path):
    """Nor one without a cap, without rows, or in a directory that holds another table."""
    probe = tmp_path / "probe"
    for wrong, message in [
        ({"max_cost": "0.01"}, "doesn't cover the probe.* Pass max_cost=0.0"),
        ({"max_cost": "much"}, "max_cost must be an amount .* not 'much'"),
        ({"max_cost": 1, "k": 0}, "k=0: expected a whole number of at least 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            dreamo.probe_seeds(jobs, probe, gateway=gateway, **wrong, **QUIET)
    with pytest.raises(TypeError, match="max_cost"):
        dreamo.probe_seeds(jobs, probe, gateway=gateway)
    with pytest.raises(dreamo.InvalidTable, match="can be probed"):
        dreamo.probe_seeds(jobs.assign(prompt=""), probe, max_cost=1, gateway=gateway)
    assert gateway.invoice() == []
    dreamo.run(jobs.iloc[:2], tmp_path / "run", gateway=gateway, **QUIET)
    with pytest.raises(UsageError, match="holds another table"):
        dreamo.probe_seeds(jobs, tmp_path / "run", max_cost=1, gateway=gateway, **QUIET)
    assert len(gateway.invoice()) == 2


def test_a_probe_of_results_repeats_the_seeds_that_were_sent(jobs, gateway, tmp_path):
    """What was drawn for the run is what is probed; replicates of the table's own are not met again."""
    done = dreamo.run(jobs.assign(replicate=4), tmp_path / "run", gateway=gateway, **QUIET)
    probed = dreamo.probe_seeds(done, tmp_path / "probe", k=3, max_cost="1", gateway=gateway, **QUIET)
    assert probed["seed_sent"].tolist() == done["seed_sent"].iloc[[0, 2, 4]].tolist()
    assert probed[["replicate_a", "replicate_b"]].drop_duplicates().to_numpy().tolist() == [[4, 5]]


def test_a_probe_without_a_known_price_is_refused_by_the_run(jobs, tmp_path):
    """A cap can't be kept; with a price given it can."""
    faults = {"precharge": {"http_404": 1.0}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        with pytest.raises(dreamo.PriceUnknown):
            dreamo.probe_seeds(jobs, tmp_path / "probe", max_cost=1, gateway=gateway, **QUIET)
        assert gateway.invoice() == []
        probed = dreamo.probe_seeds(
            jobs, tmp_path / "probe", max_cost=1, unit_cost="0.05", gateway=gateway, **QUIET
        )
    assert probed["is_same_pixels"].all()


def test_half_a_pair_is_reported(jobs, tmp_path):
    """One attempt of four fails: its pair can't be compared, and says why."""
    faults = {"script": {"create": [{"fault": "slow", "seconds": 0}, "fail_099"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        probed = dreamo.probe_seeds(
            jobs, tmp_path / "probe", k=2, max_cost=1, max_in_flight=1, gateway=gateway, **QUIET
        )
    assert probed["problem"].notna().tolist() == [True, False]
    assert probed["problem"][0].startswith("failed: ")


def test_progress_is_a_bar_with_one_name(run_dir, capsys, monkeypatch):
    """On a terminal's standard error, and nothing on standard output."""
    monkeypatch.setattr(parallel, "_DELAY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (run_dir / picture_cache.NAME).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm, outside notebooks
        dreamo.measure(run_dir)
    told = capsys.readouterr()
    assert told.out == ""
    assert "measuring" in told.err
    assert "6/6" in told.err


def test_references_are_opened_once_for_many_rows(run_dir, monkeypatch):
    """Rows that share a reference don't decode it again and again."""
    opened = []
    read = picture_cache.read_content

    def counting(path, sha256):
        opened.append(path.name)
        return read(path, sha256)

    monkeypatch.setattr(picture_cache, "read_content", counting)
    dreamo.measure(run_dir, n_workers=1, **QUIET)
    assert sum(name.endswith(".png") for name in opened) == 1  # the copy that is kept in the directory
