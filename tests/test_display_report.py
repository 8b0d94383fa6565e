"""The report: one page, whatever became of the run, that tells the ledger's numbers and does nothing else."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from decimal import Decimal, Inexact, localcontext
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.display.report import ReportData, render, sections
from dreamo_batch.engine.directory import Manifest, RunDirectory
from dreamo_batch.money import dollars
from dreamo_batch.results import history
from tests import histories

KEY = "sk-a-key-that-nobody-may-see"
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u202e\"'"
VOID = {"meta", "img", "br", "path", "use", "rect", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / f"fox{HOSTILE[:5].replace('/', '')}.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return str(path)


def bought(folder, reference, *, n_seeds=2, prompts=("on a beach", HOSTILE), faults=None, **options):
    """Run a table; gives its directory and the invoice."""
    jobs = dreamo.sweep(image=reference, prompt=list(prompts), n_seeds=n_seeds, size="512x512")
    jobs.index = [f"{HOSTILE}{number}" for number in range(len(jobs))]
    with dreamo.LocalGateway(engine="flat", faults=faults, api_key=KEY) as gateway:
        dreamo.run(jobs, folder, gateway=gateway, progress=False, unit_cost="0.03", **options)
        return folder, gateway.invoice()


@pytest.fixture(scope="module")
def run(tmp_path_factory, reference):
    """One failed, one ambiguous, one moderated, three completed."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    script = ["fail_099", "drop_after_accept", "fail_moderation"]
    return bought(folder, reference, n_seeds=3, faults={"script": {"create": script}}, max_cost=5)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = dreamo.report(run[0], tmp_path_factory.mktemp("page") / "r.html")
    return Page(path.read_text(encoding="utf-8"))


def page_of(run_dir, path=None):
    return Page(dreamo.report(run_dir, path).read_text(encoding="utf-8"))


# What it tells.


@pytest.mark.no_cover
def test_long_prompts_are_whole(reference, tmp_path):
    """Two that differ in their last words can be told apart in every table, and beside every picture."""
    prompts = ["a fox in the snow, " * 40 + end for end in ("at dawn", "at dusk")]
    page = page_of(bought(tmp_path / "run", reference, prompts=prompts)[0])
    told = [words for words in page.words if words.startswith("a fox in the snow")]
    assert {words[-7:] for words in told} == {"at dawn", "at dusk"}
    assert min(map(len, told)) > 700


@pytest.mark.no_cover
def test_what_is_missing_is_missing_where_pandas_tells_it_from_nan(run):
    """Columns of whole numbers with nothing in some rows come from a column of floats."""
    results = dreamo.load(run[0])
    wide = pd.concat(
        [pd.DataFrame({"own": [1]}), results.astype({"attempts": "float64", "seed_sent": "float64"})]
    )
    with pd.option_context("future.distinguish_nan_and_na", True):
        page_of(run[0])
        for table in (results, wide):
            assert dreamo.rank(table, by="output_bytes")["rank"].isna().any()
            for verb in (
                dreamo.diversity,
                dreamo.near_duplicates,
                dreamo.costs,
                dreamo.failures,
                dreamo.latency,
            ):
                verb(table)
            assert dreamo.gallery(table).to_html(run[0].parent / "gallery.html").exists()


def test_several_runs_stand_on_one_page(run, reference, tmp_path):
    """Their sums come first, each can be jumped to, and no name on the page is there twice."""
    other, _ = bought(tmp_path / "other", reference, prompts=("on a beach",))
    page = page_of([run[0], other], tmp_path / "both.html")
    spent = [Decimal(dreamo.status(one)["spent_usd"]) for one in (run[0], other)]
    assert f"total 8 5 {sum(spent)}" in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(ids)
    assert str(other) in page.text
    with pytest.raises(dreamo.UsageError, match="Name a file"):
        dreamo.report([run[0], other])


def test_rows_are_accounted_for(page):
    """The reconciliation stands at the head, with counts by status."""
    assert "6 rows in, 6 accounted for" in page.text
    assert "3 completed" in page.text
    assert "2 failed" in page.text
    assert "1 ambiguous" in page.text


def test_money_is_that_of_the_invoice(run, page):
    """Spent and what is possibly billed are the ledger's, and with it the service's, to the last digit."""
    run_dir, invoice = run
    spent = dreamo.status(run_dir)["spent_usd"]
    told = set(dreamo.load(run_dir)["task_id"].dropna())
    known = sum(Decimal(line["cost"]) for line in invoice if line["id"] in told and line["cost"])
    assert Decimal(spent) == known
    assert f"exact {spent} Possibly billed" in page.text
    assert f"unpriced attempts {dreamo.status(run_dir)['possibly_billed_usd']} Reserved" in page.text
    assert f"{dollars(known)} spent" in page.text
    assert f"at a known cost of {dollars(Decimal(spent))}." in page.text


