"""`check_service`: the local gateway keeps the contract, and a service that does not is told so, check by check."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext

import pytest

import dreamo_batch as dreamo
from dreamo_batch import probe
from dreamo_batch.service import contract
from tests.cli_sweep import ELSEWHERE, at, call, signals_kept
from tests.fakes import picture
from tests.scripted_server import Received, ScriptedServer, answer, read_request

PRICE = "0.0286"
ONE = (contract.MODEL,)
KEY = "sk-a-key-that-nobody-may-see"
OF_ENDED_TASKS = {
    "answers_in_the_documented_form",
    "reports_what_a_task_cost",
    "serves_the_picture",
    "knows_an_ended_task_again",
}

_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture
def gateway():
    with dreamo.LocalGateway(engine="flat", price=PRICE) as running:
        yield running


def failed(checks):
    return set(checks.loc[~checks["passed"].fillna(value=True), "check"])


def not_checked(checks):
    return set(checks.loc[checks["passed"].isna(), "check"])


def test_local_gateway_keeps_the_contract(gateway):
    """Every check passes, and the costs told are the invoice."""
    checks = dreamo.check_service(gateway.base_url, gateway.api_key)
    assert failed(checks) == not_checked(checks) == set()
    invoice = gateway.invoice()
    assert checks["cost"].dropna().tolist() == [attempt["cost"] for attempt in invoice] == [PRICE] * 2
    assert [attempt["model"] for attempt in invoice] == list(contract.MODELS)
    assert [len(attempt["images"]) for attempt in invoice] == [1, 2]


def test_each_model_is_checked_and_what_makes_no_difference_is_checked_once(gateway):
    """The rows say of which model they are; one model alone costs one picture."""
    checks = dreamo.check_service(gateway.base_url, gateway.api_key)
    n_of_service = int(checks["model"].isna().sum())
    assert checks["model"].value_counts().to_dict() == dict.fromkeys(
        contract.MODELS, len(probe.CHECKS) - n_of_service
    )
    alone = dreamo.check_service(gateway.base_url, gateway.api_key, models="spark_multi_dreamo")
    assert set(alone["check"]) == set(probe.CHECKS)
    assert failed(alone) == set()
    assert [attempt["model"] for attempt in gateway.invoice()][2:] == ["spark_multi_dreamo"]


def test_a_model_that_is_not_known_is_refused(gateway):
    """Nothing is sent."""
    with pytest.raises(dreamo.UsageError, match="choose one of spark_dreamo, spark_multi_dreamo"):
        dreamo.check_service(gateway.base_url, gateway.api_key, models=["spark_dreamo", "spark_nothing"])
    with pytest.raises(dreamo.UsageError, match="client='x': expected a Client"):
        dreamo.check_service(client="x")
    assert gateway.invoice() == []


@pytest.mark.parametrize(
    "options",
    [{"precharge": "missing"}, {"precharge": "cache_miss"}, {"errors_as": "task"}, {"latency": "fixed:0.1"}],
    ids=str,
)
def test_what_the_contract_leaves_open_is_no_failure(options):
    """Precharge is optional, and a bad parameter may be refused at once or as a task."""
    with dreamo.LocalGateway(engine="flat", **options) as gateway, waiting(gateway) as client:
        assert failed(dreamo.check_service(client=client)) == set()


@pytest.mark.parametrize(
    ("stage", "faults", "broken", "unseen"),
    [
        ("poll", ["cost_missing"], {"reports_what_a_task_cost", "knows_an_ended_task_again"}, set()),
        ("poll", ["output_missing"], OF_ENDED_TASKS - {"reports_what_a_task_cost"}, set()),
        ("create", ["fail_096"], {"finishes_a_task"}, OF_ENDED_TASKS),
        ("create", ["id_missing"], {"takes_a_create"}, OF_ENDED_TASKS | {"finishes_a_task"}),
        (
            "create",
            ["http_500_after_accept"],
            {"takes_a_create"},
            OF_ENDED_TASKS | {"finishes_a_task"},
        ),
        ("download", ["wrong_content"], {"serves_the_picture"}, set()),
        ("download", ["link_expired"], {"serves_the_picture"}, set()),
        # The first price is asked for to say beforehand what it costs.
        ("precharge", ["slow", "http_500"], {"quotes_a_price_or_none"}, set()),
    ],
)
def test_what_a_service_breaks_is_named(gateway, stage, faults, broken, unseen):
    """A failed check is a row that says so, and what builds on it is not judged."""
    gateway.faults.script(stage, *faults, seconds=0)
    checks = dreamo.check_service(gateway.base_url, gateway.api_key, models=ONE)
    assert (failed(checks), not_checked(checks)) == (broken, unseen)
    assert len(gateway.invoice()) <= probe.N_ATTEMPTS_MAX


@pytest.mark.parametrize(
    "step",
    [
        answer(b"{}"),
        answer(b"[]", 500),
        answer(b'{"id": "cq0example", "status": "completed"}'),
        answer(KEY.encode(), 403),
    ],
    ids=["nothing", "an error", "yes to everything", "refused, with the key"],
)
def test_a_service_that_is_none_fails_checks_and_raises_nothing(step):
    """Whatever comes back, every check has its row, and none shows the key."""
    with ScriptedServer([step]) as server, waiting(server, timeout_s=1) as client:
        checks = dreamo.check_service(client=client, timeout_s=0.1, models=ONE)
        assert sum(request.line.startswith("POST /model/v1/generation ") for request in server.requests) <= 2
    assert list(checks["check"]) == list(probe.CHECKS)
    assert failed(checks)
    assert KEY not in checks.to_csv()


def said(status: int = 200, /, **fields) -> bytes:
    return answer(json.dumps(fields).encode(), status)


def task(url: str, **changes) -> bytes:
    output = [{"content": [{"type": "image", "url": f"{url}/file.png"}]}]
    return said(
        **{"id": "cq0example", "status": "completed", "output": output, "usage": {"cost": PRICE}} | changes
    )


class Keeper(ScriptedServer):
    """A service that keeps the contract, but for what `broken` says: what is asked, and how it is answered instead."""

    broken: dict

    def _answer_all(self, connection, n_connection):
        with connection.makefile("rb") as reader:
            while (request := read_request(reader, n_connection)) is not None:
                self.requests.append(request)
                asked = what_is_asked(request)
                step = self.broken.get(asked, KEPT[asked])
                connection.sendall(step(self) if callable(step) else step)


def what_is_asked(request: Received) -> str:
    if request.line.startswith("GET /api/"):
        return "spec"
    if request.line.startswith("GET /file"):
        return "file"
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return "stranger"
    if request.line.startswith("GET"):
        return "unknown" if contract.UNKNOWN_TASK in request.line else "poll"
    if "precharge" in request.line:
        return "price"
    return "bad attempt" if b'"width": 1,' in request.body else "attempt"


KEPT = {
    "spec": said(data={}),
    "file": answer(picture(), Content_Type="image/png"),
    "stranger": said(401, message="who are you?"),
    "unknown": said(404, message="Task not found"),
    "poll": lambda server: task(server.url),
    "price": said(status="success", data={"cost": PRICE, "currency": "USD"}),
    "bad attempt": said(400, error={"code": "003011004", "message": "Invalid parameter"}),
    "attempt": said(id="cq0example", status="in_progress"),
}


def changing(server: Keeper) -> bytes:
    """Tell another cost every time."""
    return task(server.url, usage={"cost": f"0.0{len(server.requests)}"})


# For each check what breaks it alone, or with what can't be looked at then.
BREAKS = {
    "answers_without_a_key": ("spec", said(503), set()),
    "describes_the_model_as_known": (
        "spec",
        said(data={"parameters": [{"name": "width", "constraints": {"default": 1024}}]}),
        set(),
    ),
    "refuses_a_wrong_key": ("stranger", said(404, message="Task not found"), set()),
    "does_not_find_an_unknown_task": ("unknown", lambda server: task(server.url), set()),
    "quotes_a_price_or_none": ("price", answer(b"<html>"), set()),
    "refuses_an_invalid_create": ("bad attempt", said(id="cq0example", status="in_progress"), set()),
    "takes_a_create": ("attempt", said(500), OF_ENDED_TASKS | {"finishes_a_task"}),
    "finishes_a_task": (
        "poll",
        said(id="cq0example", status="failed", error={"code": "003011095"}),
        OF_ENDED_TASKS,
    ),
    "answers_in_the_documented_form": ("poll", lambda server: task(server.url, status="resting"), set()),
    "reports_what_a_task_cost": ("poll", lambda server: task(server.url, usage={"cost": ""}), set()),
    "serves_the_picture": ("file", answer(b"<html>busy</html>"), set()),
    "knows_an_ended_task_again": ("poll", changing, set()),
}


def test_a_service_that_keeps_all_passes_every_check():
    """And so it is the break that fails a check below."""
    with Keeper() as server, waiting(server) as client:
        server.broken = {}
        checks = dreamo.check_service(client=client)
    assert failed(checks) == not_checked(checks) == set(), checks.to_string()


def detail_of_description(client):
    checks = dreamo.check_service(client=client, models=ONE).set_index("check")
    return checks.loc["describes_the_model_as_known", "detail"]


@pytest.mark.parametrize("first", [said(404), said(503), answer(b"<html>"), said(data={})], ids=bytes.decode)
def test_description_is_asked_of_its_host_and_then_of_the_api(first, monkeypatch):
    """The public service's descriptions have a host of their own, which never gets the key."""
    width = {"name": "width", "constraints": {"min": 256}}
    with Keeper() as api, ScriptedServer([first]) as describer, waiting(api) as client:
        api.broken = {"spec": said(data={"parameters": [width]})}
        assert "width: min 256" in detail_of_description(client)
        assert describer.requests == []
        monkeypatch.setattr(contract, "BASE_URL", contract.Fact(client.settings.base_url, "cli"))
        monkeypatch.setattr(contract, "SPEC_URL", contract.Fact(describer.url, "cli"))
        assert "width: min 256" in detail_of_description(client)
        assert ["authorization" in request.headers for request in describer.requests] == [False]


