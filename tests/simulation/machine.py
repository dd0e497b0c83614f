"""The machine that a simulated daemon runs on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio

from meterd.machine import Machine
from tests.simulation import network

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from random import Random

    from meterd.domain.config import Config
    from meterd.domain.endpoints import Endpoint
    from meterd.edge.transports import Transport
    from meterd.embedded.committer import Hop
    from meterd.embedded.store import Store
    from meterd.work.surroundings import OpenSender, Sender
    from tests.simulation.disk import Disk


class SimulatedMachine(Machine):
    """See ``meterd.machine.Machine``."""

    def __init__(
        self,
        disk: Disk,
        net: network.Network,
        random: Random,
        sender: Callable[[Endpoint], Sender],
    ) -> None:
        self._disk = disk
        self._network = net
        self._random = random
        self._sender = sender

    def open_store(self, folder: Path) -> Store:
        return self._disk.store(folder)

    def hop(self, at_once: int) -> Hop:
        return self._disk.hop

    def writer_hop(self) -> Hop:
        return self._disk.hop

    def below(self, limit: int) -> int:
        return self._random.randrange(limit)

    async def listen(self, config: Config) -> list[trio.SocketListener]:
        await trio.lowlevel.checkpoint()
        return [cast("trio.SocketListener", self._network.listener())]

    def transport(self, accepted: trio.SocketStream, tls: ssl.SSLContext | None) -> Transport:
        return network.transport(cast("network.ServerEnd", accepted), tls)

    def senders(self) -> OpenSender:
        @asynccontextmanager
        async def open_sender(endpoint: Endpoint, *, connections_max: int) -> AsyncIterator[Sender]:
            yield self._sender(endpoint)

        return open_sender
