"""Network configs: read as Go reads them, refused where no node could use them, and never shown."""

import base64
import json

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UsageError
from edgevpn.proto import network_config as nc
from edgevpn.proto.network_config import NetworkConfig, OtpConfig

GOOD = """\
otp:
  dht: {interval: 60, key: dhtkey, length: 43}
  crypto: {interval: 360, key: cryptokey, length: 16}
room: roomkey
rendezvous: meet
mdns: mdnsname
max_message_size: 1000
"""


def parse(**changes):
    """GOOD with lines replaced or appended (later keys win)."""
    return nc.parse_config_yaml(GOOD + "".join(f"{name}: {value}\n" for name, value in changes.items()))


def refused(text):
    with pytest.raises(UsageError) as caught:
        nc.parse_config_yaml(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_field_is_read():
    assert nc.parse_config_yaml(GOOD) == NetworkConfig(
        OtpConfig(60, "dhtkey", 43), OtpConfig(360, "cryptokey", 16), "roomkey", "meet", "mdnsname", 1000
    )


def test_a_token_is_the_base64_of_the_yaml():
    token = base64.b64encode(GOOD.encode()).decode()
    assert nc.parse_token(token) == nc.parse_config_yaml(GOOD)
    assert nc.parse_token(token[:50] + "\r\n" + token[50:] + "\n") == nc.parse_config_yaml(GOOD)


@pytest.mark.parametrize("token", [" {}", "{} ", "{}=", "={}", "{}\t", "{}!", "\ufeff{}"])
def test_a_token_that_is_not_base64_is_refused(token):
    with pytest.raises(UsageError, match="not base64"):
        nc.parse_token(token.format(base64.b64encode(GOOD.encode()).decode()))


def test_a_token_cut_short_is_refused():
    token = nc.generate().to_token()
    for end in (1, len(token) // 2, len(token) - 1):
        with pytest.raises(UsageError):
            nc.parse_token(token[:end])
    with pytest.raises(UsageError, match="empty"):
        nc.parse_token("\n")


def test_a_generated_network_survives_yaml_and_token():
    config = nc.generate(30)
    assert nc.parse_config_yaml(config.to_yaml()) == config
    assert nc.parse_token(config.to_token()) == config
    assert (config.otp_dht.interval, config.otp_crypto.interval) == (30, 30)
    secrets = [config.otp_dht.key, config.otp_crypto.key, config.room, config.rendezvous, config.mdns]
    assert len(set(secrets)) == 5
    assert all(len(secret) == 43 and secret.isalnum() for secret in secrets)


def test_yaml_is_written_in_go_s_order():
    config = NetworkConfig(OtpConfig(1, "a", 2), OtpConfig(3, "1e3", 4), "yes", "b c", "", 5)
    assert config.to_yaml() == (
        'otp:\n  dht:\n    interval: 1\n    key: a\n    length: 2\n  crypto:\n    interval: 3\n    key: "1e3"\n'
        '    length: 4\nroom: "yes"\nrendezvous: b c\nmdns: ""\nmax_message_size: 5\n'
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives_the_yaml(text):
    printable = "".join(c for c in text if c == "\n" or c.isprintable()) or "x"
    config = NetworkConfig(OtpConfig(1, printable, 43), OtpConfig(1, printable, 43), printable, printable, printable, 1)
    assert nc.parse_config_yaml(config.to_yaml()) == config


def test_no_secret_shows_in_repr():
    text = repr(nc.parse_config_yaml(GOOD)) + str(nc.parse_config_yaml(GOOD))
    for secret in ("dhtkey", "cryptokey", "roomkey", "meet", "mdnsname"):
        assert secret not in text
    assert "<secret>" in text
    assert "360" in text


@given(st.text(), st.binary())
def test_arbitrary_text_raises_only_a_usage_error_of_one_line(text, data):
    for read in (
        lambda: nc.parse_token(text),
        lambda: nc.parse_config_yaml(text),
        lambda: nc.parse_config_yaml(data),
        lambda: nc.parse_token(base64.b64encode(data).decode()),
    ):
        try:
            read()
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017


# --- numbers and texts, as yaml.v2 reads them ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("7", 7),
        ("+7", 7),
        ("0x168", 360),
        ("0o53", 43),
        ("010", 8),
        ("08", 8),
        ("0b101", 5),
        ("1_000", 1000),
        ("360.9", 360),
        ("3.6e2", 360),
        ("1.", 1),
        ("!!int 7", 7),
    ],
)
def test_an_integer_may_be_written_in_many_ways(written, meant):
    assert parse(max_message_size=written).max_message_size == meant


@pytest.mark.parametrize("written", ["null", "~", ""])
def test_null_is_zero(written):
    assert nc.parse_config_yaml(
        f"otp:\n  dht:\n    length: {written}\n" + GOOD.replace("length: 43", "x: 1")
    ).otp_dht == (OtpConfig(60, "dhtkey", 0))


@pytest.mark.parametrize(
    "written",
    [
        '"7"',
        "'7'",
        "soon",
        "true",
        "y",
        "1e999",
        ".inf",
        ".nan",
        "2026-11-23",
        "1:30",
        "[7]",
        "{a: 7}",
        "9223372036854775808",
        "!!int 1.5",
        "!!int 1e3",
        "!!float seven",
    ],
)
def test_an_integer_is_not_a_quoted_number_a_word_or_a_list(written):
    assert refused(GOOD + f"max_message_size: {written}\n").startswith("max_message_size in the network config")


@pytest.mark.parametrize("written", ["!!int a", "!!int 1.5", '!!int ""', "!!float a", "!!float ~"])
def test_what_is_called_a_number_must_be_one_in_a_text_too(written):
    assert "tag of a number" in refused(GOOD + f"room: {written}\n")


@pytest.mark.parametrize(("written", "meant"), [("!!int 5", "5"), ("!!float .inf", ".inf"), ("!!float 0x1F", "0x1F")])
def test_a_number_may_be_a_text(written, meant):
    assert parse(room=written).room == meant


@pytest.mark.parametrize("written", ["1e3", "0123", "true", "2026-11-23", "a b", "ключ", "0x10"])
def test_a_text_is_taken_as_it_is_written(written):
    assert parse(room=written).room == written


def test_of_duplicate_keys_the_last_wins_and_maps_merge():
    config = parse(room="second", otp="{crypto: {length: 20}}")
    assert config.room == "second"
    assert config.otp_crypto == OtpConfig(360, "cryptokey", 20)
    assert config.otp_dht.key == "dhtkey"


def test_null_empties_a_map_that_was_there():
    assert "lacks otp.crypto.key" in refused(GOOD + "otp: null\n")


def test_a_merge_takes_effect_where_it_stands():
    config = nc.parse_config_yaml(
        "x: &x {interval: 10, key: k, length: 9}\n"
        "otp:\n  dht:\n    <<: *x\n    key: after\n  crypto:\n    key: before\n    <<: [*x, {key: z}]\n"
        "room: r\nmax_message_size: 1\n"
    )
    assert config.otp_dht == OtpConfig(10, "after", 9)
    assert config.otp_crypto == OtpConfig(10, "k", 9)


def test_only_the_first_document_counts():
    assert nc.parse_config_yaml(GOOD + "---\nroom: other\n") == nc.parse_config_yaml(GOOD)
    assert nc.parse_config_yaml("\ufeff---\n# note\n" + GOOD) == nc.parse_config_yaml(GOOD)


@pytest.mark.parametrize("text", ["otp:\n\tdht: 1\n", 'room: "a" b', "a: [", "a: *b", "\0\1\2", 'room: "\\ud800"'])
def test_what_is_not_yaml_is_refused(text):
    assert refused(text).startswith("the network config is not YAML")


@pytest.mark.parametrize("text", ["otp: 5", "5", "- a", "otp: {dht: [1]}"])
def test_what_is_no_map_is_refused(text):
    assert "is not a map" in refused(text)


def test_aliases_cannot_be_piled_up():
    levels = ["a0: &a0 {otp: {dht: {key: k}}}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join(9 * [f'*a{n - 1}'])}]}}" for n in range(1, 12)]
    assert "aliases" in refused("\n".join([*levels, "<<: *a11"]))
    assert "aliases" in refused("otp: &o {<<: *o}")
    chain = ["c0: &c0 {}"] + [f"c{n}: &c{n} {{<<: *c{n - 1}}}" for n in range(1, 3000)] + ["<<: *c2999"]
    assert "aliases" in refused("\n".join(chain))


def test_a_config_nested_too_deep_or_too_large_is_refused():
    assert "nested" in refused("[" * 100_000)
    assert "larger" in refused("a" * (2**20 + 1))


# --- what no node could use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("room: null", "lacks room"),
        ("max_message_size: 0", "lacks max_message_size"),
        ("otp: {crypto: {key: ''}}", "lacks otp.crypto.key"),
        ("otp: {dht: {key: ''}}\nrendezvous: ''", "lacks otp.dht.key or rendezvous"),
        ("otp: {crypto: {interval: 0}}", "otp.crypto.interval is 0"),
        ("otp: {crypto: {interval: -5}}", "otp.crypto.interval is -5"),
        ("otp: {dht: {interval: 0}}", "otp.dht.interval is 0"),
        ("otp: {crypto: {length: 45}}", "otp.crypto.length is 45"),
        ("otp: {dht: {length: 45}}", "otp.dht.length is 45"),
        ("max_message_size: -1", "max_message_size is -1"),
    ],
)
def test_a_config_that_no_node_could_use_is_refused_by_name(change, says):
    assert says in refused(GOOD + change + "\n")


def test_all_missing_keys_are_named_at_once():
    assert "lacks otp.crypto.key, room, otp.dht.key or rendezvous, max_message_size" in refused("{}")
    assert "lacks" in refused("")


def test_without_a_dht_key_its_interval_does_not_matter():
    assert parse(otp="{dht: {key: '', interval: 0, length: 99}}").rendezvous == "meet"


def test_an_error_never_shows_a_secret():
    for text in (
        "otp: {crypto: {interval: hunter2}}",
        "room: [hunter2]",
        "room: hunter2",
        "hunter2",
        "hunter2: *hunter2",
    ):
        assert "hunter2" not in refused(text)


def test_an_unused_field_of_another_shape_is_no_matter():
    assert json.dumps(parse(future="{a: [1, 2], b: !weird x}").room) == '"roomkey"'
