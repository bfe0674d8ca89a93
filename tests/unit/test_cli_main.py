"""The command `edgevpn` as a whole: dispatch, errors, and the way from flags to a process without the token."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from edgevpn.cli import commands, ending, flags, launch, main, output, reference
from edgevpn.errors import NodeUnreachableError, UsageError
from edgevpn.proto.network_config import generate

ROOT = Path(__file__).parents[2]
HEAVY = ("trio", "libp2p", "tractor", "click", "yaml", "rich", "cryptography", "multiaddr", "msgspec")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main.main(args)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(autouse=True)
def no_flags_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in flags.ROOT:
        if flag.env:
            monkeypatch.delenv(flag.env, raising=False)


# --- dispatch


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; from edgevpn.cli import main; main.main(['--help']); main.main(['--version']);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: edgevpn" in done.stdout


def test_help_names_every_flag_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for flag in flags.ROOT:
        assert re.search(rf"(?<![\w-]){flag.dashed}(?![\w-])", out), flag.name
    for name in commands.COMMANDS:
        assert f"\n  {name}" in out
    assert run(capsys, "-h")[1] == run(capsys, "help")[1] == out
    start = run(capsys, "start", "--help")[1]
    assert "--mdns" in start
    assert "--address" not in start


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["statsu"], "no command statsu: did you mean status?"),
        (["x" * 100], "no command that: see edgevpn --help"),
        (["--egres"], "unknown flag --egres: did you mean --egress?"),
        (["start", "--adress", "x"], "unknown flag --adress"),
        (["start", "--address", "10.1.0.1/24"], "unknown flag --address"),
        (["--address", "10.1.0.1/24", "start"], "--address does not go with `edgevpn start`"),
        (["start", "now"], "`edgevpn start` takes flags only"),
        (["--mtu", "1300", "status"], "--mtu does not go with `edgevpn status`"),
        (["sa", "x", "y"], "'y' has no port: write it like 127.0.0.1:22"),
        (["sc", "x"], "needs both words, or --name and --address"),
        (["fs", "x", "/nowhere/at/all"], "there is no /nowhere/at/all to send"),
        (["fr", "x", "/nowhere/at/all"], "there is no directory /nowhere/at to receive into"),
        ([], "no network given"),
        (["--token", "%"], "--token: the token is not base64"),
        (["--interface", "interface-too-long", "--token", "x"], "too long"),
        (["--address", "10.1.0.1", "--token", "x"], "lacks its prefix length"),
        (["--key-otp-interval", "0", "-g"], "--key-otp-interval must be more than 0"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    code, out, err = run(capsys, *args)
    assert code == 2
    assert out == ""
    assert err.startswith("edgevpn: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_new_network_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "-g", "--key-otp-interval", "30")
    assert (code, err) == (0, "")
    assert "interval: 30" in out
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*\n", run(capsys, "-g", "-b")[1])


# --- how it ends


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("a\nb"), 2, "edgevpn: a b\n"),
        (NodeUnreachableError("no node"), 3, "edgevpn: no node\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (ValueError("x"), 1, "edgevpn: unexpected ValueError: x (run it with --debug for the traceback)\n"),
        (BaseExceptionGroup("g", [ExceptionGroup("h", [ValueError(), UsageError("deep")])]), 2, "edgevpn: deep\n"),
        (BaseExceptionGroup("g", [ValueError(), KeyboardInterrupt()]), 130, ""),
    ],
)
def test_whatever_ends_a_command_is_a_code_and_at_most_one_line(
    capfd: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    def fail() -> int:
        raise error

    stdout = os.dup(1)  # a broken pipe replaces it
    try:
        assert ending.run_guarded(fail, debug=lambda: False) == code
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert capfd.readouterr().err == says


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--debug", "statsu")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("edgevpn: no command statsu: did you mean status?\n")


def test_output_into_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "edgevpn.cli.main", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.returncode == ending.EXIT_BROKEN_PIPE
    assert done.stderr == b""


# --- from flags to a node


def config_of(*args: str, env: dict[str, str] | None = None, vpn: bool = True) -> tuple[launch.NodeConfig, list[str]]:
    table = flags.ROOT if vpn else flags.COMMON
    given, _ = flags.parse(args, table)
    return launch.node_config(flags.settle(table, given, env or {}), vpn=vpn, run_dir="/x")


def test_without_flags_the_node_is_the_default_one() -> None:
    config, notes = config_of()
    expected = launch.NodeConfig(run_dir="/x", privkey_cache_dir=os.path.expanduser("~/.edgevpn"))
    assert (config, notes) == (expected, [])
    assert config_of(vpn=False)[0].vpn is False


def test_without_the_flag_the_mtu_is_1420_and_towards_go_nodes_1200() -> None:
    given, usual = config_of("--mtu", "1300")[0], config_of()[0]
    assert (usual.mtu, usual.go_mtu) == (1420, 1200)
    assert (given.mtu, given.go_mtu) == (1300, 1300)


def test_an_ipv6_address_raises_the_default_mtu_only() -> None:
    assert config_of("--address", "fd00::1/64")[0].go_mtu == 1280
    with pytest.raises(UsageError, match="IPv6 needs 1280"):
        config_of("--address", "fd00::1/64", "--mtu", "1200")


def test_listening_addresses_of_other_transports_are_left_out_with_a_line() -> None:
    config, notes = config_of("--listen-maddrs", "/ip4/0.0.0.0/tcp/1,/ip4/0.0.0.0/udp/1/quic-v1")
    assert config.listen == ("/ip4/0.0.0.0/tcp/1",)
    assert len(notes) == 1
    with pytest.raises(UsageError, match="no address that works yet"):
        config_of("--listen-maddrs", "/ip4/0.0.0.0/udp/1/quic-v1")


@pytest.mark.parametrize(
    ("word", "mode"), [("on", "enforce"), ("LOG", "observe"), ("log-only", "observe"), ("off", "off")]
)
def test_ownership_has_the_go_programs_other_names(word: str, mode: str) -> None:
    assert config_of("--ownership", word)[0].ownership == mode


@pytest.mark.parametrize(
    ("args", "env", "says"),
    [
        (["--ownership", "strict"], {}, "--ownership is enforce, observe or off"),
        ([], {"EDGEVPNOWNERSHIP": ""}, "EDGEVPNOWNERSHIP is enforce, observe or off"),
        (["--discovery-interval", "0"], {}, "--discovery-interval must be more than 0"),
        ([], {"HEALTHCHECKINTERVAL": "-5"}, "HEALTHCHECKINTERVAL must be more than 0"),
        ([], {"ADDRESS": "10.1.0.1"}, "ADDRESS: address '10.1.0.1' lacks"),
        (["--static-peertable", "10.1.0.1"], {}, "--static-peertable: '10.1.0.1' is no static peer"),
        (["--router", "x"], {}, "'x' is no IP address"),
    ],
)
def test_wrong_values_say_where_they_came_from(args: list[str], env: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        config_of(*args, env=env)


def test_paths_are_absolute_and_home_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.chdir("/")
    config, _ = config_of("--ledger-state", "state", "--privkey-cache")
    assert config.ledger_state == "/state"
    assert config.privkey_cache_dir == "/home/x/.edgevpn"


@given(st.data())
def test_any_text_for_any_flag_makes_a_node_or_a_usage_error(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([flag.name for flag in flags.ROOT]), min_size=1, max_size=3))
    words = st.one_of(
        st.text(max_size=40), st.integers().map(str), st.sampled_from(["inf", "9" * 400, "9" * 400 + "h"])
    )
    args = [f"--{name}={data.draw(words)}" for name in names]
    try:
        config, _ = config_of(*args)
    except UsageError:
        return
    assert launch.NodeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def memory_holds(pid: int, needle: bytes) -> bool:
    """Whether any writable memory of a process holds `needle`. What it unmaps is looked up anew."""
    while True:
        try:
            return _holds_now(pid, needle)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise


def _holds_now(pid: int, needle: bytes) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw") or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            begin, end = (int(part, 16) for part in span.split("-"))
            memory.seek(begin)
            if needle in memory.read(end - begin):
                return True
    return False


@pytest.mark.parametrize("way", ["argument", "environment", "file", "stdin"])
def test_the_nodes_process_shows_no_token_in_arguments_environment_or_memory(way: str, tmp_path: Path) -> None:
    network = generate(360)
    token = network.to_token()
    secrets = [token.encode(), network.otp_crypto.key.encode(), network.room.encode()]
    file = tmp_path / "network.yaml"
    file.write_text(network.to_yaml())
    args = {"argument": ["--token", token], "file": ["--config", str(file)], "stdin": ["--token", "-"]}.get(way, [])
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PEERGATE_AUTH": "{}"}
    environ |= {"EDGEVPNTOKEN": token} if way == "environment" else {}
    code = (
        "import sys; from edgevpn.cli import launch, main; launch.STAGE2 = 'tests.unit.stage2_probe';"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--run-dir", str(tmp_path)[:80], "--address", "10.1.0.7/24", *args]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if way == "stdin":
            process.stdin.write(token.encode())
            process.stdin.close()
        told = json.loads(process.stdout.readline())
        if way != "stdin":  # where the probe waits for its input to end, there is time to look at it
            shown = (
                Path(f"/proc/{process.pid}/environ").read_bytes() + Path(f"/proc/{process.pid}/cmdline").read_bytes()
            )
            assert [secret in shown for secret in [*secrets, b"EDGEVPNTOKEN", b"PEERGATE_AUTH"]] == [False] * 5
            assert [memory_holds(process.pid, secret) for secret in secrets] == [False] * 3
            forked = f"/proc/{told['template']}/environ"
            assert not any(secret in Path(forked).read_bytes() for secret in [*secrets, b"EDGEVPNTOKEN"])
            assert [memory_holds(told["template"], secret) for secret in secrets] == [False] * 3
            process.stdin.close()
        assert process.wait(30) == 7
    assert told["pid"] == process.pid
    assert told["config"]["addresses"] == ["10.1.0.7/24"]
    assert told["token_bytes"] == len(network.to_yaml())
    assert told["sealed"]
    assert not told["writable"]
    assert not told["inheritable"]


def test_the_second_stage_alone_says_what_to_start_instead(capsys: pytest.CaptureFixture[str]) -> None:
    from edgevpn.cli import stage2

    assert stage2.main([]) == 2
    assert "start a node with `edgevpn`" in capsys.readouterr().err


# --- what is printed


def test_tables_align_and_are_clean_of_control_characters() -> None:
    text = output.table(["name", "rss"], [["host", 5], ["a\x1b[2J\n", 1234]])
    assert text == "NAME     RSS\nhost       5\na?[2J?  1234\n"
    assert output.table(["name"], []) == "NAME\n"


def test_facts_put_each_item_of_a_list_on_its_own_line() -> None:
    assert output.facts([("id", "x"), ("listen", ["a", "b"]), ("peers", [])]) == (
        "id      x\nlisten  a\n        b\npeers   -\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (59, "59s"), (65, "1m05s"), (15000, "4h10m"), (86400 * 12 + 3 * 3600, "12d03h")],
)
def test_ages_are_two_units_long(seconds: float, text: str) -> None:
    assert output.age(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1536, "1.5 KiB"), (24 << 20, "24 MiB"), (5 << 40, "5120 GiB")]
)
def test_sizes_are_binary(number: int, text: str) -> None:
    assert output.size(number) == text


def test_the_reference_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference.page(), "run: python -m edgevpn.cli.reference > docs/reference/cli.md"
