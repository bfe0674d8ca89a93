"""EdgeVPN in Python: a decentralised VPN of supervised actors on Trio. docs/design.md says how it is built."""

__version__ = "0.1.0"
