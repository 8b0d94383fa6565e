"""What a run shows while it goes."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import termios
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import pytest
import tqdm.std

import dreamo_batch as dreamo
from dreamo_batch import parallel
from dreamo_batch.display import progress
from dreamo_batch.display.progress import Bar, FailsafeProgress, LineProgress, LoggedProgress, postfix
from dreamo_batch.engine.status import Snapshot
from dreamo_batch.money import dollars


def snapshot(spent="0", cap=None, n_in_flight=0, n_again=0, **by_status) -> Snapshot:
    return Snapshot(
        by_status, Decimal(spent), Decimal(0), None if cap is None else Decimal(cap), n_in_flight, n_again
    )


def counts(out):
    """Return the rows settled, of how many, each time the bar was drawn."""
    return re.findall(r"\| (\d+/\d+)", out.getvalue())


def test_a_snapshot_counts():
    """Rows, rows that are settled, rows that failed."""
    made = snapshot(pending=1, submitting=2, in_progress=3, completed=4, failed=5, invalid=6, ambiguous=7)
    assert (made.n_rows, made.n_settled, made.n_failed) == (28, 22, 5)
    assert snapshot().n_failed == 0


def test_a_resumed_bar_starts_where_the_last_call_ended():
    """Rows settled earlier are its starting point, so that the time left is that of the rest."""
    out = io.StringIO()
    bar = Bar(snapshot(completed=6, pending=4), file=out)
    bar.update(snapshot("0.03", completed=7, failed=1, pending=2))
    bar.close()
    shown = counts(out)
    assert (shown[0], shown[-1]) == ("6/10", "8/10")
    assert "spent=$0.03, failed=1" in out.getvalue()


def test_a_narrow_terminal_cuts_the_pace_and_not_what_failed():
    """Money and failures matter more than rows a second, which stood before them."""
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (25, 61))
    with os.fdopen(terminal, "w") as stream:
        Bar(snapshot("0.0128", failed=12, completed=30, pending=2), file=stream).close()
    written = b""
    with suppress(OSError):  # the end, on Linux
        while part := os.read(screen, 65_536):
            written += part
    os.close(screen)
    shown = written.decode().rstrip("\r\n").split("\r")[-1]
    assert "42/44, spent=$0.0128, failed=12 [" in shown
    assert len(shown) <= 60


def test_a_row_submitted_again_takes_the_bar_back():
    """A failed row that is retried is not settled any more."""
    bar = Bar(snapshot(failed=2), file=(out := io.StringIO()))
    bar.update(snapshot(failed=1, in_progress=1))
    assert counts(out)[-1] == "1/2"
    bar.update(snapshot(failed=1, completed=1))
    bar.close()
    assert counts(out)[-1] == "2/2"


def test_a_bar_that_an_interrupt_left_half_made_is_no_matter_in_a_notebook(monkeypatch, capsys):
    """Whoever holds its traceback keeps it alive, and tqdm would draw it with every line that is said."""
    widgets = pytest.importorskip("tqdm.notebook").tqdm_notebook
    monkeypatch.setattr(progress, "bar_class", lambda: parallel._bar_class_of(widgets))
    monkeypatch.setattr(progress, "is_in_notebook", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(widgets, "status_printer", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt) as stopped:
            Bar(snapshot(pending=2))
    bar = Bar(snapshot(pending=2))
    bar.say("All is well.")
    bar.close()
    assert capsys.readouterr().out.splitlines()[-1] == "All is well."
    assert stopped.traceback


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_watched_bar_ticks_while_no_row_is_settled(clock):
    """What is in flight is shown at once, and again every second, long before the first picture comes."""
    out = Terminal()
    bar = Bar(snapshot(pending=2), clock=clock.monotonic, file=out)
    clock.advance(1)
    bar.update(snapshot(in_progress=2, n_in_flight=2))
    assert "in flight=2" in out.getvalue()
    n_written = len(out.getvalue())
    bar.update(snapshot("0.03", in_progress=2, n_in_flight=2))
    assert len(out.getvalue()) == n_written
    clock.advance(1)
    bar.update(snapshot("0.03", in_progress=2, n_in_flight=2))
    assert "spent=$0.03" in out.getvalue()
    bar.close()


def test_lines_go_above_the_bar_and_do_no_harm(capsys):
    """On standard error, with nothing in them that a terminal obeys."""
    bar = Bar(snapshot(pending=1), file=io.StringIO())
    bar.say("row \x1b[2Jx is ambiguous")
    bar.close()
    shown = capsys.readouterr()
    assert "is ambiguous" in shown.err
    assert "\x1b[2J" not in shown.err
    assert shown.out == ""


def test_silence_is_logged(caplog, clock):
    """Nothing on the terminal, the lines in the log: how far it is every 30 s, and at the end."""
    silent = LoggedProgress(clock=clock.monotonic)
    with caplog.at_level(logging.INFO):
        silent.update(snapshot(pending=3))
        silent.update(snapshot(pending=2, completed=1))
        silent.say("3 rows")
        silent.update(snapshot(completed=3))
        silent.close()
        silent.close()
    assert caplog.messages == [
        "0 of 3 rows settled, spent=$0.00, failed=0",
        "3 rows",
        "3 of 3 rows settled, spent=$0.00, failed=0",
    ]


def test_warnings_are_logged_as_such_only_where_nothing_shows_them(caplog, monkeypatch):
    """Without a bar a warning reaches whoever reads warnings; beside one it is a plain line of the log."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO):
        LoggedProgress().say("not shown", logging.WARNING)
        FailsafeProgress(snapshot()).say("shown", logging.WARNING)
    levels = {record.message: record.levelno for record in caplog.records}
    assert (levels["not shown"], levels["shown"]) == (logging.WARNING, logging.INFO)


