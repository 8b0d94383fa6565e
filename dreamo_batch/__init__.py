"""Tables of image-to-image jobs against the Spark DreamO service, from pandas.

The flow: `sweep` makes a table (or bring your own DataFrame), `validate` checks every row of it, `plan` says what
would be bought and why, `run` buys it under a budget with a progress bar, saves the pictures and gives the table
back with URLs, costs and errors as columns. The same call again resumes. `load` reads the results any time,
`retry` orders chosen rows again, `resolve` settles a row whose order may or may not have been taken. It never
pays twice without telling you.

Examples
--------
>>> import dreamo_batch as dreamo
>>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["on a beach", "in the snow"], seed=range(2))
>>> len(jobs), len(dreamo.validate(jobs))
(4, 0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from dreamo_batch.batch.analysis import attempts, costs, failures, latency, pace, throughput
    from dreamo_batch.batch.conformance import check_service
    from dreamo_batch.batch.reading import load, status
    from dreamo_batch.batch.running import plan, retry, run
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
        RunStopped,
        ServiceError,
        ServiceUnreachable,
        SettingsError,
        StorageFailed,
        TableError,
        UsageError,
    )
    from dreamo_batch.local import LocalGateway
    from dreamo_batch.results.plots import (
        plot_costs,
        plot_failures,
        plot_latency,
        plot_spend,
        plot_throughput,
    )
    from dreamo_batch.service.client import Client
    from dreamo_batch.table.files import read_table, write_table
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
    "load": "batch.reading",
    "status": "batch.reading",
    "verify": "batch.verifying",
    "resolve": "batch.settling",
    "check_service": "batch.conformance",
    "costs": "batch.analysis",
    "attempts": "batch.analysis",
    "contact_sheet": "batch.showing",
    "gallery": "batch.showing",
    "latency": "batch.analysis",
    "throughput": "batch.analysis",
    "pace": "batch.analysis",
    "failures": "batch.analysis",
    "plot_costs": "results.plots",
    "plot_failures": "results.plots",
    "plot_latency": "results.plots",
    "plot_spend": "results.plots",
    "plot_throughput": "results.plots",
    "Client": "service.client",
    "LocalGateway": "local",
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
            "RunStopped",
            "ServiceError",
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
    "BudgetReached",
    "Client",
    "DirectoryError",
    "DirectoryLocked",
    "DreamoError",
    "InvalidTable",
    "KeyMissing",
    "LedgerDamaged",
    "LocalGateway",
    "OtherService",
    "PriceUnknown",
    "RunStopped",
    "ServiceError",
    "ServiceUnreachable",
    "SettingsError",
    "StorageFailed",
    "TableError",
    "UsageError",
    "__version__",
    "attempts",
    "check_service",
    "contact_sheet",
    "costs",
    "failures",
    "gallery",
    "latency",
    "load",
    "pace",
    "plan",
    "plot_costs",
    "plot_failures",
    "plot_latency",
    "plot_spend",
    "plot_throughput",
    "read_table",
    "resolve",
    "retry",
    "run",
    "status",
    "sweep",
    "throughput",
    "validate",
    "verify",
    "write_table",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOME})
