"""What the members of a network share: the config, as YAML or as a token (the base64 of that YAML).

    otp:
      dht:    {interval, key, length}      where the DHT rendezvous rotates; without a key it does not
      crypto: {interval, key, length}      the seal key; interval and length also make the topics
    room: ...                              the topics' key
    rendezvous: ...                        the rendezvous while otp.dht.key is empty
    mdns: ...                              mDNS service name
    max_message_size: 20971520             bytes

Reading is in two steps. `yaml_values.py` gives each field the value that the Go program gives it. `check` then refuses
what no node could use, where Go would crash or start with an empty key. Nothing here shows a secret: `repr` says
`<secret>`, and errors name fields, never values of text fields.
"""

from __future__ import annotations

import base64
import re
import secrets
import string
from dataclasses import dataclass, field
from typing import ClassVar

import yaml

from edgevpn.errors import UsageError
from edgevpn.proto import otp
from edgevpn.proto.yaml_values import INTEGER, TEXT, Fields, is_plain_text, read_values

DEFAULT_OTP_INTERVAL = 360
DEFAULT_MAX_MESSAGE_SIZE = 20 * 1024 * 1024
KEY_LENGTH = 43

_OTP_FIELDS: Fields = {"interval": INTEGER, "key": TEXT, "length": INTEGER}
_FIELDS: Fields = {
    "otp": {"dht": _OTP_FIELDS, "crypto": _OTP_FIELDS},
    "room": TEXT,
    "rendezvous": TEXT,
    "mdns": TEXT,
    "max_message_size": INTEGER,
}
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@dataclass(frozen=True, repr=False)
class OtpConfig:
    """One rotating secret: seconds of a window, the HMAC key, characters of a code (0 or less: a default)."""

    interval: int = 0
    key: str = ""
    length: int = 0
    __secrets__: ClassVar = ("key",)  # what a prompt shows only when it is asked to

    def __repr__(self) -> str:
        return f"OtpConfig(interval={self.interval}, key={_hidden(self.key)}, length={self.length})"


@dataclass(frozen=True, repr=False)
class NetworkConfig:
    """A network's config; the field names are the YAML's. `otp_dht` and `otp_crypto` are otp.dht and otp.crypto."""

    otp_dht: OtpConfig = field(default_factory=OtpConfig)
    otp_crypto: OtpConfig = field(default_factory=OtpConfig)
    room: str = ""
    rendezvous: str = ""
    mdns: str = ""
    max_message_size: int = 0
    __secrets__: ClassVar = ("room", "rendezvous", "mdns")

    def secrets(self) -> tuple[str, ...]:
        """All of its texts that are secret, and the token."""
        texts = (self.otp_dht.key, self.otp_crypto.key, self.room, self.rendezvous, self.mdns)
        return (*(text for text in texts if text), self.to_token())

    def __repr__(self) -> str:
        return (
            f"NetworkConfig(otp_dht={self.otp_dht}, otp_crypto={self.otp_crypto}, room={_hidden(self.room)}, "
            f"rendezvous={_hidden(self.rendezvous)}, mdns={_hidden(self.mdns)}, "
            f"max_message_size={self.max_message_size})"
        )

    def to_yaml(self) -> str:
        """The YAML as the Go program writes it: its key order, block style, quotes where a text looks like a number."""
        return _emit(
            {
                "otp": {
                    "dht": {"interval": self.otp_dht.interval, "key": self.otp_dht.key, "length": self.otp_dht.length},
                    "crypto": {
                        "interval": self.otp_crypto.interval,
                        "key": self.otp_crypto.key,
                        "length": self.otp_crypto.length,
                    },
                },
                "room": self.room,
                "rendezvous": self.rendezvous,
                "mdns": self.mdns,
                "max_message_size": self.max_message_size,
            }
        )

    def to_token(self) -> str:
        return base64.b64encode(self.to_yaml().encode()).decode()


def _hidden(secret: str) -> str:
    return "<secret>" if secret else "''"


