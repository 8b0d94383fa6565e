"""Tables of several models: which pictures and parameters each takes, and what that makes of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch.service import contract
from tests.fakes import Unsayable, picture

MULTI = "spark_multi_dreamo"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with pictures a.png to f.png, all different, as working directory."""
    for number, name in enumerate("abcdef"):
        (tmp_path / f"{name}.png").write_bytes(picture(size=(8 + number, 8)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(image, **values) -> pd.DataFrame:
    cells = {"image": pd.Series([image], dtype=object), "prompt": "on a beach", "seed": 7, "model": MULTI}
    return pd.DataFrame(cells | {name: pd.Series([value], dtype=object) for name, value in values.items()})


def problems(jobs: pd.DataFrame) -> list[tuple]:
    found = dreamo.validate(jobs)
    return list(found[["column", "code"]].itertuples(index=False, name=None))


def job_id(jobs: pd.DataFrame) -> str:
    return str(dreamo.plan(jobs)["job_id"].iloc[0])


def test_default_model_and_its_name_are_the_same_job(folder):
    """Jobs of tables without the column keep their identity."""
    bare = table("a.png").drop(columns="model")
    assert job_id(bare) == job_id(bare.assign(model="spark_dreamo")) == job_id(bare.assign(model=None))
    assert job_id(bare) == job_id(bare.assign(model=" ")) != job_id(bare.assign(model=MULTI))


@pytest.mark.parametrize(
    "several",
    [
        ["a.png", "b.png"],
        ("a.png", "b.png"),
        np.array(["a.png", "b.png"], dtype=object),
        '["a.png", "b.png"]',
        "['a.png', 'b.png']",
        "('a.png', 'b.png')",
        "['a.png'\n 'b.png']",
        ["a.png", None, "b.png"],
    ],
    ids=["list", "tuple", "array", "JSON", "Python", "a tuple's", "an array's", "a gap"],
)
def test_however_several_pictures_are_written_they_are_the_same_job(folder, several):
    """A list, its text in a CSV, or numbered columns, whose empty cells are skipped."""
    numbered = pd.DataFrame(
        {"prompt": "on a beach", "seed": 7, "model": MULTI, "image_2": ["a.png"], "image_5": "b.png"}
    )
    assert problems(table(several)) == []
    assert job_id(table(several)) == job_id(numbered)
    assert job_id(table(several)) != job_id(table(["b.png", "a.png"]))  # the order is sent


@pytest.mark.parametrize(
    ("image", "values", "expected"),
    [
        (["a.png"] * 6, {}, [("image", "image-too-many")]),
        (["a.png", "b.png"], {"model": "spark_dreamo"}, [("image", "image-too-many")]),
        (["a.png", "b.png"], {"model": None}, [("image", "image-too-many")]),
        ([], {}, [("image", "image-missing")]),
        (["a.png", "https://example.com/b.png"], {}, [("image", "image-mixed")]),
        (["a.png", "missing.png"], {}, [("image", "image-not-found")]),
        ("a.png", {"image_1": "b.png"}, [("image", "image-two-sources")]),
        ("a.png", {"model": "spark_multi"}, [("model", "model-unknown")]),
        ("a.png", {"model": 3}, [("model", "model-unknown")]),
        ("a.png", {"ref_type": "FACE"}, [("ref_type", "ref_type-unknown")]),
        ("a.png", {"ref_type": "IP,STYLE"}, [("ref_type", "ref_type-count")]),
        ("a.png", {"ref_type": 5}, [("ref_type", "ref_type-unknown")]),
        ("a.png", {"ref_type": Unsayable()}, [("ref_type", "ref_type-unknown")]),
        ("a.png", {"guidance_scale1": 7.5}, [("guidance_scale1", "guidance_scale1-beyond-limits")]),
        ("a.png", {"guidance_scale1": 0.5}, [("guidance_scale1", "guidance_scale1-beyond-limits")]),
        ("a.png", {"guidance_scale1": "much"}, [("guidance_scale1", "guidance_scale1-not-number")]),
        ("a.png", {"guidance_scale1": True}, [("guidance_scale1", "guidance_scale1-not-number")]),
        ("a.png", {"guidance_scale2": float("inf")}, [("guidance_scale2", "guidance_scale2-not-number")]),
        ("a.png", {"guidance_scale2": 99}, []),
        ("a.png", {"guidance_scale1": "2.5", "ref_type": " ip "}, []),
        ("a.png", {"model": None, "ref_type": "IP"}, [("ref_type", "parameter-not-of-model")]),
        (
            "a.png",
            {"model": "spark_dreamo", "guidance_scale1": "much"},
            [("guidance_scale1", "parameter-not-of-model")],
        ),
        ("a.png", {"guidance": 3, "image1": "b.png"}, [("image1", "column-not-read")]),
        ("a.png", {"ref_type_list": "IP"}, [("ref_type_list", "column-not-read")]),
    ],
)
def test_each_rule_is_found_in_its_column(folder, image, values, expected):
    """And nothing else is."""
    assert problems(table(image, **values)) == expected


@pytest.mark.parametrize(
    "words",
    [
        "ip, Style",
        "IP;STYLE",
        "IP|STYLE",
        "\uff29\uff30\uff0cstyle",
        "['IP', 'STYLE']",
        '["ip","style"]',
        ("IP", "style "),
    ],
)
def test_however_types_are_spelled_they_are_the_same_job(folder, words):
    """And so is a model, in any case."""
    several = ["a.png", "b.png"]
    spelled = table(several, ref_type=words, model="Spark_Multi_DreamO ")
    assert (problems(spelled), job_id(spelled)) == ([], job_id(table(several, ref_type="IP,STYLE")))
    swept = dreamo.sweep(image=str(folder / "a.png"), prompt="a", model=["Spark_Multi_DreamO "])
    assert swept["model"].tolist() == [MULTI]


def test_a_picture_beyond_those_that_are_read_is_named(folder):
    """It would be missing from what is bought, silently."""
    jobs = table(None, image_1="a.png", image_6="b.png").drop(columns="image")
    found = dreamo.validate(jobs)
    assert found["message"].tolist() == ["Ignored column 'image_6'; did you mean 'image_5'?"]
    assert dreamo.validate(table("a.png", image_6="b.png")).empty


def test_a_count_is_said_in_the_singular_too(folder):
    (message,) = dreamo.validate(table("a.png", ref_type="IP,STYLE"))["message"]
    assert message == "ref_type has 2 for 1 reference picture."
    (message,) = dreamo.validate(table("a.png", ref_type=5))["message"]
    assert message == "5 is not a type of reference picture."


def test_a_rule_says_of_which_model_it_is(folder):
    """The same cell may be right for one model and wrong for another."""
    jobs = pd.concat([table(["a.png", "b.png"], model=name) for name in ("spark_dreamo", MULTI)])
    found = dreamo.validate(jobs)
    assert found[["position", "model"]].to_numpy().tolist() == [[0, "spark_dreamo"]]
    assert found["message"][0] == "The row has 2 reference pictures; spark_dreamo takes 1."
    assert found["fix"][0] == f"Keep 1, or set model to {MULTI}."
    small = dreamo.validate(jobs.assign(width=100, height=600))
    assert set(small.loc[small["code"] == "side-too-small", "model"]) == {"spark_dreamo", MULTI}


def test_what_a_model_lacks_is_not_sent_and_no_part_of_its_job(folder):
    """A warning says so; the job is the same as without it."""
    one = table("a.png", model="spark_dreamo")
    assert job_id(one) == job_id(one.assign(ref_type="IP", guidance_scale1=3))


def test_defaults_are_the_same_job_as_what_they_stand_for(folder):
    """As for the size; the second scale has no known default, so it makes another job."""
    one = table(["a.png", "b.png"])
    assert job_id(one) == job_id(one.assign(ref_type="auto,AUTO", guidance_scale1="2.50"))
    others = [
        one.assign(ref_type="IP,AUTO"),
        one.assign(guidance_scale1=3),
        one.assign(guidance_scale2=1),
        table(["a.png"]),
    ]
    assert len({job_id(one), *map(job_id, others)}) == 5


def test_a_third_model_is_one_entry_of_the_contract(folder, monkeypatch):
    """Its limits are its own, and the messages name it."""
    third = replace(
        contract.MODELS[contract.MODEL],
        name="spark_third",
        images_max=contract.Fact(3, "page"),
        side_min_px=contract.Fact(256, "page"),
        prompt_characters_advised=contract.Fact(5, "page"),
        prompt_characters_of_siblings=contract.Fact(8, "page"),
    )
    monkeypatch.setitem(contract.MODELS, third.name, third)
    jobs = table(["a.png", "b.png", "c.png"], model=third.name, width=256, height=256)
    found = dreamo.validate(jobs)
    assert found[["code", "model"]].to_numpy().tolist() == [["prompt-very-long", "spark_third"]]
    assert "at most 5 are advised" in found["message"][0]
    assert problems(table(["a.png"] * 4, model=third.name, prompt="fox")) == [("image", "image-too-many")]


def test_sweep_makes_tables_of_several_models(folder):
    """A list within the axis of pictures is one value."""
    jobs = dreamo.sweep(
        image=[["a.png", "b.png"], ["c.png"]], prompt="a", model=MULTI, guidance_scale1=[2, 3.5], seed=1
    )
    assert jobs["image"].tolist() == [["a.png", "b.png"]] * 2 + [["c.png"]] * 2
    assert jobs["guidance_scale1"].tolist() == [2.0, 3.5] * 2
    assert problems(jobs) == []
    for wrong in ({"model": "dreamo"}, {"guidance_scale1": "much"}):
        with pytest.raises(dreamo.UsageError):
            dreamo.sweep(image="a.png", prompt="a", **wrong)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx"])
def test_lists_survive_every_format(folder, suffix):
    """A table that was written and read again asks for the same jobs."""
    jobs = pd.concat(
        [table(["a.png", "b.png"], ref_type=["IP", "STYLE"]), table(["c.png"], ref_type=["IP"])],
        ignore_index=True,
    )
    dreamo.write_table(jobs, f"jobs{suffix}")
    again = dreamo.read_table(f"jobs{suffix}")
    assert problems(again) == []
    assert dreamo.plan(again)["job_id"].tolist() == dreamo.plan(jobs)["job_id"].tolist()


JOBS = {
    "image": [["a.png", "b.png"], ["b.png", "a.png", "c.png"], "a.png"],
    "prompt": ["on a beach", "in the snow", "on the moon"],
    "seed": [1, 2, None],
    "model": [MULTI, MULTI, None],
    "ref_type": ["IP,STYLE", None, None],
    "guidance_scale1": [3.0, None, None],
    "size": "512x512",
}


def test_a_run_sends_all_of_it_and_is_resumed(folder):
    """What the service got is what the table said; the same call again sends nothing."""
    jobs = pd.DataFrame(JOBS)
    with dreamo.LocalGateway(engine="flat") as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        done = dreamo.run(jobs, "run", client=client, progress=False, max_cost=1)
        again = dreamo.run(jobs, "run", client=client, progress=False)
        invoice = {line["prompt"]: line for line in gateway.invoice()}
    assert done["status"].tolist() == ["completed"] * 3
    assert again["task_id"].tolist() == done["task_id"].tolist()
    assert len(invoice) == 3
    assert [invoice[prompt]["model"] for prompt in JOBS["prompt"]] == [MULTI, MULTI, "spark_dreamo"]
    assert [len(invoice[prompt]["images"]) for prompt in JOBS["prompt"]] == [2, 3, 1]
    assert [invoice[prompt]["ref_types"] for prompt in JOBS["prompt"]] == [["IP", "STYLE"], ["AUTO"] * 3, []]
    assert [invoice[prompt]["guidance_scale1"] for prompt in JOBS["prompt"]] == [3.0, 2.5, None]
    assert invoice["on a beach"]["images"] == invoice["in the snow"]["images"][1::-1]
    assert dreamo.validate(dreamo.load("run")).empty
    assert dreamo.costs("run", by="model")["attempts"].sum() == 3


def test_jobs_are_bought_later_from_the_copies_of_all_their_pictures(folder):
    """A retry needs none of the user's files: the directory keeps every reference."""
    with dreamo.LocalGateway(engine="flat", faults={"script": {"create": ["error_message"] * 3}}) as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        failed = dreamo.run(pd.DataFrame(JOBS), "run", client=client, progress=False)
        for name in "abc":
            (folder / f"{name}.png").unlink()
        done = dreamo.retry("run", client=client, progress=False)
        kept = [len(line["images"]) for line in gateway.invoice()]
    assert failed["status"].tolist() == ["failed"] * 3
    assert done["status"].tolist() == ["completed"] * 3
    assert sorted(kept) == [1, 2, 3]
    assert done["job_id"].tolist() == failed["job_id"].tolist()


def test_a_changed_further_picture_is_not_sent(folder):
    """The bytes that are sent are those that the job was planned with."""
    jobs = pd.DataFrame(JOBS).head(1)
    with dreamo.LocalGateway(engine="flat", faults={"script": {"create": ["error_message"]}}) as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        failed = dreamo.run(jobs, "run", client=client, progress=False, keep_references=False)
        (folder / "b.png").write_bytes(picture(size=(99, 9)))
        again = dreamo.retry("run", client=client, progress=False, keep_references=False)
        assert gateway.invoice() == []
    assert failed["job_id"].tolist() == again["job_id"].tolist()
    assert again["error_class"].tolist() == ["image_changed"]


def test_links_are_sent_as_links():
    """A request takes links or files, never both."""
    links = ("https://example.com/a.png", "https://example.com/b.png")
    request = dreamo.Request("a", 7, 512, 512, False, image_url=links, model=MULTI, ref_type=("IP", "ID"))
    assert request.image_urls == links
    for wrong in (
        {"image_url": links, "image_base64": b"/9j/", "model": MULTI},
        {"image_url": links},
        {"image_url": links * 3, "model": MULTI},
        {"image_url": (), "model": MULTI},
    ):
        with pytest.raises(dreamo.UsageError):
            dreamo.Request("a", 7, 512, 512, False, **wrong)


@pytest.mark.no_cover
def test_page_report_and_export_show_every_reference(folder):
    """Each by its name; the exported folder has each picture once."""
    with dreamo.LocalGateway(engine="flat") as gateway:
        client = dreamo.Client(gateway.api_key, gateway.base_url)
        done = dreamo.run(pd.DataFrame(JOBS), "run", client=client, progress=False)
    page = dreamo.gallery(done).to_html("page.html", progress=False).read_text("utf-8")
    report = dreamo.report("run", progress=False).read_text("utf-8")
    for text in (page, report):
        assert all(f"{name}.png" in text for name in "abc")
    assert "image-to-image models spark_multi_dreamo and spark_dreamo through" in report
    assert dreamo.gallery(done, rows="image").grid.rows.labels == (
        ("a.png + b.png",),
        ("b.png + a.png + c.png",),
        ("a.png",),
    )
    dreamo.export(done, "out", progress=False)
    assert len(list((folder / "out" / "references").iterdir())) == 3
    lines = pd.read_csv(folder / "out" / "images" / "metadata.csv").set_index("prompt")
    assert lines.loc["in the snow", "reference"] == "b.png, a.png, c.png"
    assert lines.loc["on a beach", "ref_type"] == "IP,STYLE"
    assert dreamo.verify("run") == []


def test_gateway_refuses_what_the_model_does_not_take(folder):
    """Its own reading of the contract, with the service's codes."""
    with (
        dreamo.LocalGateway(engine="flat") as gateway,
        dreamo.Client(gateway.api_key, gateway.base_url) as client,
    ):
        good = dreamo.Request(
            "a", 7, 512, 512, False, image_url=("https://example.com/a.png",) * 2, model=MULTI
        )
        for change in (
            {"ref_type": ("IP",)},
            {"ref_type": ("IP", "FACE")},
            {"guidance_scale1": 8.0},
            {"guidance_scale1": 0.9},
            {"width": 100},
        ):
            with pytest.raises(dreamo.RequestRejected, match="003011004"):
                client.create(replace(good, **change))
        assert gateway.invoice() == []
        assert client.create(replace(good, ref_type=("IP", "STYLE"), guidance_scale2=4.0))
