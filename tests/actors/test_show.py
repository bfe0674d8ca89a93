"""How values look at a prompt: bounded, laid out, and without secrets."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given, strategies as st

from edgevpn.actors.show import MAX_PRETTY, SECRET, Secrets, brief, pretty
from edgevpn.proto import network_config, rendezvous
from edgevpn.proto.messages import Grant, LedgerEntry, LedgerReply, Seal
from edgevpn.proto.peer_key import PrivateKey


class Plain:
    def __init__(self) -> None:
        self.name = "x"
        self._inner = {"a": 1}
        self._seed = b"0123456789abcdef"
        self.other: Any = None


@dataclass
class Held:
    name: str
    word: str
    __secrets__: ClassVar = ("word",)


@pytest.mark.parametrize("value", [None, 1, "a'b", b"x", (), (1,), (1, 2), [], {}, {"k": (1,)}, {1}, frozenset({1})])
def test_small_plain_values_look_as_python_writes_them(value: object) -> None:
    assert pretty(value) == repr(value)


def test_an_object_shows_its_attributes_and_what_is_in_it_only_its_class() -> None:
    plain = Plain()
    plain.other = Plain()
    assert pretty(plain) == "Plain(name='x', _inner={'a': 1}, _seed=<secret>, other=<Plain>)"


def test_text_with_lines_is_shown_as_it_is() -> None:
    assert pretty("one\ntwo") == "one\ntwo"


def test_what_does_not_fit_is_laid_out_over_lines() -> None:
    entry = LedgerEntry("machines", "10.1.0.1", "v" * 30, "owner", 1, 2, False)
    lines = pretty({"k": [entry]}, 60).splitlines()
    assert lines[0] == "{"
    assert "            bucket='machines'," in lines
    assert max(map(len, lines)) <= 60


def test_no_value_is_too_big_to_show() -> None:
    deep: Any = 0
    for _ in range(40):
        deep = [deep] * 100
    looped: list[Any] = []
    looped.append(looped)
    began = time.perf_counter()
    for value in (deep, looped, dict.fromkeys(range(100000), "x" * 5000), "x" * 10_000_000, b"x" * 10_000_000):
        assert len(pretty(value)) <= MAX_PRETTY + 100
        assert len(brief(value)) <= 100
    assert time.perf_counter() - began < 2


def test_an_object_whose_own_methods_fail_is_shown_all_the_same() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    assert pretty([Bad()]) == "[<Bad, whose repr fails: RuntimeError>]"


def test_classes_say_which_of_their_attributes_are_secret() -> None:
    assert pretty(Held("a", "open sesame")) == "Held(name='a', word=<secret>)"
    assert pretty(Held("a", "open sesame"), reveal=True) == "Held(name='a', word='open sesame')"
    assert pretty(Grant("the ticket", "token")) == "Grant(ticket=<secret>, what='token')"


def test_the_nodes_own_secrets_do_not_show_in_any_form_of_text() -> None:
    network = network_config.generate()
    key = PrivateKey.generate()
    windows = rendezvous.windows(network, 1_700_000_000)
    secret = [*network.secrets(), windows.current.seal_key, key.seed.hex(), repr(key.seed)[2:-1]]
    for value in (network, key, windows, Grant(network.to_token(), "token"), {"all": [network, key, windows]}):
        for text in (repr(value), str(value), f"{value}", pretty(value), brief(value)):
            assert not [one for one in secret if one in text]
    shown = pretty(network, reveal=True) + pretty(windows, reveal=True)
    assert network.otp_crypto.key in shown
    assert windows.current.seal_key in shown
    assert repr(key.seed) in pretty(key, reveal=True)


def test_a_short_form_counts_bytes_and_items() -> None:
    assert brief(Seal(b"x" * 1000)) == "Seal(plaintext=<1000 bytes>, topic='', annotations={})"
    assert "... 99996 more" in brief([0] * 100_000)
    entry = LedgerEntry("machines", "10.1.0.1", "v" * 400, "owner", 1, 2, False)
    assert len(brief(LedgerReply([entry] * 1000), 80)) == 80


@given(st.binary(min_size=6, max_size=40), st.binary(max_size=20), st.binary(max_size=20))
def test_a_secret_is_struck_out_of_whatever_it_is_put_into(secret: bytes, before: bytes, after: bytes) -> None:
    secrets = Secrets()
    secrets.add(secret)
    data = before + secret + after
    for text in (repr(secret), repr(data), secret.hex(), data.hex()):
        assert SECRET in secrets.hide(text), text
    if len(secret) >= 9:  # shorter, what is left of it in base64 is too little to be told from other text
        for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
            assert SECRET in secrets.hide(text), text


@given(st.text(min_size=6, max_size=40, alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_secret_text_is_struck_out_as_it_is_and_as_python_writes_it(secret: str) -> None:
    secrets = Secrets()
    secrets.add(secret)
    assert secrets.hide(f"<{secret}>") == f"<{SECRET}>"
    assert SECRET in secrets.hide(repr(secret))
    assert SECRET in secrets.hide(repr(secret.encode()))


def test_secrets_that_change_are_known_by_their_source() -> None:
    secrets = Secrets()
    now = ["first secret"]
    secrets.add_source(lambda: now)
    assert secrets.hide("a first secret, a second secret") == "a <secret>, a second secret"
    now[0] = "second secret"
    assert secrets.hide("a first secret, a second secret") == "a first secret, a <secret>"


def test_what_is_too_short_to_be_a_secret_strikes_nothing_out() -> None:
    secrets = Secrets()
    secrets.add("")
    secrets.add("a")
    assert secrets.hide("a b c") == "a b c"
