"""The requests as workers make them: one call, one answer as a value."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.engine.pictures import Saved
from dreamo_batch.engine.schedule import Do
from dreamo_batch.engine.sending import (
    IMAGE_CHANGED,
    CreateAnswer,
    Payloads,
    PollAnswer,
    ProbeAnswer,
    SaveAnswer,
    Sender,
)
from dreamo_batch.errors import RequestMayHaveArrived, RequestNotTaken, RequestRejected
from dreamo_batch.jobs.references import ImageSource
from dreamo_batch.service import failures
from dreamo_batch.service.config import Secret, Settings
from dreamo_batch.service.failures import Failure, FailureKind
from dreamo_batch.service.messages import Task
from dreamo_batch.service.transport import boottime
from tests.fakes import FakeClock, job, picture

KEY = ("a" * 32, 1)
AWAY = Failure(FailureKind.TRANSIENT, failures.UNREACHABLE, is_outage=True)


class ScriptedClient:
    """Answers every method with the same value, or raises it."""

    settings = Settings("http://127.0.0.1:9", Secret("sk-example-key"))

    def __init__(self, answer) -> None:
        self.answer = answer
        self.asked: list = []
        self.script: list = []

    def _say(self, *asked):
        self.asked.append(asked)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def create(self, request):
        return self._say("create", request)

    def fetch(self, task_id):
        self.answer = self.script.pop(0) if self.script else self.answer
        return self._say("fetch", task_id)

    def download(self, url, *, max_bytes):
        return self._say("download", url, max_bytes)

    def probe(self):
        return self._say("probe")


def sender(answer, run_dir) -> Sender:
    client = answer if isinstance(answer, ScriptedClient) else ScriptedClient(answer)
    return Sender(client, RunDirectory(run_dir))


def test_a_create_gives_the_task_id(tmp_path):
    """One request of the job as it is."""
    client = ScriptedClient("t1")
    made = sender(client, tmp_path)
    assert made.create(KEY, job(seed=9), boottime()) == CreateAnswer(KEY, "t1")
    ((_, request),) = client.asked
    assert (request.seed, request.prompt) == (9, "a cat called a")


@pytest.mark.parametrize("error", [RequestRejected, RequestNotTaken, RequestMayHaveArrived])
def test_a_failed_create_is_a_value(tmp_path, error):
    """What the client says of it goes on as it is."""
    assert sender(error(AWAY), tmp_path).create(KEY, job(), boottime()) == CreateAnswer(KEY, AWAY)


def test_an_answer_that_broke_behind_the_id_still_names_the_task(tmp_path):
    """An id that was read is an attempt that is known."""
    failure = Failure(FailureKind.MAY_HAVE_ARRIVED, failures.NO_ANSWER, task_id="t1")
    assert sender(RequestMayHaveArrived(failure), tmp_path).create(KEY, job(), boottime()) == CreateAnswer(
        KEY, "t1"
    )


NAMED = {"task_id": "t1", "is_task_in_doubt": True}
REFUSED = Failure(FailureKind.PERMANENT, failures.REJECTED, 400, message="bad prompt", **NAMED)
LIMITED = Failure(FailureKind.TRANSIENT, failures.RATE_LIMITED, 429, message="slow down", **NAMED)
NO_KEY = Failure(FailureKind.STOP, failures.ACCESS_REFUSED, 401, **NAMED)
NO_CREDIT = Failure(FailureKind.STOP, failures.NO_CREDIT, 402, **NAMED)
BROKEN = Failure(FailureKind.MAY_HAVE_ARRIVED, failures.SERVER_ERROR, 500, message="boom", **NAMED)
UNKNOWN = Failure(FailureKind.PERMANENT, failures.TASK_NOT_FOUND, message="not found")
HELD = FailureKind.MAY_HAVE_ARRIVED


@pytest.mark.parametrize(
    ("refused", "polled", "outcome"),
    [
        (REFUSED, [Task("t1", "in_progress")], None),
        (REFUSED, [UNKNOWN] * 6, FailureKind.PERMANENT),
        (REFUSED, [UNKNOWN] * 5 + [Task("t1", "in_progress")], None),
        (LIMITED, [UNKNOWN] * 6, FailureKind.TRANSIENT),
        (LIMITED, [UNKNOWN] * 3 + [Task("t1", "in_progress")], None),
        (BROKEN, [UNKNOWN] * 6, HELD),
        (BROKEN, [UNKNOWN] * 2 + [Task("t1", "in_progress")], None),
        (BROKEN, [AWAY], HELD),
        (REFUSED, [NO_CREDIT], HELD),
        (REFUSED, [AWAY], HELD),
        (REFUSED, [LIMITED, Task("t1", "in_progress")], None),
        (NO_CREDIT, [NO_CREDIT], HELD),
        (NO_KEY, [NO_KEY], FailureKind.STOP),
        (LIMITED, [NO_KEY], HELD),
        (LIMITED, [LIMITED] * 3 + [Task("t1", "in_progress")], None),
        (LIMITED, [LIMITED] * 3 + [UNKNOWN] * 3, FailureKind.TRANSIENT),
        (LIMITED, [replace(LIMITED, retry_after_s=60.0), UNKNOWN], FailureKind.TRANSIENT),
        (LIMITED, [replace(LIMITED, retry_after_s=100.0)], HELD),
        (LIMITED, [LIMITED] * 7, HELD),
    ],
)
def test_a_task_that_an_error_names_is_asked_for_first(tmp_path, monkeypatch, refused, polled, outcome):
    """What is named may be the request alone, or a task that will be billed; a limit says neither.

    Nor does "not found" within half a minute: the task may be too new for the server that was asked.
    """
    clock = FakeClock()
    monkeypatch.setattr("dreamo_batch.engine.sending.time", SimpleNamespace(monotonic=clock.monotonic))
    client = ScriptedClient(RequestNotTaken(refused))
    made = Sender(client, RunDirectory(tmp_path))
    made.is_halted = SimpleNamespace(wait=clock.advance)
    noted = []
    made.note = lambda key, failure: noted.append((key, failure.task_id, len(client.asked))) or True
    client.script = [RequestNotTaken(one) if isinstance(one, Failure) else one for one in polled]
    answer = made.create(KEY, job(), boottime())
    assert answer.named is (polled[-1] if outcome is None else None)
    assert answer.result is refused if outcome is None else answer.result.kind is outcome
    assert made.taken == {}
    assert client.asked[1:] == [("fetch", "t1")] * len(polled)
    assert noted == [(KEY, "t1", 1)]
    assert outcome is not HELD or "it names task t1" in answer.result.message


@pytest.mark.parametrize("can_note", [True, False])
def test_a_call_that_is_halted_or_can_record_nothing_holds_the_id(tmp_path, can_note):
    """The process waits for answers half a minute only, and then would not know the id."""
    client = ScriptedClient(RequestNotTaken(LIMITED))
    made = Sender(client, RunDirectory(tmp_path))
    client.script = [RequestNotTaken(LIMITED)] * can_note
    made.note = lambda _key, _failure: can_note
    made.is_halted.set()
    result = made.create(KEY, job(), boottime()).result
    assert result.kind is HELD
    assert "it names task t1" in result.message


def test_ids_of_requests_are_not_waited_for_again_and_again(tmp_path, monkeypatch):
    """Once two of a kind of refusal were no tasks; not where one was, or where it isn't clear that it is a refusal."""
    clock, asked = FakeClock(), []
    monkeypatch.setattr("dreamo_batch.engine.sending.time", SimpleNamespace(monotonic=clock.monotonic))
    client = ScriptedClient(UNKNOWN)
    made = Sender(client, RunDirectory(tmp_path))
    made.is_halted = SimpleNamespace(wait=clock.advance)
    found = Task("t1", "in_progress")
    script = [(one, None) for one in (NO_CREDIT, REFUSED, BROKEN) for _ in range(3)]
    for refused, task in (*script, (NO_CREDIT, found), (NO_CREDIT, None)):
        answers = [RequestNotTaken(UNKNOWN)] * 6 if task is None else [task]
        client.answer, client.script, client.asked = RequestNotTaken(refused), answers, []
        made.create(KEY, job(), boottime())
        asked.append(len(client.asked) - 1)
    assert asked == [6, 6, 1, 6, 6, 1, 6, 6, 6, 1, 6]


