"""Buy until good: draw seeds for each group of rows, judge the pictures, and stop a group once it has enough."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Unpack

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.arguments import check_count, is_function_of, names_in
from dreamo_batch.display.progress import say
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.notify import Listeners, RunEvent
from dreamo_batch.engine.plan import DUPLICATE, INVALID, NEW, Plan
from dreamo_batch.errors import TableError, UsageError
from dreamo_batch.jobs.cells import is_blank, is_missing, read_integer
from dreamo_batch.jobs.fields import Table, convert_to_frame, recognised, user_columns
from dreamo_batch.metrics import Bounded, Criterion, PromptMatch, is_latin, written
from dreamo_batch.parallel import working
from dreamo_batch.results.frame import folders_of
from dreamo_batch.results.measure import Metric, load_model, measure_likeness, read_metric
from dreamo_batch.text import counted, option, quoted
from dreamo_batch.verbs import all_arguments, plan, run, takes_options_of_run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from dreamo_batch.verb_options import SearchOptions


_ACCEPTED: Final = "accepted"


@takes_options_of_run(but={"table"})
def search(
    jobs: Table,
    run_dir: str | os.PathLike[str],
    *,
    accept: Criterion | str | Callable[..., Any],
    per: str | Sequence[str] = "prompt",
    keep: int = 2,
    max_attempts_each: int = 8,
    max_cost: float | str,
    plan_only: bool = False,
    **options: Unpack[SearchOptions],
) -> pd.DataFrame:
    """Buy pictures until each group has enough good ones.

    Seeds are drawn, round by round: first as many tries per group as pictures are wanted, then as many as are still
    missing, until the group has them or its tries are used up. Every try is an ordinary row and an ordinary job of
    the run directory. The same call again resumes: what was bought is judged and never bought again.

    Parameters
    ----------
    jobs : pandas.DataFrame
        Rows without seeds, as for `run`. Where a group has several rows, they take turns.
    run_dir : path
        The run directory.
    accept : Criterion, str or callable
        What a good picture is: ``metric >= 0.8`` of a `Metric` or one of `metrics`; the same as text with the name of
        a built-in metric (``"appearance >= 0.8"``); or a function of reference and output, as for `Metric`, that
        returns whether the picture is good.
    per : str or sequence of str
        Columns whose values make the groups.
    keep : int
        Good pictures wanted per group.
    max_attempts_each : int
        Tries per group at most; failed ones count.
    max_cost : float, str or Decimal
        Cap in USD on everything ever spent in the directory.
    plan_only : bool
        Send nothing, and return the plan of the worst case: every group uses up its tries.
    **options
        Any other option of `run`.

    Returns
    -------
    pandas.DataFrame
        The results of all tries, as `run` returns them, with the columns `search_try` (number of the try in its group,
        from 1), the metric's value, and `accepted`. With `plan_only`, a plan.

    Raises
    ------
    UsageError
        If an option can't be used, a row has a seed, or the jobs have one of the new columns. Nothing was sent. Also if
        no picture can be judged; then what was bought is kept.
    TableError, InvalidTable, BudgetReached, RunStopped
        As `run` raises them. Pictures bought until then are kept; the same call continues.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], size="512x512", use_rephraser=False)
    >>> run_dir = tempfile.mkdtemp()
    >>> def wide(reference, output):
    ...     return output.width >= 512
    >>> found = dreamo.search(
    ...     jobs, run_dir, accept=wide, keep=1, max_attempts_each=3, max_cost=1, gateway="local", progress=False
    ... )
    >>> found[["prompt", "search_try", "accepted"]].values.tolist()
    [['a beach', 1, True], ['snow', 1, True]]
    """
    all_arguments(search, locals())
    for name, value in (("keep", keep), ("max_attempts_each", max_attempts_each)):
        check_count(name, value)
    if max_attempts_each < keep:
        raise UsageError(f"max_attempts_each={max_attempts_each} can't give keep={keep} pictures; raise it.")
    if not options.get("download", True):
        raise UsageError("search judges pictures, which download=False doesn't fetch: leave it out.")
    if max_cost is None:
        raise UsageError(f"search needs a cap: pass {option('max_cost')} in USD, or inf for none.")
    wanted = _criterion(accept)
    tries = _all_tries(jobs, per, max_attempts_each, wanted)
    _refuse_equal_rows(jobs, {name: options[name] for name in ("fix_images", "base_dir") if name in options})
    planned: Plan | pd.DataFrame = plan(tries.table, run_dir, max_cost=max_cost, **options)
    if plan_only:
        return planned
    with _listening_once(run_dir, options):
        load_model(wanted.metric)
        n_wanted = np.maximum(keep, _n_known(planned, tries))
        while True:
            is_wanted = tries.numbers <= n_wanted[tries.groups]
            done = run(tries.table[is_wanted], run_dir, max_cost=max_cost, **options)
            options.pop("not_before", None)  # only the first round waits
            judged = _judge(done, wanted, progress=options.get("progress", True))
            good = tries.groups[is_wanted][judged[_ACCEPTED].to_numpy(dtype=bool)]
            n_good = np.bincount(good, minlength=len(n_wanted))
            more = np.minimum(max_attempts_each, n_wanted + np.maximum(0, keep - n_good))
            if (more == n_wanted).all():
                n_enough, wish = (n_good >= keep).sum(), counted(keep, "accepted picture")
                text = f"Groups with at least {wish}: {n_enough} of {len(more)}"
                say(text, show=options.get("progress", True))
                return judged
            n_wanted = more


@contextmanager
def _listening_once(run_dir: str | os.PathLike[str], options: SearchOptions) -> Iterator[None]:
    """Report a single end to the listeners instead of one per round."""
    listeners = Listeners(
        RunDirectory(run_dir).name, options.pop("notify", None), options.pop("on_event", None)
    )
    ends: list[RunEvent] = []

    def hear(event: RunEvent) -> None:
        if event.kind == "done":
            ends.append(event)
            return
        if event.kind in ("stopped", "budget"):
            listeners.begin(None)  # so that the error isn't reported twice
        listeners.emit(event)

    options["on_event"] = hear
    try:
        with listeners.report_refusal():
            yield
        for event in ends[-1:]:  # empty if the listener wasn't called in time
            listeners.emit(event)
    finally:
        listeners.wait()


class _Tries(NamedTuple):
    """All tries that a search may make: a row for each, its group, and its number within the group."""

    table: pd.DataFrame
    groups: np.ndarray
    numbers: np.ndarray


def _criterion(accept: Any) -> Criterion:
    if isinstance(accept, str):
        accept = written(accept)
    if isinstance(accept, Criterion):
        return replace(accept, metric=read_metric(accept.metric, "accept"))
    if isinstance(accept, Bounded) or inspect.isclass(accept) or not is_function_of(2, accept):
        raise UsageError(
            f'accept={quoted(accept)}: expected metric >= 0.8, "appearance >= 0.8", or a function of reference and '
            "output."
        )
    return Criterion(Metric("accept", lambda *pictures: _yes_or_no(accept(*pictures))), ">=", 1.0)


def _yes_or_no(verdict: Any) -> float:
    """Refuse a verdict that isn't True or False: None would buy every try, and a number might accept any picture."""
    if not isinstance(verdict, bool | np.bool_ | int) or verdict not in (True, False):
        raise TypeError(f"accept returned {quoted(verdict)}, not True or False")
    return float(verdict)


