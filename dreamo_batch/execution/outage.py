"""Whether the service is there: a circuit breaker with a probe. Pure.

``open`` requests flow. ``down`` only a probe (a GET) is sent, ever more rarely. ``trial`` after an outage,
questions flow, and once one is answered a single create; if that is lost too, the service is taken as down again,
so that an outage of creates alone leaves only a handful of rows unresolved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from dreamo_batch.execution.pacing import BackOff

_FAILURES_IN_A_ROW: Final = 3
_TRIALS: Final = 5
_PROBES_IN_VAIN: Final = 3

Mood = Literal["open", "down", "trial"]


class Outage:
    """Follows answers and failures, and says what may be sent.

    Parameters
    ----------
    back_off : BackOff
        Spaces the probes.
    patience_s : float
        How long the service may stay away before the run gives up.

    Examples
    --------
    >>> import random
    >>> from dreamo_batch.execution.pacing import BackOff
    >>> outage = Outage(BackOff(random.Random(0), first_s=0.2, cap_s=30), patience_s=900)
    >>> outage.failed(now=10.0, is_create=True)
    >>> outage.mood
    'down'
    >>> outage.probed(now=11.0, is_there=True)
    >>> outage.mood
    'trial'
    >>> outage.tried()
    >>> outage.answered(is_create=True)
    >>> outage.mood
    'open'
    """

    def __init__(self, back_off: BackOff, *, patience_s: float) -> None:
        self.mood: Mood = "open"
        self.since: float | None = None
        self.probe_at: float | None = None
        self.n_failed_probes = 0
        self._back_off = back_off
        self._patience_s = patience_s
        self._n_in_a_row = 0
        self._n_failed_trials = 0
        self._needs_trial = False
        self._is_tried = False
        self._away_since: float | None = None
        self.is_lasting = False
        self.has_answered = True
        self.has_ever_answered = False

    def tried(self) -> None:
        """Take in that a create is sent: in a trial, the one that decides."""
        self._is_tried = True

    def failed(self, now: float, *, is_create: bool) -> None:
        """Take in a failure that tells of the service being away: one create, or three others in a row."""
        if self.mood == "trial" and is_create:
            if not self._is_tried:  # sent before the service came back, and lost then: old news
                return
            self._n_failed_trials += 1
        self._n_in_a_row += 1
        if self.mood != "down" and (is_create or self._n_in_a_row >= _FAILURES_IN_A_ROW):
            self._needs_trial = is_create or self.mood == "trial"
            self._go_down(now)

    def answered(self, *, is_create: bool = False) -> None:
        """Take in any answer of the service; an answered create ends a trial."""
        self._n_in_a_row = 0
        self.has_ever_answered = True
        self.has_answered = self.has_answered or self.mood != "down"
        if is_create and self.mood == "trial":
            self._recover()

    def probed(self, now: float, *, is_there: bool) -> None:
        """Take in the answer of a probe."""
        if not is_there:
            self.n_failed_probes += 1
            self.is_lasting = True
            self.probe_at = now + self._back_off.next()
            return
        self.has_ever_answered = True
        if self._needs_trial:
            self.mood, self.since, self.probe_at, self.n_failed_probes = "trial", None, None, 0
            self._is_tried = False
            self._n_in_a_row = 0
        else:
            self._recover()

    def is_hopeless(self, now: float) -> bool:
        """Whether the service stayed away too long, or loses every create that it is given."""
        is_too_long = self._away_since is not None and now - self._away_since > self._patience_s
        return (is_too_long and self.mood == "down") or self._n_failed_trials >= _TRIALS

    @property
    def is_unmet(self) -> bool:
        """Whether nothing was ever answered, though several probes were sent."""
        return not self.has_ever_answered and self.n_failed_probes >= _PROBES_IN_VAIN

    @property
    def is_losing_creates(self) -> bool:
        """Whether it is creates that get lost while everything else is answered."""
        return self._n_failed_trials >= _TRIALS

    def _go_down(self, now: float) -> None:
        self.is_lasting = self.is_lasting or self.mood == "trial"
        self.mood = "down"
        self.has_answered = False
        self.since = now
        self._away_since = now if self._away_since is None else self._away_since
        self.probe_at = now + self._back_off.next()

    def _recover(self) -> None:
        self.mood, self.since, self.probe_at, self.n_failed_probes = "open", None, None, 0
        self._n_failed_trials = 0
        self._needs_trial = self.is_lasting = False
        self._away_since, self.has_answered = None, True
        self._back_off.reset()
