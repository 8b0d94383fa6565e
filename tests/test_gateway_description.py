"""Without planned faults, the local gateway answers any request as its OpenAPI description says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import dreamo_batch as dreamo

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("POST", "/model/v1/generation"),
    ("GET", "/model/v1/generation/task/{task_id}"),
    ("POST", "/model/v1/generation/precharge"),
    ("GET", "/files/{name}"),
    ("GET", "/api/v1/skill/models"),
    ("GET", "/api/v1/skill/models/{model}/spec"),
    ("GET", "/local/invoice"),
    ("GET", "/local/faults"),
    ("POST", "/local/faults"),
]
BODIES = {"POST"}


@pytest.fixture(scope="module")
def gateway():
    with dreamo.LocalGateway(engine="flat") as running:
        yield running


@pytest.fixture(scope="module")
def description(gateway):
    return schemathesis.openapi.from_url(f"{gateway.base_url}/openapi.json")


def test_every_operation_is_tried(description):
    """An operation that the description gains is to be tried, too."""
    found = [result.ok() for result in description.get_all_operations()]
    assert {(one.method.upper(), one.path) for one in found} == set(OPERATIONS)


@pytest.mark.parametrize("has_key", [True, False], ids=["with the key", "without"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described(method, path, has_key, gateway, description):
    """No 5xx, and no status, type or shape that the description lacks."""
    headers = {"Authorization": f"Bearer {gateway.api_key}"} if has_key else {}

    @given(case=description[path][method].as_strategy())
    @settings(
        max_examples=100 if method in BODIES and has_key else 20,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        gateway.faults.change({"clear": True})  # one of the operations plans them
        case.call_and_validate(headers=headers, checks=CHECKS)

    ask()
