"""Checkers for the formats that rotate, seal and carry: token, otp, seal, message, rendezvous, peerguard.

Each takes a case (a JSON object of a vector file) and returns None where we agree with the Go program, else why not.
`lenient` cases may be refused, `panics` cases must be; "refused" means one of our own errors, anything else is a fault.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import gossip_message, network_config, otp, peerguard, rendezvous, seal
from edgevpn.proto.block import read_block_untrusted
from edgevpn.proto.network_config import NetworkConfig, OtpConfig

Case = dict[str, Any]
_OUR_ERRORS = (UsageError, UntrustedDataError)


def differ(what: str, expected: object, got: object) -> str | None:
    return None if expected == got else f"{what}: expected {expected!r}, got {got!r}"


def first(*findings: str | None) -> str | None:
    return next((finding for finding in findings if finding), None)


def refusable(check: Callable[[Case], str | None]) -> Callable[[Case], str | None]:
    """Refusing what Go takes is allowed where Go is lenient, and else a failure."""

    def judge(case: Case) -> str | None:
        try:
            finding = check(case)
        except _OUR_ERRORS as error:
            return None if case.get("lenient") else f"refused: {error}"
        return finding

    return judge


def _refuses(what: str, action: Callable[[], object]) -> str | None:
    try:
        got = action()
    except _OUR_ERRORS as error:
        return None if "\n" not in str(error) and str(error) else f"{what}: the error is not one line: {error!r}"
    return f"{what}: must be refused, got {got!r}"


@refusable
def check_otp(case: Case) -> str | None:
    if case.get("panics"):
        return _refuses("totp", lambda: otp.totp(case["key"], case["length"], case["interval"], case["time"]))
    code = otp.totp(case["key"], case["length"], case["interval"], case["time"])
    return first(
        differ("totp", case["totp"], code),
        differ("md5", case["md5"], otp.md5_hex(code)),
        differ("counter", case["counter"], _counter(case)),
    )


def _counter(case: Case) -> int:
    if case["time"] >= 0:
        return otp.window(case["interval"], case["time"]).number
    return otp.EdgeTotp("", length=1, interval=case["interval"]).timecode(case["time"])


def _token_is_of_yaml(case: Case) -> bool:
    """Whether `yaml` is just what the token holds: bytes that are not UTF-8 cannot be shown in JSON."""
    try:
        return "yaml" in case and base64.b64decode(case["token"]) == case["yaml"].encode()
    except ValueError:
        return False


@refusable
def check_token(case: Case) -> str | None:
    if case.get("error") or case.get("panics"):
        finding = _refuses("token", lambda: network_config.parse_token(case["token"]))
        if finding is None and _token_is_of_yaml(case):
            finding = _refuses("yaml", lambda: network_config.parse_config_yaml(case["yaml"]))
        return finding
    config = network_config.parse_token(case["token"])
    findings = [
        differ("fields", case["fields"], _fields(config)),
        differ("our own token", config, network_config.parse_token(config.to_token())),
    ]
    if _token_is_of_yaml(case):
        findings.append(differ("fields of the yaml", config, network_config.parse_config_yaml(case["yaml"])))
    if "as Go's YAML() and Base64() write" in case.get("note", ""):
        findings.append(differ("to_yaml", case["yaml"], config.to_yaml()))
        findings.append(differ("to_token", case["token"], config.to_token()))
    return first(*findings)


def _fields(config: NetworkConfig) -> dict[str, int | str]:
    fields: dict[str, int | str] = {
        "room": config.room,
        "rendezvous": config.rendezvous,
        "mdns": config.mdns,
        "max_message_size": config.max_message_size,
    }
    for name, part in (("dht", config.otp_dht), ("crypto", config.otp_crypto)):
        fields[f"otp.{name}.interval"] = part.interval
        fields[f"otp.{name}.key"] = part.key
        fields[f"otp.{name}.length"] = part.length
    return fields


@refusable
def check_seal(case: Case) -> str | None:
    key = case["key"]
    if not case["opens"]:
        return _refuses("open", lambda: seal.open_untrusted(case["sealed"], key))
    if "plaintext_repeat" in case:
        repeat = case["plaintext_repeat"]
        plaintext = bytes([repeat["byte"]]) * repeat["count"]
    else:
        plaintext = base64.b64decode(case.get("plaintext", ""))
    findings: list[str | None] = []
    ours = seal.seal(plaintext, key, bytes.fromhex(case["nonce"])) if "nonce" in case else None
    if "sealed" in case:
        findings.append(differ("opened", plaintext, seal.open_untrusted(case["sealed"], key)))
        if ours is not None:
            findings.append(differ("sealed", case["sealed"], ours))
    if "sealed_sha256" in case:
        if ours is None:
            return "the case has no nonce to seal with"
        findings += [
            differ("sealed_length", case["sealed_length"], len(ours)),
            differ("sealed_start", case["sealed_start"], ours[: len(case["sealed_start"])]),
            differ("sealed_end", case["sealed_end"], ours[-len(case["sealed_end"]) :]),
            differ("sealed_sha256", case["sealed_sha256"], hashlib.sha256(ours.encode()).hexdigest()),
            differ("opened", plaintext, seal.open_untrusted(ours, key)),
        ]
    return first(*findings)


@refusable
def check_message(case: Case) -> str | None:
    wire = case["wire"].encode()
    if case.get("envelope"):
        if not case["accepted"]:
            return _refuses("envelope", lambda: gossip_message.parse_envelope_untrusted(wire))
        envelope = gossip_message.parse_envelope_untrusted(wire)
        return first(
            differ("message", case.get("message", ""), envelope.message),
            differ("annotations", case.get("annotations"), envelope.annotations),
        )
    code = otp.totp(case["otp"]["key"], case["otp"]["length"], case["otp"]["interval"], case["time"])
    key = otp.md5_hex(code)
    keys = ["0" * 32, key]
    finding = differ("seal_key", case.get("seal_key", key), key)
    if finding:
        return finding
    if not case["accepted"]:
        return _refuses(f"message ({case.get('stage')})", lambda: _read_block(wire, keys))
    opened = gossip_message.open_message_untrusted(wire, keys)
    plaintext = base64.b64decode(case["plaintext"])
    return first(
        differ("plaintext", plaintext, opened.plaintext),
        differ("key_index", 1, opened.key_index),
        differ("block", case["block"], _read_block(wire, keys)),
        _writes_the_same(wire, plaintext, key),
    )


def _read_block(wire: bytes, keys: list[str]) -> str:
    """Everything a node does with a message before the ledger gets the block."""
    opened = gossip_message.open_message_untrusted(wire, keys)
    text = gossip_message.decompress_untrusted(opened.plaintext)
    read_block_untrusted(text)
    return text.decode()


def _writes_the_same(wire: bytes, plaintext: bytes, key: str) -> str | None:
    """Whether we, with the same nonce, write the message that Go wrote."""
    envelope = gossip_message.parse_envelope_untrusted(wire)
    nonce = bytes.fromhex(envelope.message[: 2 * seal.NONCE_SIZE])
    ours = gossip_message.write_message(plaintext, key, envelope.annotations, nonce)
    finding = differ("sealed", envelope.message.lower(), gossip_message.parse_envelope_untrusted(ours).message)
    if finding is None and wire.endswith(b',"SenderID":"","Annotations":null}') and envelope.message.islower():
        finding = differ("wire", wire, ours)
    return finding


def _config(case: Case) -> NetworkConfig:
    """The config of a case, of which only some fields may be there."""
    config = case["config"]

    def part(name: str) -> OtpConfig:
        values = config.get(name, {})
        return OtpConfig(values.get("interval", 0), values.get("key", ""), values.get("length", 0))

    return NetworkConfig(
        otp_dht=part("otp.dht"),
        otp_crypto=part("otp.crypto"),
        room=config.get("room", ""),
        rendezvous=config.get("rendezvous", ""),
        mdns=config.get("mdns", ""),
    )


@refusable
def check_rendezvous(case: Case) -> str | None:
    kind = case["kind"]
    if kind == "cid":
        return first(
            differ("cid", case["cid"], rendezvous.cid(case["rendezvous"])),
            differ("multihash", case["multihash"], rendezvous.dht_key(case["rendezvous"]).hex()),
        )
    if kind == "ring":
        ring: tuple[str, ...] = ()
        for number, step in enumerate(case["steps"]):
            ring = rendezvous.remember(ring, step["add"])
            if list(ring) != step["ring"]:
                return differ(f"ring after step {number}", step["ring"], list(ring))
        return None
    if kind != "names":
        return f"unknown kind {kind!r}"
    config, now = _config(case), case.get("time", 0)
    if case.get("panics"):
        return _refuses("names", lambda: rendezvous.windows(config, now))
    names: dict[str, Callable[[], str]] = {
        "rendezvous": lambda: rendezvous.rendezvous_at(config, now),
        "cid": lambda: rendezvous.cid(rendezvous.rendezvous_at(config, now)),
        "multihash": lambda: rendezvous.dht_key(rendezvous.rendezvous_at(config, now)).hex(),
        "topic": lambda: rendezvous.topic_at(config, now),
        "public_topic": lambda: rendezvous.public_topic_at(config, now),
        "seal_key": lambda: rendezvous.seal_key_at(config, now),
        "mdns_service": lambda: rendezvous.mdns_service(config),
        "mdns_query": lambda: rendezvous.mdns_service(config) + ".local.",
    }
    return first(*(differ(name, case[name], compute()) for name, compute in names.items() if name in case))


@refusable
def check_peerguard(case: Case) -> str | None:
    kind, message = case["kind"], case["message"]
    if kind == "authenticate":
        arguments = (case.get("annotations"), message, case["trustzone_auth"])
        if case.get("panics") or not case["accepted"]:
            return _refuses("authenticate", lambda: peerguard.authenticate_untrusted(*arguments))
        name = peerguard.authenticate_untrusted(*arguments)
        return None if name in case["trustzone_auth"] else f"no such key: {name!r}"
    if kind not in ("sign", "verify"):
        return f"unknown kind {kind!r}"

    def verify() -> None:
        peerguard.verify_untrusted(case["public_key"], case["signature"], message)

    if case.get("panics") or not case["valid"]:
        return _refuses("verify", verify)
    verify()
    if kind == "verify":
        return None
    ours = peerguard.sign(case["private_key"], message)
    peerguard.verify_untrusted(case["public_key"], ours, message)
    return first(
        differ("digest_hex_text", case["digest_hex_text"], peerguard.digest_hex(message)),
        differ("public_key", case["public_key"], peerguard.public_key_of(case["private_key"])),
        differ("annotations", case["annotations"], {peerguard.ANNOTATION: case["signature"]}),
    )


CHECKERS: dict[str, Callable[[Case], str | None]] = {
    "token": check_token,
    "otp": check_otp,
    "seal": check_seal,
    "message": check_message,
    "rendezvous": check_rendezvous,
    "peerguard": check_peerguard,
}
