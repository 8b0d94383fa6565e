"""`verify`: checks every file of a run directory against what the others say."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dreamo_batch import columns
from dreamo_batch.batch import reading
from dreamo_batch.errors import DirectoryError, UsageError
from dreamo_batch.execution import archive, checkpoint, evidence, journal, ledger, runner, stored
from dreamo_batch.table.looking import shown, ticking

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from dreamo_batch.execution.directory import RunDirectory
    from dreamo_batch.execution.ledger import Recovered
    from dreamo_batch.execution.state import Order, State


def verify(run_dir: str | os.PathLike[str], *, progress: bool = True) -> list[str]:
    """Check a run directory: ledger, tables, counts, and the bytes of every picture.

    Meant for a directory that nobody is working on: a picture being saved by another process may look like damage.

    Parameters
    ----------
    run_dir : path-like
        The run directory.
    progress : bool
        Show a bar while the pictures are read.

    Returns
    -------
    list of str
        One sentence per damage; empty if there is none.

    Raises
    ------
    UsageError
        If this process works on the directory.

    Examples
    --------
    >>> verify("runs/none")
    ['...runs/none is not a run directory: there is nothing.']
    """
    try:
        directory = reading.existing(run_dir)
    except DirectoryError as error:
        return [str(error)]
    if runner.live(directory.path) is not None:
        raise UsageError(
            f"A run is going on in {directory.path}; a picture being saved would look like damage. Stop it, or wait."
        )
    found = []
    checks: tuple[Callable[[RunDirectory], Iterator[str]], ...] = (_ledger, _manifest, _tables, _inputs)
    for check in checks:
        try:
            with shown(progress):
                found += list(check(directory))
        except DirectoryError as error:
            found.append(str(error))
        except OSError as error:
            found.append(f"{error.filename or directory.path} can't be read ({error.strerror or error})")
    return list(dict.fromkeys(found))


def _ledger(directory: RunDirectory) -> Iterator[str]:
    recovered = ledger.read(directory.path)
    yield from recovered.warnings
    yield from _reserve(directory, recovered)
    state = recovered.state()
    orders = list(state)
    with ticking(len(orders), "verifying", unit="order") as tick:
        for order in orders:
            yield from _picture(directory, order)
            tick()
    yield from _orphans(directory, state)


def _reserve(directory: RunDirectory, recovered: Recovered) -> Iterator[str]:
    """Check the checkpoint that is only read when the newest one is damaged."""
    path = directory.path / checkpoint.PREVIOUS
    try:
        checkpoint.read_table(path)
    except FileNotFoundError:
        if recovered.snapshot is not None and journal.numbers(directory.path)[:1] != [1]:
            yield f"{path.name} is missing; the next run makes another"
    except checkpoint.UNREADABLE as error:
        if path.name not in recovered.damaged:
            yield f"{path.name} can't be read ({error}); the next run replaces it"


def _picture(directory: RunDirectory, order: Order) -> Iterator[str]:
    if order.output_path is None or order.output_sha256 is None:
        return
    try:
        n_bytes = (directory.path / order.output_path).stat().st_size
    except FileNotFoundError:
        yield f"{order.output_path} is missing; run again to fetch it once more"
        return
    if n_bytes != order.output_bytes:
        yield (
            f"{order.output_path} has {n_bytes} bytes, not the {order.output_bytes} that were saved; run again to "
            "fetch it once more"
        )
    elif not archive.is_unaltered(directory.path, order.output_path, order.output_sha256):
        yield f"{order.output_path} is not the picture that was saved; delete it and run again"


def _orphans(directory: RunDirectory, state: State) -> Iterator[str]:
    """Find pictures that no order has saved, and purchases that the ledger has lost."""
    lost = list(evidence.unknown_purchases(directory, state))
    yield from (
        f"{trace} shows a purchase that the ledger does not know of; nothing more is bought here"
        for trace in lost
    )
    saved = {order.output_path for order in state}
    for path in evidence.pictures(directory):
        name = path.relative_to(directory.path).as_posix()
        if name not in saved and name not in lost:
            yield f"{name} is not in the ledger, although its order is; the next run saves it again"


def _manifest(directory: RunDirectory) -> Iterator[str]:
    manifest = directory.read_manifest()
    if manifest is None:
        yield "run.json is missing or can't be read; the next run rebuilds it"
        return
    n_rows = manifest.reconciliation.get("rows_in")
    if n_rows is not None:
        n_found = len(reading.load(directory.path))
        if n_found != n_rows:
            yield f"run.json counted {n_rows} rows, the table has {n_found}"


def _tables(directory: RunDirectory) -> Iterator[str]:
    stored.read_jobs(directory.jobs)
    if not directory.results.exists():
        manifest = directory.read_manifest()
        if manifest is not None and manifest.reconciliation:
            yield "results.parquet is missing; the next run writes it again"
        return
    results = stored.read_frame(directory.results)[0]
    if not reading.is_finished(directory):
        return
    known = reading.composed(directory)
    names = [name for name in columns.OUTPUTS if name in results]
    if len(results) != len(known) or not results[names].astype(str).equals(known[names].astype(str)):
        yield "results.parquet does not say what the ledger says; the next run writes it again"


def _inputs(directory: RunDirectory) -> Iterator[str]:
    """Check the reference pictures that are kept here; those elsewhere are the user's."""
    rows = stored.read_jobs(directory.jobs).rows[[columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST]]
    for location, digest in rows.dropna().drop_duplicates().itertuples(index=False):
        path = Path(location)
        if path.parent.name != directory.inputs.name or path.parent.parent != directory.path:
            continue
        if not path.exists():
            yield f"inputs/{path.name} is missing; rows not ordered yet need it"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"inputs/{path.name} is not the picture that was kept; rows not ordered yet need it"
