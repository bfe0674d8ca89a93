"""The hardened py-libp2p. Importing it puts the lean import in place, before anything here imports libp2p."""

from edgevpn.p2p import lean_import as lean_import