@pytest.mark.parametrize(
    ("parameter", "difference"),
    [
        ({"name": "width", "constraints": {"default": "1328", "max": 8191, "min": Decimal("512.0")}}, None),
        ({"name": "use_rephraser", "constraints": {"default": "True"}}, None),
        ({"name": "use_rephraser", "constraints": {"default": False}}, "use_rephraser: default False"),
        ({"name": "height", "constraints": {"max": 1024}}, "height: max 1024"),
        ({"name": "prompt", "constraints": {"max_length": 120}}, "prompt: max_length 120"),
        ({"name": "seed", "constraints": {"default": "random"}}, "seed: default random"),
        ({"name": "guidance", "constraints": None}, "guidance: unknown parameter"),
        ({"name": "width", "constraints": ["512"]}, None),
        ("width", None),
    ],
)
def test_a_description_is_compared_with_the_facts(parameter, difference):
    """Numbers may be text, an upper limit may be larger, and what isn't said is no difference."""
    found = probe.differences_from_known({"parameters": [parameter]}, contract.MODEL)
    assert [one.split(", not")[0] for one in found] == ([difference] if difference else [])


def test_every_check_has_a_service_that_fails_it():
    """A check that nothing can fail would say nothing."""
    assert list(BREAKS) == list(probe.CHECKS)


