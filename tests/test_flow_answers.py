"""Whole runs against a service whose answers are right in form and odd in content."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

import dreamo_batch as dreamo
from tests.fakes import picture
from tests.fast_clock import speed_up
from tests.hooked_service import KEY, HookedService
from tests.scripted_server import answer

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


class Place:
    """A folder with a reference picture and a run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "reference.png").write_bytes(picture(size=(64, 64)))

    def table(self, prompts: list[str], **columns: Any) -> pd.DataFrame:
        given = {"seed": 1, "size": "512x512", "use_rephraser": False} | columns
        return dreamo.sweep(image=str(self.folder / "reference.png"), prompt=prompts, **given)

    def run(self, service: HookedService, table: pd.DataFrame, **options: Any) -> pd.DataFrame:
        given: dict[str, Any] = {"base_url": service.url, "api_key": KEY, "progress": False}
        return dreamo.run(table, self.folder / "run", **(given | options))

    def run_until_done(
        self, service: HookedService, table: pd.DataFrame, n_calls: int, **options: Any
    ) -> pd.DataFrame:
        """Repeat a call that a refusal stops; it may be the account's."""
        for _ in range(n_calls - 1):
            try:
                return self.run(service, table, **options)
            except dreamo.AccessRefused:
                continue
        return self.run(service, table, **options)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


BLOCKED = answer(b"<html><title>Sorry, you have been blocked</title></html>", 403)


def firewall(params: dict[str, Any], _n: int) -> bytes | None:
    return BLOCKED if "<script>" in params["prompt"] else None


def status_of(results: pd.DataFrame) -> list[str]:
    return results["status"].tolist()


@pytest.mark.no_cover
@pytest.mark.parametrize("max_in_flight", [1, 2, 8])
@pytest.mark.parametrize("places", [(0, 1), (0, 1, 2, 3), (4, 5), (1, 3, 5, 6)])
def test_rows_that_a_firewall_blocks_never_hold_up_the_others(place, places, max_in_flight):
    """Wherever they stand, every call gets on, and at last the blocked ones have failed with the service's words."""
    prompts = [f"a {'<script>' if i in places else 'fox'} number {i}" for i in range(8)]
    table = place.table(prompts)
    with HookedService(on_create=firewall) as service:
        results = place.run_until_done(
            service, table, 2 if len(places) == 2 else 5, max_in_flight=max_in_flight
        )
        assert len(service.tasks) == 8 - len(places)
    wanted = ["failed" if i in places else "completed" for i in range(8)]
    assert status_of(results) == wanted
    assert results["error_message"].dropna().str.contains("you have been blocked").sum() == len(places)


@pytest.mark.parametrize("status", [200, 400])
def test_a_rate_limit_in_a_body_fails_no_row(monkeypatch, place, status):
    """Like HTTP 429: each row waits for its turn and is bought once."""
    busy = answer(b'{"code": 50430, "message": "too many concurrent tasks"}', status)
    speed_up(monkeypatch)
    with HookedService(on_create=lambda _params, n: busy if n % 3 == 0 else None) as service:
        results = place.run(service, place.table([f"fox {i}" for i in range(8)]), max_in_flight=4)
        assert len(service.tasks) == 8
    assert status_of(results) == ["completed"] * 8


def test_a_blocked_prompt_with_many_seeds_is_no_blocked_account(place):
    """Rows that share the prompt and the picture are refused alike; one unlike them decides."""
    table = place.table(["a <script>", "a fox"], seed=range(1, 9))
    with HookedService(on_create=firewall) as service:
        results = place.run_until_done(service, table, 2, max_in_flight=4)
    assert status_of(results) == ["failed"] * 8 + ["completed"] * 8


@pytest.mark.no_cover
@pytest.mark.parametrize("max_in_flight", [1, 4])
def test_an_account_that_is_refused_stops_at_once_and_buys_nothing(place, max_in_flight):
    """Every row stays pending, says why, and is bought by the same call later."""
    table = place.table([f"fox {i}" for i in range(12)], seed=range(1, 5))
    with HookedService(on_create=lambda _params, _n: answer(b'{"message": "not allowed"}', 403)) as service:
        with pytest.raises(dreamo.AccessRefused, match="not allowed") as stopped:
            place.run(service, table, max_in_flight=max_in_flight)
        assert service.counts["create"] <= max_in_flight + 2
        assert status_of(stopped.value.results) == ["pending"] * 48
        assert set(stopped.value.results["error_message"].dropna()) == {"not allowed"}
        service.on_create = lambda _params, _n: None
        results = place.run(service, table)
    assert status_of(results) == ["completed"] * 48
    assert results["error_message"].isna().all()