def test_what_nobody_foresaw_may_have_arrived(tmp_path, caplog):
    """An exception out of nowhere says nothing of whether the attempt was taken."""
    with caplog.at_level(logging.ERROR):
        answer = sender(RuntimeError("boom"), tmp_path).create(KEY, job(), boottime())
    assert answer.result.kind is FailureKind.MAY_HAVE_ARRIVED
    assert "failed unexpectedly" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), ValueError("null byte")])
def test_a_request_that_can_not_be_built_is_not_sent(tmp_path, monkeypatch, error):
    """Whatever went wrong before anything was sent, the row fails; nothing is in doubt."""
    client = ScriptedClient("t1")
    made = sender(client, tmp_path)
    monkeypatch.setattr(Payloads, "request", Mock(side_effect=error))
    failure = made.create(KEY, job(), boottime()).result
    assert (failure.kind, failure.error_class) == (FailureKind.PERMANENT, failures.NOT_BUILT)
    assert type(error).__name__ in failure.message
    assert client.asked == []


@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_reference_that_is_not_the_one_planned_sends_nothing(tmp_path, is_reachable):
    """Changed or gone, the row fails with its own class, and no request is made."""
    path = tmp_path / "cat.png"
    if is_reachable:
        path.write_bytes(b"another")
    image = ImageSource("file", str(path), "00", str(path), hashlib.sha256(b"planned").hexdigest())
    client = ScriptedClient("t1")
    made = sender(client, tmp_path)
    failure = made.create(KEY, job(image=image), boottime()).result
    assert (failure.kind, failure.error_class, failure.http_status) == (
        FailureKind.PERMANENT,
        IMAGE_CHANGED,
        None,
    )
    assert "cat.png" in failure.message
    assert client.asked == []


