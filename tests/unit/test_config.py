"""NodeConfig and the values in it."""

import dataclasses
import json

import msgpack
import pytest
from hypothesis import given, strategies as st

from edgevpn import config
from edgevpn.config import NodeConfig
from edgevpn.errors import UsageError

PEER = "12D3KooWDgQ7VBLdrPZ8QqXAsBjbjBAmMuJmBHDGz2cCXVDLDGzZ"
RSA_PEER = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"


def make(**values: object) -> NodeConfig:
    return NodeConfig(run_dir="/run/edgevpn/x", **values)  # type: ignore[arg-type]


def refusal(**values: object) -> str:
    with pytest.raises(UsageError) as caught:
        make(**values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("5m", 300), ("1h0m0s", 3600), ("30m0s", 1800), ("1.5m", 90), (".5s", 0.5), ("300ms", 0.3), ("0", 0)],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert config.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "s", "5 m", "-5m", "1d", "1h x", "5m5", "nan", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        config.parse_duration(text)


# --- addresses


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.1.0.1/24", "10.1.0.1/24"),
        (" 10.1.0.1/32 ", "10.1.0.1/32"),
        ("FD00:0::1/64", "fd00::1/64"),
        ("10.1.0.0/31", "10.1.0.0/31"),
    ],
)
def test_a_cidr_gets_its_normal_form(text: str, normal: str) -> None:
    assert config.parse_cidr(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "10.1.0.1",
            "10.1.0.1/33",
            "10.1.0.1/255.255.255.0",
            "10.1.0/24",
            "fe80::1%eth0/64",
            "::/64",
            "0.0.0.0/0",
        ),
        *("127.0.0.1/8", "224.0.0.1/4", "10.1.0.1/-1", "10.1.0.1/", "/24", "10.1.0.1/24/24", "host/24", "10.1.0.01/24"),
    ],
)
def test_an_address_that_is_no_cidr_is_one_clear_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.parse_cidr(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ipv6_address_needs_an_mtu_that_ipv6_allows() -> None:
    assert "IPv6 needs 1280" in refusal(addresses=("fd00::1/64",), mtu=1200)
    make(addresses=("fd00::1/64",), mtu=1280)


def test_an_address_may_not_be_given_twice() -> None:
    assert "given twice" in refusal(addresses=("10.1.0.1/24", "10.1.0.1/16"))


def test_a_node_may_have_no_address() -> None:
    assert make(addresses=()).addresses == ()


# --- names, peers, multiaddrs


@pytest.mark.parametrize("name", ["edgevpn0", "a", "tun-1.2_x", "x" * 15])
def test_names_that_linux_takes_are_taken(name: str) -> None:
    config.check_interface_name(name)


@pytest.mark.parametrize("name", ["", "x" * 16, "é" * 8, "a/b", "a b", ".", "..", "a:b", "tun%d", "-x", "a\n", "a\0"])
def test_interface_names_that_linux_refuses_are_refused_first(name: str) -> None:
    with pytest.raises(UsageError):
        config.check_interface_name(name)


@pytest.mark.parametrize(
    "peer_id", [PEER, RSA_PEER, "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"]
)
def test_peer_ids_are_known_by_their_shape(peer_id: str) -> None:
    config.check_peer_id(peer_id)


@pytest.mark.parametrize("text", ["", "x", PEER[:-1], PEER + "z", "0" * 52, "not-a-peer-id", "1" * 60, PEER.lower()])
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="peer id"):
        config.check_peer_id(text)


@given(st.text())
def test_any_text_as_a_peer_id_or_multiaddr_raises_usage_errors_only(text: str) -> None:
    for check in (config.check_peer_id, config.check_multiaddr, config.parse_static_peer, config.parse_cidr):
        try:
            check(text)
        except UsageError as exc:
            assert str(exc)  # noqa: PT017 - the only error that may come


def test_a_static_peer_is_an_address_and_a_peer_id() -> None:
    assert config.parse_static_peer(f"10.1.0.2:{PEER}") == ("10.1.0.2", PEER)
    assert config.parse_static_peer(f"fd00::2:{PEER}") == ("fd00::2", PEER)
    assert config.parse_static_peer(f"[fd00::2]:{PEER}") == ("fd00::2", PEER)


@pytest.mark.parametrize(
    "text", ["", "10.1.0.2", f":{PEER}", "10.1.0.2:", "10.1.0.2:x", f"host:{PEER}", f"10.1.0.2/{PEER}"]
)
def test_a_static_peer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        config.parse_static_peer(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("/ip4/0.0.0.0/tcp/0", ("ip4", "tcp")),
        ("/ip6/::/udp/4001/quic-v1", ("ip6", "udp", "quic-v1")),
        (f"/dnsaddr/bootstrap.libp2p.io/p2p/{RSA_PEER}", ("dnsaddr", "p2p")),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit", ("ip4", "tcp", "p2p", "p2p-circuit")),
    ],
)
def test_a_multiaddr_is_read_by_its_shape(text: str, names: tuple[str, ...]) -> None:
    assert config.check_multiaddr(text) == names


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "/", "ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp", "/ip4/1.2.3.4/tcp/65536", "/ip4/300.1.1.1/tcp/1"),
        *("/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/1/", "/ip4/1.2.3.4/tcp/1/p2p/x", "/ipx/1", "/ip4/1.2.3.4/tcp/٣"),
        "/dns/",
    ],
)
def test_a_multiaddr_with_a_wrong_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="multiaddr"):
        config.check_multiaddr(text)


