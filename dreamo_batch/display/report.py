"""The report of a run: facts become sections, sections become one page."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import __version__, columns, files
from dreamo_batch.display.gallery import gallery
from dreamo_batch.display.grid import removed_rows_notice
from dreamo_batch.display.thumbnails import Thumbnails
from dreamo_batch.engine.attempts import Stage
from dreamo_batch.engine.budget import ZERO, text, total
from dreamo_batch.engine.budget import money as amount_of
from dreamo_batch.engine.directory import read_jobs
from dreamo_batch.engine.plan import RunOptions
from dreamo_batch.errors import UsageError
from dreamo_batch.parallel import bars
from dreamo_batch.results import plots
from dreamo_batch.results.costs import summarise_costs
from dreamo_batch.results.failures import summarise_failures
from dreamo_batch.results.history import LABEL, list_attempts, read_history
from dreamo_batch.results.load import RunDir, as_paths, existing, load, status
from dreamo_batch.results.seeds import (
    BITS_MAX,
    DELTA_E_MAX,
    check_threshold,
    gather,
    list_near_duplicates,
    summarise_diversity,
)
from dreamo_batch.results.timing import count_throughput, measure_pace, summarise_latency
from dreamo_batch.service import contract
from dreamo_batch.text import dollars, harmless, templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

    from dreamo_batch.engine.directory import Manifest
    from dreamo_batch.results.history import History


UNKNOWN: Final = "unknown"
_WORDS_MAX: Final = 1_000  # the longest prompt that the service is known to take is whole
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def words(text: object, most: int = _WORDS_MAX) -> str:
    """Make one line of anybody's words; control characters and marks of direction are written out."""
    if text is None or text is pd.NA or text != text:  # noqa: PLR0124 - NaN
        return "(none)"
    line = harmless(" ".join(str(text).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def usd(amount: object) -> str:
    """Write an amount that is exact decimal text, whole."""
    known = amount_of(amount) if isinstance(amount, str) else None
    return UNKNOWN if known is None else str(amount)


def added(amounts: Iterable[object]) -> str:
    """Add up amounts that are exact decimal text; unknown if one of them is."""
    known = [amount_of(amount) if isinstance(amount, str) else None for amount in amounts]
    return UNKNOWN if None in known else text(total(amount for amount in known if amount is not None))


def about(amount: object) -> str:
    """Write an amount short, for reading."""
    if isinstance(amount, float | int) and amount == amount:  # noqa: PLR0124 - NaN
        amount = f"{amount:.10f}"
    known = amount_of(amount) if isinstance(amount, str) else None
    return UNKNOWN if known is None else dollars(known)


def seconds(value: Any) -> str:
    """Write a length of time."""
    if value is None or pd.isna(value):
        return UNKNOWN
    if value < _MINUTE_S:
        return f"{value:.3g} s"
    if value < _HOUR_S:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def moment(time: Any) -> str:
    """Write a time in UTC."""
    return UNKNOWN if time is None or pd.isna(time) else f"{time:%Y-%m-%d %H:%M:%S}"


def plural(n: int, word: str) -> str:
    """Count things."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def as_sentence(parts: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])


@dataclass(frozen=True, slots=True)
class Facts:
    """A run directory at one moment."""

    name: str
    path: Path
    manifest: Manifest | None
    results: pd.DataFrame
    history: History
    decided: pd.DataFrame
    summary: Mapping[str, Any]
    is_worked_on: bool
    made_at: datetime

    @property
    def rows(self) -> pd.DataFrame:
        """The results on a RangeIndex."""
        return self.history.rows

    @property
    def ledger(self) -> pd.DataFrame:
        """Every attempt of the directory."""
        return self.history.attempts

    @property
    def attempts(self) -> pd.DataFrame:
        """Every attempt with the row it was made for."""
        return list_attempts(self.history)

    @property
    def is_local(self) -> bool:
        """Whether the service was a gateway on this machine, whose pictures are previews."""
        return self.manifest is not None and self.manifest.service == "loopback"

    @property
    def bought(self) -> pd.DataFrame:
        """Rows that are jobs of their own: neither invalid nor the same as an earlier row."""
        return self.rows[self.rows[columns.JOB_ID].notna() & self.rows[columns.DUPLICATE_OF].isna()]


_SIZES_TOLD: Final = 6
_DRAWN: Final = -1
_DEFAULT_SERVICE: Final = contract.BASE_URL.value.removeprefix("https://") + ":443"
_BECAME: Final = {status: f"remained {status.replace('_', ' ')}" for status in columns.STATUSES} | {
    columns.COMPLETED: columns.COMPLETED,
    columns.FAILED: columns.FAILED,
}
# Options that say nothing about what was made, or that the directory remembers by itself.
_LEFT_OUT: Final = ("max_cost", "retry_failed", "on_ambiguous", "adopt_copy")


def methods(facts: Facts) -> dict[str, Any]:
    """Say how the pictures were made."""
    return {
        "paragraph": " ".join(_sentences(facts)),
        "counts": _counts(facts),
        "versions": _versions(facts),
        "python": _python(facts),
        "shell": _shell(facts),
    }


def _sentences(facts: Facts) -> list[str]:
    jobs = facts.decided[facts.decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)
    if jobs.empty:
        return ["No images were submitted."]
    n = {name: jobs[name].nunique() for name in (columns.PROMPT, columns.IMAGE_DIGEST)}
    where = (
        "a gateway on this machine (the one that comes with dreamo-batch draws previews, not the model's pictures)"
        if facts.is_local
        else f"the service at {words(facts.manifest.service if facts.manifest else UNKNOWN)}"
    )
    model = f"Images were requested from the image-to-image model {contract.MODEL} through {where}, "
    jobs_told = f"The {plural(len(jobs), 'distinct job')} combined "
    prompts = f"{plural(n[columns.PROMPT], 'prompt')}{_seeds(facts, jobs)}, at {_sizes(jobs)}."
    return [
        f"{model}with dreamo-batch {_run_version(facts)}{_dates(facts)}.",
        f"{jobs_told}{plural(n[columns.IMAGE_DIGEST], 'reference image')} and {prompts}",
        f"Prompt rewriting by the service (use_rephraser) was {_rephraser(jobs)}.",
        _outcome(facts, len(jobs)),
    ]


def _dates(facts: Facts) -> str:
    sent = facts.ledger[columns.SENT_AT].dropna()
    if sent.empty:
        return ""
    first, last = f"{sent.min():%Y-%m-%d}", f"{sent.max():%Y-%m-%d}"
    return f" on {first} (UTC)" if first == last else f" between {first} and {last} (UTC)"


def _seeds(facts: Facts, jobs: pd.DataFrame) -> str:
    n, n_drawn = jobs[columns.SEED_SENT].nunique(), _n_drawn(facts)
    if not n:
        return ", with seeds drawn by the service"
    told = f" with {plural(n, 'seed')}"
    if not n_drawn:
        return told
    whose = "all" if n_drawn == len(facts.rows) else f"{n_drawn:,} of the rows' seeds"
    return f"{told} ({whose} drawn before sending and recorded)"


def _n_drawn(facts: Facts) -> int:
    """Count rows whose seed was left open by the table."""
    if columns.SEED not in facts.rows:
        return len(facts.rows)
    asked = facts.rows[columns.SEED]
    return int((asked.isna() | (asked == _DRAWN)).sum())


def _sizes(jobs: pd.DataFrame) -> str:
    sizes = _size_of(jobs).value_counts()
    if len(sizes) == 1:
        return f"{sizes.index[0]} pixels"
    told = [f"{size} ({n:,})" for size, n in sizes.head(_SIZES_TOLD).items()]
    more = len(sizes) - len(told)
    return f"{as_sentence([*told, *([plural(more, 'further size')] if more else [])])} pixels"


def _size_of(jobs: pd.DataFrame) -> pd.Series:
    return jobs[columns.WIDTH].astype(columns.STR) + "x" + jobs[columns.HEIGHT].astype(columns.STR)


def _rephraser(jobs: pd.DataFrame) -> str:
    n_on = int(jobs[columns.USE_REPHRASER].sum())
    if n_on in (0, len(jobs)):
        return "on" if n_on else "off"
    return f"on for {n_on:,} of the {len(jobs):,} jobs and off for the others"


def _outcome(facts: Facts, n_jobs: int) -> str:
    counts = facts.bought[columns.STATUS].value_counts()
    told = [f"{counts[status]:,} {_BECAME[status]}" for status in columns.STATUSES if counts.get(status)]
    spent = usd(facts.summary["spent_usd"])
    return f"Of the {plural(n_jobs, 'job')}, {as_sentence(told)}, at a known cost of USD {spent}."


def _counts(facts: Facts) -> list[tuple[str, str]]:
    decided = facts.decided
    jobs = decided[decided[columns.JOB_ID].notna()].drop_duplicates(columns.JOB_ID)
    counts = [
        ("Rows", f"{len(facts.rows):,}"),
        ("Distinct jobs", f"{len(jobs):,}"),
        (
            "Rows with the same job as an earlier one",
            f"{int(facts.rows[columns.DUPLICATE_OF].notna().sum()):,}",
        ),
        ("Attempts", f"{facts.summary['attempts']:,}"),
        ("Prompts", f"{jobs[columns.PROMPT].nunique():,}"),
        ("Reference images", f"{jobs[columns.IMAGE_DIGEST].nunique():,}"),
        ("Seeds", f"{jobs[columns.SEED_SENT].nunique():,}"),
        ("Replicates", f"{jobs[columns.REPLICATE].nunique():,}"),
    ]
    return counts + [(f"Size {size}", f"{n:,} jobs") for size, n in _size_of(jobs).value_counts().items()]


def _run_version(facts: Facts) -> str:
    return words((facts.manifest and facts.manifest.package_version) or __version__, 40)


def _versions(facts: Facts) -> list[tuple[str, str]]:
    import pandas as pd

    manifest = facts.manifest
    settings = {
        name: value for name, value in (manifest.settings if manifest else {}).items() if value is not None
    }
    return [
        ("Model", contract.MODEL),
        ("Service", words(manifest.service if manifest else None)),
        ("dreamo-batch, of the run", _run_version(facts)),
        ("dreamo-batch, of this page", __version__),
        ("Python and pandas, of this page", f"{platform.python_version()}, {pd.__version__}"),
        *((name, words(str(value))) for name, value in settings.items()),
    ]


def _changed(facts: Facts) -> dict[str, Any]:
    """Give the options of the last call that are not the defaults."""
    manifest = facts.manifest
    if manifest is None:
        return {}
    defaults = asdict(RunOptions())
    chosen = {
        name: value
        for name, value in manifest.settings.items()
        if name in defaults and name not in _LEFT_OUT and value not in (defaults[name], None)
    }
    cap = facts.summary["max_cost_usd"]
    return chosen | ({"max_cost": cap} if cap is not None else {})


def _service(facts: Facts) -> dict[str, str]:
    service = facts.manifest.service if facts.manifest else _DEFAULT_SERVICE
    if facts.is_local:
        return {"gateway": "local"}
    return {} if service == _DEFAULT_SERVICE else {"base_url": f"https://{service.removesuffix(':443')}"}


def _python(facts: Facts) -> str:
    options = {**_service(facts), **_changed(facts)}
    given = "".join(f", {name}={_literal(value)}" for name, value in options.items())
    name = facts.name.rstrip("/")
    seeds = f'.assign({columns.SEED}=lambda table: table["{columns.SEED_SENT}"])' if _n_drawn(facts) else ""
    lines = [
        "import dreamo_batch as dreamo",
        "",
        f"jobs = dreamo.load({_literal(facts.name)}){seeds}",
        "# In the same directory: buys only what is missing.",
        f"dreamo.run(jobs, {_literal(facts.name)}{given})",
        "# In another one: buys everything again.",
        f"dreamo.run(jobs, {_literal(name + '-again')}{given})",
    ]
    return "\n".join(words(line, 4000) if line else "" for line in lines)


def _shell(facts: Facts) -> str | None:
    """Give the same as commands; they can't fill in seeds that the table had left open."""
    if _n_drawn(facts):
        return None
    options = _changed(facts)
    flags = [_flag(name, value) for name, value in options.items()]
    service = _service(facts)
    flags += ["--local"] if facts.is_local else [f"--base-url {shlex.quote(url)}" for url in service.values()]
    again = shlex.quote(facts.name.rstrip("/") + "-again")
    lines = [
        f"dreamo-batch results {shlex.quote(facts.name)} --output jobs.parquet",
        " ".join(["dreamo-batch run jobs.parquet --run-dir", again, *flags]),
    ]
    return "\n".join(words(line, 4000) for line in lines)


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


_GROUPED: Final = (columns.PROMPT, columns.SIZE, columns.USE_REPHRASER)
N_GROUPS_MAX: Final = 40


def money(facts: Facts) -> dict[str, Any]:
    """Add up what was spent, reserved, wasted and saved."""
    whole = summarise_costs(facts.history).iloc[0]
    n_unpriced, summary = int(whole[columns.N_UNPRICED]), facts.summary
    return {
        "spent": usd(summary["spent_usd"]),
        "per_picture": about(whole[columns.USD_PER_PICTURE]),
        "n_usable": int(whole[columns.N_USABLE]),
        "possibly_billed": usd(summary["possibly_billed_usd"]),
        "may_be_billed": summary["possibly_billed_usd"] is None
        or bool(amount_of(summary["possibly_billed_usd"])),
        "unpriced": plural(n_unpriced, "attempt") if n_unpriced else "",
        "lines": _lines(facts, whole),
        "groups": [table for by in _GROUPED if (table := _grouped(facts, by))],
    }


def _lines(facts: Facts, whole: pd.Series) -> list[tuple[str, str, str]]:
    summary = facts.summary
    cap = summary["max_cost_usd"]
    lines = [
        (
            "Spent",
            usd(summary["spent_usd"]),
            f"known costs of {plural(summary['attempts'], 'attempt')}, exact",
        ),
        (
            "Possibly billed",
            usd(summary["possibly_billed_usd"]),
            "ambiguous, lost or unpriced attempts",
        ),
        (
            "Reserved",
            usd(summary["reserved_usd"]),
            "held back for attempts whose cost is not known yet",
        ),
        ("Cap", "none" if cap is None else usd(cap), _left(facts)),
        ("Waste", usd(whole[columns.WASTE]), "paid for attempts that gave no picture"),
        ("Saved", usd(whole[columns.SAVED]), "rows with the same job, bought once"),
    ]
    if pd.notna(whole[columns.LIST_USD]):
        listed = about(whole[columns.LIST_USD])
        lines.append(("List price", listed, f"before discount; rate {words(whole[columns.RATES])}"))
    return lines


def _left(facts: Facts) -> str:
    cap, spent, reserved = (
        amount_of(facts.summary[name]) for name in ("max_cost_usd", "spent_usd", "reserved_usd")
    )
    if cap is None or spent is None or reserved is None:
        return "over everything ever submitted here"
    return f"{text(max(cap - spent - reserved, ZERO))} left"


def _grouped(facts: Facts, by: str) -> dict[str, Any] | None:
    """Lay out the cost of each group, the most expensive first; None where there is only one."""
    try:
        table = summarise_costs(facts.history, by)
    except UsageError:  # no such column, or cells that can't be told apart: the whole still stands
        return None
    if len(table) < 2:  # noqa: PLR2004 - one group is the whole
        return None
    table = table.sort_values(columns.SPENT_USD, ascending=False, kind="stable")
    highest = table[columns.SPENT_USD].max()
    shown = table.head(N_GROUPS_MAX).to_dict("records")
    return {
        "by": by.replace("_", " "),
        "lines": [_line(line, by, highest) for line in shown],
        "n_more": len(table) - len(shown),
    }


def _line(line: dict[Any, Any], by: str, highest: float) -> dict[str, Any]:
    share = line[columns.SPENT_USD] / highest if highest else 0.0
    return {
        "key": words(line[by]),
        "n_rows": int(line[columns.N_ROWS]),
        "n_usable": int(line[columns.N_USABLE]),
        "spent": usd(line[columns.SPENT]),
        "per_picture": about(line[columns.USD_PER_PICTURE]),
        "waste": usd(line[columns.WASTE]),
        "possibly_billed": usd(line[columns.POSSIBLY_BILLED]),
        "percent": "0" if pd.isna(share) else f"{100 * share:.4g}",
    }


_PHASES: Final = {
    columns.CREATE: "sending the attempt",
    columns.QUOTA: "waiting for quota",
    columns.QUEUE: "in the service's queue",
    columns.GENERATION: "being made",
    columns.UPLOAD: "upload at the service",
    columns.TASK: "from sending to its end seen",
    columns.DOWNLOAD: "saving the picture",
}
_SHOWN: Final = {
    columns.P50_S: "median",
    columns.P90_S: "90 % within",
    columns.P99_S: "99 % within",
    columns.MAX_S: "longest",
}


def timing(facts: Facts) -> dict[str, Any]:
    """Say how long attempts took, and what to change."""
    whole = summarise_latency(facts.history)
    pace = measure_pace(facts.history)
    return {
        "names": list(_SHOWN.values()),
        "lines": [
            _timing_line(line[columns.PHASE], line, _PHASES[line[columns.PHASE]])
            for line in whole.to_dict("records")
        ],
        "sizes": _by_size(facts),
        "median": seconds(_median(whole)),
        "pace": _pace(pace, facts),
        "advice": pace["advice"] if pace["attempts"] else "",
    }


def _by_size(facts: Facts) -> list[dict[str, Any]]:
    try:
        table = summarise_latency(facts.history, columns.SIZE)
    except UsageError:  # sizes of the user's own that can't be told apart
        return []
    table = table[table[columns.PHASE] == columns.TASK]
    lines = [_timing_line(words(line[columns.SIZE]), line) for line in table.to_dict("records")]
    return lines if len(lines) > 1 else []


def _timing_line(name: str, line: dict[Any, Any], about: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "about": about,
        "n": int(line[columns.ATTEMPTS]),
        "times": [seconds(line[column]) for column in _SHOWN],
    }


def _median(whole: pd.DataFrame) -> float | None:
    task = whole.loc[whole[columns.PHASE] == columns.TASK, columns.P50_S]
    return None if task.empty else float(task.iloc[0])


def _pace(pace: dict[str, Any], facts: Facts) -> list[tuple[str, str]]:
    attempts = facts.ledger
    share, speed = pace["waiting_share"], pace["per_minute"]
    return [
        ("First attempt sent", moment(attempts[columns.SENT_AT].min())),
        ("Last end seen", moment(attempts[columns.COMPLETED_AT].max())),
        ("Busy", seconds(pace["busy_s"])),
        ("Attempts completed a minute", UNKNOWN if speed is None else f"{speed:.3g}"),
        ("Most in flight at once", f"{pace['peak_in_flight']:,}"),
        ("Refused for quota (429)", f"{pace['refusals']:,}"),
        ("Time spent waiting for quota", UNKNOWN if share is None else f"{100 * share:.3g} %"),
    ]


N_MAX: Final = 100


def failures(facts: Facts) -> dict[str, Any]:
    """Say what failed, what it means, and what tries it again."""
    found = summarise_failures(facts.history)
    return {
        "kinds": [_kind(kind) for kind in found.head(N_MAX).to_dict("records")],
        "n_more": max(0, len(found) - N_MAX),
    }


def ambiguous(facts: Facts) -> dict[str, Any]:
    """List rows that may have been submitted, with what each may cost, and how to settle it."""
    rows = facts.bought[facts.bought[columns.STATUS] == columns.AMBIGUOUS]
    attempts = facts.ledger[facts.ledger[columns.STAGE] == str(Stage.AMBIGUOUS)]
    held = attempts.drop_duplicates(columns.JOB_ID, keep="last").set_index(columns.JOB_ID)[columns.RESERVED]
    return {
        "rows": [_row(row, held) for row in rows.head(N_MAX).to_dict("records")],
        "n_more": max(0, len(rows) - N_MAX),
        "calls": [] if rows.empty else _settling(facts, rows[columns.JOB_ID].iloc[0]),
    }


def _kind(kind: dict[Any, Any]) -> dict[str, Any]:
    code, call = kind[columns.ERROR_CODE], kind[columns.CALL]
    is_billed = bool(kind[columns.MAY_HAVE_BEEN_BILLED])
    return {
        "name": words(kind[columns.ERROR_CLASS]),
        "code": "" if pd.isna(code) else words(code),
        "counts": f"{plural(int(kind[columns.N_ROWS]), 'row')}, "
        + plural(int(kind[columns.ATTEMPTS]), "attempt"),
        "meaning": kind[columns.MEANING].rstrip(".") + ".",
        "advice": kind[columns.ADVICE],
        "billed": "may have been billed" if is_billed else f"billed: USD {usd(kind[columns.SPENT])}",
        "is_billed": is_billed,
        "has_rows": bool(kind[columns.N_ROWS]),
        "example_rows": words(kind[columns.EXAMPLE_ROWS]),
        "example": words(kind[columns.EXAMPLE], 400),
        "call": None if pd.isna(call) else words(call, 4000),
    }


def _row(row: dict[Any, Any], held: pd.Series) -> dict[str, str]:
    amount = held.get(row[columns.JOB_ID])
    return {
        "label": words(row[LABEL]),
        "prompt": words(row.get(columns.PROMPT), 120),
        "seed": words(row[columns.SEED_SENT]),
        "job_id": row[columns.JOB_ID],
        "sent_at": moment(row[columns.SUBMITTED_AT]),
        "why": words(row[columns.ERROR_CLASS]),
        "cost": usd(amount),
    }


def _settling(facts: Facts, job_id: str) -> list[tuple[str, str]]:
    named = f"{json.dumps(facts.name, ensure_ascii=False)}, {json.dumps(job_id)}"
    calls = [
        ("It was taken, as this task", f'dreamo.resolve({named}, task_id="...")'),
        ("It was not taken; the next run submits it", f"dreamo.resolve({named}, not_sent=True)"),
    ]
    return [(what, words(call, 4000)) for what, call in calls]


_OPEN: Final = (columns.PENDING, columns.SUBMITTING, columns.IN_PROGRESS)
_WORDS: Final = {status: status.replace("_", " ") for status in columns.STATUSES}


def overview(facts: Facts) -> dict[str, Any]:
    """Count rows by status, and say whether each is accounted for."""
    by_status = facts.summary["by_status"]
    n_rows, n_accounted = len(facts.rows), sum(by_status.values())
    return {
        "n_rows": n_rows,
        "n_accounted": n_accounted,
        "is_complete": n_rows == n_accounted,
        "shares": [
            {"status": status, "words": _WORDS[status], "n": n, "percent": f"{100 * n / n_rows:.4g}"}
            for status, n in by_status.items()
        ],
        "state": _state(facts, by_status),
        "n_pictures": int(facts.bought[columns.OUTPUT_PATH].notna().sum()),
    }


def _state(facts: Facts, by_status: dict[str, int]) -> str:
    if not len(facts.rows):
        return "The table is empty."
    if facts.is_worked_on:
        return "The run is being worked on; this is how it stood when the page was made."
    n_open = sum(by_status.get(status, 0) for status in _OPEN)
    if n_open:
        return f"The run is not finished: {plural(n_open, 'row')} to go. The same call again goes on."
    if by_status.get(columns.COMPLETED) == len(facts.rows):
        return "Every row is completed."
    return "The run is finished; not every row is completed."


_SIZE_IN: Final = (5.4, 3.4)
_CAP_TIMES_MAX: Final = 8
_HEAD: Final = re.compile(
    r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>| xmlns(?::xlink)?=\"[^\"]*\"", re.DOTALL
)
_SIZE: Final = re.compile(r"(<svg[^>]*?) (?:width=\"[^\"]*\" ?|height=\"[^\"]*\" ?)+")
_ID: Final = re.compile(r"(\bid=\"|href=\"#|url\(#)")
_ACROSS: Final = ("xlink:href", "href")


def charts(facts: Facts, *, prefix: str = "") -> dict[str, str]:
    """Draw what is worth a picture: money over time, latency by phase, and throughput."""
    if facts.ledger[columns.COMPLETED_AT].isna().all():
        return {}
    cap = _visible_cap(facts)
    draw: dict[str, Callable[[Axes], object]] = {
        "spend": lambda ax: plots.plot_spend(facts.attempts, cap=cap, ax=ax),
        "latency": lambda ax: plots.plot_latency(summarise_latency(facts.history), ax=ax),
        "throughput": lambda ax: plots.plot_throughput(count_throughput(facts.history), ax=ax),
    }
    return {name: _drawn(prefix, name, drawing) for name, drawing in draw.items()}


def _visible_cap(facts: Facts) -> str | None:
    """Give the cap, unless it is so far away that nothing of the money would be seen below it."""
    cap, spent = (amount_of(facts.summary[name]) for name in ("max_cost_usd", "spent_usd"))
    return text(cap) if cap and spent and cap <= _CAP_TIMES_MAX * spent else None


def _drawn(prefix: str, name: str, draw: Callable[[Axes], object]) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"The report needs matplotlib ({error}): pip install 'dreamo-batch[report]'."
        ) from None
    sheet = Figure(figsize=_SIZE_IN, layout="constrained")
    sheet.patch.set_alpha(0)
    ax = sheet.subplots()
    ax.patch.set_alpha(0)
    draw(ax)
    buffer = io.StringIO()
    unsigned: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        sheet.savefig(buffer, format="svg", metadata=unsigned)
    return _fitted(buffer.getvalue(), prefix, name)


def _fitted(drawing: str, prefix: str, name: str) -> str:
    """Make a drawing part of a page: no addresses, names of its own, any width, and the page's colours."""
    drawing = _SIZE.sub(r"\1 ", _HEAD.sub("", drawing))
    drawing = _ID.sub(rf"\g<1>{prefix}{name}-", drawing.replace(*_ACROSS))
    for part in plots.Theme.__slots__:
        drawing = drawing.replace(getattr(plots.ON_LIGHT, part), f"var(--{part})")
    return drawing.replace("<svg", f'<svg role="img" aria-label="{name}"', 1).strip()


N_ROWS_MAX: Final = 1_000
"""Rows whose pictures a report shows; a gallery shows all."""
_BYTES_MAX: Final = 2_100_000  # as JPEG; as text of the page a third more
_COLUMNS_MAX: Final = 9  # as many stand side by side on a desk or a sheet of paper
_ANY_SIZE: Final = 10**9
_NEAR_MAX: Final = 24
_PAIR_BYTES_MAX: Final = 6_000
_GROUPS_MAX: Final = 40


def seed_grid(facts: Facts, *, n_runs: int = 1) -> dict[str, Any]:
    """Draw prompts against seeds, with what failed or is missing drawn as what it is."""
    shown = facts.results.iloc[:N_ROWS_MAX]
    seen = gallery(shown, run_dir=facts.path, page_rows=_ANY_SIZE, page_columns=_ANY_SIZE)
    return {
        "markup": seen.fragment(bytes_max=_BYTES_MAX // n_runs, progress=True),
        "is_wide": seen.grid.shape[1] > _COLUMNS_MAX,
        "n_more": len(facts.results) - len(shown),
        "left": removed_rows_notice(
            int((facts.ledger[columns.OUTPUT_PATH].notna() & (facts.history.places < 0)).sum())
        ),
    }


def likeness(facts: Facts) -> dict[str, Any]:
    """Say how much the pictures of each prompt differ, and name those that hardly do."""
    bounds = check_threshold(BITS_MAX, DELTA_E_MAX)
    reserved = (*columns.DIVERSITY, *columns.NEAR_DUPLICATES)
    gathered = gather(facts.results, facts.path, columns.PROMPT, reserved=reserved, progress=True)
    groups = summarise_diversity(gathered, bounds)
    groups = groups[groups[columns.N_PICTURES] > 1].sort_values(columns.DELTA_E_MEAN, kind="stable")
    pairs = list_near_duplicates(gathered, bounds, _ANY_SIZE)
    return {
        "lines": [_pictures_line(line) for line in groups.head(_GROUPS_MAX).to_dict("records")],
        "n_groups_more": max(0, len(groups) - _GROUPS_MAX),
        "pairs": _pairs(pairs.head(_NEAR_MAX), facts.path),
        "n_pairs": len(pairs),
        "pairs_words": plural(len(pairs), "pair"),
        "bits": f"{bounds.bits:g}",
        "delta_e": f"{bounds.delta_e:g}",
    }


def _pictures_line(line: dict[Any, Any]) -> dict[str, Any]:
    return {
        "prompt": words(line[columns.PROMPT]),
        "n": int(line[columns.N_PICTURES]),
        "bits": f"{line[columns.HASH_MEAN]:.1f} ({line[columns.HASH_MIN]})",
        "delta_e": f"{line[columns.DELTA_E_MEAN]:.1f} ({line[columns.DELTA_E_MIN]:.1f})",
        "n_near": int(line[columns.N_NEAR]),
    }


def _pairs(pairs: pd.DataFrame, run_dir: Path) -> list[dict[str, Any]]:
    sides = [(columns.PATH_A, columns.SEED_A, columns.ROW_A), (columns.PATH_B, columns.SEED_B, columns.ROW_B)]
    paths = [run_dir / path for column, _, _ in sides for path in pairs[column]]
    small = Thumbnails().of_files(paths, bytes_max=_PAIR_BYTES_MAX)
    lines = pairs.to_dict("records")
    return [
        {
            "prompt": words(line.get(columns.PROMPT)),
            "distance": f"{line[columns.HASH_DISTANCE]} bits, Delta E {line[columns.DELTA_E]:.1f}",
            "is_same_file": bool(line[columns.IS_SAME_FILE]),
            "sides": [
                {
                    "seed": _seed(line[seed]),
                    "row": words(line[row]),
                    "picture": small[number + at * len(lines)],
                }
                for at, (_, seed, row) in enumerate(sides)
            ],
        }
        for number, line in enumerate(lines)
    ]


def _seed(seed: object) -> str:
    return "unknown" if pd.isna(seed) else str(seed)


def render(facts: Sequence[Facts]) -> str:
    """Lay runs out as one page of HTML that needs nothing from outside."""
    environment = templates()
    runs = [
        sections(run, prefix=f"run{number}-" if len(facts) > 1 else "", n_runs=len(facts))
        for number, run in enumerate(facts, 1)
    ]
    template = environment.get_template("run.html.j2")
    return environment.get_template("report.html.j2").render(
        names=[run["name"] for run in runs],
        made_at=runs[0]["made_at"],
        runs=[run | {"body": template.render(run)} for run in runs],
        total=_total(facts, runs),
    )


def _total(facts: Sequence[Facts], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n_rows": sum(run["overview"]["n_rows"] for run in runs),
        "n_usable": sum(run["money"]["n_usable"] for run in runs),
        "spent": added(run.summary["spent_usd"] for run in facts),
        "possibly_billed": added(run.summary["possibly_billed_usd"] for run in facts),
    }


def sections(facts: Facts, *, prefix: str = "", n_runs: int = 1) -> dict[str, Any]:
    """Give all that the template shows of a run, as plain values."""
    return {
        "prefix": prefix,
        "name": words(facts.path.name if n_runs == 1 else facts.name),
        "made_at": moment(facts.made_at),
        "is_local": facts.is_local,
        "overview": overview(facts),
        "money": money(facts),
        "timing": timing(facts),
        "failures": failures(facts),
        "ambiguous": ambiguous(facts),
        "grid": seed_grid(facts, n_runs=n_runs),
        "likeness": likeness(facts),
        "methods": methods(facts),
        "charts": charts(facts, prefix=prefix),
    }


NAME = "report.html"


def report(
    run_dir: RunDir | Iterable[RunDir], path: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> Path:
    """Write all that is to be told of a run, or of several, as one page of HTML, which needs no network.

    Summary and reconciliation of rows; money by the ledger; times, throughput and advice; failures with the calls that
    retry them; ambiguous rows with their possible cost; the grid of seeds; near-duplicates; settings and versions with
    a paragraph for a methods section; and the call that runs it again. It can be made at any time, also while the run
    is worked on. Needs the extra `report`.

    Parameters
    ----------
    run_dir : path-like, or iterable of path-like
        The run directory; or several, which stand on the page one after the other, with their sums before them.
    path : path-like, optional
        The file to write, replaced atomically; default: ``report.html`` in the run directory, if it is one.
    progress : bool
        Show bars while its pictures are made small and compared.

    Returns
    -------
    pathlib.Path
        The file. Below 5 MB for 1,000 rows; the pictures of later rows are left out, and counted.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.
    UsageError
        If the file's folder does not exist, no file is given for several directories, or matplotlib is not installed.
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
    run_dirs = as_paths(run_dir)
    if path is None and len(run_dirs) > 1:
        raise UsageError(
            "A report of several run directories stands in none of them: name the file (path=, in the shell --output)."
        )
    target = (existing(run_dirs[0]).path / NAME) if path is None else Path(path).expanduser().absolute()
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} to. Make it first.")
    with bars(progress):
        page = render([read_facts(one) for one in run_dirs])
    content = page.encode("utf-8", errors="replace")
    files.replace(target, lambda temporary: temporary.write_bytes(content))
    return target


def read_facts(run_dir: RunDir) -> Facts:
    """Read what a report is made from."""
    directory = existing(run_dir)
    return Facts(
        name=os.fspath(run_dir),
        path=directory.path,
        manifest=directory.read_manifest(),
        results=load(run_dir),
        history=read_history(run_dir),
        decided=read_jobs(directory.jobs).decided,
        summary=status(run_dir),
        is_worked_on=directory.is_locked(),
        made_at=datetime.now(UTC),
    )
