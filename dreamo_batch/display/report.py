"""The report of a run, or of several: one page of HTML that needs no network."""

from __future__ import annotations

import io
import json
import os
import platform
import re
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import __version__, columns
from dreamo_batch.appearance import ON_DARK, ON_LIGHT, PALETTE
from dreamo_batch.arguments import output_file
from dreamo_batch.display.gallery import PAGES, gallery, write_page
from dreamo_batch.display.grid import removed_rows_notice, thumbnails_of
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.checkpoint import read_jobs
from dreamo_batch.engine.picture_cache import PictureFile
from dreamo_batch.engine.plan import RunOptions, taken_over
from dreamo_batch.errors import UsageError
from dreamo_batch.importing import load_extra
from dreamo_batch.jobs.cells import is_missing
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.money import ZERO, dollars, exact_text, minus, money, times, total, total_if_known
from dreamo_batch.parallel import bars
from dreamo_batch.results import comparison, load, plots
from dreamo_batch.results.export import LOOPBACK, UNKNOWN, Methods
from dreamo_batch.results.history import LABEL, attempts, read_history
from dreamo_batch.results.summaries import costs, failures, latency, pace, throughput
from dreamo_batch.service import contract
from dreamo_batch.text import counted, duration, fill_template, harmless, one_line, shortened, wording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from dreamo_batch.results.load import RunDir


NAME: Final = "report.html"
N_ROWS_MAX: Final = 1_000
"""Rows whose pictures a report shows; a gallery shows all."""
_BYTES_MAX: Final = 2_100_000  # of pictures as JPEG; base64 adds a third
_PAIR_BYTES_MAX: Final = 6_000
_COLUMNS_MAX: Final = 7  # that fit side by side on a screen or a sheet of paper
_GROUPS_MAX: Final = 40
_FAILURES_MAX: Final = 100
_PAIRS_MAX: Final = 24
_UNLIMITED: Final = 10**9
_WORDS_MAX: Final = 1_000  # shows the longest prompts that the service accepts in full
_CODE_MAX: Final = 4_000
_MINUTE_S: Final = 60
_GROUPED: Final = (columns.PROMPT, columns.SIZE, columns.USE_REPHRASER)
_SIDES: Final = (
    (columns.ROW_A, columns.SEED_A, columns.PATH_A),
    (columns.ROW_B, columns.SEED_B, columns.PATH_B),
)
_DRAWN: Final = -1
_DEFAULT_SERVICE: Final = contract.BASE_URL.value.removeprefix("https://") + ":443"
_CHART_SIZE_IN: Final = (5.4, 3.4)
_CAP_TIMES_MAX: Final = 8
_SVG_HEAD: Final = re.compile(
    r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>| xmlns(?::xlink)?=\"[^\"]*\"", re.DOTALL
)
_SVG_SIZE: Final = re.compile(r"(<svg[^>]*?) (?:width=\"[^\"]*\" ?|height=\"[^\"]*\" ?)+")
_SVG_ID: Final = re.compile(r"(\bid=\"|href=\"#|url\(#)")