@pytest.mark.no_cover
def test_the_users_decimal_context_changes_no_amount(run):
    """Nor does one that raises end the report."""
    facts = ReportData(run[0])
    exact = sections(facts)["money"]
    assert exact["left"] is not None
    with localcontext(prec=2, traps=[Inexact]):
        assert sections(facts)["money"]["left"] == exact["left"]


@pytest.mark.no_cover
def test_money_by_prompt_is_that_of_costs(run):
    """Groups are those of costs(), exact."""
    run_dir, _ = run
    (table,) = sections(ReportData(run_dir))["money"]["groups"]
    told = {line["spent"] for line in table["lines"]}
    assert told == set(dreamo.costs(run_dir, by="prompt")["spent"])


@pytest.mark.no_cover
def test_groups_of_one_row_each_are_not_listed(tmp_path):
    """Forty prompts made forty lines that say what each row costs."""
    jobs = dreamo.sweep(
        image="data/mascot.png", prompt=["a", "b"], seed=1, size="512x512", use_rephraser=False
    )
    dreamo.run(jobs, tmp_path / "r", gateway="local", progress=False)
    assert sections(ReportData(tmp_path / "r"))["money"]["groups"] == []


def test_failures_tell_meaning_example_and_call(run, page):
    """Each kind as failures() tells it."""
    for kind in dreamo.failures(run[0]).to_dict("records"):
        assert kind["error_class"] in page.text
        assert kind["meaning"].rstrip(".") in page.text
    assert 'classes="moderation")' not in page.text  # the same one fails again


@pytest.mark.no_cover
def test_ambiguous_rows_tell_their_possible_cost_and_how_to_settle_them(run, page):
    """With the call that settles the row by its job."""
    results = dreamo.load(run[0])
    job = results.loc[results["status"] == "ambiguous", "job_id"].item()
    assert f'dreamo.resolve("{run[0]}", "{job}", not_sent=True)' in page.text
    assert "at most, USD 0.03" in page.text or " 0.03 " in page.text


def test_pictures_are_shown_and_what_is_missing_is_said(page):
    """Three pictures and a reference; the other cells say why."""
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) >= 4
    assert "3 pictures" in page.text


def test_methods_can_be_pasted(run, page):
    """Model, version, dates, counts, sizes, rephraser and seeds in one paragraph."""
    start = page.text.index("Images were requested from")
    paragraph = page.text[start : page.text.index("The table as counts")]
    for part in (
        "spark_dreamo",
        f"dreamo-batch {dreamo.__version__} on 20",
        "6 distinct jobs combined 1 reference image and 2 prompts with 6 seeds (all drawn before sending",
        "at 512x512 pixels",
        "(use_rephraser) was on",
        "3 completed, 2 failed and 1 remained ambiguous",
    ):
        assert part in paragraph


@pytest.mark.no_cover
def test_the_call_that_runs_it_again_does(run, page, tmp_path):
    """The Python text, run as it stands, buys the same jobs with the same seeds; no key is in it."""
    code = sections(ReportData(run[0]))["methods"]["python"]
    assert " ".join(code.split()) in page.text
    assert 'max_cost="5"' in code
    again = tmp_path / "again"
    code = code.replace(f'"{run[0]}-again"', f'"{again}"')
    same = next(line for line in code.splitlines() if line.startswith(f'dreamo.run(jobs, "{run[0]}"'))
    exec(compile(code.replace(same, ""), "report", "exec"), {})  # noqa: S102 - what a reader would do
    assert dreamo.load(again)["job_id"].tolist() == dreamo.load(run[0])["job_id"].tolist()
    assert (dreamo.load(again)["status"] == "completed").all()


# What it does not do.


def test_it_needs_nothing_from_anywhere(page):
    """No script, no address but pictures within, and a policy that forbids the rest."""
    assert not page.all("script")
    assert not [name for tag, a in page.elements for name in a if name.startswith("on")]
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
        assert "url(h" not in attributes.get("style", "")
    assert not {"iframe", "object", "embed", "form", "link", "base"} & {tag for tag, _ in page.elements}
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:")
    assert "script" not in policy


@pytest.mark.no_cover
def test_styles_name_no_address(run):
    """Neither the page's nor the gallery's."""
    text = render([ReportData(run[0])])
    for style in re.findall(r"<style.*?</style>", text, re.DOTALL):
        assert "http" not in style
        assert "@import" not in style


