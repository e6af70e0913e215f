"""The sockets that the workers accept from. The supervisor keeps them, so that a worker that dies takes no queue along.

Each worker has a socket of its own at each TCP address, and the kernel spreads connections over them (`SO_REUSEPORT`).
Unix sockets, and those that systemd passes, are one for all.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.errors import ConfigError
from mirror.server import sockets
from mirror.server.channel import MOST_SOCKETS
from mirror.server.listening import Listener, keyed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.config import Listen, ServerConfig
    from mirror.server.listening import Key
    from mirror.server.systemd import PassedSocket

Handed = dict[int, list[socket.socket]]  # sockets by the place of their address in `server.listen`


@dataclass(slots=True, eq=False)
class Binding:
    """One entry of `server.listen`, bound for every worker; the first worker's are those of `listener`."""

    listener: Listener
    others: list[list[socket.socket]] = field(default_factory=list)

    def of(self, worker: int) -> list[socket.socket]:
        """Return what a worker accepts from; `worker` counts from 0."""
        return self.others[worker - 1] if worker and self.others else self.listener.sockets

    def all(self) -> list[socket.socket]:
        """Return the sockets of all workers."""
        return [*self.listener.sockets, *(sock for theirs in self.others for sock in theirs)]

    def stop(self) -> None:
        """Close them; a Unix socket's path goes, too."""
        for theirs in self.others:
            for sock in theirs:
                sock.close()
        self.listener.stop()

    def close(self) -> None:
        """Close them in a process that is not the supervisor."""
        for sock in self.all():
            sock.close()


@dataclass(slots=True)
class Plan:
    """What `Bindings.prepare` found out: all that will be listened on, and which of it is new."""

    wanted: dict[Key, Binding] = field(default_factory=dict)
    new: list[Binding] = field(default_factory=list)
    encrypts: list[bool] = field(default_factory=list)

    def undo(self) -> None:
        """Give up what was bound for it."""
        for binding in self.new:
            binding.stop()

    def handed(self, worker: int) -> Handed:
        """Return what is new for a worker."""
        bindings = enumerate(self.wanted.values())
        return {place: binding.of(worker) for place, binding in bindings if binding in self.new}


class Bindings:
    """All that is listened on, for `workers` processes."""

    def __init__(self, workers: int, passed: Sequence[PassedSocket]) -> None:
        """`passed` are systemd's sockets."""
        self._workers = workers
        self._passed = passed
        self._bindings: dict[Key, Binding] = {}

    @property
    def urls(self) -> list[str]:
        """Where clients reach the mirror, in the order of the configuration."""
        return [url for binding in self._bindings.values() for url in binding.listener.urls]

    def prepare(self, config: ServerConfig) -> Plan:
        """Bind what is not bound yet, and change nothing. Blocks. Raise `ConfigError` where that cannot be."""
        plan = Plan()
        keys = keyed(config.listen)
        leaving = [sock for key, one in self._bindings.items() if key not in keys for sock in one.all()]
        try:
            for key, listen in keys.items():
                here = self._bindings.get(key)
                if here is None or _gone(here.listener):
                    here = self._bind(listen, leaving)
                    plan.new.append(here)
                plan.wanted[key] = here
                plan.encrypts.append(config.encrypts(listen))
            _refuse_too_many(plan)
        except BaseException:
            plan.undo()
            raise
        return plan

    def commit(self, plan: Plan) -> None:
        """Listen on what was prepared, and on nothing else. The workers accept by now."""
        before, self._bindings = self._bindings, plan.wanted
        for binding, encrypts in zip(plan.wanted.values(), plan.encrypts, strict=True):
            binding.listener.encrypts = encrypts
        for binding in before.values():
            if binding not in plan.wanted.values():
                binding.stop()

    def keep(self, worker: int) -> Handed:
        """Return what is a worker's, in a process that has become that worker, and close all the rest."""
        handed = {place: binding.of(worker) for place, binding in enumerate(self._bindings.values())}
        kept = {sock for theirs in handed.values() for sock in theirs}
        for binding in self._bindings.values():
            for sock in binding.all():
                if sock not in kept:
                    sock.close()
        self._bindings = {}
        return handed

    def unnamed(self) -> list[str]:
        """Return the names of systemd's sockets that nothing listens on."""
        return sockets.unnamed((binding.listener.listen for binding in self._bindings.values()), self._passed)

    def stop(self) -> None:
        """Listen on nothing more."""
        for binding in self._bindings.values():
            binding.stop()
        self._bindings.clear()

    def _bind(self, listen: Listen, leaving: Iterable[socket.socket]) -> Binding:
        found = sockets.bound_at_once(listen, self._passed, leaving)
        listener = Listener(listen, found, sockets.inode(found[0]) if listen.path is not None else None)
        binding = Binding(listener)
        if is_common(listen):
            return binding
        binding.others = [[] for _ in range(self._workers - 1)]
        try:
            for sock in found:
                for theirs, twin in zip(binding.others, sockets.twins(sock, self._workers - 1), strict=True):
                    theirs.append(twin)
        except OSError as error:
            binding.stop()
            raise ConfigError([f"server.listen: {listen} cannot be shared by workers: {error.strerror}"]) from error
        return binding


class FromSupervisor:
    """See `listening.Source`: in a worker, which gets its sockets from the supervisor."""

    def __init__(self, handed: Handed) -> None:
        self._handed = handed

    def hand(self, handed: Handed) -> None:
        """Give what is new for the next reload."""
        self.drop()
        self._handed = handed

    def drop(self) -> None:
        """Close what nobody took."""
        for theirs in self._handed.values():
            for sock in theirs:
                sock.close()
        self._handed = {}

    def renews(self, place: int, before: Listener) -> bool:  # noqa: ARG002  # the supervisor has looked at it
        """See `Source.renews`."""
        return place in self._handed

    async def listener(self, place: int, listen: Listen, leaving: list[socket.socket]) -> Listener:  # noqa: ARG002
        """See `Source.listener`."""
        return Listener(listen, self._handed.pop(place), common=is_common(listen))

    def unnamed(self, listens: Iterable[Listen]) -> list[str]:  # noqa: ARG002
        """See `Source.unnamed`: the supervisor tells of them."""
        return []


def _refuse_too_many(plan: Plan) -> None:
    if sum(len(binding.of(0)) for binding in plan.new) > MOST_SOCKETS:
        raise ConfigError([f"server.listen: several workers take {MOST_SOCKETS} new addresses at most"])


def is_common(listen: Listen) -> bool:
    """Say whether all workers accept from the same sockets at an address."""
    return listen.path is not None or listen.systemd is not None


def _gone(listener: Listener) -> bool:
    """Say whether the path of a Unix socket names another one, or none."""
    return listener.inode is not None and sockets.inode(listener.sockets[0]) != listener.inode