def generate(otp_interval: int = DEFAULT_OTP_INTERVAL) -> NetworkConfig:
    """A new network with random secrets, both rotating every `otp_interval` seconds (UsageError unless > 0)."""
    otp.check_interval(otp_interval)
    return NetworkConfig(
        otp_dht=OtpConfig(otp_interval, _random_text(), KEY_LENGTH),
        otp_crypto=OtpConfig(otp_interval, _random_text(), KEY_LENGTH),
        room=_random_text(),
        rendezvous=_random_text(),
        mdns=_random_text(),
        max_message_size=DEFAULT_MAX_MESSAGE_SIZE,
    )


def _random_text() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(KEY_LENGTH))


def parse_token(text: str) -> NetworkConfig:
    """Read a token. Line ends inside it are ignored, spaces are not (as in Go). Raises UsageError."""
    joined = text.replace("\r", "").replace("\n", "")
    if not joined:
        raise UsageError("the token is empty: make one with `edgevpn -g -b`")
    if not _BASE64.fullmatch(joined):
        raise UsageError("the token is not base64: was it copied whole, without spaces?")
    return parse_config_yaml(base64.b64decode(joined))


def parse_config_yaml(text: str | bytes) -> NetworkConfig:
    """Read a config's YAML (what a token holds, or a config file). Raises UsageError, one line saying what is wrong."""
    values = read_values(text, _FIELDS)

    def otp_config(path: str) -> OtpConfig:
        return OtpConfig(
            values.integer(f"{path}.interval"), values.text(f"{path}.key"), values.integer(f"{path}.length")
        )

    config = NetworkConfig(
        otp_dht=otp_config("otp.dht"),
        otp_crypto=otp_config("otp.crypto"),
        room=values.text("room"),
        rendezvous=values.text("rendezvous"),
        mdns=values.text("mdns"),
        max_message_size=values.integer("max_message_size"),
    )
    check(config)
    return config


def unknown_keys(text: str | bytes) -> list[str]:
    """Dotted paths of the keys in a config's YAML that mean nothing, at most MAX_UNKNOWN. They may be anything.

    Raises UsageError where parse_config_yaml does because of the YAML.
    """
    return read_values(text, _FIELDS).unknown


def known_keys() -> list[str]:
    """Dotted paths of the keys that a config may have."""
    return [*(f"otp.{use}.{name}" for use in ("dht", "crypto") for name in _OTP_FIELDS), *_FIELDS]


def check(config: NetworkConfig) -> None:
    """Refuse a config that no node can use. Raises UsageError. An empty mdns name is legal: it means libp2p's own."""
    missing = [
        name
        for name, value in (
            ("otp.crypto.key", config.otp_crypto.key),
            ("room", config.room),
            ("otp.dht.key or rendezvous", config.otp_dht.key or config.rendezvous),
            ("max_message_size", config.max_message_size),
        )
        if not value
    ]
    if missing:
        raise UsageError(f"the network config lacks {', '.join(missing)}: make one with `edgevpn -g`")
    otp.check_interval(config.otp_crypto.interval, "otp.crypto.interval")
    otp.check_length(config.otp_crypto.length, "otp.crypto.length")
    if config.otp_dht.key:
        otp.check_interval(config.otp_dht.interval, "otp.dht.interval")
        otp.check_length(config.otp_dht.length, "otp.dht.length")
    if config.max_message_size < 0:
        raise UsageError(f"max_message_size is {config.max_message_size}: it must not be negative")


def _emit(tree: dict[str, object]) -> str:
    events: list[yaml.Event] = [yaml.StreamStartEvent(), yaml.DocumentStartEvent(explicit=False)]
    _events(tree, events)
    events += [yaml.DocumentEndEvent(explicit=False), yaml.StreamEndEvent()]
    # libyaml's emitter, where there is one, escapes just what Go's does.
    text: str = yaml.emit(events, Dumper=getattr(yaml, "CDumper", yaml.Dumper), allow_unicode=True)
    return text


def _events(value: object, events: list[yaml.Event]) -> None:
    if isinstance(value, dict):
        events.append(yaml.MappingStartEvent(None, None, implicit=True, flow_style=False))
        for name, item in value.items():
            _events(name, events)
            _events(item, events)
        events.append(yaml.MappingEndEvent())
    elif isinstance(value, str) and not (is_plain_text(value) and value.isprintable()):
        events.append(yaml.ScalarEvent(None, None, (False, True), value, style='"'))
    else:
        events.append(yaml.ScalarEvent(None, None, (True, True), str(value)))