def test_words_of_others_stay_words(page):
    """Prompts, labels and messages are shown, change nothing, and can't turn the direction of the page."""
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not page.open
    assert not page.all("x")
    assert not [image for image in page.all("img") if not image["src"].startswith("data:image/")]


@pytest.mark.no_cover
def test_no_key_is_in_it(run, tmp_path):
    """Not even of a run whose key was given."""
    assert KEY not in dreamo.report(run[0], tmp_path / "r.html").read_text(encoding="utf-8")


# Any run.


def test_a_run_in_the_middle(tmp_path, reference):
    """Rows that are not done are told of, and that somebody works on it."""
    run_dir, _ = bought(
        tmp_path / "run", reference, faults={"script": {"create": ["stuck"]}}, task_timeout_s=0.5
    )
    assert "1 row to go" in page_of(run_dir).text
    directory = RunDirectory(run_dir)
    directory.lock()
    try:
        assert "The run is in progress" in page_of(run_dir).text
    finally:
        directory.unlock()


@pytest.mark.no_cover
def test_failures_only(tmp_path, reference):
    """No picture, no cost, and no plot of nothing fails."""
    faults = {"script": {"create": ["fail_099"] * 4}}
    page = page_of(bought(tmp_path / "run", reference, faults=faults)[0])
    assert "4 failed" in page.text
    assert "0 usable pictures" in page.text
    assert "How much the pictures differ" not in page.text


@pytest.mark.no_cover
def test_costs_that_nobody_knows_are_no_zeros(tmp_path, reference):
    """A service that never names a cost: the tile says so, as `costs` does, and bars of nothing aren't drawn."""
    run_dir, _ = bought(tmp_path / "run", reference, faults={"poll": {"cost_missing": 1.0}})
    page = page_of(run_dir)
    assert "unknown spent unknown per usable picture" in page.text
    assert "no costs are known" in page.text
    assert "share" not in [one.get("class") for one in page.all("i")]


def test_an_empty_table(tmp_path, reference):
    """Says so."""
    jobs = dreamo.sweep(image=reference, prompt="a", seed=[1]).head(0)
    dreamo.run(jobs, tmp_path / "run", gateway="local", progress=False)
    page = page_of(tmp_path / "run")
    assert "The table is empty." in page.text
    assert "0 rows in, 0 accounted for" in page.text
    assert "No images were submitted." in page.text
    assert not page.all("svg")


@pytest.mark.no_cover
def test_one_row(tmp_path, reference):
    """One picture: no groups, no pairs. What the user asked of matplotlib, such as LaTeX, is for other figures."""
    with mpl.rc_context({"text.usetex": True, "figure.dpi": 1000}):
        page = page_of(bought(tmp_path / "run", reference, n_seeds=1, prompts=["a"])[0])
    assert page.all("svg")
    assert "Every row is completed." in page.text
    assert "By prompt" not in page.text


@pytest.mark.no_cover
def test_rows_never_submitted(tmp_path, reference):
    """Invalid rows that were skipped are accounted for."""
    jobs = dreamo.sweep(image=reference, prompt=["a", "b"], seed=[1], size="512x512")
    jobs.loc[1, "prompt"] = None
    with dreamo.LocalGateway(engine="flat") as gateway:
        dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False, on_invalid="skip")
    page = page_of(tmp_path / "run")
    assert "1 invalid" in page.text
    assert "2 rows in, 2 accounted for" in page.text


@pytest.mark.no_cover
def test_near_duplicates_are_shown_side_by_side(tmp_path, reference):
    """Two replicates of a job, whose pictures are the same."""
    jobs = dreamo.sweep(image=reference, prompt=["a"], seed=[1], replicate=range(2), size="512x512")
    with dreamo.LocalGateway(engine="flat") as gateway:
        dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    page = page_of(tmp_path / "run")
    assert "1 pair within" in page.text
    assert "1 prompt with 1 seed and 2 replicates, at" in page.text  # of the paragraph to paste
    assert "0 bits, Delta E 0.0" in page.text


def test_a_thousand_rows_stay_below_5_mb(tmp_path):
    """Also with pictures that hardly compress; rows beyond are counted."""
    facts = many(tmp_path, 1_010)
    page = render([facts])
    assert len(page.encode()) < 5_000_000
    told = Page(page)
    assert sum(image["src"].startswith("data:image/jpeg") for image in told.all("img")) >= 1_000
    assert "and 10 more rows" in told.text
    assert "1,010" in told.text


