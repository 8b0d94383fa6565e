"""The gateway's memory: every accepted task in one SQLite file, there before its answer is sent.

Examples
--------
>>> from dreamo_batch.local.tasks import Task
>>> store = Store(":memory:")
>>> store.add(Task("c0", "d" * 64, "a fox", -1, 512, 512, True, "e" * 64, 7, 0.0, 0.0, 3.0, "0.01"))
>>> store.get("c0").price, store.get("c1")
('0.01', None)
>>> store.close()
"""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from dreamo_batch.local.tasks import Task

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = 1
_UNMADE = "picture IS NULL AND error_message IS NULL AND fate != 'stuck'"
_COLUMNS = tuple(field.name for field in dataclasses.fields(Task))
_TABLE = ", ".join(_COLUMNS) + ", PRIMARY KEY (task_id), UNIQUE (picture)"
_CREATE = f"CREATE TABLE IF NOT EXISTS tasks ({_TABLE})"
_SWITCH = _COLUMNS.index("use_rephraser")  # SQLite has no booleans
_ADD = f"INSERT INTO tasks VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - only our own names
_READ = f"SELECT {', '.join(_COLUMNS)} FROM tasks "  # noqa: S608 - only our own names


class Store:
    """Tasks on disk, safe to use from several threads.

    Every change is committed before the call returns. It is handed to the operating system and not synced:
    the process may be killed at any moment and nothing is lost; a power cut is not survived, and need not be.

    Parameters
    ----------
    path : Path or str
        The SQLite file; made if there is none.

    Raises
    ------
    RuntimeError
        If the file was written by another version of the gateway.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def add(self, task: Task) -> None:
        """Keep a new task.

        Parameters
        ----------
        task : Task
            Its id must not be there yet.
        """
        self._run(_ADD, [getattr(task, name) for name in _COLUMNS])

    def get(self, task_id: str) -> Task | None:
        """Give a task by its id, or None.

        Parameters
        ----------
        task_id : str
            Whatever a client asked for.

        Returns
        -------
        Task or None
        """
        return self._one("WHERE task_id = ?", task_id)

    def by_picture(self, picture: str) -> Task | None:
        """Give the task whose picture has this name, or None.

        Parameters
        ----------
        picture : str
            Whatever a client asked for.

        Returns
        -------
        Task or None
        """
        return self._one("WHERE picture = ?", picture)

    def all(self) -> list[Task]:
        """Give every task in the order of acceptance.

        Returns
        -------
        list of Task
        """
        return [_task(row) for row in self._run(f"{_READ} ORDER BY rowid")]

    def unfinished(self, now: float) -> list[Task]:
        """Give the tasks that a gateway has to take up when it starts.

        Parameters
        ----------
        now : float
            Unix seconds.

        Returns
        -------
        list of Task
            Those still running, and those whose picture is not made.
        """
        rows = self._run(f"{_READ} WHERE due_at > ? OR ({_UNMADE}) ORDER BY rowid", [now])
        return [_task(row) for row in rows]

    def overdue(self, now: float) -> list[str]:
        """Give the ids of tasks that are due and still wait for their picture.

        Parameters
        ----------
        now : float
            Unix seconds.

        Returns
        -------
        list of str
        """
        rows = self._run(f"SELECT task_id FROM tasks WHERE due_at <= ? AND {_UNMADE}", [now])  # noqa: S608 - ours
        return [task_id for (task_id,) in rows]

    def develop(self, task_id: str, *, picture: str, media_type: str, start: int, n_bytes: int) -> None:
        """Keep that a task's picture exists.

        Parameters
        ----------
        task_id : str
            The task.
        picture : str
            Its name in links.
        media_type : str
            Such as ``image/jpeg``.
        start, n_bytes : int
            Where it begins, and its size.
        """
        change = "UPDATE tasks SET picture = ?, media_type = ?, picture_start = ?, picture_bytes = ? WHERE task_id = ?"
        self._run(change, [picture, media_type, start, n_bytes, task_id])

    def fail(self, task_id: str, code: str, message: str) -> None:
        """Keep that no picture could be made.

        Parameters
        ----------
        task_id : str
            The task.
        code, message : str
            What its clients are told.
        """
        self._run(
            "UPDATE tasks SET error_code = ?, error_message = ? WHERE task_id = ?", [code, message, task_id]
        )

    def close(self) -> None:
        """Let go of the file; later calls raise `sqlite3.ProgrammingError`."""
        with self._lock:
            self._connection.close()

    def _prepare(self, path: Path | str) -> None:
        (layout,) = self._run("PRAGMA user_version")[0]
        if layout not in (0, LAYOUT):
            raise RuntimeError(
                f"The gateway's state in {path} has layout {layout}, and this version reads {LAYOUT}. "
                "Use the version that wrote it, or another state directory."
            )
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", _CREATE):
            self._run(statement)
        self._run(f"PRAGMA user_version = {LAYOUT}")

    def _one(self, condition: str, value: str) -> Task | None:
        rows = self._run(_READ + condition, [value])
        return _task(rows[0]) if rows else None

    def _run(self, statement: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, values or []).fetchall()


def _task(row: tuple[Any, ...]) -> Task:
    values = list(row)
    values[_SWITCH] = bool(row[_SWITCH])
    return Task(*values)
