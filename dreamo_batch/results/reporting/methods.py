"""What a paper has to tell of a run: a paragraph to paste, the table as counts, and the call that runs it again."""

from __future__ import annotations

import json
import platform
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import __version__, columns
from dreamo_batch.execution.options import RunOptions
from dreamo_batch.results.reporting import wording
from dreamo_batch.service import parameters

if TYPE_CHECKING:
    import pandas as pd

    from dreamo_batch.results.reporting.facts import Facts

_SIZES_TOLD: Final = 6
_DRAWN: Final = -1
_DEFAULT_SERVICE: Final = parameters.BASE_URL.value.removeprefix("https://") + ":443"
_BECAME: Final = {status: f"remained {status.replace('_', ' ')}" for status in columns.STATUSES} | {
    columns.COMPLETED: columns.COMPLETED,
    columns.FAILED: columns.FAILED,
}
# Options that say nothing about what was made, or that the directory remembers by itself.
_LEFT_OUT: Final = ("max_cost", "retry_failed", "on_ambiguous", "adopt_copy")


def methods(facts: Facts) -> dict[str, Any]:
    """Say how the pictures were made.

    Returns
    -------
    dict
        ``paragraph``, ``counts`` and ``versions`` (words and values), ``python`` and ``shell`` (calls; the second
        only where it tells all).
    """
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
        return ["No images were ordered."]
    n = {name: jobs[name].nunique() for name in (columns.PROMPT, columns.IMAGE_DIGEST)}
    where = (
        "a gateway on this machine (the one that comes with dreamo-batch draws previews, not the model's pictures)"
        if facts.is_local
        else f"the service at {wording.words(facts.manifest.service if facts.manifest else wording.UNKNOWN)}"
    )
    model = f"Images were requested from the image-to-image model {parameters.MODEL} through {where}, "
    jobs_told = f"The {wording.plural(len(jobs), 'distinct job')} combined "
    prompts = f"{wording.plural(n[columns.PROMPT], 'prompt')}{_seeds(facts, jobs)}, at {_sizes(jobs)}."
    return [
        f"{model}with dreamo-batch {_run_version(facts)}{_dates(facts)}.",
        f"{jobs_told}{wording.plural(n[columns.IMAGE_DIGEST], 'reference image')} and {prompts}",
        f"Prompt rewriting by the service (use_rephraser) was {_rephraser(jobs)}.",
        _outcome(facts, len(jobs)),
    ]


def _dates(facts: Facts) -> str:
    sent = facts.orders[columns.SENT_AT].dropna()
    if sent.empty:
        return ""
    first, last = f"{sent.min():%Y-%m-%d}", f"{sent.max():%Y-%m-%d}"
    return f" on {first} (UTC)" if first == last else f" between {first} and {last} (UTC)"


def _seeds(facts: Facts, jobs: pd.DataFrame) -> str:
    n, n_drawn = jobs[columns.SEED_SENT].nunique(), _n_drawn(facts)
    if not n:
        return ", with seeds drawn by the service"
    told = f" with {wording.plural(n, 'seed')}"
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
    return f"{wording.listed([*told, *([wording.plural(more, 'further size')] if more else [])])} pixels"


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
    spent = wording.usd(facts.summary["spent_usd"])
    return f"Of the {wording.plural(n_jobs, 'job')}, {wording.listed(told)}, at a known cost of USD {spent}."


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
        ("Orders", f"{facts.summary['orders']:,}"),
        ("Prompts", f"{jobs[columns.PROMPT].nunique():,}"),
        ("Reference images", f"{jobs[columns.IMAGE_DIGEST].nunique():,}"),
        ("Seeds", f"{jobs[columns.SEED_SENT].nunique():,}"),
        ("Replicates", f"{jobs[columns.REPLICATE].nunique():,}"),
    ]
    return counts + [(f"Size {size}", f"{n:,} jobs") for size, n in _size_of(jobs).value_counts().items()]


def _run_version(facts: Facts) -> str:
    return wording.words((facts.manifest and facts.manifest.package_version) or __version__, 40)


def _versions(facts: Facts) -> list[tuple[str, str]]:
    import pandas as pd

    manifest = facts.manifest
    settings = {
        name: value for name, value in (manifest.settings if manifest else {}).items() if value is not None
    }
    return [
        ("Model", parameters.MODEL),
        ("Service", wording.words(manifest.service if manifest else None)),
        ("dreamo-batch, of the run", _run_version(facts)),
        ("dreamo-batch, of this page", __version__),
        ("Python and pandas, of this page", f"{platform.python_version()}, {pd.__version__}"),
        *((name, wording.words(str(value))) for name, value in settings.items()),
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
    return "\n".join(wording.words(line, 4000) if line else "" for line in lines)


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
    return "\n".join(wording.words(line, 4000) for line in lines)


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