def report(
    run_dir: RunDir | Iterable[RunDir], path: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> Path:
    """Write a report of a run, or of several, as one HTML page that needs no network.

    The page counts rows by status; adds up money from the ledger; shows times, throughput and advice; failures with
    the calls that retry them; ambiguous rows with what they may cost; pictures by prompt and seed; near-duplicates;
    settings and versions with a paragraph for a methods section; and the call that runs it again. It can be written
    at any time, also during the run. Needs the extra `report`.

    Parameters
    ----------
    run_dir : path, or iterable of paths
        The run directory; or several, which follow each other on the page, after their totals.
    path : path, optional
        The file to write, replaced atomically; default: ``report.html`` in the run directory, if there is only one.
    progress : bool
        Show progress bars while thumbnails are made and pictures compared.

    Returns
    -------
    pathlib.Path
        The file. Below 5 MB for 1,000 rows; the pictures of further rows are left out, and counted.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.
    UsageError
        If the file's folder does not exist, `path` doesn't end in .html, it is missing for several directories, or
        matplotlib is not installed.
    OSError
        If the file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 3), size="512x512")
    >>> run_dir = tempfile.mkdtemp()
    >>> _ = dreamo.run(jobs, run_dir, gateway="local", progress=False)
    >>> dreamo.report(run_dir).name
    'report.html'
    """
    run_dirs = load.list_run_dirs(run_dir)
    if path is not None:
        target = output_file("path", path, PAGES).absolute()
    elif len(run_dirs) > 1:
        several = wording("path=", "--output")
        raise UsageError(f"Name a file for a report of several run directories: {several}.")
    else:
        target = load.existing(run_dirs[0]).path / NAME
    with bars(progress):
        page = render(list(map(ReportData, run_dirs)))
    return write_page(target, page)


class ReportData:
    """A run directory at one moment, as the data of a report."""

    def __init__(self, run_dir: RunDir) -> None:
        directory = load.existing(run_dir)
        self.name, self.path = os.fspath(run_dir), directory.path
        self.manifest = directory.read_manifest()
        self.results = load.load(run_dir)
        self.history = read_history(run_dir)
        self.decided = read_jobs(directory.jobs).decided
        self.summary = load.status(run_dir)
        self.is_live = directory.is_locked()
        self.made_at = datetime.now(UTC)

    @cached_property
    def first_rows(self) -> pd.DataFrame:
        """Rows with their own job: neither invalid nor duplicates of an earlier row."""
        rows = self.history.rows
        return rows[rows[columns.JOB_ID].notna() & rows[columns.DUPLICATE_OF].isna()]

    @cached_property
    def jobs(self) -> pd.DataFrame:
        """The rows of distinct jobs."""
        return self.decided[self.decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)

    @cached_property
    def n_drawn(self) -> int:
        """How many rows had no seed of their own."""
        asked = self.results.get(columns.SEED, pd.Series(_DRAWN, self.results.index))
        return int((asked.isna() | (asked == _DRAWN)).sum())


def render(facts: Sequence[ReportData]) -> str:
    """Render the page."""
    runs = [
        sections(run, prefix=f"run{number}-" if len(facts) > 1 else "", n_runs=len(facts))
        for number, run in enumerate(facts, 1)
    ]
    formats = (code, counted, is_missing, literal, moment, seconds, short, usd, words)
    return fill_template(
        "report.html.j2",
        runs=runs,
        spent=_sum(run["money"]["whole"][columns.SPENT] for run in runs),
        possibly_billed=_sum(run.summary["possibly_billed_usd"] for run in facts),
        palette=PALETTE,
        themes={"light": ON_LIGHT, "dark": ON_DARK},
        **{format_.__name__: format_ for format_ in formats},
    )


def sections(facts: ReportData, *, prefix: str = "", n_runs: int = 1) -> dict[str, Any]:
    """Return the data of a run that the template shows."""
    by_status = facts.summary["by_status"]
    return {
        "facts": facts,
        "prefix": prefix,
        "name": words(facts.path.name if n_runs == 1 else facts.name),
        "n_rows": len(facts.history.rows),
        "n_accounted": sum(by_status.values()),
        "n_open": sum(by_status.get(status, 0) for status in columns.UNSETTLED),
        "money": _money(facts),
        "timing": _timing(facts),
        "failures": _records(failures(facts.history), _FAILURES_MAX),
        "ambiguous": _ambiguous(facts),
        "grid": _grid(facts, n_runs=n_runs),
        "likeness": _likeness(facts),
        "ratings": _ratings(facts),
        "methods": _methods(facts),
        "charts": _charts(facts, prefix=prefix),
    }


def _records(table: pd.DataFrame, n_max: int) -> dict[str, Any]:
    """Return the first lines of a table, and how many more there are."""
    return {"lines": table.head(n_max).to_dict("records"), "n_more": max(0, len(table) - n_max)}


def _money(facts: ReportData) -> dict[str, Any]:
    """Add up what was spent, reserved, wasted and saved."""
    names = ("max_cost_usd", "spent_usd", "reserved_usd", "possibly_billed_usd")
    cap, spent, reserved, billed = (money(facts.summary[name]) for name in names)
    left = None if cap is None else minus(cap, total(filter(None, (spent, reserved))))
    return {
        "whole": costs(facts.history).iloc[0].to_dict(),
        "may_be_billed": billed is None or bool(billed),
        "left": None if left is None else exact_text(max(left, ZERO)),
        "groups": [table for by in _GROUPED if (table := _grouped(facts, by))],
    }


def _grouped(facts: ReportData, by: str) -> dict[str, Any] | None:
    """Return the cost of each group, the most expensive first; None if grouping says nothing new."""
    try:
        table = costs(facts.history, by)
    except UsageError:  # no such column, or cells that can't be compared
        return None
    if not 1 < len(table) < table[columns.N_ROWS].sum():  # a single group, or one per row
        return None
    table = table.sort_values(columns.SPENT_USD, ascending=False, kind="stable")
    shares = (100 * table[columns.SPENT_USD] / table[columns.SPENT_USD].max()).fillna(0.0)
    return {"by": by, **_records(table.assign(share=shares), _GROUPS_MAX)}


def _timing(facts: ReportData) -> dict[str, Any]:
    """Return how long attempts took, and what to change."""
    phases = latency(facts.history)
    try:
        sizes = latency(facts.history, columns.SIZE)
    except UsageError:  # the user's own sizes, which can't be compared
        sizes = phases.iloc[:0]
    sizes = sizes[sizes[columns.PHASE] == columns.TASK]
    return {
        "phases": phases.to_dict("records"),
        "sizes": sizes.to_dict("records") if len(sizes) > 1 else [],
        "median_s": phases.loc[phases[columns.PHASE] == columns.TASK, columns.P50_S].min(),
        "pace": pace(facts.history),
        "first_sent": facts.history.attempts[columns.SENT_AT].min(),
        "last_end": facts.history.attempts[columns.COMPLETED_AT].max(),
    }


def _ambiguous(facts: ReportData) -> dict[str, Any]:
    """Return rows that may have been submitted, with what each may cost."""
    rows = facts.first_rows[facts.first_rows[columns.STATUS] == columns.AMBIGUOUS]
    attempts = facts.history.attempts[facts.history.attempts[columns.STAGE] == str(Stage.AMBIGUOUS)]
    held = attempts.drop_duplicates(columns.JOB_ID, keep="last").set_index(columns.JOB_ID)[columns.RESERVED]
    found = _records(rows, _FAILURES_MAX)
    for row in found["lines"]:
        row |= {"label": row[LABEL], "cost": held.get(row[columns.JOB_ID])}
    return found


def _grid(facts: ReportData, *, n_runs: int) -> dict[str, Any]:
    """Return prompts against seeds as HTML, with boxes for rows that failed or have no picture."""
    shown = facts.results.iloc[:N_ROWS_MAX]
    grid = gallery(shown, run_dir=facts.path, page_rows=_UNLIMITED, page_columns=_UNLIMITED)
    is_left = facts.history.attempts[columns.OUTPUT_PATH].notna() & (facts.history.places < 0)
    return {
        "html": grid.fragment(bytes_max=_BYTES_MAX // n_runs, progress=True),
        "is_wide": grid.grid.shape[1] > _COLUMNS_MAX,
        "n_more": len(facts.results) - len(shown),
        "left": removed_rows_notice(int(is_left.sum())),
    }


def _likeness(facts: ReportData) -> dict[str, Any]:
    """Return how much the pictures of each prompt differ, and the pairs that hardly differ."""
    bounds = comparison.Threshold()
    reserved = (*columns.DIVERSITY, *columns.NEAR_DUPLICATES)
    compared = comparison.PictureGroups(facts.results, facts.path, columns.PROMPT, bounds, reserved)
    groups = comparison.summarise_diversity(compared)
    groups = groups[groups[columns.N_PICTURES] > 1].sort_values(columns.DELTA_E_MEAN, kind="stable")
    pairs = comparison.list_near_duplicates(compared, _UNLIMITED)
    near = _records(pairs, _PAIRS_MAX)["lines"]
    sides = [(pair, *side) for pair in near for side in _SIDES]
    files = [PictureFile(facts.path, facts.path / pair[path], None) for pair, *_, path in sides]
    pictures = thumbnails_of(files, _PAIR_BYTES_MAX)
    for (pair, row, seed, _), picture in zip(sides, pictures, strict=True):
        pair.setdefault("sides", []).append((pair[row], pair[seed], picture))
    return {"groups": _records(groups, _GROUPS_MAX), "pairs": near, "n_pairs": len(pairs), "bounds": bounds}


def _ratings(facts: ReportData) -> dict[str, Any] | None:
    """Return the ratings of the pictures; None if there are none."""
    rows = facts.first_rows
    if not rating_columns(rows):
        return None
    mean = rows[columns.RATING].mean()
    return {
        "n_rated": int(rows[columns.RATING].notna().sum()),
        "mean": None if pd.isna(mean) else mean,
        "n_picked": int(rows[columns.PICKED].sum()),
        "n_rejected": int((~rows[columns.PICKED]).sum()),
    }


def _methods(facts: ReportData) -> dict[str, Any]:
    made = Methods(facts.jobs, facts.first_rows[columns.STATUS], facts.manifest)
    sent, spent = facts.history.attempts[columns.SENT_AT], money(facts.summary["spent_usd"])
    drawn = "all" if facts.n_drawn == len(facts.results) else f"{facts.n_drawn:,} of the rows' seeds"
    return {
        "counts": made,
        "paragraph": made.paragraph(sent, spent, drawn if facts.n_drawn else ""),
        "page_version": __version__,
        "python_version": platform.python_version(),
        "pandas_version": pd.__version__,
        "n_duplicates": int(facts.history.rows[columns.DUPLICATE_OF].notna().sum()),
        "settings": facts.manifest.settings if facts.manifest else {},
        "python": _python(facts),
    }


def _options(facts: ReportData) -> dict[str, Any]:
    """Return the arguments that repeat the call: the service, and the options that differ from the defaults."""
    manifest, cap, defaults = facts.manifest, facts.summary["max_cost_usd"], asdict(RunOptions())
    service = manifest.service if manifest else _DEFAULT_SERVICE
    options: dict[str, Any] = {"gateway": "local"} if service == LOOPBACK else {}
    if service not in (LOOPBACK, _DEFAULT_SERVICE):
        options["base_url"] = f"https://{service.removesuffix(':443')}"
    settings = manifest.settings if manifest else {}
    options |= {
        name: value
        for name, value in settings.items()
        if name in {*taken_over(settings), "max_new_cost"} and value not in (defaults[name], None)
    }
    return options if cap is None or manifest is None else {**options, "max_cost": cap}


def _python(facts: ReportData) -> str:
    arguments = "".join(f", {name}={literal(value)}" for name, value in _options(facts).items())
    seeds = f'.assign({columns.SEED}=lambda table: table["{columns.SEED_SENT}"])' if facts.n_drawn else ""
    known = {"name": facts.name, "arguments": arguments, "seeds": seeds}
    return fill_template("report_call.txt.j2", code=code, literal=literal, **known).rstrip()


def literal(value: Any) -> str:
    """Return a value as Python code."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _charts(facts: ReportData, *, prefix: str) -> dict[str, str]:
    """Draw money over time, latency by phase, and throughput."""
    if facts.history.attempts[columns.COMPLETED_AT].isna().all():
        return {}
    cap, spent = (money(facts.summary[name]) for name in ("max_cost_usd", "spent_usd"))
    # A cap far above the money spent would flatten the curve.
    shown_cap = exact_text(cap) if cap and spent and cap <= times(_CAP_TIMES_MAX, spent) else None
    charts: dict[str, Callable[[Axes], object]] = {
        "spend": lambda ax: plots.plot_spend(attempts(facts.history), cap=shown_cap, ax=ax),
        "latency": lambda ax: plots.plot_latency(latency(facts.history), ax=ax),
        "throughput": lambda ax: plots.plot_throughput(throughput(facts.history), ax=ax),
    }
    return {name: _svg(prefix, name, draw) for name, draw in charts.items()}


def _svg(prefix: str, name: str, draw: Callable[[Axes], object]) -> str:
    mpl = load_extra("matplotlib", "The report needs", "report")
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    unsigned: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The page looks the same for everybody, whatever style or `text.usetex` is set.
    ours = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}
    with mpl.rc_context(mpl.rcParamsDefault.copy() | ours):
        figure = Figure(figsize=_CHART_SIZE_IN, layout="constrained")
        figure.patch.set_alpha(0)
        ax = figure.subplots()
        ax.patch.set_alpha(0)
        draw(ax)
        figure.savefig(buffer, format="svg", metadata=unsigned)
    return _fitted(buffer.getvalue(), prefix, name)


def _fitted(drawing: str, prefix: str, name: str) -> str:
    """Prepare a drawing for the page: no URLs, unique ids, any width, and the page's colours."""
    drawing = _SVG_SIZE.sub(r"\1 ", _SVG_HEAD.sub("", drawing))
    drawing = _SVG_ID.sub(rf"\g<1>{prefix}{name}-", drawing.replace("xlink:href", "href"))
    for part, colour in asdict(ON_LIGHT).items():
        drawing = drawing.replace(colour, f"var(--{part})")
    return drawing.replace("<svg", f'<svg role="img" aria-label="{name}"', 1).strip()


def words(value: object, n_max: int = _WORDS_MAX) -> str:
    """Return text from outside as one harmless line."""
    return "(none)" if is_missing(value) else one_line(value, n_max)


def code(line: str) -> str:
    """Return a line of code without harmful characters."""
    return shortened(harmless(line), _CODE_MAX)


def usd(amount: object) -> str:
    """Return an exact amount in full."""
    return UNKNOWN if not isinstance(amount, str) or money(amount) is None else amount


def short(amount: Any) -> str:
    """Return an amount for reading."""
    exact = None if is_missing(amount) else money(f"{amount:.10f}" if isinstance(amount, float) else amount)
    return UNKNOWN if exact is None else dollars(exact)


def _sum(amounts: Iterable[str | float | None]) -> str:
    """Add up exact amounts; the sum is unknown if any of them is."""
    whole = total_if_known(map(money, amounts))
    return UNKNOWN if whole is None else exact_text(whole)


def seconds(value: Any) -> str:
    """Return a length of time."""
    if is_missing(value):
        return UNKNOWN
    return f"{value:.3g} s" if value < _MINUTE_S else duration(value)


def moment(time: Any) -> str:
    """Return a time in UTC."""
    return UNKNOWN if is_missing(time) else f"{time:%Y-%m-%d %H:%M:%S}"
