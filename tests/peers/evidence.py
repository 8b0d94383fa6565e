"""What a tool's results are judged by: the gateway's invoice and the pictures that were paid for."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.gateway import Gateway

Key = tuple[str, str]
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a table: attempts beyond one per job, and rows that came out badly."""

    n_extra: int
    n_most_per_job: int
    n_wrong: int
    n_lost: int
    n_absent: int
    is_refused: bool = False

    def __str__(self) -> str:
        said = [f"+{self.n_extra} (max {self.n_most_per_job})"] if self.n_extra else []
        counts = {"wrong": self.n_wrong, "lost": self.n_lost, "not submitted": self.n_absent}
        said += [f"{n} {word}" for word, n in counts.items() if n]
        return ("stops with an error, " if self.is_refused else "") + (", ".join(said) or "0")


class Evidence:
    """The gateway's books, from the moment this was made."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {gateway.api_key}"
        self._n_before = 0
        self._n_before = len(self.attempts())

    def attempts(self) -> list[dict[str, Any]]:
        return self._get("/local/invoice").json()["tasks"][self._n_before :]

    def script(self, *faults: str | dict[str, Any]) -> None:
        url = f"{self._gateway.base_url}/local/faults"
        body = {"clear": True, "script": {"create": list(faults)}}
        self._session.post(url, json=body, timeout=TIMEOUT_S).raise_for_status()

    def n_right(self, folder: Path) -> int:
        return sum(is_right for is_right, _ in self._rows(folder))

    def n_extra(self) -> int:
        attempts = self.attempts()
        return len(attempts) - len({_key(attempt) for attempt in attempts})

    def judge(self, folder: Path, *, is_refused: bool = False) -> Verdict:
        """Compare what a tool shows with what was submitted."""
        per_job = Counter(_key(attempt) for attempt in self.attempts())
        rows = self._rows(folder)
        lacking = [key for is_right, (key, digest) in rows if not is_right and digest is None]
        return Verdict(
            n_extra=sum(per_job.values()) - len(per_job),
            n_most_per_job=max(per_job.values(), default=0),
            n_wrong=len([1 for is_right, (_, digest) in rows if not is_right and digest is not None]),
            n_lost=len([key for key in lacking if key in per_job]),
            n_absent=len([key for key in lacking if key not in per_job]),
            is_refused=is_refused,
        )

    def _rows(self, folder: Path) -> list[tuple[bool, tuple[Key, str | None]]]:
        bought = self._bought()
        shown = _shown(folder)
        keys = [_key(row) for row in _read(folder / "jobs.csv")]
        return [(shown.get(key) in bought.get(key, ()), (key, shown.get(key))) for key in keys]

    def _bought(self) -> dict[Key, set[str]]:
        """Digests of the pictures that each job's attempts came to."""
        bought: dict[Key, set[str]] = {}
        for attempt in self.attempts():
            if attempt["state"] == "completed":
                task = self._get(f"/model/v1/generation/task/{attempt['id']}").json()
                picture = requests.get(task["output"][0]["content"][0]["url"], timeout=TIMEOUT_S).content
                bought.setdefault(_key(attempt), set()).add(hashlib.sha256(picture).hexdigest())
        return bought

    def _get(self, path: str) -> requests.Response:
        answer = self._session.get(f"{self._gateway.base_url}{path}", timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer


def _shown(folder: Path) -> dict[Key, str]:
    """Digest of the picture that the tool's results show for each job."""
    results = folder / "results.csv"
    rows = _read(results) if results.exists() else []
    paths = {_key(row): folder / row["picture"] for row in rows if row["picture"]}
    return {
        key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in paths.items() if path.exists()
    }


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _key(row: dict[str, Any]) -> Key:
    return row["prompt"], str(row["seed"])