def test_rows_that_wait_to_be_submitted_again_are_not_settled():
    """A failed row counts again once its new attempt has ended."""
    assert snapshot(failed=2, completed=8, n_again=2).n_settled == 8


def test_the_bar_of_a_retry_starts_at_0():
    """It counts the rows that are submitted again, not those that were settled long before."""
    bar = Bar(snapshot(failed=2, completed=8, n_again=2), n_before=8, file=(out := io.StringIO()))
    bar.update(snapshot(failed=1, completed=9))
    bar.close()
    shown = counts(out)
    assert (shown[0], shown[-1]) == ("0/2", "2/2")


def test_lines_are_dated_and_seldom(monkeypatch, clock):
    """One at the start, one every 30 s if anything changed, and at once when a row fails or is in doubt first."""
    monkeypatch.setattr(sys, "stderr", out := io.StringIO())
    lines = LineProgress(clock=clock.monotonic, now=lambda: datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC))
    for seen in (
        snapshot(pending=9),
        snapshot(pending=8, completed=1),
        snapshot(pending=7, completed=1, failed=1),
        snapshot(pending=6, completed=1, failed=2),
        snapshot(pending=5, completed=1, failed=2, ambiguous=1),
    ):
        lines.update(seen)
    clock.advance(29)
    lines.update(snapshot(pending=4, completed=2, failed=2, ambiguous=1))
    clock.advance(1)
    for _ in range(3):
        lines.update(snapshot(pending=3, completed=3, failed=2, ambiguous=1))
    lines.say("row \x1b[2Jx")
    lines.close()
    written = out.getvalue().splitlines()
    assert all(line.startswith("2026-03-01 12:30:05+0000 dreamo: ") for line in written)
    assert [line.partition("dreamo: ")[2].partition(",")[0] for line in written] == [
        "0 of 9 rows settled",
        "2 of 9 rows settled",
        "4 of 9 rows settled",
        "6 of 9 rows settled",
        "row \\x1b[2Jx",
    ]


