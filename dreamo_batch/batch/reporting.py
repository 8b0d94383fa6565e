"""`report`: a run as one page that can be sent to somebody."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dreamo_batch.batch.analysis import read_history
from dreamo_batch.batch.reading import RunDir, existing, listed, load, status
from dreamo_batch.errors import UsageError
from dreamo_batch.execution import durable, stored
from dreamo_batch.results.reporting.facts import Facts
from dreamo_batch.results.reporting.page import render
from dreamo_batch.table.looking import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        If the file's folder does not exist, no file is given for several directories, or Jinja2 or matplotlib is not
        installed.
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
    run_dirs = listed(run_dir)
    if path is None and len(run_dirs) > 1:
        raise UsageError(
            "A report of several run directories stands in none of them: name the file (path=, in the shell --output)."
        )
    target = (existing(run_dirs[0]).path / NAME) if path is None else Path(path).expanduser().absolute()
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} to. Make it first.")
    with shown(progress):
        page = render([read_facts(one) for one in run_dirs])
    content = page.encode("utf-8", errors="replace")
    durable.replace(target, lambda temporary: temporary.write_bytes(content))
    return target


def read_facts(run_dir: RunDir) -> Facts:
    """Read what a report is made from.

    Raises
    ------
    DirectoryError
        If it is not a run directory, or can't be read.
    """
    directory = existing(run_dir)
    return Facts(
        name=os.fspath(run_dir),
        path=directory.path,
        manifest=directory.read_manifest(),
        results=load(run_dir),
        history=read_history(run_dir),
        decided=stored.read_jobs(directory.jobs).decided,
        summary=status(run_dir),
        is_worked_on=directory.is_locked(),
        made_at=datetime.now(UTC),
    )
