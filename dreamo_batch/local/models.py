"""The description of the model, as the gateway gives it to anyone.

Annotations are evaluated here, since FastAPI reads them.
"""

from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from dreamo_batch.local.answers import json_answer
from dreamo_batch.local.door import plain
from dreamo_batch.local.schema import PARAMS, SKILL, described, refused
from dreamo_batch.service import parameters

NAME = "Spark DreamO (local preview)"
DESCRIPTION = "Makes a picture from a prompt and one reference picture of a subject."
PAGE_SIZE_MAX = 100


class Models:
    """The endpoints that describe the model.

    Parameters
    ----------
    base_url : str
        Where orders go.

    Examples
    --------
    >>> import asyncio
    >>> asyncio.run(Models("http://127.0.0.1:8000").spec("other")).status_code
    404
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to an application.

        Parameters
        ----------
        app : FastAPI
            The application.
        """
        app.add_api_route(parameters.MODELS_PATH.value, self.listed, responses=described(good=SKILL))
        spec_answers = described(good=SKILL) | {404: refused(SKILL)}
        app.add_api_route(parameters.SPEC_PATH.value, self.spec, responses=spec_answers)

    async def listed(
        self,
        page: Annotated[int, Query(ge=1)] = 1,
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 20,
        type: str | None = None,  # noqa: A002 - the service's spelling
        keywords: str | None = None,
    ) -> Response:
        """List the models: there is one."""
        text = f"{parameters.MODEL} {NAME} {DESCRIPTION}".lower()
        is_wanted = type in (None, "", "image") and (keywords or "").lower() in text
        models = [_MODEL] if is_wanted else []
        data = {
            "models": models if page == 1 else [],
            "total": len(models),
            "page": page,
            "page_size": page_size,
            "total_pages": len(models),
        }
        return plain(json_answer(_good(data)))

    async def spec(self, model: str) -> Response:
        """Describe one model and its parameters."""
        if model != parameters.MODEL:
            status = {"code": 404, "message": "model not found"}
            return plain(json_answer({"status": status, "data": None}, 404))
        headers = {"Authorization": "Bearer {api_key}", "Content-Type": "application/json"}
        endpoint = f"{self._base_url}{parameters.CREATE_PATH.value}"
        data = {
            "model_id": parameters.MODEL,
            "name": NAME,
            "vendor": "local",
            "type": "image",
            "api": {"endpoint": endpoint, "method": "POST", "headers": headers},
            "parameters": [_MODEL_PARAMETER, *(_parameter(name) for name in PARAMS)],
            "agent_prompt": DESCRIPTION,
        }
        return plain(json_answer(_good(data)))


def _good(data: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"code": 200, "message": "success"}, "data": data}


def _parameter(name: str) -> dict[str, Any]:
    schema = PARAMS[name]
    given = {_CONSTRAINTS[word]: value for word, value in schema.items() if word in _CONSTRAINTS}
    return {
        "name": name,
        "path": f"input[0].params.{name}",
        "type": schema["type"],
        "required": name == "prompt",
        "description": schema["description"],
        "constraints": given,
    }


_CONSTRAINTS = {
    "default": "default",
    "minimum": "min",
    "maximum": "max",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_items",
}
_MODEL = {
    "id": parameters.MODEL,
    "name": NAME,
    "type": "image",
    "description": DESCRIPTION,
    "input_modalities": ["text", "image"],
    "output_modalities": ["image"],
}
_MODEL_PARAMETER = {
    "name": "model",
    "path": "model",
    "type": "string",
    "required": True,
    "description": "Which model draws.",
    "constraints": {"enum": [parameters.MODEL]},
}
