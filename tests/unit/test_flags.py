"""The flag table, and reading flags as the Go program does."""

import pytest

from edgevpn.cli import flags
from edgevpn.cli.flags import COMMON, ROOT, Flag, Settings
from edgevpn.errors import UsageError


def read(*args: str, env: dict[str, str] | None = None) -> Settings:
    given, rest = flags.parse(args, ROOT)
    assert rest == []
    return flags.settle(ROOT, given, env or {})


def value(name: str, *args: str, env: dict[str, str] | None = None) -> object:
    return read(*args, env=env).values[name]


def refusal(*args: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read(*args, env=env)
    return str(caught.value)


def test_names_and_environment_variables_are_given_to_one_flag_only() -> None:
    names = [flag.name for flag in ROOT]
    variables = [flag.env for flag in ROOT if flag.env]
    assert len(names) == len(set(names))
    assert len(variables) == len(set(variables))
    assert set(COMMON) < set(ROOT)


@pytest.mark.parametrize("flag", ROOT, ids=lambda flag: flag.name)
def test_each_default_is_of_its_flags_kind(flag: Flag) -> None:
    kinds = {"bool": bool, "int": int, "str": str, "duration": str, "list": tuple}
    assert type(flag.default) is kinds[flag.kind]
    assert flag.help


@pytest.mark.parametrize("args", [["--mtu", "1300"], ["--mtu=1300"], ["-mtu", "1300"], ["-mtu=1300"], ["--mtu=0x514"]])
def test_a_flag_takes_one_dash_or_two_and_its_value_with_or_without_an_equals_sign(args: list[str]) -> None:
    assert value("mtu", *args) == 1300


def test_a_boolean_takes_its_value_only_after_an_equals_sign() -> None:
    assert value("mdns", "--mdns=false") is False
    assert value("mdns", "-mdns=F") is False
    assert value("dhcp", "--dhcp") is True
    assert flags.parse(["--dhcp", "false"], ROOT) == ({"dhcp": ["true"]}, ["false"])


def test_short_flags_stand_alone() -> None:
    settings = read("-g", "-b")
    assert settings.values["g"] is True
    assert settings.values["b"] is True


def test_flags_end_at_the_first_other_word() -> None:
    assert flags.parse(["-g", "start", "--mtu", "1"], ROOT) == ({"g": ["true"]}, ["start", "--mtu", "1"])
    assert flags.parse(["--", "--mtu"], ROOT) == ({}, ["--mtu"])


def test_a_value_may_begin_with_a_dash() -> None:
    assert value("token", "--token", "-") == "-"
    assert value("max-connections", "--max-connections", "-1") == -1


def test_the_last_of_a_repeated_flag_wins_and_lists_add_up() -> None:
    assert value("mtu", "--mtu", "1", "--mtu", "2") == 2
    assert value("address", "--address", "10.1.0.1/24, 10.2.0.1/24", "--address=10.3.0.1/24") == (
        "10.1.0.1/24",
        "10.2.0.1/24",
        "10.3.0.1/24",
    )
    assert value("address", "--address", "") == ()


def test_the_command_line_wins_over_the_environment_and_that_over_the_default() -> None:
    assert value("interface") == "edgevpn0"
    assert value("interface", env={"IFACE": "a"}) == "a"
    settings = read("--interface", "b", env={"IFACE": "a"})
    assert settings.values["interface"] == "b"
    assert settings.given["interface"] == "--interface"
    assert value("address", "--address", "10.9.0.1/24", env={"ADDRESS": "10.8.0.1/24"}) == ("10.9.0.1/24",)


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True"])
def test_the_environment_says_true_as_go_does(word: str) -> None:
    assert value("dhcp", env={"DHCP": word}) is True


def test_an_empty_variable_is_false_or_empty_or_no_number() -> None:
    assert value("mdns", env={"EDGEVPNMDNS": ""}) is False
    assert value("mtu", env={"EDGEVPNMTU": ""}) == 1200
    assert value("interface", env={"IFACE": ""}) == ""
    assert value("address", env={"ADDRESS": ""}) == ()
    assert value("timeout", env={"EDGEVPNTIMEOUT": ""}) == 15.0


def test_durations_are_seconds() -> None:
    assert value("timeout") == 15.0
    assert value("timeout", "--timeout", "1m30s") == 90.0
    assert value("relay-service-reservation-ttl") == 3600.0


def test_wrong_values_name_the_flag_or_the_variable() -> None:
    assert refusal("--mtu", "big") == "--mtu is a whole number, not 'big'"
    assert refusal(env={"EDGEVPNMTU": "big"}) == "EDGEVPNMTU is a whole number, not 'big'"
    assert refusal("--dht=maybe") == "--dht is true or false, not 'maybe'"
    assert refusal("--timeout", "soon").startswith("--timeout: 'soon' is no duration")


def test_an_unknown_flag_is_an_error_that_knows_what_was_meant_and_does_not_repeat_the_value() -> None:
    assert refusal("--tokn=c2VjcmV0") == "unknown flag --tokn: did you mean --token?"
    assert refusal("--egres") == "unknown flag --egres: did you mean --egress?"
    assert refusal("--zzzzzzzz") == "unknown flag --zzzzzzzz: see edgevpn --help"


def test_a_flag_without_its_value_is_an_error() -> None:
    assert refusal("--mtu") == "--mtu needs a value"


def test_a_flag_without_effect_says_so_when_it_is_given() -> None:
    def lines(*args: str, env: dict[str, str] | None = None) -> list[str]:
        return flags.notices(ROOT, read(*args, env=env).given)

    assert lines("--mtu", "1300") == []
    assert lines() == []
    assert lines("--low-profile") == [
        "--low-profile is accepted for compatibility but does nothing yet (it is not needed)"
    ]
    assert lines(env={"LIMITENABLE": "true"}) == [
        "--limit-enable (set by LIMITENABLE) is accepted for compatibility but does nothing yet "
        "(there is no resource manager)"
    ]