def test_rows_that_a_firewall_blocks_do_not_hide_the_price(place):
    """Asking for a price is refused like a create; other rows are asked for."""
    prompts = ["a <script>", "a <script> again", *[f"fox {i}" for i in range(4)]]
    price = answer(b'{"status": "success", "data": {"cost": "0.03", "currency": "USD"}}')
    with HookedService(
        on_create=firewall, on_price=lambda params, n: firewall(params, n) or price
    ) as service:
        results = place.run_until_done(service, place.table(prompts), 2, max_cost=1)
    assert status_of(results) == ["failed"] * 2 + ["completed"] * 4


@pytest.mark.parametrize("price", [answer(b"<title>Moved</title>", 301), answer(b"<title>Busy</title>", 503)])
def test_a_price_that_nobody_could_be_asked_for_is_not_unknown(place, price, monkeypatch):
    """The service may name one later."""
    monkeypatch.setattr("dreamo_batch.call.time.sleep", lambda _seconds: None)
    with HookedService(on_price=lambda _params, _n: price) as service:
        with pytest.raises(dreamo.ServiceUnreachable, match="Can't ask for the price"):
            place.run(service, place.table(["a fox"]), max_cost=1)
        assert service.counts == {"price": 3}


@pytest.mark.parametrize("error", [dreamo.PriceUnknown, dreamo.ServiceUnreachable])
def test_an_address_that_knows_neither_prices_nor_tasks_is_a_wrong_one(place, error):
    """A service without prices answers about tasks; the page of another one doesn't."""
    page = answer(b"<title>404 Not Found</title>", 404)
    is_wrong = error is dreamo.ServiceUnreachable
    with HookedService(
        on_price=lambda _params, _n: page, on_poll=lambda _task_id, _n: page if is_wrong else None
    ) as service:
        with pytest.raises(error, match="404 Not Found"):
            place.run(service, place.table(["a fox"]), max_cost=1)
        assert service.counts == {"price": 1, "poll": 1}


@pytest.mark.no_cover
@pytest.mark.parametrize("unit_cost", [None, 0.01])
def test_a_price_that_was_told_too_low_is_not_believed_again(place, unit_cost):
    """Whoever told it, an attempt cost more than was reserved: later calls reserve that, and keep their caps."""
    price = answer(b'{"status": "success", "data": {"cost": "0.01", "currency": "USD"}}')
    table = place.table(["a fox"], seed=range(1, 12))
    with HookedService(on_price=lambda _params, _n: price) as service:
        for cap in (0.12, 0.13, 0.14, 0.16, 0.19):
            with pytest.raises(dreamo.BudgetReached, match=r"may cost \$0.03"):
                place.run(service, table, max_cost=cap, unit_cost=unit_cost, max_in_flight=1)
            assert 0.03 * len(service.tasks) <= cap
        place.run(service, table, max_cost=0.33, unit_cost=unit_cost)
        assert len(service.tasks) == len(table)


@pytest.mark.parametrize("name", ["seed", "width", "prompt"])
@pytest.mark.parametrize("use_rephraser", [True, False])
def test_an_answer_about_another_rows_parameters_never_completes_a_row(
    monkeypatch, place, name, use_rephraser
):
    """The row is held and named, nothing of it is saved, and it is done once the service tells things apart."""
    speed_up(monkeypatch)
    table = place.table(["a fox", "a dog"], use_rephraser=use_rephraser).drop(columns="size")
    table = table.assign(seed=[1, 2], width=[512, 640], height=512)

    def mixed_up(task_id: str, _n: int) -> bytes:
        params = service.tasks[task_id] | {name: service.tasks["task0001"][name]}
        return service.completed(task_id, input=[{"params": params}])

    with HookedService(on_poll=mixed_up) as service:
        results = place.run(service, table, max_in_flight=1)
        assert status_of(results) == ["completed", "in_progress"]
        assert results["error_class"].tolist()[1] == "other_task"
        assert results["output_path"].isna().tolist() == [False, True]
        assert len(list((place.folder / "run" / "images").iterdir())) == 1
        service.on_poll = lambda _task_id, _n: None
        results = place.run(service, table)
        assert service.counts["create"] == 2
    assert status_of(results) == ["completed", "completed"]


