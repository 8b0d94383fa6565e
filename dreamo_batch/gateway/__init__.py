"""The local gateway: a stand-in for the service, for notebooks, the demo and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamo_batch.gateway.gateway import LocalGateway


__all__ = ["LocalGateway"]


def __getattr__(name: str) -> Any:
    # Only the gateway needs FastAPI; the engines don't.
    if name == "LocalGateway":
        try:
            from dreamo_batch.gateway.gateway import LocalGateway
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
                raise
            raise ModuleNotFoundError(
                f"The local gateway needs {error.name}: pip install 'dreamo-batch[local]'.", name=error.name
            ) from None
        return LocalGateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
