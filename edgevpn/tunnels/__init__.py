"""Tunnels: TCP and UDP through streams of peers, files, and HTTP for others. What formats are is in edgevpn/proto."""
