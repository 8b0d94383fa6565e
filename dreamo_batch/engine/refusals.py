"""Whose refusal a 403 is: one row's, which a firewall blocks, or the account's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dreamo_batch.engine.attempts import Stage
from dreamo_batch.service.failures import FORBIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dreamo_batch.engine.attempts import Attempt
    from dreamo_batch.jobs.prepare import Job

_UNLIKE_MOST: Final = 2  # another prompt and another picture


class Refusals:
    """Follows the creates that were refused with 403 since the last one was accepted.

    A firewall blocks a prompt or a picture, so a refused row says little about rows unlike it. While in doubt, one
    create at a time is sent, of the row most unlike the refused ones, and of those the last, since neighbours are
    often alike; if that one is refused, too, the account is. A row is to blame itself if it is refused again after
    others were accepted, or if nothing but rows refused by an earlier call is left of a table with bought rows.
    """

    def __init__(
        self, jobs: Mapping[str, Job], earlier: Mapping[str, bool] | None = None, *, has_bought: bool = False
    ) -> None:
        self._jobs = jobs
        self._earlier = frozenset(earlier or ())
        # Jobs refused once, and whether others were accepted since.
        self._once = dict(earlier or {})
        self._in_a_row: dict[str, int] = {}
        self._decider: str | None = None
        self._has_bought = has_bought
        self._has_accepted = False

    @property
    def is_in_doubt(self) -> bool:
        """Whether a create was refused, and none accepted since."""
        return bool(self._in_a_row)

    @property
    def in_a_row(self) -> tuple[str, ...]:
        """Return the jobs refused since a create was last accepted."""
        return tuple(self._in_a_row)

    def accepted(self) -> None:
        """Record an accepted create: the account isn't refused."""
        self._has_accepted = True
        self._once = dict.fromkeys(self._once, True)
        self._settle()

    def refused(self, job_id: str) -> bool:
        """Record a refused create; return whether its own row is to blame."""
        is_again = self._in_a_row.keys() == {job_id}
        is_own = self._once.get(job_id, False) or (is_again and self._has_accepted)
        if is_own:
            self._decider = None  # it decides nothing
        else:
            self._once[job_id] = False
            self._in_a_row[job_id] = self._in_a_row.get(job_id, 0) + 1
        return is_own

    def decide(self, waiting: Sequence[str]) -> str | None:
        """Choose the job to submit next; None if the account is refused, as far as these can tell."""
        if self._has_bought and self._earlier.issuperset(waiting):
            self._once = dict.fromkeys(self._once, True)
            self._settle()
            return waiting[0]
        refused = [self._jobs[job_id] for job_id in self._in_a_row if job_id in self._jobs]
        others = [job_id for job_id in reversed(waiting) if job_id not in self._in_a_row]
        others.sort(key=self._once.__contains__)  # what was refused in an earlier call comes last
        n_unlike, job = most_unlike(refused, (self._jobs[job_id] for job_id in others))
        if job is not None and (self._decider is None or n_unlike > self._n_unlike(self._decider)):
            self._decider = job.job_id
            return job.job_id
        alone = next(iter(self._in_a_row))
        is_left = job is None and alone in waiting and self._in_a_row == {alone: 1}
        return alone if is_left else None

    def _settle(self) -> None:
        self._in_a_row.clear()
        self._decider = None

    def _n_unlike(self, job_id: str) -> int:
        """Return how much a refused job differs from the other refused ones."""
        others = [self._jobs[other] for other in self._in_a_row if other != job_id and other in self._jobs]
        return most_unlike(others, [self._jobs[job_id]])[0]


def most_unlike(refused: Iterable[Job], others: Iterable[Job]) -> tuple[int, Job | None]:
    """Find the job that shares least with refused ones; return how much it differs (0 to 2) and the job."""
    prompts, pictures = {job.prompt for job in refused}, {job.image.digest for job in refused}
    best: tuple[int, Job | None] = (-1, None)
    for job in others:
        n_unlike = (job.prompt not in prompts) + (job.image.digest not in pictures)
        if n_unlike > best[0]:
            best = n_unlike, job
        if n_unlike == _UNLIKE_MOST:
            break
    return best


def was_forbidden(attempt: Attempt | None) -> bool:
    """Return whether a create was refused with 403, and its row left pending."""
    return attempt is not None and attempt.stage is Stage.UNSENT and attempt.error_class == FORBIDDEN