def _all_tries(jobs: pd.DataFrame, per: Any, n_each: int, wanted: Criterion) -> _Tries:
    table, _ = recognised(convert_to_frame(jobs))
    table = table[user_columns(table)]
    new = [columns.SEARCH_TRY, _ACCEPTED, wanted.metric.name]
    if taken := [name for name in new if name in table]:
        raise UsageError(f"The jobs have a column {taken[0]!r}, which search adds. Rename it.")
    per = [*dict.fromkeys(names_in("per", per, table))]
    if not per:
        raise UsageError("per= is empty; name the columns whose values make the groups.")
    seeds = table.get(columns.SEED, ())
    if not all(is_missing(cell) or is_blank(cell) or read_integer(cell).value == -1 for cell in seeds):
        raise UsageError("search draws the seeds: leave out the column seed, or leave it empty.")
    if not len(table):
        raise TableError("The table has no rows to search for.")
    for label, prompt in table[columns.PROMPT].items() if isinstance(wanted.metric, PromptMatch) else ():
        if isinstance(prompt, str) and not is_latin(prompt):
            raise UsageError(
                f"accept can't judge row {label}: {PromptMatch.nothing}. Drop the row, or pass another accept=."
            )
    keys = table[per].astype(object).map(lambda cell: None if is_missing(cell) else str(cell))
    groups = keys.groupby(per, sort=False, dropna=False).ngroup().to_numpy()
    rows = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    # In order within a group, so that a shorter search draws the same seeds as a longer one.
    order = np.concatenate([of_group[np.arange(n_each) % len(of_group)] for of_group in rows])
    numbers = np.tile(np.arange(1, n_each + 1), len(rows))
    whole = table.iloc[order].assign(**{columns.SEARCH_TRY: pd.array(numbers, dtype=columns.INT)})
    return _Tries(whole, groups[order], numbers)


def _refuse_equal_rows(jobs: pd.DataFrame, options: dict[str, Any]) -> None:
    """Refuse rows of the same job, because one row's seeds would depend on how many tries the other has made."""
    actions = plan(convert_to_frame(jobs).assign(**{columns.SEED: 1}), **options)[columns.ACTION]
    if len(repeated := actions.index[actions == DUPLICATE]):
        raise UsageError(
            f"Row {repeated[0]} is the same job as an earlier row. Drop one, or tell them apart by replicate."
        )


def _n_known(planned: pd.DataFrame, tries: _Tries) -> np.ndarray:
    """Return how many tries earlier calls made in each group."""
    is_known = ~planned[columns.ACTION].isin([NEW, INVALID, DUPLICATE]).to_numpy()
    n_known = np.zeros(int(tries.groups.max()) + 1, int)
    np.maximum.at(n_known, tries.groups[is_known], tries.numbers[is_known])
    return n_known


def _judge(done: pd.DataFrame, wanted: Criterion, *, progress: bool) -> pd.DataFrame:
    with working(progress=progress):
        measured, failed = measure_likeness(done, folders_of(done), [wanted.metric])
    name = wanted.metric.name
    is_made = (done[columns.STATUS] == columns.COMPLETED).to_numpy()
    unjudged = np.flatnonzero(is_made & measured[name].isna().to_numpy())
    kinds = [set(failed[[row]]) for row in unjudged]
    # Another seed may show what this one doesn't, but pictures that can't be judged are bought in vain.
    given = next((row for row, kind in zip(unjudged, kinds, strict=True) if kind == {"given"}), None)
    if given is not None or (0 < is_made.sum() == len(kinds) and not any(None in kind for kind in kinds)):
        row = unjudged[0] if given is None else given
        why = f"accept can't judge any picture ({measured[columns.PROBLEM].iloc[row]})"
        what = "fix it" if given is None else f"no seed changes that, so drop or change row {done.index[row]}"
        raise UsageError(f"{why}. Nothing is lost: {what}, and run again.")
    good = [wanted(None if is_missing(value) else float(value)) for value in measured[name]]
    return done.assign(**{name: measured[name].array, _ACCEPTED: pd.array(good, dtype=columns.BOOL)})
