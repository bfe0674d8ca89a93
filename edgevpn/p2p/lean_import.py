"""Imports py-libp2p without the parts that this program never uses.

The plain `import libp2p` loads QUIC, WebSocket, TLS with ACME, mDNS, UPnP and five peer store back ends: most of its
start-up time, for code we never call. A node must start fast (its actors are started again when they crash), so:

- the package `libp2p` itself is made without running its `__init__` (which imports everything); its submodules are
  imported from the files as usual, each when somebody needs it;
- the modules in `LEFT_OUT` are stand-ins. Names imported from them are empty classes, good enough for annotations,
  `isinstance` and `except`; making an object of one raises `RuntimeError`;
- the modules in `DEFERRED` are needed rarely (keys of foreign types): they are loaded at their first use.

Only names in these tables are touched, each with its reason; everything else is the real thing. Importing this module
installs the import hook, so it must come before any import of libp2p (`edgevpn.p2p` sees to that).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

LEFT_OUT: dict[str, str] = {
    "libp2p.transport.quic": "slower than TCP here, and a killed peer goes unnoticed for a minute; brings aioquic",
    "libp2p.transport.websocket": "not offered; brings trio_websocket",
    "libp2p.transport.webrtc": "not offered; brings aiortc",
    "libp2p.transport.webtransport": "not offered; brings aioquic",
    "libp2p.security.tls": "only noise is offered; brings OpenSSL, acme, httpx",
    "libp2p.discovery.mdns": "cannot speak the Go program's mDNS, and blocks at start; brings zeroconf",
    "libp2p.discovery.upnp": "not used; brings miniupnpc",
    "libp2p.discovery.bootstrap": "bootstrap peers are dialled by our own discovery",
    "dns.quic": "names are not resolved over QUIC; brings aioquic and service_identity",
}

DEFERRED: dict[str, str] = {
    "Crypto": "RSA keys, which only old public bootstrap peers have",
    "coincurve": "secp256k1 keys, which no peer of this network makes",
    "fastecdsa": "ECDSA keys, which no peer of this network makes",
    "prometheus_client": "libp2p's own metrics, which are not used",
}


def _under(name: str, table: dict[str, str]) -> str | None:
    """The entry of `table` that `name` is, or lies below."""
    return next((entry for entry in table if name == entry or name.startswith(entry + ".")), None)


class LeftOut:
    """Base of every class that stands for something left out."""

    def __init__(self, *_: object, **__: object) -> None:
        _refuse(type(self).__module__, type(self).__name__)


def _refuse(module: str, name: str) -> NoReturn:
    root = _under(module, LEFT_OUT) or "libp2p"
    reason = LEFT_OUT.get(root, "it imports all of libp2p; import the submodule that has it")
    raise RuntimeError(f"{module}.{name} is left out of this program ({reason})")


class _LeftOutModule(ModuleType):
    """A module whose every attribute is an empty class (an exception class, if it is named like one)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        bases: tuple[type, ...] = (LeftOut, Exception) if name.endswith(("Error", "Exception")) else (LeftOut,)
        made = type(name, bases, {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Deferred:
    """A name imported from a deferred module: the first call or attribute access loads the real one."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        module = _FINDER.load_for_real(self._module)
        if not hasattr(module, self._name):  # a submodule that nobody imported yet
            importlib.import_module(f"{self._module}.{self._name}")
        return getattr(module, self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)


class _DeferredModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Deferred(self.__name__, name)


class _LeanLibp2p(ModuleType):
    """The package `libp2p`, whose `__init__` is not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse("libp2p", name)


class _LeanFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The import hook: decides by the tables, and leaves every other name to the ordinary finders."""

    def __init__(self) -> None:
        self._real: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target  # part of the hook's signature; the decision is by name alone
        if name == "libp2p":
            spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
            real = importlib.machinery.PathFinder.find_spec(name)
            if real is None:
                return None
            spec.submodule_search_locations = real.submodule_search_locations
            return spec
        deferred = _under(name, DEFERRED)
        if _under(name, LEFT_OUT) or (deferred and deferred not in self._real):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        if spec.name == "libp2p":
            return _LeanLibp2p(spec.name)
        return _LeftOutModule(spec.name) if _under(spec.name, LEFT_OUT) else _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "libp2p":
            module.__dict__["__version__"] = importlib.metadata.version("libp2p")
            # Its modules import each other in a circle that can be entered only here.
            importlib.import_module("libp2p.transport")

    def load_for_real(self, name: str) -> ModuleType:
        """The real module in place of a deferred one."""
        root = _under(name, DEFERRED)
        if root is not None and root not in self._real:
            self._real.add(root)
            for standing in [m for m in sys.modules if _under(m, {root: ""})]:
                del sys.modules[standing]
        return importlib.import_module(name)


_FINDER = _LeanFinder()


def import_libp2p() -> None:
    """Install the hook (once). Raises RuntimeError if libp2p was imported in full before."""
    if _FINDER in sys.meta_path:
        return
    if "libp2p" in sys.modules:
        raise RuntimeError("libp2p was imported before edgevpn.p2p.lean_import; import edgevpn.p2p first")
    sys.meta_path.insert(0, _FINDER)


def for_real(name: str) -> ModuleType:
    """A module of DEFERRED, imported now: for a process that needs it itself, whatever libp2p does with it."""
    return _FINDER.load_for_real(name)


import_libp2p()
