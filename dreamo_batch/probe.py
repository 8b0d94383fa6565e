"""Probes of the service: whether a seed repeats its picture, and whether the service follows its contract."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import pandas as pd

from dreamo_batch import arguments, columns, errors
from dreamo_batch.call import Service, ask_price, with_key
from dreamo_batch.display.progress import say
from dreamo_batch.engine.checkpoint import read_jobs
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.pictures import PICTURE_BYTES_MAX, NotAPicture, inspect_picture
from dreamo_batch.engine.spending import Spending
from dreamo_batch.images import encoded
from dreamo_batch.jobs.fields import Table, convert_to_frame, recognised, user_columns
from dreamo_batch.jobs.prepare import Prepared, prepare
from dreamo_batch.jobs.references import CheckOptions, Inputs
from dreamo_batch.money import Amount, dollars, money, times, total, total_if_known
from dreamo_batch.results.comparison import compare_replicates
from dreamo_batch.results.load import read_state
from dreamo_batch.service import contract
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import Secret
from dreamo_batch.service.failures import TASK_NOT_FOUND
from dreamo_batch.service.messages import Request, Task, number
from dreamo_batch.text import counted, harmless, option, quoted
from dreamo_batch.verbs import all_arguments, plan, run, takes_options_of_run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection
    from decimal import Decimal

    from dreamo_batch.verb_options import ProbeOptions


logger = errors.logger_named(__name__)

# Seeds of rows without one are drawn from this rather than from the run's entropy: both of a pair need the same seed,
# and a probe that is run again the same as before.
_ENTROPY: Final = "probe"
_NEW: Final = columns.ACTIONS[0]


@takes_options_of_run()
def probe_seeds(
    table: Table,
    run_dir: str | os.PathLike[str],
    *,
    max_cost: Amount,
    k: int = 3,
    progress: bool = True,
    base_dir: str | os.PathLike[str] | None = None,
    **options: Unpack[ProbeOptions],
) -> pd.DataFrame:
    """Buy a few rows of a table twice, and measure how equal the pictures of the same seed are.

    It says beforehand how many attempts that is and what they can cost. `max_cost` has to be given, and nothing is sent
    if it does not cover the whole probe. The same call again buys nothing; a larger `k` buys what is new.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `run`, or results. The rows are taken evenly from it; a seed that is missing is drawn, and the same for
        both of a pair. If the service may rewrite the prompt (`use_rephraser`), that is probed with it.
    run_dir : path
        A directory of the probe's own, apart from the run's.
    max_cost : float, str or Decimal
        Cap in USD over everything ever submitted in the directory.
    k : int
        Rows to buy twice; all, if the table has fewer.
    progress, base_dir : optional
        As for `run`.
    **options
        Any other argument of `run`.

    Returns
    -------
    pandas.DataFrame
        As from `compare_replicates`; `row_a` and `row_b` are labels of `table`.

    Raises
    ------
    UsageError
        If `max_cost` does not cover the probe, the directory holds another table, or an option can't be used. Nothing
        was sent.
    InvalidTable
        If no row can be submitted. Nothing was sent.
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
    given = all_arguments(probe_seeds, locals())
    cap = arguments.check_amount("max_cost", max_cost)
    if cap is None:
        raise errors.UsageError(f"probe_seeds needs a cap: pass {option('max_cost')} in USD.")
    directory = RunDirectory(run_dir)
    probe, prepared = _probe(table, k, base_dir)
    _refuse_other_table(directory, probe, base_dir)
    planned = plan(probe, run_dir, base_dir=base_dir, **options)
    n_new = int((planned[columns.ACTION] == _NEW).sum())
    if n_new:
        price = _price(planned, directory, Service.of(given), prepared)
        spent = Spending(attempts=read_state(directory).kinds()).spent
        if price is not None and (needed := total((spent, times(n_new, price)))) > cap:
            raise errors.UsageError(
                f"{option('max_cost', cap)} doesn't cover the probe. Nothing was sent. Pass "
                f"{option('max_cost', needed)} or more, which includes what was spent here, or probe fewer rows."
            )
        cost = "at a price not known yet" if price is None else f"for up to {dollars(times(n_new, price))}"
        bought = f"{counted(len(probe) // 2, 'row')} twice: {counted(n_new, 'new attempt')}"
        say(f"Probing buys {bought}, {cost}; no more than {dollars(cap)} is ever spent here.", show=progress)
    done = run(probe, run_dir, max_cost=cap, progress=progress, base_dir=base_dir, **options)
    return compare_replicates(done, progress=progress)


