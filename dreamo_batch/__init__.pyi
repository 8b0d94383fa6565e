from . import metrics
from .batch import Batch, watch
from .display.compare import PairedComparison, compare
from .display.gallery import Gallery, gallery
from .display.report import report
from .display.sheet import contact_sheet
from .engine.notify import RunEvent
from .engine.plan import Plan
from .engine.shared_budget import Budget
from .engine.status import Status
from .errors import (
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
from .gateway import LocalGateway
from .gateway.faults import FaultPlan
from .jobs.prepare import validate
from .jobs.rules import Problems
from .jobs.sweep import lines, sweep, zipped
from .jobs.tables import read_table, write_table
from .probe import check_service, probe_seeds
from .results.comparison import (
    Calibration,
    best_seeds,
    calibrate,
    compare_replicates,
    diversity,
    near_duplicates,
    rank,
)
from .results.export import export
from .results.history import attempts
from .results.load import load, scan, status
from .results.measure import Metric, measure
from .results.plots import plot_costs, plot_failures, plot_latency, plot_spend, plot_throughput
from .results.ratings import rate, ratings
from .results.summaries import costs, failures, latency, pace, throughput
from .search import search
from .service.client import Client
from .service.failures import Failure
from .service.messages import Request
from .settle import download, resolve, verify
from .verbs import plan, resume, retry, run, start

__version__: str

__all__ = [
    "AccessRefused",
    "Batch",
    "Budget",
    "BudgetReached",
    "Calibration",
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
    "PairedComparison",
    "Plan",
    "PriceUnknown",
    "Problems",
    "Request",
    "RequestMayHaveArrived",
    "RequestNotTaken",
    "RequestRejected",
    "RunEvent",
    "RunStopped",
    "ServiceError",
    "ServiceRefused",
    "ServiceUnreachable",
    "SettingsError",
    "Status",
    "StorageFailed",
    "TableError",
    "UsageError",
    "attempts",
    "best_seeds",
    "calibrate",
    "check_service",
    "compare",
    "compare_replicates",
    "contact_sheet",
    "costs",
    "diversity",
    "download",
    "export",
    "failures",
    "gallery",
    "latency",
    "lines",
    "load",
    "measure",
    "metrics",
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
    "rate",
    "ratings",
    "read_table",
    "report",
    "resolve",
    "resume",
    "retry",
    "run",
    "scan",
    "search",
    "start",
    "status",
    "sweep",
    "throughput",
    "validate",
    "verify",
    "watch",
    "write_table",
    "zipped",
]
