"""`probe_seeds`: buy a few rows twice, and see whether a seed gives the same picture again."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.batch.connection import connect, service_given
from dreamo_batch.batch.reading import read_state
from dreamo_batch.batch.running import path_of, plan, run
from dreamo_batch.batch.seeds import compare_replicates
from dreamo_batch.errors import DirectoryError, InvalidTable, ServiceError, UsageError
from dreamo_batch.execution import stored
from dreamo_batch.execution.budget import Budget, money, text
from dreamo_batch.execution.directory import RunDirectory
from dreamo_batch.execution.payload import ImageChanged, ImageGone, Payloads
from dreamo_batch.execution.state import State
from dreamo_batch.service.harmless import harmless
from dreamo_batch.table.jobs import prepare
from dreamo_batch.table.schema import as_frame, recognised, user_columns

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from decimal import Decimal
    from typing import Literal

    from dreamo_batch.batch.connection import Gateway
    from dreamo_batch.batch.running import Amount
    from dreamo_batch.service.client import Client
    from dreamo_batch.table.jobs import Job, Prepared

logger = logging.getLogger(__name__)

# Seeds of rows without one are drawn from this rather than from the run's entropy: both of a pair need the same seed,
# and a probe that is run again the same as before.
_ENTROPY: Final = "probe"
_NEW: Final = columns.ACTIONS[0]


def probe_seeds(
    table: pd.DataFrame,
    run_dir: str | os.PathLike[str],
    *,
    max_cost: Amount,
    k: int = 3,
    ask: Callable[[str], bool] | None = None,
    client: Client | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    gateway: Literal["local"] | Gateway | None = None,
    unit_cost: Amount | None = None,
    progress: bool = True,
    base_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Buy a few rows of a table twice, and measure how equal the pictures of the same seed are.

    It says beforehand how many orders that is and what they can cost. `max_cost` has to be given, and nothing is sent
    if it does not cover the whole probe. The same call again buys nothing; a larger `k` buys what is new.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`, or results. The rows are taken evenly from it; a seed that is missing is drawn, and the same for
        both of a pair. If the service may rewrite the prompt (`use_rephraser`), that is probed with it.
    run_dir : path-like
        A directory of the probe's own, apart from the run's.
    max_cost : float, str or Decimal
        Cap in USD over everything ever ordered in the directory.
    k : int
        Rows to buy twice; all, if the table has fewer.
    ask : callable, optional
        Is given the sentence on what is bought and what it can cost, before anything is sent; unless it gives True,
        nothing is. Not called if nothing is to be bought.
    client, api_key, base_url, gateway, unit_cost, progress, base_dir
        As for `run`.
    **options
        Every other option of `run`.

    Returns
    -------
    pandas.DataFrame
        As from `compare_replicates`; `row_a` and `row_b` are labels of `table`.

    Raises
    ------
    UsageError
        If nothing was agreed to, `max_cost` does not cover the probe, the directory holds another table, or an option
        can't be used. Nothing was sent.
    InvalidTable
        If no row can be ordered. Nothing was sent.
    DirectoryError, PriceUnknown, RunStopped
        As for `run`.

    See Also
    --------
    compare_replicates : The same on rows that were bought before, at no cost.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=range(1, 9), size="512x512")
    >>> probed = dreamo.probe_seeds(
    ...     jobs, tempfile.mkdtemp(), k=2, max_cost="0.05", gateway="local", progress=False
    ... )
    >>> probed[["row_a", "seed_sent", "is_same_pixels"]].to_dict("records")
    [{'row_a': '0', 'seed_sent': 1, 'is_same_pixels': True}, {'row_a': '4', 'seed_sent': 5, 'is_same_pixels': True}]
    """
    cap = money(max_cost)
    if cap is None:
        raise UsageError(
            f"max_cost={max_cost!r}: an amount of USD was expected, which the probe is not to pass."
        )
    directory = RunDirectory(run_dir)
    probe, prepared = _probe(table, k, base_dir)
    _refuse_other_table(directory, probe, base_dir)
    service = service_given(client=client, api_key=api_key, base_url=base_url, gateway=gateway)
    planned = plan(probe, run_dir, unit_cost=unit_cost, base_dir=base_dir)
    n_new = int((planned[columns.ACTION] == _NEW).sum())
    if n_new:
        price = _price(planned, directory, service, prepared)
        sentence = say_what_it_costs(len(probe) // 2, n_new, price, cap)
        _refuse_too_little(directory, n_new, price, cap)
        _say(sentence, show=progress)
        if ask is not None and not ask(sentence):
            raise UsageError("The probe was not agreed to, so nothing was sent.")
    done = run(
        probe,
        run_dir,
        client=client,
        api_key=api_key,
        base_url=base_url,
        gateway=gateway,
        max_cost=cap,
        unit_cost=unit_cost,
        progress=progress,
        base_dir=base_dir,
        **options,
    )
    return compare_replicates(done, progress=progress)


def say_what_it_costs(n_rows: int, n_new: int, price: Decimal | None, cap: Decimal) -> str:
    """Say what a probe buys, and what that can cost.

    Parameters
    ----------
    n_rows : int
        Rows that are bought twice.
    n_new : int
        Orders not made yet.
    price : Decimal or None
        The most that one costs, USD.
    cap : Decimal
        USD.

    Returns
    -------
    str

    Examples
    --------
    >>> from decimal import Decimal
    >>> say_what_it_costs(3, 6, Decimal("0.0286"), Decimal("0.5"))
    'Probing buys 3 rows twice: 6 new orders, for up to USD 0.1716 in all; no more than USD 0.5 is ever spent here.'
    """
    cost = "at a price not known yet" if price is None else f"for up to USD {text(n_new * price)} in all"
    return (
        f"Probing buys {n_rows} rows twice: {n_new} new orders, {cost}; no more than USD {text(cap)} is ever spent "
        "here."
    )


def _probe(
    table: pd.DataFrame, k: int, base_dir: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, Prepared]:
    """Make the probe's table: each chosen row, and right behind it the same with another replicate."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UsageError(f"k={k!r}: at least 1 row was expected.")
    table, _ = recognised(as_frame(table))
    user = table[user_columns(table)].copy()
    if columns.SEED_SENT in table.columns:  # results: the seed that was sent is the one to be probed
        user[columns.SEED] = table[columns.SEED_SENT]
    prepared = prepare(user, entropy=_ENTROPY, base_dir=path_of(base_dir), inputs_dir=None)
    rows = prepared.rows
    bought = np.flatnonzero(rows[columns.JOB_ID].notna() & rows[columns.DUPLICATE_OF].isna())
    if not len(bought):
        raise InvalidTable("None of the rows can be ordered, so none can be probed.", prepared.problems)
    chosen = bought[spread(len(bought), k)]
    jobs = [prepared.jobs[job_id] for job_id in rows[columns.JOB_ID].iloc[chosen]]
    again = max(job.replicate for job in prepared.jobs.values()) + 1
    probe = user.iloc[np.repeat(chosen, 2)].copy()
    probe[columns.SEED] = pd.array([job.seed for job in jobs for _ in range(2)], dtype=columns.INT)
    probe[columns.REPLICATE] = pd.array([n for job in jobs for n in (job.replicate, again)], columns.INT)
    return probe, prepared


def spread(n: int, k: int) -> list[int]:
    """Choose k of n places evenly, so that a larger k keeps those of a smaller one.

    Halves, then quarters, then eighths, and so on (van der Corput).

    Examples
    --------
    >>> spread(8, 2), spread(8, 3), spread(2, 5)
    ([0, 4], [0, 2, 4], [0, 1])
    """
    chosen: list[int] = []
    number = 0
    while len(chosen) < min(n, k):
        digits = f"{number:b}"[::-1]
        place = int(digits, 2) * n // 2 ** len(digits)
        chosen += [] if place in chosen else [place]
        number += 1
    return sorted(chosen)


def _refuse_other_table(
    directory: RunDirectory, probe: pd.DataFrame, base_dir: str | os.PathLike[str] | None
) -> None:
    """Refuse a directory whose own table would be replaced by the probe's."""
    try:
        stored_jobs = set(stored.read_jobs(directory.jobs).rows[columns.JOB_ID].dropna())
    except DirectoryError:
        return  # there is none; should it be damaged, the run itself says so
    jobs = prepare(probe, entropy=_ENTROPY, base_dir=path_of(base_dir)).jobs
    again = {job_id for job_id, job in jobs.items() if job.replicate == probe[columns.REPLICATE].max()}
    is_probe = bool(stored_jobs & again) and (stored_jobs <= set(jobs) or set(jobs) <= stored_jobs)
    if stored_jobs and not is_probe:
        raise UsageError(
            f"{directory.path} holds another table, which the probe would replace: give the probe a directory of its "
            "own. Nothing was sent."
        )


def _price(
    planned: pd.DataFrame, directory: RunDirectory, service: dict[str, Any], prepared: Prepared
) -> Decimal | None:
    """Give the most that an order costs: as planned, else as the service tells; None if nobody does."""
    known = planned.loc[planned[columns.ACTION] == _NEW, columns.COST_HIGH_USD].max()
    if not pd.isna(known):
        return money(str(known))
    largest: Job = max(prepared.jobs.values(), key=lambda job: job.width * job.height)
    with ExitStack() as resources:
        client = connect(resources, directory, **service)
        try:
            return money(client.precharge(Payloads().request(largest)).cost) or None
        except (ServiceError, ImageChanged, ImageGone):
            return None  # the run asks again, and says what is the matter


def _refuse_too_little(directory: RunDirectory, n_new: int, price: Decimal | None, cap: Decimal) -> None:
    if price is None:
        return  # the run refuses a cap without a price
    state = read_state(directory) if directory.path.is_dir() else State()
    needed = Budget(orders=state).spent + n_new * price
    if needed > cap:
        raise UsageError(
            f"max_cost={text(cap)} does not cover the probe: with what was spent here it can come to USD "
            f"{text(needed)}. Nothing was sent. Raise it, or probe fewer rows (k=)."
        )


def _say(sentence: str, *, show: bool) -> None:
    if not show:
        logger.info("%s", sentence)
        return
    from tqdm import tqdm

    tqdm.write(harmless(sentence), file=sys.stderr)
