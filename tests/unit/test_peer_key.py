"""Identity keys and peer IDs."""

import base64
import contextlib
import copy
import pickle
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import peer_key
from edgevpn.proto.peer_key import PrivateKey

# From the libp2p specification "Peer Ids and Keys": the test vector of an Ed25519 private key.
SPEC_KEY = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
ID = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
ID_AS_CID = "bafzaajaiaejcbwejaaolcva2vw3acwru2hwtvlg4pfvbaislcrs4cwy4pw2ykgdp"
RSA_ID = "QmVafSwcPCwzZSkduRgoRL3oAbGE8CEHeQbKNJoTVwW7Q4"


def secp256k1_id(key):
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return peer_key.peer_id_text(b"\x00\x25\x08\x02\x12\x21" + point)


def test_libp2ps_encoding_of_a_key_is_read_and_written():
    key = PrivateKey.from_marshalled_untrusted(SPEC_KEY)
    assert key.marshal() == SPEC_KEY
    assert key.seed == SPEC_KEY[4:36]
    assert key.public == SPEC_KEY[36:]


def test_a_key_whose_halves_do_not_belong_together_is_refused():
    with pytest.raises(UntrustedDataError):
        PrivateKey.from_marshalled_untrusted(SPEC_KEY[:-1] + b"\x00")


@pytest.mark.parametrize("data", [b"", SPEC_KEY[:-1], SPEC_KEY + b"x", b"\x08\x00" + SPEC_KEY[2:]])
def test_other_things_are_no_private_key(data):
    with pytest.raises(UntrustedDataError):
        PrivateKey.from_marshalled_untrusted(data)


def test_a_seed_has_32_bytes():
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey(b"short")


def test_what_a_key_signs_verifies_by_its_name_alone():
    key = PrivateKey.generate()
    signature = key.sign(b"message")
    assert peer_key.verify(key.peer_id, b"message", signature)
    assert not peer_key.verify(key.peer_id, b"messagE", signature)
    assert not peer_key.verify(PrivateKey.generate().peer_id, b"message", signature)


def test_the_secret_is_in_no_repr_and_no_pickle():
    key = PrivateKey.from_marshalled_untrusted(SPEC_KEY)
    for text in (repr(key), str(key), f"{key}"):
        assert key.seed.hex() not in text
        assert key.peer_id in text
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        copy.copy(key)


def test_one_peer_has_a_base58_and_a_cid_form():
    raw = peer_key.peer_id_bytes_untrusted(ID)
    assert peer_key.peer_id_bytes_untrusted(ID_AS_CID) == raw
    assert peer_key.peer_id_text(raw) == ID
    assert peer_key.peer_id_of_ed25519(peer_key.ed25519_public_untrusted(ID)) == ID


@pytest.mark.parametrize("base", ["z", "k", "b"])
def test_a_cid_is_read_in_each_of_the_usual_bases(base):
    cid = b"\x01\x72" + peer_key.peer_id_bytes_untrusted(ID)
    if base == "b":
        digits = base64.b32encode(cid).decode().rstrip("=").lower()
    elif base == "z":
        digits = peer_key.peer_id_text(cid)
    else:
        number, digits = int.from_bytes(cid, "big"), ""
        while number:
            number, digit = divmod(number, 36)
            digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    assert peer_key.peer_id_text(peer_key.peer_id_bytes_untrusted(base + digits)) == ID


def test_secp256k1_signs_the_sha256_as_der():
    key = ec.derive_private_key(7, ec.SECP256K1())
    owner = secp256k1_id(key)
    signature = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    assert owner.startswith("16Uiu2HA")
    assert peer_key.verify(owner, b"message", signature)
    assert not peer_key.verify(owner, b"other", signature)
    assert not peer_key.verify(owner, b"message", signature + b"\0")
    assert not peer_key.verify(owner, b"message", b"")


def test_a_point_off_the_curve_verifies_nothing():
    owner = peer_key.peer_id_text(b"\x00\x25\x08\x02\x12\x21\x02" + b"\xff" * 32)
    assert peer_key.is_peer_id(owner)
    assert not peer_key.verify(owner, b"message", b"\x30\x06\x02\x01\x01\x02\x01\x01")


def test_a_hashed_id_is_a_peer_but_verifies_nothing():
    assert peer_key.is_peer_id(RSA_ID)
    assert not peer_key.verify(RSA_ID, b"", b"")
    with pytest.raises(UntrustedDataError):
        peer_key.ed25519_public_untrusted(RSA_ID)


@pytest.mark.parametrize(
    "text",
    ["", "1", "not-a-peer", ID[:-1], ID + "1", ID.replace("1", "0"), "1" * 128, "Qm", "b", "bafy", "z", "k-",
     "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", ID_AS_CID.upper(), "b" + "ß" * 20, "\ud800" * 9],
)  # fmt: skip
def test_other_texts_are_no_peer(text):
    assert not peer_key.is_peer_id(text)
    assert not peer_key.verify(text, b"", b"")


@given(st.text(max_size=200) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=80))
def test_any_text_is_read_or_refused(text):
    assert peer_key.verify(text, b"", b"x" * 64) is False
    with contextlib.suppress(UntrustedDataError):
        raw = peer_key.peer_id_bytes_untrusted(text)
        assert peer_key.peer_id_bytes_untrusted(peer_key.peer_id_text(raw)) == raw


@given(st.binary(max_size=100))
def test_any_bytes_are_a_private_key_or_refused(data):
    with pytest.raises(UntrustedDataError):
        PrivateKey.from_marshalled_untrusted(data)


@given(st.binary(min_size=1, max_size=60))
def test_base58_goes_there_and_back(data):
    assert peer_key._from_digits_untrusted(peer_key.peer_id_text(data), peer_key._BASE58_VALUES) == data


def test_libp2p_is_not_imported():
    code = "import sys, edgevpn.proto.peer_key; sys.exit('libp2p' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
