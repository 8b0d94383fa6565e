"""Which service a call talks to, as the user named it, and the client for it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dreamo_batch.errors import DirectoryError, UsageError, type_of
from dreamo_batch.importing import load_module
from dreamo_batch.service.client import Client
from dreamo_batch.service.config import key_missing
from dreamo_batch.text import local_option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from dreamo_batch.engine.directory import RunDirectory


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


@dataclass(frozen=True, slots=True)
class Service:
    """The service that a call names: a client, a gateway, or a key and a base URL."""

    client: Client | None = None
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    gateway: Literal["local"] | Gateway | None = None
    allow_private_links: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Service:
        """Pick the arguments of a call that are about the service, and check them."""
        return cls(**{one.name: arguments[one.name] for one in fields(cls) if one.name in arguments})

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or can't be a service."""
        if self.client is not None:
            self._refuse_beside("client", "api_key", "base_url", "gateway")
            if self.allow_private_links:
                raise UsageError("Pass allow_private_links= to the Client.")
            if not isinstance(self.client, Client):
                raise UsageError(f"client must be a Client, not {type_of(self.client)}.")
        if self.gateway is not None:
            self._refuse_beside("gateway", "api_key", "base_url")
            is_gateway = hasattr(self.gateway, "api_key") and not isinstance(self.gateway, str | type)
            if self.gateway != "local" and not is_gateway:
                raise UsageError(f'gateway= must be "local" or a LocalGateway, not {self.gateway!r}.')
        for name in ("api_key", "base_url"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise UsageError(f"{name} must be text, not {type_of(value)}.")

    def or_local(self, directory: RunDirectory) -> Service:
        """Choose the local gateway where no service is named and the run directory keeps the state of one."""
        is_named = any(one is not None for one in (self.client, self.base_url, self.gateway))
        return self if is_named or not directory.gateway.is_dir() else replace(self, gateway="local")

    def connect(self, resources: ExitStack, directory: RunDirectory) -> Client:
        """Return the client of a call; what is opened for it is closed with `resources`."""
        if self.client is not None:
            return with_key(self.client)
        api_key, base_url = self.api_key, self.base_url
        if self.gateway is not None:
            running = _running(resources, directory, self.gateway)
            api_key, base_url = running.api_key, running.base_url
        client = Client(api_key=api_key, base_url=base_url, allow_private_links=self.allow_private_links)
        return with_key(resources.enter_context(client))

    def _refuse_beside(self, given: str, *others: str) -> None:
        also = [name for name in others if getattr(self, name) is not None]
        if also:
            raise UsageError(f"Pass {given}= or {also[0]}=, not both.")


def with_key(client: Client) -> Client:
    """Return the client if it can be used; raise `KeyMissing` if it needs a key and has none."""
    if client.settings.api_key is None and not client.settings.is_loopback:
        raise key_missing(client.settings)
    return client


def _running(resources: ExitStack, directory: RunDirectory, gateway: str | Gateway) -> Gateway:
    """Return a running gateway; one that is started here is stopped when its last user closes its `resources`."""
    if isinstance(gateway, str):
        gateway = _local_gateway()
    in_use: Any = getattr(gateway, "in_use", None)
    if in_use is not None:
        try:
            resources.enter_context(in_use(directory.gateway))
        except (FileExistsError, NotADirectoryError):
            raise DirectoryError(f"{directory.path} is not a folder; pass another run directory.") from None
    return gateway


def _local_gateway() -> Gateway:
    local: Any = load_module("dreamo_batch.gateway")  # only where it is asked for: it is an extra
    try:
        gateway: Gateway = local.LocalGateway()
    except ModuleNotFoundError as error:
        raise UsageError(f"{local_option()}: {error}") from None
    return gateway