def _probe(table: Table, k: int, base_dir: str | os.PathLike[str] | None) -> tuple[pd.DataFrame, Prepared]:
    """Make the probe's table: each chosen row, and right behind it the same with another replicate."""
    arguments.check_count("k", k)
    table, _ = recognised(convert_to_frame(table))
    user = table[user_columns(table)].copy()
    if columns.SEED_SENT in table.columns:  # results: the seed that was sent is the one to be probed
        user[columns.SEED] = table[columns.SEED_SENT]
    prepared = prepare(user, CheckOptions(base_dir, inputs=Inputs(None)), entropy=_ENTROPY)
    rows = prepared.rows
    bought = np.flatnonzero(rows[columns.JOB_ID].notna() & rows[columns.DUPLICATE_OF].isna())
    if not len(bought):
        why = "None of the rows can be submitted, so none can be probed."
        raise errors.InvalidTable(why, prepared.problems)
    chosen = bought[spread(len(bought), k)]
    jobs = [prepared.jobs[job_id] for job_id in rows[columns.JOB_ID].iloc[chosen]]
    again = max(job.replicate for job in prepared.jobs.values()) + 1
    probe = user.iloc[np.repeat(chosen, 2)].copy()
    probe[columns.SEED] = pd.array([job.seed for job in jobs for _ in range(2)], dtype=columns.INT)
    probe[columns.REPLICATE] = pd.array([n for job in jobs for n in (job.replicate, again)], columns.INT)
    return probe, prepared


def spread(n: int, k: int) -> list[int]:
    """Choose k of n places evenly, halves before quarters (van der Corput): a larger k keeps those of a smaller one."""
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
        stored_jobs = set(read_jobs(directory.jobs).rows[columns.JOB_ID].dropna())
    except errors.DirectoryError:
        return  # there is none; should it be damaged, the run itself says so
    jobs = prepare(probe, CheckOptions(base_dir, inputs=Inputs(None)), entropy=_ENTROPY).jobs
    again = {job_id for job_id, job in jobs.items() if job.replicate == probe[columns.REPLICATE].max()}
    is_probe = bool(stored_jobs & again) and (stored_jobs <= set(jobs) or set(jobs) <= stored_jobs)
    if stored_jobs and not is_probe:
        raise errors.UsageError(
            f"{directory.path} holds another table, which the probe would replace. Nothing was sent. Pass a new "
            "directory."
        )


def _price(
    planned: pd.DataFrame, directory: RunDirectory, service: Service, prepared: Prepared
) -> Decimal | None:
    """Return the most that an attempt costs: as planned, else as the service quotes it; None if unknown."""
    known = planned.loc[planned[columns.ACTION] == _NEW, columns.COST_HIGH_USD].max()
    if not pd.isna(known):
        return money(str(known))
    with ExitStack() as resources:
        return ask_price(service.connect(resources, directory), prepared.jobs.values()).price


# One good attempt, and one that has to be refused: a service that takes it may bill it.
N_ATTEMPTS_MAX: Final = 2
_SIDE_PX: Final = 512
_TOO_NARROW_PX: Final = 1
_WRONG_KEY: Final = "not-a-key-of-this-service"


class _Broken(Exception):  # noqa: N818 - it names what happened to the contract
    """The service does not do what the toolkit relies on."""


class _NotReached(Exception):  # noqa: N818 - no error: an earlier check has reported it
    """A check has nothing to look at, because an earlier one failed."""


