"""What the template imports, in which order, which actor needs how much of it, and what an actor's process may do.

Light on purpose: the command line reads it in its first milliseconds, to start the template. The stage `base`
(template_start.BASE_STAGE) is always there first.

Every actor's module belongs here: what is not imported before the fork is imported after it, at each start, into
memory of its own. And an actor had better wait for the last stage, even if it needs less: what the template still
imports after a fork is not shared with the fork, and parts what was (10 MB each when sealer and ledger were forked
early). What only some nodes need is a stage of its own, the last, and in their templates alone: others would pay its
memory, and the actors that every node has need not wait for it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than this module
if TYPE_CHECKING:
    from collections.abc import Iterable

LIBP2P = "libp2p"
MORE = "more"

_ACTORS = ("sealer", "ledger", "host", "gossip", "discovery", "tun")
OPTIONAL = ("trust", "tunnels", "dns", "api")

STAGES = ((LIBP2P, tuple(f"edgevpn.actors.{name}" for name in _ACTORS)),)

NEEDS = dict.fromkeys(_ACTORS, LIBP2P) | dict.fromkeys(OPTIONAL, MORE)

# Profiles of seccomp_profile. "local": Unix sockets alone (the api actor is handed its listener). Others: "network".
CONFINEMENT = {"sealer": "local", "ledger": "local", "gossip": "local", "api": "local"}


def stages_for(actors: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The stages of a node that has `actors` (those that every node has may be left out)."""
    wanted = set(actors)
    more = tuple(f"edgevpn.actors.{name}" for name in OPTIONAL if name in wanted)
    return (*STAGES, (MORE, more)) if more else STAGES
