"""`check_service`: the local gateway keeps the contract, and a service that does not is told so, check by check."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

import dreamo_batch as dreamo
from dreamo_batch.batch import conformance
from tests.cli_sweep import ELSEWHERE, at, call, signals_kept
from tests.scripted_server import ScriptedServer, answer

PRICE = "0.0286"
KEY = "sk-a-key-that-nobody-may-see"
OF_ENDED_TASKS = {
    "answers_in_the_documented_form",
    "tells_what_a_task_cost",
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
    assert checks["cost"].dropna().tolist() == [order["cost"] for order in gateway.invoice()] == [PRICE]


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
        ("poll", ["cost_missing"], {"tells_what_a_task_cost", "knows_an_ended_task_again"}, set()),
        ("poll", ["output_missing"], OF_ENDED_TASKS - {"tells_what_a_task_cost"}, set()),
        ("create", ["fail_096"], {"brings_a_task_to_its_end"}, OF_ENDED_TASKS),
        ("create", ["id_missing"], {"takes_an_order"}, OF_ENDED_TASKS | {"brings_a_task_to_its_end"}),
        (
            "create",
            ["http_500_after_accept"],
            {"takes_an_order"},
            OF_ENDED_TASKS | {"brings_a_task_to_its_end"},
        ),
        ("download", ["wrong_content"], {"serves_the_picture"}, set()),
        ("download", ["link_expired"], {"serves_the_picture"}, set()),
        # The first price is asked for to say beforehand what it costs.
        ("precharge", ["slow", "http_500"], {"tells_a_price_or_none"}, set()),
    ],
)
def test_what_a_service_breaks_is_named(gateway, stage, faults, broken, unseen):
    """A failed check is a row that says so, and what builds on it is not judged."""
    gateway.faults.script(stage, *faults, seconds=0)
    checks = dreamo.check_service(gateway.base_url, gateway.api_key)
    assert (failed(checks), not_checked(checks)) == (broken, unseen)
    assert len(gateway.invoice()) <= conformance.N_ORDERS_MAX


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
        checks = dreamo.check_service(client=client, timeout_s=0.1)
        assert sum(request.line.startswith("POST /model/v1/generation ") for request in server.requests) <= 2
    assert list(checks["check"]) == list(conformance.CHECKS)
    assert failed(checks)
    assert KEY not in checks.to_csv()


def test_what_nobody_foresaw_is_a_finding_too(gateway, monkeypatch):
    """An error of our own does not end the suite."""
    monkeypatch.setitem(conformance.CHECKS, "takes_an_order", lambda _: 1 / 0)
    checks = dreamo.check_service(gateway.base_url, gateway.api_key).set_index("check")
    assert checks.loc["takes_an_order", "detail"] == "ZeroDivisionError, which nobody foresaw"


def test_most_that_it_costs_is_known_beforehand(gateway):
    """Two orders at the price that the service tells, or nothing is known."""
    with dreamo.Client(gateway.api_key, gateway.base_url) as client:
        assert conformance.most_it_costs(client) == 2 * Decimal(PRICE)
        gateway.faults.script("precharge", "cost_cache_miss")
        assert conformance.most_it_costs(client) is None
    assert gateway.invoice() == []


def test_without_a_key_nothing_is_sent():
    """Another machine is not asked anything without a key."""
    with pytest.raises(dreamo.KeyMissing):
        dreamo.check_service(ELSEWHERE)


def test_command_checks_the_local_gateway_by_itself():
    """No key and no cost; the checks are data on standard output."""
    result = call("check", "--format", "json")
    assert result.exit_code == 0, result.output
    assert all(check["passed"] for check in json.loads(result.stdout))
    assert "Up to 2 new orders at loopback, for up to $" in result.stderr
    assert "11 of 11 checks passed" in result.stderr


def test_command_checks_a_service_only_with_live(gateway):
    """--base-url alone is refused; with --live its failures are the exit code."""
    assert call("check", "--base-url", gateway.base_url).exit_code == 2
    assert gateway.invoice() == []
    gateway.faults.script("download", "wrong_content")
    result = call("check", "--live", env=at(gateway))
    assert result.exit_code == 1, result.output
    assert "10 of 11 checks passed" in result.stderr


def test_command_asks_before_it_costs_anything():
    """Off a terminal --live needs --yes; the most that it can cost stands before."""
    result = call("check", "--live", "--base-url", "https://127.0.0.2.example:1", env={"DREAMO_API_KEY": KEY})
    assert result.exit_code == 2
    assert "Up to 2 new orders at 127.0.0.2.example:1, at a price not known yet." in result.stderr
    assert "Add --yes" in result.stderr
    assert KEY not in result.output


def waiting(server, timeout_s=30):
    """A client that does not wait between polls."""
    url, key = (server.url, KEY) if isinstance(server, ScriptedServer) else (server.base_url, server.api_key)
    return dreamo.Client(key, url, read_timeout_s=timeout_s, sleep=lambda _: None)
