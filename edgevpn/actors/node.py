"""Runs a node in this process: prepares what the supervisor needs, then hands over to it.

What needs rights happens here, in an order that undoes itself: run directory (locked), TUN device (gone with its last
descriptor), addresses (gone with the device). The token stays in its memfd, unread.

Addresses are set by a side job (side_job.py): the netlink library takes 10 MB and 0.1 s, and is of no use later. While
it runs, what takes longest to import is imported here.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from traceback import format_exception

from edgevpn import identity
from edgevpn.actors import api_listener, kept_directory, listeners, log, run_directory, system_resolver, users
from edgevpn.actors.child_entry import User
from edgevpn.actors.log_store import LogStore
from edgevpn.actors.secret_store import Descriptors
from edgevpn.actors.side_job import SideJob
from edgevpn.actors.stages import stages_for
from edgevpn.actors.template_start import StartedTemplate, start_template
from edgevpn.actors.tunnel_listeners import open_listener
from edgevpn.actors.users import NO_USERS, Users
from edgevpn.config import NodeConfig
from edgevpn.errors import EdgevpnError
from edgevpn.sealed_memory import sealed_memfd
from edgevpn.tun import device, udp_socket


def run_node(config: NodeConfig, token_fd: int, template: StartedTemplate | None = None) -> int:
    """Run until SIGINT, SIGTERM or a Stop message; the exit code. Raises EdgevpnError when it can't start."""
    log.configure(config.log_level, debug=config.debug)
    with ExitStack() as undo:
        if template is None and not config.debug:
            template = start_template(stages_for(config.actors()))
        if template is not None:
            undo.callback(template.stop)
        run_dir = undo.enter_context(run_directory.hold(Path(config.run_dir)))
        undo.enter_context(_logged_in(run_dir))
        actor_users = _users_for(config)
        run_directory.open_to(run_dir, config.actors(), actor_users)
        addressing: SideJob | None = None
        if config.vpn:
            tun = device.open_device(config.interface)
            undo.callback(tun.close)
            if config.bootstrap_iface:
                addressing = SideJob(_give_addresses, config)
                undo.callback(addressing.abandon)
        # A node that was killed left its key here: as another peer it could not have its own address back for minutes.
        key = identity.load_or_create(Path(config.privkey_cache_dir) if config.privkey_cache else run_dir)
        descriptors: Descriptors = {"token": token_fd}
        descriptors["identity"] = identity_fd = sealed_memfd("edgevpn-identity", key.seed)
        undo.callback(os.close, identity_fd)
        if config.peergate_key_fd >= 0:
            os.set_inheritable(config.peergate_key_fd, False)
            descriptors["peergate-key"] = config.peergate_key_fd
        if config.ledger_state:
            descriptors["ledger-state"] = _ledger_directory(Path(config.ledger_state), actor_users.user("ledger"))
        if config.api:
            descriptors |= undo.enter_context(api_listener.open_api(config, run_dir))
        if config.vpn:
            descriptors["tun"] = tun.fileno()
            if config.path != "stream":
                for family, sock in udp_socket.open_udp(config.datagram_port).items():
                    undo.callback(sock.close)
                    descriptors["udp6" if family == socket.AF_INET6 else "udp4"] = sock.fileno()
        if config.dns:
            for what, sock in listeners.open_dns(config.dns).items():
                undo.callback(sock.close)
                descriptors[what] = sock.fileno()
        for what, place in config.listeners():
            listener = undo.enter_context(open_listener(place))
            descriptors[what] = listener.fileno()
        import trio

        from edgevpn.actors.supervisor import supervise

        if addressing is not None:
            addressing.finish()
        undo.enter_context(system_resolver.asks_us(config))
        return trio.run(supervise, config, descriptors, key.peer_id, template, actor_users)


def _users_for(config: NodeConfig) -> Users:
    """Whom the actors are to run as: nobody else unless we are root, or somebody debugs them in a terminal."""
    if os.geteuid() != 0 or config.debug:
        return NO_USERS
    drawn = users.draw(config.actors(), random.SystemRandom(), users.read_maps())
    if drawn is None:
        log.get("supervisor").warning("this container has few users: all actors run as nobody (65534)")
    return drawn or users.nobody(config.actors())


def _ledger_directory(path: Path, user: User | None) -> int | Callable[[], int]:
    """The directory of --ledger-state, or, while its disk is full or read-only, what opens it later."""
    owner = (user.uid, user.gid) if user is not None else None
    again = partial(kept_directory.open_kept, path, "edgevpn-ledger", "--ledger-state", owner=owner)
    try:
        return again(patience=2.0)
    except OSError:
        return again


def _give_addresses(config: NodeConfig) -> None:
    from edgevpn.tun import netlink

    netlink.configure(config.interface, () if config.dhcp else config.addresses, config.mtu)


@contextmanager
def _logged_in(run_dir: Path) -> Iterator[None]:
    """Keep the log in the run directory, and in it what ended the node."""
    store = LogStore(run_dir)
    log.add_sink(store.append)
    try:
        yield
    except EdgevpnError:
        raise
    except Exception as exc:
        log.get("supervisor").error("the node ends by an error of its own", traceback="".join(format_exception(exc)))
        raise
    finally:
        log.remove_sink(store.append)
        store.close()
