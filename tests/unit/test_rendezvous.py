"""Names of a network at a time, and around it."""

import hashlib
import math

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UsageError
from edgevpn.proto import otp, rendezvous
from edgevpn.proto.network_config import NetworkConfig, OtpConfig, generate

CONFIG = NetworkConfig(OtpConfig(60, "dht", 43), OtpConfig(90, "crypto", 43), "room", "plain", "name", 1000)


def md5(text):
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_topic_and_public_topic_share_the_room_s_code():
    code = otp.totp("room", 43, 90, 1000)
    assert rendezvous.topic_at(CONFIG, 1000) == md5(code)
    assert rendezvous.public_topic_at(CONFIG, 1000) == md5(code + "public")


def test_a_length_of_zero_is_twelve_for_the_rendezvous_and_six_for_the_rest():
    config = NetworkConfig(OtpConfig(60, "dht", 0), OtpConfig(60, "crypto", 0), "room")
    assert rendezvous.rendezvous_at(config, 0) == md5(otp.totp("dht", 12, 60, 0))
    assert rendezvous.seal_key_at(config, 0) == md5(otp.totp("crypto", 6, 60, 0))


def test_without_a_dht_key_the_rendezvous_never_rotates():
    config = NetworkConfig(OtpConfig(0, "", 43), OtpConfig(90, "crypto", 43), "room", "plain")
    around = rendezvous.windows(config, 1000)
    assert {w.rendezvous for w in (around.previous, around.current, around.next)} == {"plain"}
    assert (around.current.rendezvous_start, around.current.rendezvous_end) == (-math.inf, math.inf)


@given(st.floats(1000, 2**33))
def test_windows_touch_and_hold_the_moment(now):
    around = rendezvous.windows(CONFIG, now)
    assert around.current.topic_start <= now < around.current.topic_end
    assert around.current.rendezvous_start <= now < around.current.rendezvous_end
    assert around.previous.topic_end == around.current.topic_start
    assert around.current.topic_end == around.next.topic_start
    assert around.previous.rendezvous_end == around.current.rendezvous_start
    assert around.current.rendezvous_end == around.next.rendezvous_start


@given(st.floats(1000, 2**33))
def test_each_window_has_the_names_of_its_own_time(now):
    around = rendezvous.windows(CONFIG, now)
    assert around.current.topic == rendezvous.topic_at(CONFIG, now)
    assert around.current.seal_key == rendezvous.seal_key_at(CONFIG, now)
    assert around.current.public_topic == rendezvous.public_topic_at(CONFIG, now)
    assert around.current.rendezvous == rendezvous.rendezvous_at(CONFIG, now)
    for other, shift in ((around.previous, -1), (around.next, 1)):
        assert other.topic == rendezvous.topic_at(CONFIG, now + 90 * shift)
        assert other.seal_key == rendezvous.seal_key_at(CONFIG, now + 90 * shift)
        assert other.rendezvous == rendezvous.rendezvous_at(CONFIG, now + 60 * shift)
    assert len({around.previous.seal_key, around.current.seal_key, around.next.seal_key}) == 3


def test_no_seal_key_shows_in_repr():
    around = rendezvous.windows(generate(), 1000)
    assert around.current.seal_key not in repr(around)


def test_a_config_that_makes_no_windows_is_refused():
    with pytest.raises(UsageError):
        rendezvous.windows(NetworkConfig(otp_crypto=OtpConfig(0, "k", 43), room="r", rendezvous="p"), 0)


def test_the_dht_key_is_the_multihash_of_the_rendezvous():
    key = rendezvous.dht_key("a")
    assert key == bytes([0x12, 32]) + hashlib.sha256(b"a").digest()
    assert rendezvous.windows(CONFIG, 1000).current.rendezvous_key == rendezvous.dht_key(
        rendezvous.rendezvous_at(CONFIG, 1000)
    )
    assert rendezvous.cid("a") == "bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm"


def test_the_last_two_rendezvous_are_announced():
    ring = ()
    for name, expected in (("a", ("a",)), ("a", ("a",)), ("b", ("a", "b")), ("c", ("b", "c")), ("b", ("c", "b"))):
        ring = rendezvous.remember(ring, name)
        assert ring == expected


def test_an_empty_mdns_name_is_libp2p_s_own():
    assert rendezvous.mdns_service(NetworkConfig()) == "_p2p._udp"
    assert rendezvous.mdns_service(CONFIG) == "name"
