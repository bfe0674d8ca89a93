"""`edgevpn unit`: the systemd unit edgevpn@.service for this installation, ready to be written where systemd looks.

The instance's name is the interface's. The node tells systemd when it is up and that it lives (sd_notify(3)); what it
needs of root's rights is listed (capabilities(7)), and the rest is shut (systemd.exec(5)). Actors give up more by
themselves, edgevpn/actors/child_entry.py.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

UNIT = """\
# Written by `edgevpn unit`. To install it, for the interface edgevpn0 and the network in /etc/edgevpn/edgevpn0.yaml:
#   edgevpn unit > /etc/systemd/system/edgevpn@.service
#   systemctl daemon-reload && systemctl enable --now edgevpn@edgevpn0
# Flags go into /etc/edgevpn/edgevpn0.env by their environment variables, such as ADDRESS=10.1.0.7/24.

[Unit]
Description=EdgeVPN on %i
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} --interface %i --config /etc/edgevpn/%i.yaml
EnvironmentFile=-/etc/edgevpn/%i.env
Environment=EDGEVPNLEDGERSTATE=/var/lib/edgevpn/%i EDGEVPNPRIVKEYCACHE=true EDGEVPNPRIVKEYCACHEDIR=/var/lib/edgevpn/%i
StateDirectory=edgevpn/%i
StateDirectoryMode=0700
WatchdogSec=10
TimeoutStartSec=60
TimeoutStopSec=10
Restart=always
RestartSec=1
# 2: a flag, the token or the configuration is wrong, and stays so until a person mends it.
RestartPreventExitStatus=2
KillMode=mixed

CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_KILL CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_SYS_NICE
NoNewPrivileges=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectSystem=full
ProtectHome=read-only
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""


def program() -> str:
    """The path of this command."""
    beside = Path(sys.executable).with_name("edgevpn")
    return str(beside) if beside.exists() else shutil.which("edgevpn") or "/usr/bin/edgevpn"


@click.command(epilog="Example: edgevpn unit > /etc/systemd/system/edgevpn@.service")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def unit() -> None:
    """Print the systemd unit edgevpn@.service for this installation."""
    click.echo(UNIT.format(program=program()), nl=False)
