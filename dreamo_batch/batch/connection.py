"""Which service a call talks to: the public one, a given client, or the embedded local gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dreamo_batch.errors import DirectoryError, KeyMissing, UsageError
from dreamo_batch.importing import load
from dreamo_batch.service.client import Client

if TYPE_CHECKING:
    from contextlib import ExitStack

    from dreamo_batch.execution.directory import RunDirectory


class Gateway(Protocol):
    """What a gateway has to offer: `LocalGateway`, or anything like a running one."""

    @property
    def base_url(self) -> str:
        """Where it is."""
        ...

    @property
    def api_key(self) -> str:
        """The key that it wants."""
        ...


def service_given(
    *,
    client: Client | None,
    api_key: str | None,
    base_url: str | None,
    gateway: str | Gateway | None,
    allow_private_links: bool = False,
) -> dict[str, Any]:
    """Give the arguments of a call that are about the service, as `connect` takes them.

    Raises
    ------
    UsageError
        If more than one service is named, or one can't be used.
    """
    if client is not None:
        _refuse_both("client", api_key=api_key, base_url=base_url, gateway=gateway)
        if allow_private_links:
            raise UsageError("give allow_private_links= to the Client")
        if not isinstance(client, Client):
            raise UsageError(f"client must be a Client, not a {type(client).__name__}.")
    if gateway is not None:
        _refuse_both("gateway", api_key=api_key, base_url=base_url)
        if gateway != "local" and (isinstance(gateway, str | type) or not hasattr(gateway, "api_key")):
            raise UsageError(f'gateway= must be "local" or a LocalGateway, not {gateway!r}.')
    for name, value in (("api_key", api_key), ("base_url", base_url)):
        if not isinstance(value, str | None):
            raise UsageError(f"{name} must be text, not a {type(value).__name__}.")
    return {
        "client": client,
        "api_key": api_key,
        "base_url": base_url,
        "gateway": gateway,
        "allow_private_links": allow_private_links,
    }


def connect(
    resources: ExitStack,
    directory: RunDirectory,
    *,
    client: Client | None,
    api_key: str | None,
    base_url: str | None,
    gateway: str | Gateway | None,
    allow_private_links: bool = False,
) -> Client:
    """Give the client of a call; what is opened here is closed with `resources`.

    Raises
    ------
    UsageError
        If the embedded gateway is not installed.
    KeyMissing
        If the service needs a key and there is none.
    """
    if client is not None:
        return with_key(client)
    if gateway is not None:
        running = _gateway(resources, directory, gateway)
        api_key, base_url = running.api_key, running.base_url
    return with_key(
        resources.enter_context(
            Client(api_key=api_key, base_url=base_url, allow_private_links=allow_private_links)
        )
    )


def known_service(directory: RunDirectory, service: dict[str, Any]) -> dict[str, Any]:
    """Recognise a run of the local gateway by its state, where no service is named."""
    is_named = any(service[name] is not None for name in ("client", "base_url", "gateway"))
    return service if is_named or not directory.gateway.is_dir() else {**service, "gateway": "local"}


def with_key(client: Client) -> Client:
    """Give the client back if it can be used without asking for a key.

    Raises
    ------
    KeyMissing
        If its service needs a key and there is none.

    Examples
    --------
    >>> with_key(Client(base_url="http://127.0.0.1:9", api_key="sk-example-key"))
    Client(base_url='http://127.0.0.1:9', api_key=***)
    """
    if client.settings.api_key is None and not client.settings.is_loopback:
        raise KeyMissing(
            f"{client.settings.service_name} needs an API key: set the environment variable DREAMO_API_KEY, or give "
            'api_key=. To try without a key or cost, use gateway="local".'
        )
    return client


def _gateway(resources: ExitStack, directory: RunDirectory, gateway: str | Gateway) -> Gateway:
    """Give a running gateway: the embedded one, or the one given, started for this call if it is not running."""
    if isinstance(gateway, str):
        gateway = _local_gateway()
    start: Any = getattr(gateway, "start", None)
    if start is not None and not getattr(gateway, "is_running", True):
        try:
            start(directory.gateway)
        except (FileExistsError, NotADirectoryError):
            raise DirectoryError(f"{directory.path} is not a folder; give another run directory.") from None
        resources.callback(gateway.stop)  # type: ignore[attr-defined]
    return gateway


def _local_gateway() -> Gateway:
    local: Any = load("dreamo_batch.local")  # by name: only this hook reaches it
    try:
        made: Gateway = local.LocalGateway()
    except ModuleNotFoundError as error:
        raise UsageError(f'gateway="local": {error}') from None
    return made


def _refuse_both(given: str, **others: object) -> None:
    also = [name for name, value in others.items() if value is not None]
    if also:
        raise UsageError(f"give {given}= or {also[0]}=, not both")
