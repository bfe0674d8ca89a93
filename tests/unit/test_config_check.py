"""`edgevpn config check`: what it says of networks, files, flags and variables, and that it shows no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from edgevpn.cli import config_check, flags, main
from edgevpn.cli.checks import FAIL, OK, WARN, Check
from edgevpn.proto.network_config import NetworkConfig, OtpConfig, generate

NETWORK = generate(360)
SECRETS = (NETWORK.otp_crypto.key, NETWORK.otp_dht.key, NETWORK.room, NETWORK.rendezvous, NETWORK.mdns)


@pytest.fixture(autouse=True)
def no_flags_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in flags.ROOT:
        if flag.env:
            monkeypatch.delenv(flag.env, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.yaml"
    path.write_text(NETWORK.to_yaml())
    path.chmod(0o600)
    return path


def found(*words: str, **environ: str) -> list[Check]:
    return config_check.all_checks(words, environ)


def of_state(state: str, checks: list[Check]) -> list[tuple[str, str, str]]:
    return [(one.name, one.found, one.do) for one in checks if one.state == state]


def test_a_good_network_and_good_flags_are_all_right_by_every_way(file: Path) -> None:
    for words, environ in (
        ([str(file)], {}),
        (["--config", str(file)], {}),
        ([], {"EDGEVPNCONFIG": str(file)}),
        ([], {"EDGEVPNTOKEN": NETWORK.to_token()}),
        ([str(file), "--address", "10.1.0.7/24", "--dns", "10.1.0.7:53"], {"EDGEVPNMTU": "1300"}),
        (["--mtu", "1300", str(file), "--dhcp"], {}),
        ([str(file), "start"], {}),
        ([str(file), "sa", "--service", "dns=udp://127.0.0.1:53", "web", "127.0.0.1:80"], {}),
        (["service-add", "--config", str(file), "web", "127.0.0.1:80"], {}),
    ):
        checks = found(*words, **environ)
        assert {check.state for check in checks} == {OK}, checks
        assert checks[-1].name == "node"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_or_change_fails_with_what_to_do(file: Path, mode: int) -> None:
    file.chmod(mode)
    [(name, _, do)] = of_state(FAIL, found(str(file)))
    assert (name, do) == ("file", f"chmod 600 {file}")
    keys = file.with_name("keys.json")
    keys.write_text("{}")
    keys.chmod(mode)
    file.chmod(0o600)
    [(name, _, do)] = of_state(FAIL, found(str(file), "--peerguard", "--peergate-auth", f"@{keys}"))
    assert (name, do) == ("peergate", f"chmod 600 {keys}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("otp: [", "is not YAML"),
        ("just text", "is not a map"),
        ("", "is empty"),
        (NETWORK.to_yaml().replace("length: 43", "length: 45"), "has at most 44 characters"),
        (NETWORK.to_yaml().replace("interval: 360", "interval: 0"), "must be 1 second or more"),
        (NETWORK.to_yaml().replace("length: 43", "length: 'x'"), "is not a number"),
        (NETWORK.to_yaml().replace("room:", "rom:"), "lacks room"),
    ],
)
def test_a_network_that_no_node_can_use_fails(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    [(name, what, do)] = of_state(FAIL, found(str(file)))
    assert name == "network"
    assert says in what
    assert do or not text


def test_a_file_that_is_not_there_fails(tmp_path: Path) -> None:
    [(_, what, _)] = of_state(FAIL, found(str(tmp_path / "none.yaml")))
    assert "No such file" in what


def test_without_a_network_it_fails_and_the_flags_are_looked_at_all_the_same() -> None:
    names = [name for name, _, _ in of_state(FAIL, found("--mtu", "1"))]
    assert names == ["network", "flags"]


def test_an_unknown_key_is_told_with_what_was_meant_unless_it_may_be_a_secret(file: Path) -> None:
    file.write_text(NETWORK.to_yaml() + f"max_mesage_size: 1\n{NETWORK.room}: x\n" + "'a b': 1\n")
    told = of_state(WARN, found(str(file)))
    assert told[0] == (
        "keys",
        "the key max_mesage_size means nothing and is passed over",
        "did you mean max_message_size?",
    )
    assert [what for _, what, _ in told[1:]] == ["a key that is no name means nothing and is passed over"] * 2
    file.write_text(NETWORK.to_yaml().replace("  crypto:\n", "  crypto:\n    lenght: 3\n"))
    [(_, what, do)] = of_state(WARN, found(str(file)))
    assert "otp.crypto.lenght" in what
    assert do == "did you mean otp.crypto.length?"


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (NetworkConfig(OtpConfig(360, "k" * 43, 6), OtpConfig(360, "k" * 43, 43), "r" * 43), ["otp.dht"]),
        (NetworkConfig(OtpConfig(), OtpConfig(360, "k" * 43, 0), "r" * 43, "v" * 43), ["otp.crypto"]),
        (NetworkConfig(OtpConfig(), OtpConfig(360, "short", 43), "r" * 43, "v" * 43), ["otp.crypto"]),
        (NetworkConfig(OtpConfig(), OtpConfig(5, "k" * 43, 43), "r" * 43, "v" * 43), ["otp.crypto"]),
        (NetworkConfig(OtpConfig(), OtpConfig(360, "k" * 43, 43), "short", "rv"), ["room", "rendezvous"]),
        (NETWORK, []),
    ],
)
def test_what_can_be_guessed_or_turns_too_fast_is_a_warning(network: NetworkConfig, names: list[str]) -> None:
    checks = config_check.strength(network)
    assert [name for name, _, _ in of_state(WARN, checks)] == names
    assert all(check.do for check in checks if check.state == WARN)


@pytest.mark.parametrize(
    ("words", "environ", "says"),
    [
        (["--address", "10.1.0.1"], {}, "--address: address '10.1.0.1' lacks its prefix length"),
        ([], {"ADDRESS": "10.1.0.1"}, "ADDRESS: address '10.1.0.1' lacks"),
        (["--adress", "x"], {}, "did you mean --address?"),
        (["--discovery-bootstrap-peers", "/ip4/1.2.3.4/tcp/1"], {}, "lacks its peer id"),
        (["--mtu", "x"], {}, "--mtu is a whole number"),
        (["start", "--address", "10.1.0.1/24"], {}, "unknown flag --address"),
        (["--interface", "vpn", "start"], {}, "--interface does not go with `edgevpn start`"),
        (["--peergate"], {}, "--peergate needs --peerguard"),
        (["-g"], {}, "-g starts no node"),
        (["status"], {}, "one FILE, a command that brings up a node"),
    ],
)
def test_wrong_flags_and_variables_fail_in_the_words_of_a_start(
    file: Path, words: list[str], environ: dict[str, str], says: str
) -> None:
    [(name, what, _)] = of_state(FAIL, found(str(file), *words, **environ))
    assert name == "flags"
    assert says in what


def test_what_has_no_effect_and_what_is_left_out_is_a_warning(file: Path) -> None:
    checks = found(
        str(file), "--natservice", "--listen-maddrs", "/ip4/1.2.3.4/udp/1/quic-v1,/ip4/1.2.3.4/tcp/1", EDGEVPNADRESS="x"
    )
    told = [what for _, what, _ in of_state(WARN, checks)]
    assert len(told) == 3
    assert told[0] == "EDGEVPNADRESS means nothing"
    assert ("environment", told[0], "did you mean ADDRESS?") in of_state(WARN, checks)


def test_the_command_ends_with_0_or_2_and_prints_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "check", str(file), "--json", "--address", "10.1.0.7/24"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert [set(check) for check in told["checks"]] == [{"name", "state", "found", "do"}] * len(told["checks"])
    file.chmod(0o644)
    assert main.main(["config", "check", "--json", str(file)]) == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main.main(["config", "check", str(file)]) == 2
    assert re.search(r"^fail +file +others can .*\n +-> chmod 600 ", capsys.readouterr().out, re.MULTILINE)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_secret_is_shown_however_the_file_is_spoiled(file: Path, data: st.DataObject) -> None:
    lines = NETWORK.to_yaml().splitlines()
    for _ in range(data.draw(st.integers(0, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        noise = data.draw(st.sampled_from([": ", "[", "- ", "'", "\t", "&a ", "*b ", "!x ", "%", "  ", "{", "\x01"]))
        place = data.draw(st.integers(0, len(lines[number])))
        lines[number] = lines[number][:place] + noise + lines[number][place:]
    if data.draw(st.booleans()):
        lines = [NETWORK.to_token()]
    file.write_text("\n".join(lines))
    told = repr(found(str(file))) + repr(found(NETWORK.to_token())) + repr(found(EDGEVPNTOKEN="\n".join(lines)))
    for secret in SECRETS:
        for start in range(len(secret) - 12):
            assert secret[start : start + 12] not in told
    assert NETWORK.to_token()[:40] not in told
