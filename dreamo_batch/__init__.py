"""Tables of image-to-image jobs against the Spark DreamO service, from pandas.

The flow: `sweep` makes a table (or bring your own DataFrame), `validate` checks every row of it, `plan` says what
would be bought and why, `run` buys it under a budget with a progress bar, saves the pictures and gives the table
back with URLs, costs and errors as columns. The same call again resumes. `load` reads the results any time,
`retry` attempts chosen rows again, `resolve` settles a row whose attempt may or may not have been taken. It never
pays twice without telling you. The same verbs stand on every DataFrame: ``jobs.dreamo.run("runs/first")``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.importing import load_module as _load

__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from dreamo_batch.batch import Batch, plan, retry, run, start, watch
    from dreamo_batch.display.gallery import Gallery
    from dreamo_batch.display.report import report
    from dreamo_batch.display.sheet import contact_sheet, gallery
    from dreamo_batch.engine.plan import Plan
    from dreamo_batch.engine.status import Status
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
    from dreamo_batch.gateway import LocalGateway
    from dreamo_batch.gateway.faults import FaultPlan
    from dreamo_batch.jobs.rules import Problems
    from dreamo_batch.jobs.sweep import sweep
    from dreamo_batch.jobs.tables import read_table, write_table
    from dreamo_batch.jobs.validate import validate
    from dreamo_batch.probe import check_service, probe_seeds
    from dreamo_batch.results.analysis import attempts, costs, failures, latency, pace, throughput
    from dreamo_batch.results.export import export
    from dreamo_batch.results.load import load, status
    from dreamo_batch.results.measure import Metric
    from dreamo_batch.results.plots import (
        plot_costs,
        plot_failures,
        plot_latency,
        plot_spend,
        plot_throughput,
    )
    from dreamo_batch.results.seeds import (
        best_seeds,
        compare_replicates,
        diversity,
        measure,
        near_duplicates,
        rank,
    )
    from dreamo_batch.service.client import Client
    from dreamo_batch.service.failures import Failure
    from dreamo_batch.service.messages import Request
    from dreamo_batch.settle import download, resolve, verify

# Where each public name lives; loaded when first used, so that importing the package costs next to nothing.
_HOME: Final = {
    "sweep": "jobs.sweep",
    "validate": "jobs.validate",
    "read_table": "jobs.tables",
    "write_table": "jobs.tables",
    "plan": "batch",
    "run": "batch",
    "retry": "batch",
    "start": "batch",
    "watch": "batch",
    "Batch": "batch",
    "download": "settle",
    "load": "results.load",
    "status": "results.load",
    "verify": "settle",
    "resolve": "settle",
    "check_service": "probe",
    "export": "results.export",
    "report": "display.report",
    "costs": "results.analysis",
    "attempts": "results.analysis",
    "contact_sheet": "display.sheet",
    "gallery": "display.sheet",
    "latency": "results.analysis",
    "throughput": "results.analysis",
    "pace": "results.analysis",
    "failures": "results.analysis",
    "probe_seeds": "probe",
    "measure": "results.seeds",
    "rank": "results.seeds",
    "best_seeds": "results.seeds",
    "diversity": "results.seeds",
    "near_duplicates": "results.seeds",
    "compare_replicates": "results.seeds",
    "Metric": "results.measure",
    "plot_costs": "results.plots",
    "plot_failures": "results.plots",
    "plot_latency": "results.plots",
    "plot_spend": "results.plots",
    "plot_throughput": "results.plots",
    "Client": "service.client",
    "LocalGateway": "gateway",
    "Request": "service.messages",
    "Failure": "service.failures",
    "FaultPlan": "gateway.faults",
    "Gallery": "display.gallery",
    "Plan": "engine.plan",
    "Problems": "jobs.rules",
    "Status": "engine.status",
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
importlib.import_module(f"{__name__}.accessor").register_when_pandas_is_there()
