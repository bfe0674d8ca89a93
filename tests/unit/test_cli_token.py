"""The network's secret on its way in and out."""

from pathlib import Path

import pytest

from edgevpn.cli import flags, token
from edgevpn.errors import EdgevpnError, SetupError, UsageError
from edgevpn.proto.network_config import NetworkConfig, generate, parse_config_yaml, parse_token

ONE, TWO = generate(360), generate(60)


def read(*args: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> NetworkConfig:
    given, _ = flags.parse(args, flags.ROOT)
    return token.read(flags.settle(flags.ROOT, given, env or {}), stdin=lambda most: stdin[:most])


def refusal(kind: type[EdgevpnError], *args: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> str:
    with pytest.raises(kind) as caught:
        read(*args, env=env, stdin=stdin)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "network.yaml"
    path.write_text(ONE.to_yaml())
    return path


def test_a_token_comes_from_its_flag_or_variable() -> None:
    assert read("--token", ONE.to_token()) == ONE
    assert read(env={"EDGEVPNTOKEN": ONE.to_token() + "\n"}) == ONE


def test_a_config_comes_from_a_file(config_file: Path) -> None:
    assert read("--config", str(config_file)) == ONE
    assert read(env={"EDGEVPNCONFIG": str(config_file)}) == ONE


def test_a_dash_reads_standard_input() -> None:
    assert read("--token", "-", stdin=ONE.to_token().encode() + b"\n") == ONE
    assert read("--config", "-", stdin=ONE.to_yaml().encode()) == ONE


def test_the_command_line_wins_over_the_environment(config_file: Path) -> None:
    assert read("--token", TWO.to_token(), env={"EDGEVPNCONFIG": str(config_file)}) == TWO
    assert read("--config", str(config_file), env={"EDGEVPNTOKEN": TWO.to_token()}) == ONE


def test_in_the_same_place_the_config_wins(config_file: Path) -> None:
    assert read("--token", TWO.to_token(), "--config", str(config_file)) == ONE
    assert read(env={"EDGEVPNTOKEN": TWO.to_token(), "EDGEVPNCONFIG": str(config_file)}) == ONE


def test_no_network_at_all_says_how_to_give_one() -> None:
    assert "EDGEVPNTOKEN" in refusal(UsageError)
    assert "EDGEVPNTOKEN" in refusal(UsageError, env={"EDGEVPNTOKEN": ""})


def test_errors_say_where_the_network_came_from_and_not_what_it_was(tmp_path: Path) -> None:
    secret = "c2VjcmV0LWtleS1tYXRlcmlhbA=="
    for message in (
        refusal(UsageError, "--token", secret),
        refusal(UsageError, "--token", "?" + secret),
        refusal(UsageError, env={"EDGEVPNTOKEN": secret}),
        refusal(UsageError, "--token", "-", stdin=secret.encode()),
    ):
        assert message.startswith(("--token: ", "EDGEVPNTOKEN: ", "standard input: "))
        assert secret not in message
        assert "secret-key" not in message
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe\x00")
    assert str(broken) in refusal(UsageError, "--config", str(broken))
    broken.write_text("  \n")
    assert "is empty" in refusal(UsageError, "--config", str(broken))


def test_a_config_that_cannot_be_read_is_the_machines_fault(tmp_path: Path) -> None:
    assert "No such file" in refusal(SetupError, "--config", str(tmp_path / "none.yaml"))
    assert "directory" in refusal(SetupError, "--config", str(tmp_path))


def test_what_never_ends_is_not_read_to_its_end() -> None:
    assert "too long" in refusal(UsageError, "--config", "/dev/zero")
    assert "too long" in refusal(UsageError, "--token", "-", stdin=b"A" * (token.MAX_TEXT + 10))


def test_a_new_network_is_printed_as_yaml_or_as_a_token() -> None:
    text = token.generate(90, as_token=False)
    assert parse_config_yaml(text).otp_crypto.interval == 90
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    again = token.generate(90, as_token=True)
    assert parse_token(again.strip()).otp_dht.interval == 90
    assert again.count("\n") == 1


@pytest.mark.parametrize("interval", [0, -1])
def test_a_rotation_interval_must_be_positive(interval: int) -> None:
    with pytest.raises(UsageError, match="--key-otp-interval"):
        token.generate(interval, as_token=True)