def test_replicates_may_look_alike(place, caplog):
    """The same job bought twice on purpose may give the same picture; other jobs get a warning."""
    same = answer(picture(size=(9, 9)), Content_Type="image/png")
    with HookedService(on_file=lambda _task_id, _n: same) as service:
        place.run(service, place.table(["a fox"], replicate=[0, 1, 2]))
        assert "different jobs" not in caplog.text
        place.run(service, place.table(["a dog"]).set_axis(["d" * 80]))
        assert re.search(r"Row d{59}… \(job \w+\) and Job \w+: different jobs, but", caplog.text)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{"taskId": "%s"}'),
        (200, '{"code": 0, "data": [{"id": "%s"}]}'),
        (200, '{"result": {"id": "%s", "status": "in_progress"}}'),
        (200, """)]}',\n{"id": "%s", "status": "in_progress"}"""),
        (200, '<b>Warning</b>: no such index\n{"id": "%s", "status": "in_progress"}<!-- end -->'),
        (200, 'data: {"id": "%s", "status": "in_progress"}\n\n'),
    ],
)
def test_a_task_that_an_odd_answer_names_is_asked_for_and_never_bought_again(place, caplog, status, body):
    """Neither the row nor the call ends: the task was made. Whoever looks at the picture is told why."""
    caplog.set_level("INFO", logger="dreamo_batch")
    with HookedService() as service:

        def made(params: dict[str, Any], _n: int) -> bytes | None:
            if params["prompt"] != "a dog":
                return None
            service.tasks["oddly-told"] = params
            return answer((body % "oddly-told").encode(), status)

        service.on_create = made
        results = place.run(service, place.table(["a fox", "a dog", "a cat"]), max_in_flight=1)
        assert service.counts["create"] == 3
    assert status_of(results) == ["completed"] * 3
    assert results["task_id"].tolist()[1] == "oddly-told"
    assert "adopted task oddly-told" in caplog.text


@pytest.mark.parametrize(
    "told",
    [
        (429, "words"),
        (429, "field"),
        (429, "header"),
        (400, "words"),
        (409, "words"),
        (409, "field"),
        (400, "header"),
        (403, "field"),
        (500, "field"),
        (200, "header"),
    ],
)
@pytest.mark.parametrize(
    ("whose", "status"),
    [
        ("its own", "ambiguous"),
        ("its own, echoed", "accepted"),
        ("another table's", "ambiguous"),
        ("another table's, echoed", "refused"),
        ("another row's", "refused"),
        ("nobody's", "refused"),
    ],
)
def test_a_refusal_that_names_a_task_is_taken_for_one_only_without_doubt(
    monkeypatch, place, whose, status, told
):
    """Where the task exists and may be the row's, the row is held and names it, unless the task repeats its parameters.

    Else the refusal counts alone, or holds the row if it doesn't say that nothing was submitted.
    """
    http_status, place_of_id = told
    speed_up(monkeypatch)
    with HookedService() as service:
        mentioned = {"another row's": "task0001", "nobody's": "refused-01"}.get(whose, "oddly-told-1")

        def limited(params: dict[str, Any], n: int) -> bytes | None:
            if n != 2:
                return None
            if mentioned == "oddly-told-1":
                service.tasks[mentioned] = params
            said = {"message": "No such luck"}
            if place_of_id == "words":
                said = {"message": f"No: task {mentioned} is running"}
            elif place_of_id == "field":
                said["running"] = {"task_id": mentioned}
            headers = {"X_Task_Id": mentioned} if place_of_id == "header" else {}
            return answer(json.dumps(said).encode(), http_status, **headers)

        if "echoed" in whose:
            echo = {"seed": 77, "prompt": "a wolf"} if "another" in whose else {"seed": 1, "prompt": "a dog"}
            service.on_poll = lambda task_id, _n: (
                service.completed(task_id, input=[{"params": echo}]) if task_id == mentioned else None
            )
        service.on_create = limited
        table = place.table(["a fox", "a dog", "a cat"])
        results = place.run(service, table, max_in_flight=1)
        assert place.run(service, table)["status"].tolist() == results["status"].tolist()
    is_clear = status == "refused" and http_status not in (200, 500)
    is_resent = is_clear and http_status in (403, 429)
    assert service.counts["create"] == 3 + is_resent
    wanted = "failed" if is_clear else "ambiguous"
    wanted = "completed" if is_resent or status == "accepted" else wanted
    assert status_of(results) == ["completed", wanted, "completed"]
    assert (results["task_id"][1] == mentioned) is (status == "accepted")
    assert status != "ambiguous" or mentioned in results["error_message"][1]


def test_what_is_paid_and_not_saved_or_has_no_cost_in_usd_is_reported(place, caplog, monkeypatch):
    """The row is completed and its cost missing; the end of the call says so."""
    speed_up(monkeypatch)

    def in_yuan(task_id: str, n: int) -> bytes | None:
        return service.completed(task_id, usage={"cost": "0.35", "currency": "CNY"}) if n == 1 else None

    page = answer(b"<html><title>Sign in</title>", Content_Type="text/html")
    caplog.set_level("INFO", logger="dreamo_batch")
    with HookedService(on_poll=in_yuan, on_file=lambda _task_id, _n: page) as service:
        results = place.run(service, place.table(["a fox", "a dog"]), max_in_flight=1)
    assert results["output_error"].notna().all()
    assert "2 completed; $0.03 spent, 1 more of unknown cost" in caplog.text
    [told] = [record for record in caplog.records if "could not be saved" in record.message]
    assert (told.levelname, "the same call again" in told.message) == ("WARNING", True)
    [told] = [record for record in caplog.records if "no cost in USD for 1 picture" in record.message]
    assert told.levelname == "WARNING"