@dataclass(slots=True)
class _CheckContext:
    """What the checks share: the service, and what was submitted from it."""

    client: Client
    request: Request
    timeout_s: float
    model: str = contract.MODEL
    task_id: str | None = None
    task: Task | None = None
    cost: str | None = None  # of what the check under way submitted, USD

    def ended(self) -> Task:
        """Return the task once it has completed."""
        if self.task is None or self.task.status != "completed":
            raise _NotReached("there is no completed task to check")
        return self.task


def check_service(
    base_url: str | None = None,
    api_key: str | None = None,
    *,
    client: Client | None = None,
    timeout_s: float = 900.0,
    models: Collection[str] = (),
) -> pd.DataFrame:
    """Check whether a service keeps the contract that this toolkit relies on.

    At most two attempts of 512x512 pictures are made per model: a good one, and one that has to be refused and costs
    nothing where it is. What that can come to is logged beforehand.

    Parameters
    ----------
    base_url, api_key : str, optional
        Default: the environment's ``DREAMO_BASE_URL`` and ``DREAMO_API_KEY``, else the public gateway.
    client : Client, optional
        Talks to the service, instead of these.
    timeout_s : float
        Seconds to wait for a task.
    models : collection of str
        Names of the models to check; default: all known ones.

    Returns
    -------
    pandas.DataFrame
        Columns of `dreamo_batch.columns.CHECKS`, one row per check in the order in which they were made; a check
        that fails is a row, never an exception.

    Raises
    ------
    SettingsError
        If the base URL or the key can't be used. Nothing was sent.
    KeyMissing
        If the service needs a key and there is none. Nothing was sent.
    UsageError
        If a model isn't known. Nothing was sent.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> with dreamo.LocalGateway(engine="flat") as gateway:
    ...     checks = check_service(gateway.base_url, gateway.api_key, models=["spark_dreamo"])
    >>> bool(checks["passed"].all()), len(checks)
    (True, 12)
    """
    models = known_models(models)
    if not isinstance(client, Client | None):
        raise errors.UsageError(f"client={quoted(client)}: expected a Client.")
    with ExitStack() as resources:
        service = client or resources.enter_context(Client(api_key=api_key, base_url=base_url))
        most = highest_cost(service, models)
        cost = "an unknown amount" if most is None else dollars(most)
        offer = service.settings.service_name, N_ATTEMPTS_MAX * len(models), cost
        logger.info("checking %s with at most %d attempts, for up to %s in all", *offer)
        rows = []
        for number, model in enumerate(models):
            context = _CheckContext(with_key(service), _request(model), timeout_s, model)
            checks = CHECKS if not number else {n: one for n, one in CHECKS.items() if one not in _OF_SERVICE}
            rows += [_row(context, name, check) for name, check in checks.items()]
    return pd.DataFrame(rows, columns=list(columns.CHECKS)).astype(columns.dtypes(columns.CHECKS))


def known_models(models: Collection[str]) -> tuple[str, ...]:
    """Return the names of models, each once; refuse unknown ones."""
    names = arguments.names_in("models", models, contract.MODELS, "model", is_ordered=False)
    return tuple(dict.fromkeys(names or contract.MODELS))


def highest_cost(client: Client, models: Collection[str] = tuple(contract.MODELS)) -> Decimal | None:
    """Say the most that `check_service` can cost."""
    try:
        prices = [money(client.precharge(_request(model)).cost) for model in models]
    except errors.ServiceError:
        return None
    whole = total_if_known(prices)
    return None if whole is None else times(N_ATTEMPTS_MAX, whole)


def _row(context: _CheckContext, name: str, check: Callable[[_CheckContext], str]) -> dict[str, Any]:
    context.cost = None
    passed: bool | None = False
    try:
        passed, detail = True, check(context)
    except _NotReached as missing:
        passed, detail = None, f"not checked: {missing}"
    except (_Broken, errors.ServiceError, NotAPicture) as broken:
        detail = str(broken)
    except Exception as error:  # noqa: BLE001 - whatever a service makes of us is a finding about it
        detail = f"unexpected {type(error).__name__}"
    return {
        columns.CHECK: name,
        columns.MODEL: None if check in _OF_SERVICE else context.model,
        columns.PASSED: passed,
        columns.DETAIL: harmless(context.client.settings.masked(detail)),  # an answer to a wrong key, too
        columns.COST: context.cost,
    }