def test_a_reference_of_an_impossible_name_sends_nothing(tmp_path):
    """The system refuses a name with a null byte in words of its own."""
    image = ImageSource("file", "a\0b.png", "00", "a\0b.png", "00")
    client = ScriptedClient("t1")
    made = sender(client, tmp_path)
    assert made.create(KEY, job(image=image), boottime()).result.error_class == failures.NOT_BUILT
    assert client.asked == []


@pytest.mark.parametrize("do", [Do.POLL, Do.REFRESH])
def test_a_poll_gives_the_task_or_why_not(tmp_path, do):
    """Asked for its id, whatever for."""
    task = Task("t1", "in_progress")
    client = ScriptedClient(task)
    made = sender(client, tmp_path)
    assert made.fetch(do, KEY, "t1") == PollAnswer(do, KEY, task)
    assert client.asked == [("fetch", "t1")]
    assert sender(RequestNotTaken(AWAY), tmp_path).fetch(do, KEY, "t1") == PollAnswer(do, KEY, AWAY)


def test_a_picture_is_fetched_and_put_on_disk(tmp_path):
    """Under the job's id, with a ceiling on its size."""
    content = picture()
    client = ScriptedClient(content)
    made = sender(client, tmp_path)
    answer = made.save(KEY, ["https://h/a"], name=KEY[0])
    assert answer == SaveAnswer(
        KEY, Saved(f"images/{KEY[0]}.png", hashlib.sha256(content).hexdigest(), len(content), 8, 4)
    )
    assert client.asked[0][1] == "https://h/a"
    assert client.asked[0][2] <= 64 * 1024 * 1024