class FactsMadeUp(ReportData):
    """Facts of no run directory."""

    def __init__(self, **known):
        vars(self).update(known)


def many(folder, n):
    """Make facts of a run that never was: n rows of 101 prompts, with pictures of noise."""
    noise = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(8):
        Image.fromarray(noise.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(
            folder / f"{number}.jpg", quality=90
        )
    jobs = [f"{number:032x}" for number in range(n)]
    for number, job in enumerate(jobs):
        (folder / f"images/{job}.jpg").hardlink_to(folder / f"{number % 8}.jpg")
    attempts = [
        histories.completed(job, cost="0.0286", output_sha256=f"{number % 8}" * 64, output_url=None)
        for number, job in enumerate(jobs)
    ]
    seeds = pd.array([number % 10 for number in range(n)], dtype="Int64")
    prompts = [f"the fox walks through street number {number // 10}, in the rain" for number in range(n)]
    results = histories.results(jobs, attempts, prompt=prompts, seed=seeds)
    results[columns.SEED_SENT] = seeds
    told = history.concatenated({"runs/many": history.from_ledger(results, histories.ledger(attempts))})
    decided = pd.DataFrame(
        {
            columns.JOB_ID: jobs,
            columns.PROMPT: prompts,
            columns.SEED_SENT: seeds,
            columns.IMAGE_DIGEST: "0",
            columns.MODEL: "spark_dreamo",
        }
    ).assign(**{columns.WIDTH: 1328, columns.HEIGHT: 1328, columns.USE_REPHRASER: True, columns.REPLICATE: 0})
    for name in (columns.WIDTH, columns.HEIGHT):
        told.rows[columns.STORED_PREFIX + name] = 1328
    summary = {"rows": n, "by_status": {"completed": n}, "attempts": n, "spent_usd": "28.886"}
    summary |= {"reserved_usd": "0", "possibly_billed_usd": "0", "max_cost_usd": "30"}
    return FactsMadeUp(
        name="runs/many",
        path=folder,
        manifest=Manifest(service="cloud.vtrix.ai:443", entropy="00", package_version="0.1.0"),
        results=results,
        history=told,
        decided=decided,
        summary=summary,
        is_live=False,
        made_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


@pytest.mark.no_cover
def test_a_real_service_is_named(tmp_path):
    """The methods name the host."""
    facts = many(tmp_path, 20)
    page = Page(render([facts]))
    assert "through the service at cloud.vtrix.ai:443, with dreamo-batch 0.1.0 " in page.text
    assert "with 10 seeds, at 1328x1328 pixels" in page.text


def test_another_service_and_changed_options_are_repeated(tmp_path):
    """The calls name the address and what is not the default; more sizes than fit in a sentence are counted."""
    facts = many(tmp_path, 20)
    settings = {"max_in_flight": 3, "keep_references": False, "fix_images": True, "max_attempts": 1}
    manifest = Manifest(service="images.example.com:443", entropy="00", settings=settings)
    decided = facts.decided.assign(**{columns.WIDTH: range(512, 532)})
    facts = FactsMadeUp(**vars(facts) | {"manifest": manifest, "decided": decided})
    methods = sections(facts)["methods"]
    options = 'max_in_flight=3, keep_references=False, fix_images=True, max_cost="30"'
    assert f'base_url="https://images.example.com", {options})' in methods["python"]
    assert "516x1328 (1) and 517x1328 (1) pixels and 14 other sizes." in Page(render([facts])).text


def test_rows_that_are_lost_would_be_said(tmp_path):
    """A count that does not add up is an alarm, not a detail."""
    facts = many(tmp_path, 20)
    facts.summary["by_status"]["completed"] = 19
    assert "rows are missing, which must never happen" in Page(render([facts])).text


# The file.


@pytest.mark.no_cover
def test_it_stands_in_the_run_directory_unless_told_otherwise(run):
    """And is replaced, atomically, by the next."""
    path = dreamo.report(run[0])
    assert path == run[0].absolute() / "report.html"
    assert dreamo.report(os.fspath(run[0])) == path
    path.unlink()


def test_places_that_do_not_do(run, tmp_path):
    """No folder, and no run directory."""
    with pytest.raises(dreamo.UsageError, match="No folder"):
        dreamo.report(run[0], tmp_path / "none" / "r.html")
    with pytest.raises(dreamo.DirectoryError):
        dreamo.report(tmp_path / "none")


def test_without_matplotlib_the_extra_is_named(run, tmp_path, monkeypatch):
    """With the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(dreamo.UsageError, match=r"dreamo-batch\[report\]"):
        dreamo.report(run[0], tmp_path / "r.html")