def _answers_without_a_key(context: _CheckContext) -> str:
    """An outage is told from a refusal by a GET that needs no key."""
    context.client.probe()
    return "answered a request for the model's description"


def _describes_the_model_as_known(context: _CheckContext) -> str:
    """The description is optional; where there is one, our facts are compared with it."""
    description = _description(context.client, context.model)
    if description is None:
        return "no description of the model; nothing to compare"
    if differences := differences_from_known(description, context.model):
        raise _Broken("the description differs from the known facts: " + "; ".join(differences))
    return "the description matches the known facts"


def _description(client: Client, model: str) -> dict[str, Any] | None:
    """Ask the public service's host of descriptions first, then the API host."""
    if client.settings.base_url.rstrip("/") == contract.BASE_URL.value:
        settings = replace(client.settings, base_url=contract.SPEC_URL.value, api_key=None)
        with Client(settings=settings) as describer:
            if (description := _described_by(describer, model)) is not None:
                return description
    return _described_by(client, model)


def _described_by(client: Client, model: str) -> dict[str, Any] | None:
    try:
        return client.describe(model)
    except errors.ServiceError:
        return None


def differences_from_known(description: dict[str, Any], model: str) -> list[str]:
    """List where a model's description says other than the contract."""
    known, found = contract.MODELS[model].parameters, []
    for parameter in description["parameters"]:
        name = str(parameter.get("name")) if isinstance(parameter, dict) else ""
        if not name or name == "model":
            continue
        if name not in known:
            found.append(f"{name[:80]}: unknown parameter")
            continue
        constraints = parameter.get("constraints")
        for word, fact in known[name].items():
            value = constraints.get(word) if isinstance(constraints, dict) else None
            if value is not None and not _agrees(word, value, fact.value):
                found.append(f"{name}: {word} {str(value)[:80]}, not {fact.value} ({fact.source})")
    return found


def _agrees(word: str, given: object, known: float) -> bool:
    if isinstance(known, bool):
        return str(given).lower() == str(known).lower()
    read = None if isinstance(given, bool) else number(given)
    return read is not None and (read >= known if word in contract.UPPER_LIMITS else read == known)


def _refuses_a_wrong_key(context: _CheckContext) -> str:
    """The run stops on 401, 402 or 403 only; anything else would be asked again."""
    settings = replace(context.client.settings, api_key=Secret(_WRONG_KEY))
    with Client(settings=settings) as stranger:
        try:
            stranger.fetch(contract.UNKNOWN_TASK)
        except errors.ServiceRefused as refused:
            return f"refused: {refused.failure.error_class}, HTTP {refused.failure.http_status}"
        except errors.ServiceError as error:
            raise _Broken(f"a poll with a wrong key got {error}; expected 401, 402 or 403") from None
    raise _Broken("a poll with a wrong key was accepted")


def _does_not_find_an_unknown_task(context: _CheckContext) -> str:
    """A task that is lost must be told from a service that is away."""
    try:
        context.client.fetch(contract.UNKNOWN_TASK)
    except errors.RequestRejected as error:
        if error.failure.error_class == TASK_NOT_FOUND:
            return "not found, as expected"
        raise
    raise _Broken(f"the task {contract.UNKNOWN_TASK}, which was never submitted, was found")


def _quotes_a_price_or_none(context: _CheckContext) -> str:
    """Precharge is optional: without it a cap needs `unit_cost` or `pilot`."""
    try:
        price = context.client.precharge(context.request)
    except errors.RequestRejected as error:
        without = f"does not offer it ({error.failure.error_class})"
    else:
        if price.cost is not None:
            return f"{price.cost} {price.currency or 'USD'} an attempt"
        without = f"no price is known ({price.reason or 'no reason given'})"
    return f"{without}; a cap needs {option('unit_cost')} or {option('pilot')}"


