"""Which address a node takes."""

from ipaddress import ip_address, ip_network

from hypothesis import given, strategies as st

from edgevpn.ledger.dhcp import address_after_highest, free_address


def test_gos_choice_is_the_highest_plus_one():
    assert address_after_highest("10.1.0.1", []) == "10.1.0.1"
    assert address_after_highest("10.1.0.1", ["10.1.0.9", "10.1.0.10"]) == "10.1.0.11"
    assert address_after_highest("10.1.0.1", ["nonsense", "fe80::1%eth0"]) == "10.1.0.1"


def test_the_highest_address_of_all_has_no_next():
    assert address_after_highest("", ["255.255.255.255"]) == "255.255.255.255"
    assert address_after_highest("", ["ffff:" * 7 + "ffff"]) == "ffff:" * 7 + "ffff"


def test_v4_is_not_carried_into_v6():
    assert address_after_highest("", ["::ffff:10.1.0.7"]) == "10.1.0.8"
    assert address_after_highest("", ["::fffe:ffff:ffff"]) == "::ffff:0:0"


NETWORKS = st.sampled_from(["10.1.0.0/24", "10.1.0.0/30", "10.1.0.0/31", "10.1.0.7/32", "fd00::/64", "fd00::/126"])


@given(NETWORKS, st.sets(st.integers(0, 260), max_size=260), st.text("abc", max_size=5))
def test_a_free_address_is_of_the_network_and_nobodys(network_text, taken, peer):
    network = ip_network(network_text)
    used = {str(network.network_address + number) for number in taken} | {"nonsense"}
    found = free_address(network, used, peer)
    hosts = {str(host) for host in network.hosts()} if network.num_addresses < 1000 else None
    if found is None:
        assert hosts is not None
        assert hosts <= used
    else:
        assert found not in used
        assert ip_address(found) in network
        assert hosts is None or found in hosts
        assert found == free_address(network, used, peer)


def test_peers_that_join_at_once_begin_at_different_places():
    network = ip_network("10.1.0.0/16")
    found = {free_address(network, [], f"peer {number}") for number in range(50)}
    assert len(found) > 45