class GoneAfter(Terminal):
    """A terminal that goes away after some writes."""

    def __init__(self, n_good: int) -> None:
        super().__init__()
        self.n_good = n_good

    def write(self, text: str) -> int:
        self.n_good -= 1
        if self.n_good < 0:
            raise OSError(5, "Input/output error")
        return len(text)


class InterruptedAfter(GoneAfter):
    """A terminal that is written to as somebody interrupts."""

    def write(self, text: str) -> int:
        self.n_good -= 1
        if self.n_good == -1:
            raise KeyboardInterrupt
        return len(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stream", [None, closed(), *map(GoneAfter, range(12))], ids=["none", "closed", *map(str, range(12))]
)
def test_a_standard_error_that_fails_fails_nothing(monkeypatch, caplog, stream):
    """Missing, closed or gone at any write: every call returns, and what could not be shown is in the log."""
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(sys, "stderr", stream)
        shown = FailsafeProgress(snapshot(pending=2))
        shown.update(snapshot(pending=1, completed=1))
        for _ in range(6):
            shown.say("row 1 is ambiguous", logging.WARNING)
        shown.update(snapshot(completed=2))
        shown.close()
        monkeypatch.undo()
    assert caplog.messages.count("row 1 is ambiguous") == 6
    assert "2 of 2 rows settled, spent=$0.00, failed=0" in caplog.messages


@pytest.mark.parametrize("terminal", [GoneAfter, InterruptedAfter])
@pytest.mark.parametrize("n_good", range(6))
def test_a_bar_that_fails_holds_no_lock(monkeypatch, n_good, terminal):
    """Other bars, tqdm's own thread and workers that log would wait for it for ever."""
    monkeypatch.setattr(sys, "stderr", stream := terminal(n_good))
    with suppress(KeyboardInterrupt):
        shown = FailsafeProgress(snapshot(pending=2))
        shown.update(snapshot(completed=2))
    stream.n_good = 100  # so that it can be closed
    got: list[bool] = []

    def take() -> None:
        got.append(parallel.bar_class().get_lock().acquire(timeout=10))
        parallel.bar_class().get_lock().release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert got == [True]


class Refusing:
    """A lock that is closed."""

    def acquire(self, *_args: object, **_options: object) -> bool:
        raise ValueError("closed")

    def release(self) -> None:
        raise ValueError("closed")

    __enter__ = acquire

    def __exit__(self, *_error: object) -> None:
        raise ValueError("closed")


class Held(Refusing):
    """A lock that somebody holds for ever."""

    def acquire(self, *_args: object, **_options: object) -> bool:
        threading.Event().wait()
        return False

    __enter__ = acquire


@pytest.mark.parametrize(
    "lock", [None, object(), Refusing(), Held()], ids=["none", "object", "closed", "held"]
)
def test_a_lock_of_tqdm_fails_and_hangs_nothing(monkeypatch, lock):
    """Whatever others did to it: a program may set it, lose it in a fork, or hold it for ever."""
    stream = GoneAfter(10_000)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(tqdm.std.tqdm, "_lock", lock, raising=False)

    def work() -> None:
        shown = FailsafeProgress(snapshot(pending=2))
        shown.say("row 1 is ambiguous")
        shown.update(snapshot(completed=2))
        shown.close()
        with parallel.ticking(3, "looking") as tick:
            tick()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert stream.n_good < 10_000


def test_a_log_that_fails_fails_nothing(monkeypatch):
    """As logging does with a closed standard error."""

    def fail(*_):
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("dreamo_batch.display.progress.logger.log", fail)
    monkeypatch.setattr("dreamo_batch.display.progress.logger.info", fail)
    monkeypatch.setattr(sys, "stderr", None)
    shown = FailsafeProgress(snapshot(pending=2))
    shown.say("3 rows")
    shown.close()


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("12", "$12.00"),
        ("12.50", "$12.50"),
        ("0.028571428", "$0.0286"),
        ("0.00001", "$0.00001"),
        ("0.0000234567", "$0.000023"),
        ("100", "$100.00"),
        ("1E+2", "$100.00"),
    ],
)
def test_dollars_are_readable(amount, text):
    """Cents, with four decimals below a dollar where they say more, two digits of what is smaller, and no exponent."""
    assert dollars(Decimal(amount)) == text