@pytest.mark.parametrize("name", BREAKS)
def test_each_check_fails_alone(name):
    """One thing is broken, and one check says so; what builds on it is not judged."""
    asked, step, unseen = BREAKS[name]
    with Keeper() as server, waiting(server) as client:
        server.broken = {asked: step}
        checks = dreamo.check_service(client=client, timeout_s=0.5, models=ONE)
        n_attempts = sum("attempt" in what_is_asked(request) for request in server.requests)
    assert (failed(checks), not_checked(checks)) == ({name}, unseen), checks.to_string()
    assert n_attempts <= probe.N_ATTEMPTS_MAX


def test_an_answer_to_a_wrong_key_does_not_show_the_right_one():
    """A service that writes it there knows it."""
    with Keeper() as server, waiting(server) as client:
        server.broken = {"stranger": said(404, message=f"Task not found for {KEY}")}
        details = dreamo.check_service(client=client, timeout_s=0.5, models=ONE).set_index("check")["detail"]
    assert KEY not in details.to_string()
    assert "Task not found for ***" in details["refuses_a_wrong_key"]


def test_what_nobody_foresaw_is_a_finding_too(gateway, monkeypatch):
    """An error of our own does not end the suite."""
    monkeypatch.setitem(probe.CHECKS, "takes_a_create", lambda _: 1 / 0)
    checks = dreamo.check_service(gateway.base_url, gateway.api_key, models=ONE).set_index("check")
    assert checks.loc["takes_a_create", "detail"] == "unexpected ZeroDivisionError"


