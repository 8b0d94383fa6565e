"""A task of the gateway: what was ordered, what becomes of it, and what its state is at a given time.

Examples
--------
>>> import dataclasses
>>> task = Task("c0", "d" * 64, "a fox", 1, 512, 512, True, "e" * 64, 1, 0.0, 0.0, due_at=3.0, price="0.01")
>>> task.state(now=1.0), task.cost(now=1.0), round(task.progress(now=1.0), 2)
('in_progress', '', 0.33)
>>> finished = dataclasses.replace(task, picture="f.jpg")
>>> finished.state(now=3.0), finished.cost(now=3.0)
('completed', '0.01')
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from typing import Literal

from dreamo_batch.service import parameters

State = Literal["in_progress", "completed", "failed"]
IN_PROGRESS: State = "in_progress"
COMPLETED: State = "completed"
FAILED: State = "failed"

# What is going to become of a task, settled when it is accepted.
Fate = Literal["normal", "stuck", "forgotten", "completed_with_error"]
PROGRESS_MOST = 0.99


@dataclass(frozen=True, slots=True)
class Task:
    """One accepted order.

    Attributes
    ----------
    task_id : str
        As the service writes it: 20 characters of 0-9a-v.
    digest : str
        What was ordered, see `request_digest`.
    prompt, seed, width, height, use_rephraser
        As they were ordered; sizes in pixels, seed -1 for a random one.
    image : str
        SHA-256 of the reference's bytes, or of its URL's text.
    seed_drawn : int
        The seed the picture is made with.
    accepted_at, starts_at, due_at : float
        Unix seconds: when it was ordered, got its slot, and ends.
    price : str
        USD that it costs once completed, exact decimal text.
    failed_price : str
        USD that it costs if it fails; empty for nothing.
    fate : {"normal", "stuck", "forgotten", "completed_with_error"}
        What becomes of it.
    image_url : str or None
        Where the reference is to be fetched.
    error_code, error_message : str or None
        Why it fails, if it does.
    picture, media_type, picture_start, picture_bytes
        The finished picture: name in links, type, where it begins and its size in bytes; None until it exists.

    Examples
    --------
    >>> Task("c0", "d" * 64, "a fox", -1, 512, 512, True, "e" * 64, 7, 0.0, 0.0, 3.0, "0.01").fate
    'normal'
    """

    task_id: str
    digest: str
    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    image: str
    seed_drawn: int
    accepted_at: float
    starts_at: float
    due_at: float
    price: str
    failed_price: str = ""
    fate: Fate = "normal"
    image_url: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    picture: str | None = None
    media_type: str | None = None
    picture_start: int | None = None
    picture_bytes: int | None = None

    @property
    def needs_picture(self) -> bool:
        """Whether a picture is still to be made before the task can end."""
        return self.picture is None and self.error_message is None and self.fate != "stuck"

    def state(self, now: float) -> State:
        """Give the state at a time: never completed before the picture exists.

        Parameters
        ----------
        now : float
            Unix seconds.

        Returns
        -------
        {"in_progress", "completed", "failed"}
        """
        if self.fate == "stuck" or now < self.due_at:
            return IN_PROGRESS
        if self.error_message is not None:
            return FAILED
        return IN_PROGRESS if self.picture is None else COMPLETED

    def cost(self, now: float) -> str:
        """Give what the task has cost so far.

        Parameters
        ----------
        now : float
            Unix seconds.

        Returns
        -------
        str
            USD as exact decimal text, empty for nothing.
        """
        return {IN_PROGRESS: "", FAILED: self.failed_price, COMPLETED: self.price}[self.state(now)]

    def progress(self, now: float) -> float:
        """Give the share done as the clock has it, below 1 until the end.

        Parameters
        ----------
        now : float
            Unix seconds.

        Returns
        -------
        float
            0 to 0.99.
        """
        duration_s = self.due_at - self.starts_at
        share = (now - self.starts_at) / duration_s if duration_s > 0 else PROGRESS_MOST
        return min(max(share, 0.0), PROGRESS_MOST)


def request_digest(
    *, prompt: str, seed: int, width: int, height: int, use_rephraser: bool, image: str
) -> str:
    """Name an order by what it asks for, so that a test can tell two equal ones.

    Parameters
    ----------
    prompt : str
        What is drawn.
    seed : int
        As sent, -1 included.
    width, height : int
        Size in pixels.
    use_rephraser : bool
        As sent, or its default.
    image : str
        SHA-256, as 64 hex digits, of the reference's bytes (decoded) or of its URL's UTF-8 text.

    Returns
    -------
    str
        SHA-256 as 64 hex digits, over the canonical JSON of these six and the model.

    Examples
    --------
    >>> order = {"prompt": "a fox", "seed": 1, "width": 512, "height": 512, "use_rephraser": True}
    >>> request_digest(**order, image="e" * 64) == request_digest(**order, image="f" * 64)
    False
    """
    description = {
        "model": parameters.MODEL,
        "prompt": prompt,
        "seed": seed,
        "width": width,
        "height": height,
        "use_rephraser": use_rephraser,
        "image": image,
    }
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class TaskIds:
    """Makes ids like the service's: an xid, that is time, machine, process and a counter, in base 32.

    Examples
    --------
    >>> ids = TaskIds()
    >>> first, second = ids.make(now=1_700_000_000.5), ids.make(now=1_700_000_000.5)
    >>> len(first), first < second, first[:6]
    (20, True, 'cl9v20')
    """

    def __init__(self) -> None:
        self._maker = os.urandom(5)
        # Starts low enough that ids of one gateway sort by time for the first eight million.
        self._numbers = itertools.count(int.from_bytes(os.urandom(3)) // 2)

    def make(self, now: float) -> str:
        """Make the id of a task.

        Parameters
        ----------
        now : float
            Unix seconds of its creation, which the id begins with.

        Returns
        -------
        str
            20 characters of 0-9a-v.
        """
        number = next(self._numbers) % 2**24
        raw = int(now).to_bytes(4) + self._maker + number.to_bytes(3)
        return base64.b32hexencode(raw)[:20].decode().lower()
