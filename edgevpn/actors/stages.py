"""What the template imports, in which order, which actor needs how much of it, and what an actor's process may do.

Light on purpose: the command line reads it in its first milliseconds, to start the template. The stage `base`
(template_start.BASE_STAGE) is always there first, so that actors without libp2p need not wait for it.

What only some nodes need is a stage of its own, the last, and in their templates alone: others would pay its memory.
"""

from __future__ import annotations

BASE = "base"
LIBP2P = "libp2p"
WEB = "web"

STAGES = ((LIBP2P, ("edgevpn.actors.host", "edgevpn.actors.gossip", "edgevpn.actors.discovery", "edgevpn.actors.tun")),)
_WEB_STAGE = (WEB, ("edgevpn.actors.api",))

NEEDS = {
    "sealer": BASE,
    "ledger": BASE,
    "host": LIBP2P,
    "gossip": LIBP2P,
    "discovery": LIBP2P,
    "trust": LIBP2P,
    "tun": LIBP2P,
    "dns": BASE,
    "api": WEB,
    "tunnels": BASE,
}

# Profiles of seccomp_profile. "local": Unix sockets alone. An actor that is not here gets "network".
CONFINEMENT = {"sealer": "local", "ledger": "local", "gossip": "local"}


def stages_for(*, api: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The stages of a node that serves the HTTP API, or does not."""
    return (*STAGES, _WEB_STAGE) if api else STAGES
