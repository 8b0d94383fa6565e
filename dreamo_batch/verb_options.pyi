# What `**options` of the verbs takes, for type checkers only. Below the imports: made by `make docs` from `run`.
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypedDict

from .call import Gateway
from .engine.notify import RunEvent
from .engine.shared_budget import Budget
from .money import Amount
from .parallel import Cluster
from .service.client import Client

class VerbOptions(TypedDict, total=False):
    client: Client | None
    api_key: str | None
    base_url: str | None
    gateway: Literal["local"] | Gateway | None
    allow_private_links: bool
    max_new_cost: Amount | None
    unit_cost: Amount | None
    pilot: int | None
    budget: str | os.PathLike[str] | Budget | None
    max_in_flight: int
    download: bool
    fix_images: bool
    keep_references: bool
    on_invalid: Literal["raise", "skip"]
    on_ambiguous: Literal["hold", "resubmit"]
    max_attempts: int
    retry_failed: bool
    random_seed: Literal["record", "service"]
    task_timeout_s: float
    adopt_copy: bool
    notify: str | None
    on_event: Callable[[RunEvent], Any] | None
    not_before: datetime | str | None
    cluster: Cluster

class PlanOptions(VerbOptions, total=False):
    max_cost: Amount | None
    progress: bool
    base_dir: str | os.PathLike[str] | None

class StoredOptions(VerbOptions, total=False):
    max_cost: Amount | None
    progress: bool

class StartOptions(VerbOptions, total=False):
    max_cost: Amount | None
    base_dir: str | os.PathLike[str] | None

class SearchOptions(VerbOptions, total=False):
    progress: bool
    base_dir: str | os.PathLike[str] | None

class ProbeOptions(VerbOptions, total=False): ...
