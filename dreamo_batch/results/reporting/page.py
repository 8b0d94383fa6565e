"""The page itself: sections laid out by a template, with every word of others escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamo_batch.errors import UsageError
from dreamo_batch.results.reporting import (
    charts,
    methods,
    money,
    overview,
    pictures,
    timing,
    troubles,
    wording,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from dreamo_batch.results.reporting.facts import Facts


def render(facts: Sequence[Facts]) -> str:
    """Lay runs out as one page of HTML that needs nothing from outside.

    Parameters
    ----------
    facts : sequence of Facts
        The run, or several.

    Returns
    -------
    str
        The page.

    Raises
    ------
    UsageError
        If jinja2 or matplotlib is not installed.
    """
    environment = _environment()
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
        "spent": wording.added(run.summary["spent_usd"] for run in facts),
        "possibly_billed": wording.added(run.summary["possibly_billed_usd"] for run in facts),
    }


def sections(facts: Facts, *, prefix: str = "", n_runs: int = 1) -> dict[str, Any]:
    """Give all that the template shows of a run, as plain values.

    Parameters
    ----------
    facts : Facts
        The run.
    prefix : str
        What its places on the page are named with, where it is one of several.
    n_runs : int
        How many share the page's room.
    """
    return {
        "prefix": prefix,
        "name": wording.words(facts.path.name if n_runs == 1 else facts.name),
        "made_at": wording.moment(facts.made_at),
        "is_local": facts.is_local,
        "overview": overview.overview(facts),
        "money": money.money(facts),
        "timing": timing.timing(facts),
        "failures": troubles.failures(facts),
        "ambiguous": troubles.ambiguous(facts),
        "grid": pictures.seed_grid(facts, n_runs=n_runs),
        "likeness": pictures.likeness(facts),
        "methods": methods.methods(facts),
        "charts": charts.charts(facts, prefix=prefix),
    }


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UsageError(f"The report needs Jinja2 ({error}): pip install 'dreamo-batch[report]'.") from None
    return Environment(
        loader=PackageLoader("dreamo_batch.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
