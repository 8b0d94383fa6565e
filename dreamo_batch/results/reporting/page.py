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
    from jinja2 import Environment

    from dreamo_batch.results.reporting.facts import Facts


def render(facts: Facts) -> str:
    """Lay a run out as one page of HTML that needs nothing from outside.

    Parameters
    ----------
    facts : Facts
        The run.

    Returns
    -------
    str
        The page.

    Raises
    ------
    UsageError
        If jinja2 or matplotlib is not installed.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(sections(facts))


def sections(facts: Facts) -> dict[str, Any]:
    """Give all that the template shows, as plain values."""
    return {
        "name": wording.words(facts.path.name),
        "made_at": wording.moment(facts.made_at),
        "is_local": facts.is_local,
        "overview": overview.overview(facts),
        "money": money.money(facts),
        "timing": timing.timing(facts),
        "failures": troubles.failures(facts),
        "ambiguous": troubles.ambiguous(facts),
        "grid": pictures.seed_grid(facts),
        "likeness": pictures.likeness(facts),
        "methods": methods.methods(facts),
        "charts": charts.charts(facts),
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
