"""Every fault of the local gateway, over a real socket: it strikes where it should, and the invoice stays true."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.gateway.app import SHAPES
from dreamo_batch.gateway.faults import FAULTS, SECONDS_MAX, STAGES, Effect, FaultPlan
from dreamo_batch.gateway.gateway import LocalGateway
from dreamo_batch.service import contract
from tests.local_client import CREATE, PRECHARGE, FakeEngine, LocalClient, body

STRIKES = [(stage, name) for name, fault in FAULTS.items() for stage in fault.stages]
BROKEN = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


@pytest.fixture(scope="module")
def client():
    with LocalGateway(engine=FakeEngine(), seed=1) as gateway, LocalClient(gateway) as client:
        yield client


@pytest.fixture(autouse=True)
def _quiet(client):
    client.gateway.faults.clear()


@pytest.fixture(scope="module")
def done(client) -> str:
    return client.create(prompt="done")


@pytest.fixture(scope="module")
def failed(client) -> str:
    return client.create(prompt="broken")


def ask(client: LocalClient, stage: str, task_id: str, link: str) -> requests.Response:
    match stage:
        case "create":
            return client.ask("POST", CREATE, json=body())
        case "precharge":
            return client.ask("POST", PRECHARGE, json=body())
        case "poll":
            return client.ask("GET", f"{CREATE}/task/{task_id}")
    return client.ask("GET", link)


def test_the_table_holds_what_the_contract_knows():
    """Every status word, error code, body shape and HTTP status of the contract is there."""
    names = set(FAULTS)
    assert names >= {f"status_{word}" for word, state in contract.STATUS_WORDS.items() if word != state}
    assert names >= {f"fail_{code[-3:]}" for code in contract.ERROR_CODES if code >= "003011095"}
    assert names >= {f"http_{status}" for status in (401, 402, 403, 404, 408, 429, 500, 502, 503, 504)}
    assert names >= {f"error_{shape}" for shape in (*SHAPES, "html", "empty")}
    assert {stage for fault in FAULTS.values() for stage in fault.stages} == set(STAGES)
    assert all(fault.meaning for fault in FAULTS.values())


@pytest.mark.parametrize(("stage", "name"), STRIKES)
def test_each_fault_strikes_once_and_the_invoice_knows(client, done, failed, stage, name):
    """The scripted request goes wrong, the next goes right; a create counts only if the fault says accepted."""
    fault = FAULTS[name]
    task_id = failed if fault.needs == "failed" else done
    link = client.link(done)
    right = ask(client, stage, task_id, link)
    n_before = len(client.gateway.invoice())
    client.gateway.faults.script(stage, name, seconds=0.0)
    if fault.effect == Effect.DROP or name.startswith("content_length_too_long"):
        with pytest.raises(BROKEN):
            ask(client, stage, task_id, link)
    else:
        struck = ask(client, stage, task_id, link)
        if fault.effect not in (Effect.SLOW, Effect.FATE):
            assert (struck.status_code, struck.content) != (right.status_code, right.content)
        if fault.effect == Effect.ANSWER and fault.status:
            assert struck.status_code == fault.status
    n_accepted = 1 if stage == "create" and fault.is_accepted else 0
    assert len(client.gateway.invoice()) == n_before + n_accepted
    assert client.gateway.faults.describe()["script"] == {}
    assert ask(client, stage, task_id, link).status_code == 200


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.code])
def test_fates_with_a_code_make_the_task_fail_with_it(client, name):
    """Accepted, then failed, and not billed."""
    client.gateway.faults.script("create", name)
    task = client.poll(client.create())
    assert task["status"] == "failed"
    assert task["error"]["code"] == FAULTS[name].code
    assert client.gateway.invoice()[-1]["cost"] == ""


def test_fates_without_a_code_do_as_they_say(client):
    """Stuck never ends and costs nothing; forgotten and half-failed tasks are billed all the same."""
    client.gateway.faults.script("create", "stuck", "forgotten", "completed_with_error")
    stuck, forgotten, both = (client.create() for _ in range(3))
    assert client.poll(stuck)["status"] == "in_progress"
    assert client.ask("GET", f"{CREATE}/task/{forgotten}").status_code == 404
    assert {"output", "error", "usage"} <= set(client.poll(both))
    assert [line["billed"] for line in client.gateway.invoice()[-3:]] == [False, True, True]


def test_costs_come_in_every_spelling(client, done):
    """Text, number with all digits, empty, null, missing and unreadable."""
    names = ["cost_number", "cost_empty", "cost_null", "cost_missing", "cost_unreadable"]
    client.gateway.faults.script("poll", *names)
    answers = [client.ask("GET", f"{CREATE}/task/{done}") for _ in names]
    assert '"cost": 0.0286,' in answers[0].text
    assert [answer.json().get("usage", {}).get("cost", "gone") for answer in answers] == [
        0.0286,
        "",
        None,
        "gone",
        "n/a",
    ]


def test_error_codes_and_error_fields_come_in_every_spelling(client, failed):
    """Integers, another field, plain text, no code and nothing at all."""
    names = ["failed_integer_code", "failed_message", "failed_string", "failed_no_code", "failed_no_error"]
    client.gateway.faults.script("poll", *names)
    errors = [client.poll(failed).get("error") for _ in names]
    assert errors[0]["code"] == 3011095
    assert set(errors[1]) == {"code", "message"}
    assert isinstance(errors[2], str)
    assert set(errors[3]) == {"error_message"}
    assert errors[4] is None


def test_words_for_unfinished_tasks_hide_the_end_for_one_poll(client, done):
    """Queued is said without an output; the word for done and capitals keep it."""
    client.gateway.faults.script(
        "poll", "status_queued", "status_unknown", "status_done", "status_upper_case"
    )
    answers = [client.poll(done) for _ in range(4)]
    assert [answer["status"] for answer in answers] == ["queued", "warming_up", "done", "COMPLETED"]
    assert ["output" in answer for answer in answers] == [False, False, True, True]


def test_a_scripted_fault_waits_for_the_state_that_it_needs(client, done, failed):
    """A fault of failed tasks does not strike a completed one, and is still there afterwards."""
    client.gateway.faults.script("poll", "failed_string")
    assert "error" not in client.poll(done)
    assert isinstance(client.poll(failed)["error"], str)


def test_an_expired_link_is_refused_and_the_next_one_works(client, done):
    """A poll may return a dead link."""
    client.gateway.faults.script("poll", "output_expired")
    assert client.ask("GET", client.link(done)).status_code == 403
    assert client.ask("GET", client.link(done)).status_code == 200


def test_retry_after_tells_the_seconds_of_the_script(client):
    """A 429 says how long in the way it is asked to."""
    client.gateway.faults.script(
        "create", "http_429_seconds", "http_429_body", {"fault": "http_429_date"}, seconds=7
    )
    answers = [client.send_create() for _ in range(3)]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[1].json()["retry_after"] == 7
    assert answers[2].headers["Retry-After"].endswith("GMT")


def test_slow_answers_keep_the_task(client):
    """A client that stops waiting for a slow answer still has a task."""
    n_before = len(client.gateway.invoice())
    client.gateway.faults.script("create", "slow", seconds=30)
    with pytest.raises(requests.ReadTimeout):
        client.session.post(client.gateway.base_url + CREATE, json=body(), timeout=0.2)
    assert len(client.gateway.invoice()) == n_before + 1


def test_refused_requests_meet_no_fault(client, done):
    """What is wrong by itself gets its own answer, and a script is not used up by it."""
    client.gateway.faults.script("create", "drop_after_accept")
    assert client.send_create(prompt="").status_code == 400
    assert client.ask("POST", CREATE, headers={"Authorization": None}).status_code == 401
    with pytest.raises(BROKEN):
        client.send_create()


def test_faults_can_be_planned_over_http(client):
    """With the key, scripts and probabilities are set, listed and cleared; nonsense changes nothing."""
    plan = {"poll": {"http_503": 1}, "script": {"create": [{"fault": "http_429_seconds", "seconds": 3}]}}
    told = client.ask("POST", "/local/faults", json=plan).json()
    assert told == {"probabilities": {"poll": {"http_503": 1.0}}, "script": {"create": ["http_429_seconds"]}}
    assert client.send_create().headers["Retry-After"] == "3"
    assert client.ask("GET", f"{CREATE}/task/{client.create()}").status_code == 503
    for bad in (
        b"{",
        b"[]",
        b'{"nowhere": {}}',
        b'{"poll": {"no": 1}}',
        b'{"clear": 1}',
        b'{"script": {"poll": 1}}',
    ):
        assert client.ask("POST", "/local/faults", data=bad).status_code == 400
    assert client.ask("GET", "/local/faults").json()["probabilities"] == {"poll": {"http_503": 1.0}}
    cleared = client.ask("POST", "/local/faults", json={"clear": True}).json()
    assert cleared == {"probabilities": {}, "script": {}}


def test_faults_can_be_planned_by_a_file(tmp_path):
    """The file holds what the request over HTTP holds."""
    path = tmp_path / "faults.json"
    path.write_text(json.dumps({"create": {"http_500": 0.5}, "script": {"poll": ["not_yet"]}}))
    told = {"probabilities": {"create": {"http_500": 0.5}}, "script": {"poll": ["not_yet"]}}
    assert FaultPlan(path).describe() == FaultPlan(str(path)).describe() == told
    plan = FaultPlan(path, seed=1)
    assert LocalGateway(faults=plan).faults is plan
    path.write_text("{")
    with pytest.raises(ValueError, match=r"faults\.json can.t be read as JSON"):
        FaultPlan(path)
    with pytest.raises(ValueError, match="can't be read as JSON: Is a directory"):
        FaultPlan(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"create": {"http_500": 0.6, "http_502": 0.6}},
        {"create": {"http_500": -0.1}},
        {"create": {"http_500": float("nan")}},
        {"create": {"http_500": "0.1"}},
        {"create": {"http_500": {"seconds": 1}}},
        {"create": {"http_500": {"probability": 0.1, "minutes": 1}}},
        {"create": {"http_500": True}},
        {"create": {"link_expired": 0.1}},
        {"create": []},
        {"create": pd.Series([1, 2])},
        {5: {}},
        {"script": {"poll": ["slow", 1]}},
        {"script": {"poll": [{"fault": "slow", "seconds": SECONDS_MAX + 1}]}},
    ],
)
def test_plans_that_can_not_be_are_refused(bad):
    """Each mistake raises, and nothing of the plan is applied."""
    plan = FaultPlan({"poll": {"drop": 0.25}})
    with pytest.raises(ValueError, match=r"must|There is no|add up"):
        plan.change(bad)
    assert plan.describe()["probabilities"] == {"poll": {"drop": 0.25}}
    for wrong in (bad, {"create": None}, None, [1], pd.DataFrame({"create": [1]})):
        with pytest.raises(ValueError, match=r"must|There is no|add up"):
            plan.set(wrong)
    for misuse in (plan.script, plan.draw):
        for stage in ("nowhere", None, ["create"], pd.NA):
            with pytest.raises(ValueError, match="There is no stage"):
                misuse(stage)
    with pytest.raises(ValueError, match="seed='x'"):
        FaultPlan(seed="x")


@given(st.integers(), st.floats(0.05, 0.95))
def test_chance_repeats_itself_and_keeps_its_rate(seed, probability):
    """Two plans of one seed strike alike, independent of the other stages."""
    first, second = (FaultPlan({"create": {"http_500": probability}}, seed=seed) for _ in range(2))
    strikes = [first.draw("create") is not None for _ in range(400)]
    assert strikes == [(second.draw("poll"), second.draw("create"))[1] is not None for _ in range(400)]
    assert abs(sum(strikes) / 400 - probability) < 0.2


def test_probabilities_of_a_stage_are_replaced_and_others_kept():
    """Setting one stage leaves the rest as it was."""
    plan = FaultPlan({"create": {"http_500": 0.5}, "poll": {"drop": 0.5}})
    plan.set({"create": {"slow": {"probability": 0.1, "seconds": 2}}})
    assert plan.describe()["probabilities"] == {"create": {"slow": 0.1}, "poll": {"drop": 0.5}}


VALUES = st.none() | st.booleans() | st.floats() | st.text(max_size=3)
ENTRIES = st.dictionaries(
    st.sampled_from(["slow", "fault", "seconds", "probability", "poll"]), VALUES, max_size=3
)


@pytest.mark.no_cover
@given(
    st.dictionaries(st.sampled_from([*STAGES, "script", "clear", "x"]), VALUES | ENTRIES | st.lists(ENTRIES))
)
def test_no_plan_breaks_the_reading(plan):
    """Any JSON is read or refused."""
    faults = FaultPlan()
    try:
        faults.change(plan)
    except ValueError:
        return
    assert all(set(planned) <= set(STAGES) for planned in faults.describe().values())
