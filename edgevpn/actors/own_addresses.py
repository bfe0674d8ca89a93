"""The supervisor's part of --dhcp: it alone may set addresses on the interface, and it keeps the lease.

The ledger actor decides which addresses are this node's (edgevpn/ledger/lessee.py) and asks for them with the ticket of
its start. Only addresses of the networks of --address are set, and only with --dhcp: an actor that was taken over can
give the interface nothing else.

The lease is a file of mode 0600 in --lease-dir, with the Go program's name and form: the address alone (of several
networks one a line). It is a wish for the next run, no right.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from edgevpn.actors import log
from edgevpn.actors.kept_directory import KeptFiles
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.secret_store import SecretStore
from edgevpn.config import NodeConfig
from edgevpn.errors import SetupError
from edgevpn.proto.messages import Body, Done, Lease, ReadLease, SetAddresses
from edgevpn.tun import netlink

_NAME = re.compile(r"[0-9a-f]{32}")
_MOST = 4096  # bytes of a lease file


def lease_untrusted(text: bytes) -> list[str]:
    """The addresses of a lease file; what is none is left out."""
    found = []
    for word in text[:_MOST].decode("ascii", "replace").split():
        try:
            found.append(str(ipaddress.ip_address(word)))
        except ValueError:
            continue
    return found


class OwnAddresses:
    """Answers ReadLease and SetAddresses."""

    def __init__(self, config: NodeConfig, store: SecretStore) -> None:
        self._config = config
        self._store = store
        self._networks = [ipaddress.ip_interface(text).network for text in config.addresses]
        self._set: list[str] = []
        self._said: set[str] = set()

    async def read_lease(self, request: ReadLease) -> Body:
        self._check(request.ticket, request.name)
        try:
            with self._files() as files:
                text = files.read(request.name, _MOST)
        except FileNotFoundError:
            text = None
        except OSError as exc:
            self._say(f"the lease in {self._config.lease_dir} is not used: {exc.strerror}")
            text = None
        return Lease(lease_untrusted(text or b""), self._set)

    async def set(self, request: SetAddresses) -> Body:
        self._check(request.ticket, request.name)
        wanted = [self._normal(text) for text in request.addresses]
        if self._config.bootstrap_iface and wanted != self._set:
            old = [text for text in self._set if text not in wanted]
            try:
                await trio.to_thread.run_sync(netlink.change_addresses, self._config.interface, wanted, old)
            except SetupError as exc:
                raise RequestError("failed", str(exc)) from exc
        self._set = wanted
        if wanted:
            await trio.to_thread.run_sync(self._keep, request.name, wanted)
        return Done()

    def _check(self, ticket: str, name: str) -> None:
        if not self._config.dhcp or self._store.holder(ticket) != "ledger" or not _NAME.fullmatch(name):
            raise RequestError("refused", "no addresses for that ticket")

    def _normal(self, text: str) -> str:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            raise RequestError("refused", "that is no address") from None
        if interface.network not in self._networks:
            raise RequestError("refused", f"{interface} is not of the networks of this node")
        return str(interface)

    @contextmanager
    def _files(self) -> Iterator[KeptFiles]:
        descriptor = os.open(self._config.lease_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield KeptFiles(descriptor)
        finally:
            os.close(descriptor)

    def _keep(self, name: str, addresses: list[str]) -> None:
        where = self._config.lease_dir
        try:
            Path(where).mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._files() as files:
                text = "\n".join(address.partition("/")[0] for address in addresses)
                files.replace(name, text.encode(), durable=True)
        except OSError as exc:
            self._say(f"can't keep the lease in {where} ({exc.strerror}): the next run may get another address")

    def _say(self, text: str) -> None:
        """Once."""
        if text not in self._said:
            self._said.add(text)
            log.get("supervisor").warning(text)
