"""Puts the lean import of libp2p in place before any test module here imports it."""

import edgevpn.p2p as edgevpn_p2p  # noqa: F401