# --- the whole


def test_the_defaults_are_a_valid_node() -> None:
    assert make().owner_ttl == 480.0
    assert make(ownership_ttl=60.0).owner_ttl == 60.0


def test_a_node_without_an_interface_has_no_tun_actor() -> None:
    assert "tun" in make().actors()
    assert "tun" not in make(vpn=False, interface="").actors()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"interface": "x" * 16}, "too long"),
        ({"interface": ""}, "needs a name"),
        ({"mtu": 67}, "--mtu 67"),
        ({"mtu": 65536}, "--mtu 65536"),
        ({"heartbeat_interval": 0.0}, "heartbeat interval must be more than 0"),
        ({"discovery_interval": -1.0}, "discovery interval"),
        ({"timeout": float("nan")}, "timeout"),
        ({"ownership": "on"}, "enforce, observe, off"),
        ({"ownership_ttl": -1.0}, "--ownership-ttl"),
        ({"log_level": "loud"}, "no log level"),
        ({"privkey_cache": True}, "--privkey-cache-dir"),
        ({"listen": ("/ip4/0.0.0.0/udp/1/quic-v1",)}, "can't listen on"),
        ({"listen": ("/dns4/example.org/tcp/1",)}, "can't listen on"),
        ({"bootstrap_peers": ("/ip4/1.2.3.4/tcp/1",)}, "/p2p/"),
        ({"router": "10.1.0.0/24"}, "no IP address"),
        ({"static_peers": (("10.1.0.2", "x"),)}, "no peer id"),
        ({"max_connections": -1}, "--max-connections"),
    ],
)
def test_a_wrong_value_says_what_to_do_in_one_line(values: dict[str, object], says: str) -> None:
    assert says in refusal(**values)


def test_a_config_survives_msgpack_and_json() -> None:
    whole = make(
        addresses=("10.1.0.1/24", "fd00::1/64"),
        mtu=1420,
        listen=("/ip4/0.0.0.0/tcp/4001",),
        bootstrap_peers=(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}",),
        static_peers=(("10.1.0.2", PEER),),
        timeout=1.5,
    )
    assert NodeConfig.from_dict(msgpack.unpackb(msgpack.packb(whole.to_dict()))) == whole
    assert NodeConfig.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


@pytest.mark.parametrize(
    "change",
    [{"mtu": "1200"}, {"dht": 1}, {"listen": "x"}, {"listen": [1]}, {"static_peers": [["a"]]}, {"secret": "x"}],
)
def test_a_dictionary_of_wrong_types_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NodeConfig.from_dict(make().to_dict() | change)


def test_a_config_cannot_be_changed_and_names_no_secret() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().mtu = 1  # type: ignore[misc]
    assert not [name for name in make().to_dict() if "token" in name or "secret" in name]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.1.0.1", ("10.1.0.1", 53)),
        ("10.1.0.1:5353", ("10.1.0.1", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("[fd00::1]", ("fd00::1", 53)),
        ("[fd00::1]:5353", ("fd00::1", 5353)),
        (":5353", ("", 5353)),
    ],
)
def test_an_address_for_dns_has_an_ip_and_perhaps_a_port(text: str, found: tuple[str, int]) -> None:
    assert config.parse_dns_address(text, any_host=True) == found


@pytest.mark.parametrize(
    "text", ["", "host:53", "10.1.0.1:0", "10.1.0.1:65536", "10.1.0.1:x", "10.1.0.1:", ":53", "1:2:3"]
)
def test_another_text_is_no_address_for_dns(text: str) -> None:
    with pytest.raises(UsageError, match="no address for DNS"):
        config.parse_dns_address(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"dns": "nowhere"},
        {"dns": "10.1.0.1", "dns_domain": "Upper.case"},
        {"dns": "10.1.0.1", "dns_domain": ""},
        {"dns": "10.1.0.1", "dns_domain": "a..b"},
        {"dns": "10.1.0.1", "dns_forward_servers": ("google",)},
        {"dns": "10.1.0.1:5353", "dns_system": "resolv.conf"},
        {"dns": "10.1.0.1", "dns_system": "maybe"},
        {"dns": "10.1.0.1", "dns_system": "resolved", "vpn": False},
        {"dns_system": "auto"},
    ],
)
def test_names_are_served_only_as_can_be(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NodeConfig(run_dir="/r", **fields)  # type: ignore[arg-type]


def test_a_node_that_serves_names_has_an_actor_for_it() -> None:
    assert NodeConfig(run_dir="/r", dns="10.1.0.1").actors()[-1] == "dns"
    assert "dns" not in NodeConfig(run_dir="/r").actors()