def _refuses_an_invalid_create(context: _CheckContext) -> str:
    """A bad parameter is refused at once, or its task fails."""
    try:
        task_id = context.client.create(replace(context.request, width=_TOO_NARROW_PX))
    except errors.RequestRejected as error:
        return f"refused: {error.failure.error_class}, code {error.failure.code or 'none'}"
    task = context.client.wait(task_id, timeout_s=context.timeout_s)
    context.cost = task.cost
    if task.status != "failed":
        raise _Broken(f"a picture {_TOO_NARROW_PX} px wide was accepted, and its task {task_id} completed")
    return f"accepted, and its task failed: code {task.error.code if task.error else 'none'}"


def _takes_a_create(context: _CheckContext) -> str:
    """A create is answered with the id of a task."""
    context.task_id = context.client.create(context.request)
    return f"task {context.task_id}"


def _finishes_a_task(context: _CheckContext) -> str:
    """Polls find the task, until it has completed."""
    if context.task_id is None:
        raise _NotReached("no attempt was accepted")
    context.task = context.client.wait(context.task_id, timeout_s=context.timeout_s)
    context.cost = context.task.cost
    if context.task.status != "completed":
        raise _Broken(f"task {context.task_id} failed: {context.task.error}")
    return f"task {context.task_id} completed"


def _reports_what_a_task_cost(context: _CheckContext) -> str:
    """Without a readable cost, budgets keep what was reserved."""
    cost = context.ended().cost
    if cost is None:
        raise _Broken("the completed task has no readable cost")
    return f"{cost} USD"


def _answers_in_the_documented_form(context: _CheckContext) -> str:
    """What does not read as documented is kept as an excerpt."""
    task = context.ended()
    if task.excerpt is not None:
        raise _Broken(f"the answer to a poll isn't as documented: {task.excerpt[:200]}")
    return "as documented"


def _serves_the_picture(context: _CheckContext) -> str:
    """The link leads to a picture, without the key."""
    task = context.ended()
    if not task.urls:
        raise _Broken("the completed task has no link to a picture")
    content = context.client.download(task.urls[0], max_bytes=PICTURE_BYTES_MAX)
    suffix, width_px, height_px = inspect_picture(content)
    return f"{suffix}, {width_px}x{height_px} px, {len(content)} bytes"


def _knows_an_ended_task_again(context: _CheckContext) -> str:
    """A later call asks for what an earlier one had submitted, and finds the same."""
    before = context.ended()
    after = context.client.fetch(before.task_id)
    if (after.status, after.cost, len(after.urls)) != (before.status, before.cost, len(before.urls)):
        raise _Broken(f"status, cost or links changed between two polls: {after.status}, {after.cost}")
    return "the same status and cost"


CHECKS: Final[dict[str, Callable[[_CheckContext], str]]] = {
    check.__name__.strip("_"): check
    for check in (
        _answers_without_a_key,
        _describes_the_model_as_known,
        _refuses_a_wrong_key,
        _does_not_find_an_unknown_task,
        _quotes_a_price_or_none,
        _refuses_an_invalid_create,
        _takes_a_create,
        _finishes_a_task,
        _answers_in_the_documented_form,
        _reports_what_a_task_cost,
        _serves_the_picture,
        _knows_an_ended_task_again,
    )
}


# These don't depend on the model.
_OF_SERVICE: Final = (_answers_without_a_key, _refuses_a_wrong_key, _does_not_find_an_unknown_task)


def _request(model: str) -> Request:
    """Attempt a small picture of one plain figure, for a model of several references of two."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((176, 60, 336, 220), fill="orange")
    draw.rounded_rectangle((146, 230, 366, 470), radius=60, fill="teal")
    content = base64.b64encode(encoded(picture))
    known = contract.MODELS[model]
    n_images = min(2, known.images_max.value)
    return Request(
        "a figure on a beach",
        7,
        _SIDE_PX,
        _SIDE_PX,
        use_rephraser=False,
        image_base64=(content,) * n_images,
        model=model,
        ref_type=known.ref_types.value[1:2] * n_images,
    )