def test_most_that_it_costs_is_known_beforehand(gateway):
    """Two attempts a model at the price that the service tells, or nothing is known."""
    with dreamo.Client(gateway.api_key, gateway.base_url) as client:
        with localcontext(prec=1):  # the user's
            most = probe.highest_cost(client)
        assert most == 4 * Decimal(PRICE)
        assert probe.highest_cost(client, ONE) == 2 * Decimal(PRICE)
        gateway.faults.script("precharge", "cost_cache_miss")
        assert probe.highest_cost(client) is None
    assert gateway.invoice() == []


def test_without_a_key_nothing_is_sent():
    """Another machine is not asked anything without a key."""
    with pytest.raises(dreamo.KeyMissing, match="cost, pass base_url and api_key of a LocalGateway"):
        dreamo.check_service(ELSEWHERE)


def test_command_refuses_to_go_on_without_a_key():
    """Nothing is asked of a service elsewhere, not even a price."""
    result = call("check", "--live", "--yes", "--base-url", ELSEWHERE, env={"DREAMO_API_KEY": ""})
    assert result.exit_code == 3
    assert result.stderr.endswith("To try without a key or cost, leave out --live.\n")
    assert result.stdout == ""


def test_command_checks_the_local_gateway_by_itself():
    """No key and no cost; the checks are data on standard output."""
    result = call("check", "--format", "json")
    assert result.exit_code == 0, result.output
    assert all(check["passed"] for check in json.loads(result.stdout))
    assert "Up to 4 new attempts at loopback, for up to $" in result.stderr
    assert "21 of 21 checks passed" in result.stderr


def test_command_checks_a_service_only_with_live(gateway):
    """--base-url alone is refused; with --live its failures are the exit code."""
    assert call("check", "--base-url", gateway.base_url).exit_code == 2
    assert gateway.invoice() == []
    gateway.faults.script("download", "wrong_content")
    result = call("check", "--live", "--model", "spark_dreamo", env=at(gateway))
    assert result.exit_code == 1, result.output
    assert "11 of 12 checks passed" in result.stderr


def test_command_asks_before_it_costs_anything():
    """Off a terminal --live needs --yes; the most that it can cost stands before."""
    result = call("check", "--live", "--base-url", "https://127.0.0.2.example:1", env={"DREAMO_API_KEY": KEY})
    assert result.exit_code == 2
    assert "Up to 4 new attempts at 127.0.0.2.example:1, at a price not known yet." in result.stderr
    assert "Pass --yes" in result.stderr
    assert KEY not in result.output


def waiting(server, timeout_s=30):
    """A client that does not wait between polls."""
    url, key = (server.url, KEY) if isinstance(server, ScriptedServer) else (server.base_url, server.api_key)
    return dreamo.Client(key, url, read_timeout_s=timeout_s, sleep=lambda _: None)
