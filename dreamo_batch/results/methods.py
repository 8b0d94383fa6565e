"""How pictures were made: counts, and the paragraph for a methods section, for the report and for exports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.engine.checkpoint import references_of
from dreamo_batch.frames import PALETTE
from dreamo_batch.money import dollars
from dreamo_batch.service import contract
from dreamo_batch.text import counted, joined, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    import pandas as pd

    from dreamo_batch.engine.directory import Manifest

UNKNOWN: Final = "unknown"
LOOPBACK: Final = "loopback"  # the service of a gateway on the same machine
_SIZES_MAX: Final = 6
_WORDS_MAX: Final = 40
_ENDED: Final = (columns.COMPLETED, columns.FAILED)


@dataclass(frozen=True, slots=True)
class Methods:
    """What went into the distinct jobs of a run, and what came of them."""

    model: str
    service: str
    run_version: str
    n_jobs: int
    n_prompts: int
    n_references: int
    n_seeds: int
    n_rephrased: int
    sizes: Mapping[str, int]
    outcomes: Mapping[str, int]
    sample: Mapping[str, int]

    @classmethod
    def of(
        cls, jobs: pd.DataFrame, statuses: pd.Series[str], manifest: Manifest | None, version: str
    ) -> Methods:
        """Count distinct jobs, as they were decided, and how they stand."""
        counts = statuses.value_counts()
        return cls(
            model=" and ".join(jobs[columns.MODEL].dropna().unique()) or contract.MODEL,
            service=manifest.service if manifest else UNKNOWN,
            run_version=(manifest and manifest.package_version) or version,
            n_jobs=len(jobs),
            n_prompts=jobs[columns.PROMPT].nunique(),
            n_references=references_of(jobs)[columns.IMAGE_DIGEST].nunique(),
            n_seeds=jobs[columns.SEED_SENT].nunique(),
            n_rephrased=int(jobs[columns.USE_REPHRASER].sum()),
            sizes=columns.sizes(jobs).value_counts().to_dict(),
            outcomes={status: int(n) for status in columns.STATUSES if (n := counts.get(status))},
            sample=manifest.sample if manifest else {},
        )

    def paragraph(
        self,
        sent: pd.Series[pd.Timestamp],
        spent: Decimal | None,
        *,
        n_drawn: int = 0,
        n_rows: int | None = None,
    ) -> str:
        """Say it in a paragraph; `n_drawn` of `n_rows` left their seed open."""
        if not self.n_jobs:
            return "No images were submitted."
        which = "all" if n_drawn == n_rows else f"{n_drawn:,} of the rows' seeds"
        drawn = f" ({which} drawn before sending and recorded)" if n_drawn else ""
        seeds = f" with {counted(self.n_seeds, 'seed')}{drawn}"
        rephrased = {0: "off", self.n_jobs: "on"}.get(
            self.n_rephrased,
            f"on for {self.n_rephrased:,} of the {self.n_jobs:,} jobs and off for the others",
        )
        outcomes = [
            f"{n:,} {'' if status in _ENDED else 'remained '}{PALETTE[status].word}"
            for status, n in self.outcomes.items()
        ]
        return (
            f"Images were requested from the image-to-image model {self.model} through {self._service()}, with "
            f"dreamo-batch {one_line(self.run_version, _WORDS_MAX)}{_dates(sent)}. The "
            f"{counted(self.n_jobs, 'distinct job')} combined {counted(self.n_references, 'reference image')} and "
            f"{counted(self.n_prompts, 'prompt')}{seeds if self.n_seeds else ', with seeds drawn by the service'}, at "
            f"{self._sizes()}{self._sampled()}. Prompt rewriting by the service (use_rephraser) was {rephrased}. Of "
            f"the {counted(self.n_jobs, 'job')}, {joined(outcomes)}, at a known cost of "
            f"{UNKNOWN if spent is None else dollars(spent)}."
        )

    def _service(self) -> str:
        if self.service == LOOPBACK:
            return (
                "a gateway on this machine (the one that comes with dreamo-batch draws previews, not the model's "
                "pictures)"
            )
        return f"the service at {one_line(self.service, _WORDS_MAX)}"

    def _sampled(self) -> str:
        """Say how `sweep` chose the rows, so that anyone can choose them again."""
        drawn = ", an even sample of {rows:,} of all {of:,} combinations (entropy {entropy})"
        return drawn.format(**self.sample) if self.sample else ""

    def _sizes(self) -> str:
        shown = [f"{size} ({n:,})" for size, n in list(self.sizes.items())[:_SIZES_MAX]]
        more = len(self.sizes) - len(shown)
        named = joined(shown if len(self.sizes) > 1 else list(self.sizes))
        others = f" and {counted(more, 'other size')}" if more else ""
        return f"{named} pixels{others}"


def _dates(sent: pd.Series[pd.Timestamp]) -> str:
    days = sent.dropna().dt.date
    if days.empty:
        return ""
    first, last = days.min(), days.max()
    return f" on {first} (UTC)" if first == last else f" between {first} and {last} (UTC)"
