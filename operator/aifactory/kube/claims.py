"""Which releases may act at the same time: those that watch nothing in common.

Each watches one namespace or all of them, and leads by a lease that is named after what it watches, so two that watch
the same meet at one lease. Where what they watch only overlaps, one of them all namespaces, they look at each other's
leases, after taking their own: of two who take theirs at the same moment at least one sees the other. Who sees one
gives its own back and waits, so whoever came first goes on.

All leases lie in one namespace into which only administrators write: in their own, users could keep an operator away.
"""

from __future__ import annotations

from typing import Final

from aifactory.api import names
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.lease import LeaseConfig, LeaseObject
from aifactory.kube.objects import ObjectList, decoder
from aifactory.kube.resources import LEASES

_decode = decoder(ObjectList[LeaseObject])
_EVERYTHING: Final = names.lease(None)


class Claims:
    """The leases of others who watch some of what we do.

    Args:
        api: the API server.
        config: our own lease.
        clock: the time.
    """

    def __init__(self, api: Api, config: LeaseConfig, *, clock: Clock) -> None:
        self._api = api
        self._config = config
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        """By name: the version of a lease, and since when, by our clock, it has been the same."""

    @property
    def none(self) -> bool:
        """Nobody else has ever led over any of it, as far as was seen."""
        return not self._seen

    async def rival(self) -> LeaseObject | None:
        """The lease of one who may be acting. Raises KubeError."""
        now, rival = self._clock.monotonic(), None
        page = _decode(await self._api.list(LEASES, namespace=self._config.namespace))
        for lease in filter(self._concerns_us, page.items or ()):
            name, version = lease.metadata.name, lease.metadata.resource_version
            known = self._seen.get(name)
            if known is None or known[0] != version:
                self._seen[name] = version, now
            if now < self._seen[name][1] + self._config.silence(lease):
                rival = lease
        return rival

    def _concerns_us(self, lease: LeaseObject) -> bool:
        name, own = lease.metadata.name, self._config.name
        return name != own and (name == _EVERYTHING or (own == _EVERYTHING and name.endswith(f".{_EVERYTHING}")))
