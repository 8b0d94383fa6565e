"""What the tests of the local gateway share: pictures, an engine that costs nothing, and a bare client."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any, Self

import requests
from PIL import Image

if TYPE_CHECKING:
    from dreamo_batch.gateway.engines import DrawRequest
    from dreamo_batch.gateway.gateway import LocalGateway

CREATE = "/model/v1/generation"
PRECHARGE = f"{CREATE}/precharge"
SPEC = "/api/v1/skill/models/spark_dreamo/spec"


def picture_file(width: int = 8, height: int = 6, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 80, 40)).save(file, kind)
    return file.getvalue()


REFERENCE = picture_file()
PICTURE = picture_file(kind="JPEG")


def drawn(picture: bytes) -> Any:
    """Return what a picture of `FakeEngine` tells."""
    return json.loads(picture.removeprefix(PICTURE))


class FakeEngine:
    """Gives a picture that tells what was submitted; refuses prompts that say so."""

    name = "fake"

    def generate(self, request: DrawRequest, reference: bytes) -> bytes:
        if request.prompt == "unreadable":
            raise ValueError("the reference can't be decoded")
        if request.prompt == "broken":
            raise ZeroDivisionError
        return PICTURE + json.dumps([request.prompt, request.seed, len(reference)]).encode()


def body(**params: Any) -> dict[str, Any]:
    filled = {"prompt": "a fox", "seed": 1, "binary_data_base64": [base64.b64encode(REFERENCE).decode()]}
    given = {name: value for name, value in (filled | params).items() if value is not ...}
    return {"model": "spark_dreamo", "input": [{"params": given}]}


class LocalClient:
    """A plain HTTP client, on purpose not the one of the package."""

    def __init__(self, gateway: LocalGateway) -> None:
        self.gateway = gateway
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {gateway.api_key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.gateway.base_url.removeprefix("http://").partition(":")
        return host, int(port)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.gateway.base_url + path
        return self.session.request(method, url, timeout=20, allow_redirects=False, **options)

    def send_create(self, **params: Any) -> requests.Response:
        return self.ask("POST", CREATE, json=body(**params))

    def create(self, **params: Any) -> str:
        answer = self.send_create(**params)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def poll(self, task_id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"{CREATE}/task/{task_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def link(self, task_id: str) -> str:
        return str(self.poll(task_id)["output"][0]["content"][0]["url"])