def test_the_postfix_tells_what_matters():
    """Money against the cap, failures, doubt and what is in flight, each only where there is any."""
    assert postfix(snapshot()) == "spent=$0.00, failed=0"
    assert postfix(snapshot("0.0286", "10.00", 3, failed=2, ambiguous=1)) == (
        "spent=$0.0286/$10.00, failed=2, ambiguous=1, in flight=3"
    )
    slowed = replace(snapshot(n_in_flight=3), n_refused=12, waited_s=94.0)
    assert postfix(slowed) == "spent=$0.00, failed=0, in flight=3, 429=12 (waited 1 min 34 s)"


# Bars of other long work.


class Broken(Terminal):
    def write(self, _):
        raise BrokenPipeError("nobody reads")


LONG = {
    "to_html": lambda done, folder: dreamo.gallery(done).to_html(folder / "g.html"),
    "contact sheet": lambda done, folder: dreamo.contact_sheet(done, folder / "s.png"),
    "grid sheet": lambda done, folder: dreamo.contact_sheet(done, folder / "s.png", rows=..., columns=...),
    "report": lambda done, folder: dreamo.report(done["run_dir"][0], folder / "r.html"),
    "export": lambda done, folder: dreamo.export(done, folder / "out"),
    "diversity": lambda done, _: dreamo.diversity(done),
    "verify": lambda done, _: dreamo.verify(done["run_dir"][0]),
    "fixing": lambda done, folder: dreamo.run(done, folder / "again", gateway="local", fix_images=True),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 2], size="512x512")
    return dreamo.run(jobs, tmp_path_factory.mktemp("bars") / "run", gateway="local", progress=False)


@pytest.fixture
def _at_once(monkeypatch, done):
    """Bars that don't wait a second, and no picture that is known already."""
    monkeypatch.setattr(parallel, "_DELAY_S", 0.0)
    for path in Path(done["run_dir"][0]).glob("picture-cache.*"):
        path.unlink()


@pytest.mark.no_cover
@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("name", LONG)
def test_long_work_has_a_bar_on_a_terminal(monkeypatch, done, tmp_path, name):
    """It says what goes on and ends whole."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    LONG[name](done, tmp_path)
    assert "100%" in terminal.getvalue()


@pytest.mark.no_cover
@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("name", [name for name in LONG if name != "fixing"])
@pytest.mark.parametrize("stream", ["missing", "broken", "closed", "file"])
def test_what_shows_long_work_never_fails_it(monkeypatch, done, tmp_path, name, stream):
    """Whatever standard error is; a file gets no bar."""
    streams = {"missing": None, "broken": Broken(), "closed": io.StringIO(), "file": io.StringIO()}
    streams["closed"].close()
    monkeypatch.setattr(sys, "stderr", streams[stream])
    LONG[name](done, tmp_path)
    assert not streams["file"].getvalue()


@pytest.mark.no_cover
@pytest.mark.usefixtures("_at_once")
def test_no_bar_is_shown_where_none_is_wanted(monkeypatch, done, tmp_path):
    """With progress=False, nor of work that is done within a second."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    dreamo.contact_sheet(done, tmp_path / "s.png", progress=False)
    dreamo.report(done["run_dir"][0], tmp_path / "r.html", progress=False)
    dreamo.export(done, tmp_path / "out", progress=False)
    dreamo.verify(done["run_dir"][0], progress=False)
    dreamo.gallery(done).to_html(progress=False)
    dreamo.run(done, tmp_path / "again", gateway="local", fix_images=True, progress=False)
    monkeypatch.setattr(parallel, "_DELAY_S", 60.0)
    dreamo.contact_sheet(done, tmp_path / "s.png")
    assert not terminal.getvalue()