class Links:
    """Gives each link's answers one after the other, the last one for ever."""

    settings = Settings("http://127.0.0.1:9", None)

    def __init__(self, **answers) -> None:
        self.answers = {name: list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    def download(self, url, *, max_bytes):
        assert max_bytes
        name = url.rpartition("/")[2]
        self.asked.append(name)
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_every_picture_of_a_task_is_kept(tmp_path):
    """The first under the job's id, further ones under the same with a number, and the row is told where."""
    client = Links(a=[picture()], b=[picture("JPEG")], c=[b"<html>"])
    answer = Sender(client, RunDirectory(tmp_path)).save(
        KEY, ["https://h/a", "https://h/b", "https://h/c"], name=KEY[0]
    )
    assert answer.result.path == f"images/{KEY[0]}.png"
    assert (
        f"the task made 3 pictures; further ones: images/{KEY[0]}-2.jpg, picture 3 could not"
        in answer.result.warning
    )
    assert (tmp_path / f"images/{KEY[0]}-2.jpg").read_bytes() == picture("JPEG")


def test_a_picture_that_has_not_the_size_told_is_fetched_once_more(tmp_path):
    """What comes right then is as good as any; what stays wrong is kept with a warning."""
    right, wrong = picture(), picture(size=(9, 4))
    client = Links(a=[wrong, right])
    assert (
        Sender(client, RunDirectory(tmp_path))
        .save(KEY, ["https://h/a"], name=KEY[0], stated_bytes=len(right))
        .result.warning
        is None
    )
    assert client.asked == ["a", "a"]
    kept = (
        Sender(Links(a=[wrong]), RunDirectory(tmp_path))
        .save(KEY, ["https://h/a"], name=KEY[0], stated_bytes=len(wrong) + 1)
        .result
    )
    assert kept.n_bytes == len(wrong)
    assert kept.warning == f"the picture has {len(wrong)} bytes; the service stated {len(wrong) + 1}"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"<html>busy</html>", "expected a whole JPEG, PNG or WEBP file"),
        (RequestNotTaken(AWAY), "unreachable"),
    ],
)
def test_a_picture_that_did_not_come_is_reported(tmp_path, answer, text):
    """A placeholder or a failure leaves nothing on disk and says why."""
    assert text in sender(answer, tmp_path).save(KEY, ["https://h/a"], name=KEY[0]).result
    assert not (tmp_path / "images").exists()


def test_what_came_instead_of_a_picture_does_not_show_the_key(tmp_path):
    """Its beginning is quoted."""
    told = sender(b"invalid key sk-example-key", tmp_path).save(KEY, ["https://h/a"], name=KEY[0]).result
    assert "invalid key ***" in told


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_repeats_the_key_is_kept_without(tmp_path, kind):
    """A service may note the request in the metadata; what was paid for still opens, and looks the same."""
    picture, made, noted = Image.new("RGB", (64, 48), (20, 90, 200)), io.BytesIO(), PngInfo()
    noted.add_text("request", "Bearer sk-example-key")
    noted.add_text("zipped", "Bearer sk-example-key", zip=True)
    noted.add_itxt("wide", "\N{FOX FACE} Bearer sk-example-key", "en", zip=True)
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "Bearer sk-example-key"
    wide = [
        f"Bearer sk-example-key{after}".encode(f"utf-16-{order}")
        for order in ("le", "be")
        for after in ("", "!")
    ]
    exif[ExifTags.Base.UserComment] = b"UNICODE\0" + b"\0\0".join(wide)
    picture.save(made, kind, exif=exif, pnginfo=noted)
    assert b"sk-example-key" in made.getvalue()
    saved = sender(made.getvalue(), tmp_path).save(KEY, ["https://h/a"], name=KEY[0]).result
    with Image.open(tmp_path / saved.path) as opened, Image.open(made) as sent:
        assert opened.convert("RGB").tobytes() == sent.convert("RGB").tobytes()
        texts = dict(getattr(opened, "text", {}))
    expected = dict.fromkeys(("request", "zipped"), f"Bearer {'*' * 14}") | {
        "wide": f"\N{FOX FACE} Bearer {'*' * 14}"
    }
    assert texts == (expected if kind == "PNG" else {})
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not re.search(rb"s\0?k\0?-\0?e\0?x\0?a", stored)


def test_no_link_is_no_request(tmp_path):
    """A completed task without an address can't be fetched."""
    client = ScriptedClient(b"")
    made = sender(client, tmp_path)
    assert made.save(KEY, [], name=KEY[0]).result == "the service gave no link to the picture"
    assert client.asked == []


def test_a_disk_that_takes_no_picture_is_not_the_services_fault(tmp_path):
    """It concerns the whole run, so it is raised and not told of one picture."""
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="images"):
        sender(picture(), tmp_path).save(KEY, ["https://h/a"], name=KEY[0])


@pytest.mark.parametrize(
    ("answer", "is_reachable"),
    [
        (None, True),
        (RequestNotTaken(AWAY), False),
        (RequestRejected(Failure(FailureKind.PERMANENT, failures.REJECTED, 404)), True),
    ],
)
def test_a_probe_tells_whether_anybody_answers(tmp_path, answer, is_reachable):
    """Any answer at all means that the service is there."""
    assert sender(answer, tmp_path).probe() == ProbeAnswer(is_reachable, answer and answer.failure)
