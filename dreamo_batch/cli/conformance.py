"""The command `check`: whether a service keeps the contract that this toolkit relies on."""

from __future__ import annotations

import math

import click

from dreamo_batch import columns
from dreamo_batch.cli import consent, exits
from dreamo_batch.cli import options as declared
from dreamo_batch.cli.output import hint, show_frame


@click.command(
    params=[
        click.Option(["--live"], is_flag=True, help="Check the real service, which costs money."),
        declared.RUN["base_url"],
        declared.YES,
        declared.FORMAT,
    ]
)
def check(live: bool, base_url: str | None, yes: bool, format_: str) -> int:
    """Check that a service keeps its contract.

    Without --live it is the embedded local gateway that is checked, at no cost. With it the real service gets up to
    two orders of small pictures; the most that they can cost is told first, and asked about.
    """
    from dreamo_batch.local import LocalGateway

    if live:
        return _check(base_url, None, format_, is_agreed=yes)
    if base_url is not None:
        raise click.UsageError("--base-url names a service that may cost money: add --live")
    with LocalGateway(engine="flat") as gateway:
        return _check(gateway.base_url, gateway.api_key, format_, is_agreed=yes)


def _check(base_url: str | None, api_key: str | None, format_: str, *, is_agreed: bool) -> int:
    from dreamo_batch.batch.conformance import N_ORDERS_MAX, check_service, most_it_costs
    from dreamo_batch.batch.connection import with_key
    from dreamo_batch.service.client import Client

    with Client(api_key=api_key, base_url=base_url) as client:
        settings = with_key(client).settings
        most = most_it_costs(client)
        offer = consent.Offer(N_ORDERS_MAX, math.nan if most is None else float(most))
        sentence = f"Up to {offer.sentence(settings.service_name)}"
        hint(sentence)
        if consent.is_needed(settings, is_agreed=is_agreed):
            consent.agree_to(sentence, settings)
        checks = check_service(client=client)
    show_frame(checks, format_)
    n_failed = int((~checks[columns.PASSED].fillna(value=False)).sum())
    hint(f"{len(checks) - n_failed} of {len(checks)} checks passed.")
    return exits.NOT_ALL if n_failed else exits.DONE
