"""Tables of image-to-image jobs against the Spark DreamO service, from pandas.

The flow: `sweep` makes a table (or bring your own DataFrame), `validate` checks every row of it, `plan` says what
would be bought and why, `run` buys it under a budget with a progress bar, saves the pictures and gives the table
back with URLs, costs and errors as columns. The same call again resumes. `load` reads the results any time,
`retry` orders chosen rows again, `resolve` settles a row whose order may or may not have been taken. It never
pays twice without telling you. The same verbs stand on every DataFrame: ``jobs.dreamo.run("runs/first")``.

Examples
--------
>>> import dreamo_batch as dreamo
>>> jobs = dreamo.sweep(
...     image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=range(1, 3), use_rephraser=False
... )
>>> len(jobs), len(dreamo.validate(jobs))
(4, 0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.importing import load as _load

__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from dreamo_batch.batch.analysis import attempts, costs, failures, latency, pace, throughput
    from dreamo_batch.batch.conformance import check_service
    from dreamo_batch.batch.exporting import export
    from dreamo_batch.batch.fetching import download
    from dreamo_batch.batch.live import Batch, start, watch
    from dreamo_batch.batch.moment import Status
    from dreamo_batch.batch.probing import probe_seeds
    from dreamo_batch.batch.reading import load, status
    from dreamo_batch.batch.reporting import report
    from dreamo_batch.batch.running import plan, retry, run
    from dreamo_batch.batch.seeds import (
        best_seeds,
        compare_replicates,
        diversity,
        measure,
        near_duplicates,
        rank,
    )
    from dreamo_batch.batch.settling import resolve
    from dreamo_batch.batch.showing import contact_sheet, gallery
    from dreamo_batch.batch.verifying import verify
    from dreamo_batch.errors import (
        AccessRefused,
        BudgetReached,
        DirectoryError,
        DirectoryLocked,
        DreamoError,
        InvalidTable,
        KeyMissing,
        LedgerDamaged,
        OtherService,
        PriceUnknown,
        RequestMayHaveArrived,
        RequestNotTaken,
        RequestRejected,
        RunStopped,
        ServiceError,
        ServiceRefused,
        ServiceUnreachable,
        SettingsError,
        StorageFailed,
        TableError,
        UsageError,
    )
    from dreamo_batch.local import LocalGateway
    from dreamo_batch.local.fault_plan import FaultPlan
    from dreamo_batch.results.gallery import Gallery
    from dreamo_batch.results.metrics import Metric
    from dreamo_batch.results.planned import Plan
    from dreamo_batch.results.plots import (
        plot_costs,
        plot_failures,
        plot_latency,
        plot_spend,
        plot_throughput,
    )
    from dreamo_batch.service.client import Client
    from dreamo_batch.service.failure import Failure
    from dreamo_batch.service.wire import Request
    from dreamo_batch.table.files import read_table, write_table
    from dreamo_batch.table.problems import Problems
    from dreamo_batch.table.sweep import sweep
    from dreamo_batch.table.validation import validate

# Where each public name lives; loaded when first used, so that importing the package costs next to nothing.
_HOME: Final = {
    "sweep": "table.sweep",
    "validate": "table.validation",
    "read_table": "table.files",
    "write_table": "table.files",
    "plan": "batch.running",
    "run": "batch.running",
    "retry": "batch.running",
    "start": "batch.live",
    "watch": "batch.live",
    "Batch": "batch.live",
    "download": "batch.fetching",
    "load": "batch.reading",
    "status": "batch.reading",
    "verify": "batch.verifying",
    "resolve": "batch.settling",
    "check_service": "batch.conformance",
    "export": "batch.exporting",
    "report": "batch.reporting",
    "costs": "batch.analysis",
    "attempts": "batch.analysis",
    "contact_sheet": "batch.showing",
    "gallery": "batch.showing",
    "latency": "batch.analysis",
    "throughput": "batch.analysis",
    "pace": "batch.analysis",
    "failures": "batch.analysis",
    "probe_seeds": "batch.probing",
    "measure": "batch.seeds",
    "rank": "batch.seeds",
    "best_seeds": "batch.seeds",
    "diversity": "batch.seeds",
    "near_duplicates": "batch.seeds",
    "compare_replicates": "batch.seeds",
    "Metric": "results.metrics",
    "plot_costs": "results.plots",
    "plot_failures": "results.plots",
    "plot_latency": "results.plots",
    "plot_spend": "results.plots",
    "plot_throughput": "results.plots",
    "Client": "service.client",
    "LocalGateway": "local",
    "Request": "service.wire",
    "Failure": "service.failure",
    "FaultPlan": "local.fault_plan",
    "Gallery": "results.gallery",
    "Plan": "results.planned",
    "Problems": "table.problems",
    "Status": "batch.moment",
    **dict.fromkeys(
        (
            "AccessRefused",
            "BudgetReached",
            "DirectoryError",
            "DirectoryLocked",
            "DreamoError",
            "InvalidTable",
            "KeyMissing",
            "LedgerDamaged",
            "OtherService",
            "PriceUnknown",
            "RequestMayHaveArrived",
            "RequestNotTaken",
            "RequestRejected",
            "RunStopped",
            "ServiceError",
            "ServiceRefused",
            "ServiceUnreachable",
            "SettingsError",
            "StorageFailed",
            "TableError",
            "UsageError",
        ),
        "errors",
    ),
}

__all__ = [
    "AccessRefused",
    "Batch",
    "BudgetReached",
    "Client",
    "DirectoryError",
    "DirectoryLocked",
    "DreamoError",
    "Failure",
    "FaultPlan",
    "Gallery",
    "InvalidTable",
    "KeyMissing",
    "LedgerDamaged",
    "LocalGateway",
    "Metric",
    "OtherService",
    "Plan",
    "PriceUnknown",
    "Problems",
    "Request",
    "RequestMayHaveArrived",
    "RequestNotTaken",
    "RequestRejected",
    "RunStopped",
    "ServiceError",
    "ServiceRefused",
    "ServiceUnreachable",
    "SettingsError",
    "Status",
    "StorageFailed",
    "TableError",
    "UsageError",
    "__version__",
    "attempts",
    "best_seeds",
    "check_service",
    "compare_replicates",
    "contact_sheet",
    "costs",
    "diversity",
    "download",
    "export",
    "failures",
    "gallery",
    "latency",
    "load",
    "measure",
    "near_duplicates",
    "pace",
    "plan",
    "plot_costs",
    "plot_failures",
    "plot_latency",
    "plot_spend",
    "plot_throughput",
    "probe_seeds",
    "rank",
    "read_table",
    "report",
    "resolve",
    "retry",
    "run",
    "start",
    "status",
    "sweep",
    "throughput",
    "validate",
    "verify",
    "watch",
    "write_table",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_load(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not, and nothing else."""
    return sorted(__all__)


# By name: to the layers below, this package is no way up.
importlib.import_module(f"{__name__}.notebook.registration").register_when_pandas_is_there()
