"""Who may speak with the HTTP API."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import http_guard
from edgevpn.proto.api_address import parse_api_address
from edgevpn.proto.go_path import go_path_untrusted
from edgevpn.proto.http_guard import FOREIGN_ORIGIN, NO_CREDENTIALS, WRONG_CREDENTIALS, WRONG_HOST, judge, rules_for

TOKEN = b"T0ken-of-this-run"
LOCAL = rules_for(parse_api_address("127.0.0.1:8080"), TOKEN, ["vpn.example"])
UNIX = rules_for(parse_api_address("unix:///run/x.sock"), TOKEN, [])
GOOD = [(b"host", b"127.0.0.1:8080"), (b"authorization", b"Bearer " + TOKEN)]


def without(name: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [header for header in GOOD if header[0] != name] + list(more)


def verdict(headers: list[tuple[bytes, bytes]], rules: http_guard.Rules = LOCAL, *, public: bool = False) -> object:
    return judge(headers, rules, public=public, known_peer=False)


def test_host_and_token_let_a_request_in() -> None:
    assert verdict(GOOD) is None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "localhost:9000", "127.0.0.1", "[::1]:8080", "vpn.example:443"]
)
def test_names_of_this_machine_are_taken(host: str) -> None:
    assert verdict(without(b"host", (b"host", host.encode()))) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.1.0.1:8080",
        "0.0.0.0:8080", "[::]", "", "127.0.0.1:8080@evil.example", "localhost:80x", "[::1", "localhost.", "2130706433",
        "127.1", "0x7f.1",
    ],
)  # fmt: skip
def test_any_other_host_is_refused(host: str) -> None:
    assert verdict(without(b"host", (b"host", host.encode()))) == WRONG_HOST
    assert verdict(without(b"host", (b"host", host.encode())), public=True) == WRONG_HOST


def test_a_request_has_exactly_one_host() -> None:
    assert verdict(without(b"host")) == WRONG_HOST
    assert verdict([*GOOD, (b"host", b"127.0.0.1:8080")]) == WRONG_HOST


def test_a_wildcard_listener_takes_any_address_but_no_name() -> None:
    rules = rules_for(parse_api_address(":8080"), TOKEN, [])
    assert verdict(without(b"host", (b"host", b"192.0.2.7:8080")), rules) is None
    assert verdict(without(b"host", (b"host", b"evil.example:8080")), rules) == WRONG_HOST


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:8081", "http://127.0.0.1:8080.evil.example",
     "file://", "http://localhost:8080", ""],
)  # fmt: skip
def test_a_foreign_origin_is_refused_also_for_public_files(origin: str) -> None:
    assert verdict([*GOOD, (b"origin", origin.encode())]) == FOREIGN_ORIGIN
    assert verdict([*GOOD, (b"origin", origin.encode())], public=True) == FOREIGN_ORIGIN


def test_our_own_origin_is_taken() -> None:
    assert verdict([*GOOD, (b"origin", b"http://127.0.0.1:8080"), (b"sec-fetch-site", b"same-origin")]) is None


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"x"])
def test_what_a_browser_says_another_site_asked_for_is_refused(site: bytes) -> None:
    assert verdict([*GOOD, (b"sec-fetch-site", site)]) == FOREIGN_ORIGIN


@pytest.mark.parametrize(
    "given_", [b"", b"Bearer", b"Bearer ", b"Basic " + TOKEN, TOKEN, b"Bearer " + TOKEN[:-1], b"Bearer x" + TOKEN]
)
def test_wrong_credentials_are_refused(given_: bytes) -> None:
    assert verdict(without(b"authorization", (b"authorization", given_))) in (NO_CREDENTIALS, WRONG_CREDENTIALS)


def test_two_credentials_are_none() -> None:
    assert verdict([*GOOD, (b"authorization", b"Bearer " + TOKEN)]) == NO_CREDENTIALS


@given(st.binary(max_size=60))
def test_only_the_token_is_the_token(guess: bytes) -> None:
    answer = verdict(without(b"authorization", (b"authorization", b"Bearer " + guess)))
    assert (answer is None) == (guess.strip() == TOKEN)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(http_guard.hmac, "compare_digest", compare)
    verdict(GOOD)
    assert compared == [(TOKEN, TOKEN)]


def test_over_a_unix_socket_the_kernels_word_is_enough() -> None:
    assert judge([], UNIX, public=False, known_peer=True) is None
    assert judge([(b"host", b"whatever")], UNIX, public=False, known_peer=True) is None
    assert judge([], UNIX, public=False, known_peer=False) == NO_CREDENTIALS


def test_without_authentication_host_and_origin_still_count() -> None:
    rules = rules_for(parse_api_address("127.0.0.1:8080"), b"", [])
    assert verdict(without(b"authorization"), rules) is None
    assert verdict([(b"host", b"evil.example")], rules) == WRONG_HOST
    assert verdict([GOOD[0], (b"origin", b"http://evil.example")], rules) == FOREIGN_ORIGIN


def test_the_token_is_not_in_what_is_shown_of_the_rules() -> None:
    assert TOKEN.decode() not in repr(LOCAL)


# --- where it listens


@pytest.mark.parametrize(
    ("text", "path", "ip", "port", "local"),
    [
        ("127.0.0.1:8080", "", "127.0.0.1", 8080, True),
        ("localhost:1", "", "127.0.0.1", 1, True),
        (":8080", "", "::", 8080, False),
        ("[::1]:0", "", "::1", 0, True),
        ("10.1.0.1:80", "", "10.1.0.1", 80, False),
        ("unix:///run/a.sock", "/run/a.sock", "", 0, True),
    ],
)
def test_addresses_are_read(text: str, path: str, ip: str, port: int, local: bool) -> None:
    address = parse_api_address(text)
    assert (address.path, address.ip, address.port, address.is_local) == (path, ip, port, local)


@pytest.mark.parametrize("text", ["", "8080", "127.0.0.1", "name:80", "127.0.0.1:x", "127.0.0.1:65536", "unix://a"])
def test_what_is_no_address_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match="write it like"):
        parse_api_address(text)


# --- paths


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/a%20b/c%20d", "/a b/c d"),
        (b"/k%20sp/v%2Fslash%20%3C%26%3E", "/k%20sp/v%2Fslash%20%3C%26%3E"),
        (b"/html/%3Cb%3E%26", "/html/%3Cb%3E%26"),
        (b"/%C3%A9/%E6%97%A5", "/é/日"),
        (b"/plus+key/1+1", "/plus+key/1+1"),
        (b"/a!b%20c", "/a!b%20c"),
    ],
)
def test_a_path_is_decoded_only_when_go_would_have_written_it_so(raw: bytes, path: str) -> None:
    assert go_path_untrusted(raw) == path


@given(st.binary(max_size=80))
def test_no_path_raises_anything_else(raw: bytes) -> None:
    try:
        go_path_untrusted(raw)
    except UntrustedDataError:
        pass
