"""Asking before money is spent."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from dreamo_batch import columns
from dreamo_batch.cli.output import warn
from dreamo_batch.execution.budget import EXACT, money
from dreamo_batch.service.harmless import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from dreamo_batch.service.settings import Settings

NEW, _, _, IN_FLIGHT, _, INVALID, _ = columns.ACTIONS
_YES: Final = ("y", "yes")
_MARGIN: Final = Decimal("1.25")
_SHOWN_USD: Final = Decimal("0.0001")
_DIGITS: Final = 9  # what a sum of floats is off by lies below


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be bought: orders, and the most that they can cost, USD; NaN where no price is known.

    Examples
    --------
    >>> Offer(8, 0.2288).sentence("gateway.example:443")
    '8 new orders at gateway.example:443, for up to $0.2288.'
    """

    n_orders: int
    cost_usd: float

    def sentence(self, service: str, *, max_cost: str | None = None) -> str:
        """Say it.

        Parameters
        ----------
        service : str
            Who is paid.
        max_cost : str, optional
            The cap given, USD.

        Returns
        -------
        str

        Examples
        --------
        >>> Offer(1, float("nan")).sentence("gateway.example:443", max_cost="5")
        '1 new order at gateway.example:443, at a price not known yet; capped at $5 in all.'
        """
        orders = "1 new order" if self.n_orders == 1 else f"{self.n_orders} new orders"
        most = self.most()
        cost = "at a price not known yet" if most is None else f"for up to ${most}"
        cap = "" if money(max_cost) is None else f"; capped at ${max_cost} in all"
        return f"{orders} at {service}, {cost}{cap}."

    def most(self, margin: Decimal = Decimal(1)) -> str | None:
        """Give the sum that the offer comes to, times a margin, as USD text rounded up; None without a price.

        Examples
        --------
        >>> Offer(8, 0.2288).most(), Offer(8, 0.2288).most(Decimal("1.25")), Offer(1, math.nan).most()
        ('0.2288', '0.2860', None)
        """
        if math.isnan(self.cost_usd):
            return None
        exact = EXACT.multiply(Decimal(repr(round(self.cost_usd, _DIGITS))), margin)
        return format(exact.quantize(_SHOWN_USD, ROUND_UP, EXACT), "f")


def is_needed(settings: Settings, *, is_agreed: bool) -> bool:
    """Say whether a call could spend money that nobody agreed to yet.

    Parameters
    ----------
    settings : Settings
        The service.
    is_agreed : bool
        Whether `--yes` was given.

    Returns
    -------
    bool

    Examples
    --------
    >>> from dreamo_batch.service.settings import resolve
    >>> is_needed(resolve(base_url="http://127.0.0.1:8000"), is_agreed=False)
    False
    """
    return not (is_agreed or settings.is_loopback)


def ask(planned: pd.DataFrame, settings: Settings, options: Mapping[str, Any]) -> str | None:
    """Ask whether what is planned may be bought, and return the sum agreed to.

    Parameters
    ----------
    planned : pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN`.
    settings : Settings
        The service.
    options : mapping
        Options of the call.

    Returns
    -------
    str or None
        USD as text; None if nothing is to be bought or no price is known.

    Raises
    ------
    click.ClickException
        If the answer is no, if there is nobody to ask, or if the table can't be bought anyway.
    """
    _refuse_invalid(planned, options)
    offer = offer_of(planned, may_repeat=options["max_attempts"] > 1)
    if not offer.n_orders:
        return None
    sentence = offer.sentence(settings.service_name, max_cost=options["max_cost"])
    agree_to(sentence, settings, instead="see it row by row with --dry-run")
    return offer.most()


def bind(planned: pd.DataFrame, settings: Settings, options: Mapping[str, Any]) -> str | None:
    """Say what a call agreed to with `--yes` may come to, and return the sum that it stops at, USD."""
    _refuse_invalid(planned, options)
    offer = offer_of(planned, may_repeat=options["max_attempts"] > 1)
    if not offer.n_orders:
        return None
    most = offer.most(_MARGIN)
    stops = (
        "no price is known, so nothing limits this call; --max-cost does"
        if most is None
        else f"this call stops at ${most}; --no-cap lifts that"
    )
    warn(f"{offer.sentence(settings.service_name)} {stops[0].upper()}{stops[1:]}.")
    return most


def agree_to(sentence: str, settings: Settings, *, instead: str = "") -> None:
    """Ask on the terminal.

    Parameters
    ----------
    sentence : str
        What would be bought.
    settings : Settings
        The service.
    instead : str
        What could be done without buying.

    Raises
    ------
    click.ClickException
        If the answer is no, or if there is nobody to ask.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise click.ClickException(
            f"{sentence} Nothing was sent: there is no terminal to ask on. Add --yes to agree to it"
            f"{f', or {instead}' if instead else ''}."
        )
    # Without a key nothing can be bought: the call itself says so, and there is nothing to ask.
    if settings.api_key is not None and not _says_yes(sentence):
        raise click.ClickException("not agreed to, so nothing was sent.")


def offer_of(planned: pd.DataFrame, *, may_repeat: bool = False) -> Offer:
    """Count what a plan would buy.

    Parameters
    ----------
    planned : pandas.DataFrame
        Columns of `dreamo_batch.columns.PLAN`.
    may_repeat : bool
        Whether tasks in flight are ordered anew should they fail unbilled.

    Returns
    -------
    Offer

    Examples
    --------
    >>> import pandas as pd
    >>> planned = pd.DataFrame({"action": ["new", "reuse"], "cost_high_usd": [0.03, 0.0]})
    >>> offer_of(planned)
    Offer(n_orders=1, cost_usd=0.03)
    """
    wanted = [NEW, IN_FLIGHT] if may_repeat else [NEW]
    bought = planned[planned[columns.ACTION].isin(wanted)]
    return Offer(len(bought), float(bought[columns.COST_HIGH_USD].sum(skipna=False)))


def _refuse_invalid(planned: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Refuse what the call would refuse, before anybody is asked about the rest."""
    invalid = planned[planned[columns.ACTION] == INVALID]
    if len(invalid) and options.get("on_invalid") == "raise":
        raise click.ClickException(
            f"{len(invalid)} of the rows can't be ordered; nothing was sent. Row {invalid.index[0]}: "
            f"{invalid[columns.REASON].iloc[0]} `dreamo-batch validate TABLE` lists every problem; "
            "--on-invalid skip leaves these rows out."
        )


def _says_yes(sentence: str) -> bool:
    sys.stderr.write(f"{harmless(sentence)} Buy? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in _YES
