"""Other VPNs between the two nodes of a lab, for comparison: those that are installed, with their usual ciphers.

Each function starts one and returns the address on the first node and its processes, or None when it is not here. What
they need lies in a directory that goes with the lab; the keys are made for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from scripts.labkit import traffic
from scripts.labkit.go_nodes import GO, GoVpn
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import new_token

Running = tuple[str, Callable[[], list[int]]]  # address, pids
MTU = 1420


def _program(variable: str, *names: str) -> str | None:
    """From the environment, or installed; /usr/sbin too."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    found = os.environ.get(variable) or next((one for name in names if (one := shutil.which(name, path=path))), None)
    return found or None


def _directory(stack: ExitStack) -> Path:
    path = Path(tempfile.mkdtemp(prefix="evo-"))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, cwd=cwd).stdout


def _wait_for(node: Node, device: str) -> None:
    traffic.wait_for(lambda: device in node.run(["ip", "-br", "link"]).stdout, 10, what=f"the device {device}")


def _addresses(lab: Lab, number: int, device: str) -> str:
    """Give both ends of a device theirs; the first one's, once it answers."""
    for k in (1, 2):
        node = lab.node(k)
        _wait_for(node, device)
        node.run(["ip", "addr", "replace", f"10.{number}.0.{k}/24", "dev", device])
        node.run(["ip", "link", "set", device, "mtu", str(MTU), "up"])
    traffic.first_answer(lab.node(2), f"10.{number}.0.1", device, 30)
    return f"10.{number}.0.1"


def nebula(stack: ExitStack, lab: Lab, number: int) -> Running | None:
    program = _program("NEBULA_BIN", "nebula")
    if not program:
        return None
    beside = Path(program).with_name("nebula-cert")
    certify = str(beside) if beside.exists() else _program("NEBULA_CERT_BIN", "nebula-cert")
    if not certify:
        return None
    home = _directory(stack)
    _run(certify, "ca", "-name", "lab", cwd=home)
    processes = []
    for k in (1, 2):
        _run(certify, "sign", "-name", f"n{k}", "-ip", f"10.{number}.0.{k}/24", cwd=home)
        hosts = "" if k == 1 else f'"10.{number}.0.1": ["{lab.node(1).address}:4242"]'
        lighthouses = "" if k == 1 else f'"10.{number}.0.1"'
        (home / f"n{k}.yml").write_text(
            f"pki: {{ca: {home}/ca.crt, cert: {home}/n{k}.crt, key: {home}/n{k}.key}}\n"
            f"static_host_map: {{{hosts}}}\n"
            f"lighthouse: {{am_lighthouse: {'true' if k == 1 else 'false'}, hosts: [{lighthouses}]}}\n"
            "listen: {host: 0.0.0.0, port: 4242}\n"
            f"tun: {{dev: evn{number}, mtu: {MTU}}}\n"
            "firewall:\n"
            "  outbound: [{port: any, proto: any, host: any}]\n"
            "  inbound: [{port: any, proto: any, host: any}]\n"
        )
        processes.append(lab.node(k).popen([program, "-config", str(home / f"n{k}.yml")]))
    return _addresses(lab, number, f"evn{number}"), lambda: [one.pid for one in processes]


def openvpn(stack: ExitStack, lab: Lab, number: int) -> Running | None:
    program, openssl = _program("OPENVPN_BIN", "openvpn"), shutil.which("openssl")
    if not program or not openssl:
        return None
    home = _directory(stack)
    prints = []
    for k in (1, 2):
        words = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _run(*words, "-subj", f"/CN=n{k}", "-days", "2", "-keyout", f"n{k}.key", "-out", f"n{k}.crt", cwd=home)
        text = _run(openssl, "x509", "-in", f"n{k}.crt", "-noout", "-fingerprint", "-sha256", cwd=home)
        prints.append(text.strip().partition("=")[2])
    processes = []
    for k in (1, 2):
        words = [program, "--dev", f"evo{number}", "--dev-type", "tun", "--proto", "udp", "--port", "1194"]
        words += ["--remote", lab.node(3 - k).address, "--tun-mtu", str(MTU), "--mssfix", "0", "--verb", "0"]
        words += ["--ifconfig", f"10.{number}.0.{k}", f"10.{number}.0.{3 - k}", "--data-ciphers", "AES-256-GCM"]
        words += ["--tls-server", "--dh", "none"] if k == 1 else ["--tls-client"]
        words += ["--cert", str(home / f"n{k}.crt"), "--key", str(home / f"n{k}.key")]
        words += ["--peer-fingerprint", prints[2 - k], "--sndbuf", "1000000", "--rcvbuf", "1000000"]
        processes.append(lab.node(k).popen(words))
    for k in (1, 2):
        _wait_for(lab.node(k), f"evo{number}")
    traffic.first_answer(lab.node(2), f"10.{number}.0.1", f"evo{number}", 30)
    return f"10.{number}.0.1", lambda: [one.pid for one in processes]


def tinc(stack: ExitStack, lab: Lab, number: int) -> Running | None:
    program = _program("TINCD_BIN", "tincd")
    if not program:
        return None
    home = _directory(stack)
    for k in (1, 2):
        own = home / f"n{k}"
        (own / "hosts").mkdir(parents=True)
        to = "ConnectTo = n1\n" if k == 2 else ""
        (own / "tinc.conf").write_text(f"Name = n{k}\nInterface = evt{number}\n{to}")
        subnet = f"Address = {lab.node(k).address}\nSubnet = 10.{number}.0.{k}/32\nCipher = aes-256-cbc\n"
        (own / "hosts" / f"n{k}").write_text(subnet)
        subprocess.run([program, "-c", str(own), "-K2048"], check=True, capture_output=True, timeout=60, input=b"\n\n")
    for k in (1, 2):
        shutil.copy(home / f"n{k}" / "hosts" / f"n{k}", home / f"n{3 - k}" / "hosts" / f"n{k}")
    processes = []
    for k in (1, 2):
        words = [program, "-c", str(home / f"n{k}"), "-D", f"--pidfile={home}/n{k}.pid"]
        processes.append(lab.node(k).popen(words))
    return _addresses(lab, number, f"evt{number}"), lambda: [one.pid for one in processes]


def go_edgevpn(stack: ExitStack, lab: Lab, number: int) -> Running | None:
    if not GO:
        return None
    token, device = new_token(), f"evg{number}"
    nodes = []
    for k in (1, 2):
        node = GoVpn(lab.node(k), token, f"10.{number}.0.{k}/24", "--dht=false", f"--interface={device}")
        stack.callback(node.close)
        nodes.append(node)
    traffic.first_answer(lab.node(2), f"10.{number}.0.1", device, 60)
    return f"10.{number}.0.1", lambda: [node.process.pid for node in nodes]


OTHERS: dict[str, Callable[[ExitStack, Lab, int], Running | None]] = {
    "nebula": nebula,
    "openvpn": openvpn,
    "tinc": tinc,
    "go-edgevpn": go_edgevpn,
}
