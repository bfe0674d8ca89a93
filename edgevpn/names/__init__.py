"""The names of the VPN: what a DNS server knows and decides, without sockets and clocks."""
