"""Peerguard: signatures in the Go program's forms, and clean refusals where it crashes."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import peerguard

PRIVATE, PUBLIC = peerguard.generate_key_pair()
OTHER_PRIVATE, OTHER_PUBLIC = peerguard.generate_key_pair()
SIGNATURE = peerguard.sign(PRIVATE, "challenge")


def armour(pem):
    return base64.urlsafe_b64encode(pem).decode()


def public_text(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return armour(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def test_a_signature_verifies_with_its_key_and_text_alone():
    peerguard.verify_untrusted(PUBLIC, SIGNATURE, "challenge")
    for key, text in ((OTHER_PUBLIC, "challenge"), (PUBLIC, "other")):
        with pytest.raises(UntrustedDataError, match="not by this key"):
            peerguard.verify_untrusted(key, SIGNATURE, text)


def test_keys_and_signatures_have_go_s_labels():
    for text, label in ((PRIVATE, b"EC PRIVATE KEY"), (PUBLIC, b"EC PUBLIC KEY"), (SIGNATURE, b"SIGNATURE")):
        pem = base64.urlsafe_b64decode(text)
        assert pem.startswith(b"-----BEGIN " + label + b"-----\n")
        assert pem.endswith(b"\n-----END " + label + b"-----\n")
        assert max(len(line) for line in pem.split(b"\n")) <= 64


def test_the_public_key_is_found_in_the_private_one():
    assert peerguard.public_key_of(PRIVATE) == PUBLIC


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256R1(), ec.SECP384R1()])
def test_a_public_key_may_be_on_another_nist_curve(curve):
    key = ec.generate_private_key(curve)
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    signature = peerguard.sign(peerguard._armour("EC PRIVATE KEY", der), "x")
    peerguard.verify_untrusted(public_text(key), signature, "x")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "***",
        SIGNATURE[:40],
        SIGNATURE + "=",
        " " + SIGNATURE,
        armour(b"no pem"),
        armour(b"-----BEGIN SIGNATURE-----\n-----END SIGNATURE-----\n"),
        armour(b"-----BEGIN SIGNATURE-----\nAAAA\n-----END SIGNATURE-----\n"),
        armour(b"-----BEGIN SIGNATURE-----\nA\n-----END SIGNATURE-----\n"),
        base64.b64encode(b"-----BEGIN SIGNATURE-----\n??>>\n-----END SIGNATURE-----\n").decode(),
        PUBLIC,
        PRIVATE,
        "A" * 100_000,
    ],
)
def test_a_bad_signature_is_refused(bad):
    with pytest.raises(UntrustedDataError):
        peerguard.verify_untrusted(PUBLIC, bad, "challenge")


@pytest.mark.parametrize(
    "bad",
    ["", "***", PRIVATE, SIGNATURE, PUBLIC[:100], armour(b"no pem"), public_text(ed25519.Ed25519PrivateKey.generate())],
)
def test_a_bad_public_key_is_refused(bad):
    with pytest.raises(UntrustedDataError):
        peerguard.verify_untrusted(bad, SIGNATURE, "challenge")


def test_a_good_signature_on_another_kind_of_curve_is_refused():
    key = ec.generate_private_key(ec.SECP256K1())
    signature = peerguard._armour("SIGNATURE", key.sign(peerguard.digest_hex("x").encode(), peerguard._ALGORITHM))
    with pytest.raises(UntrustedDataError, match="NIST"):
        peerguard.verify_untrusted(public_text(key), signature, "x")


@pytest.mark.parametrize("bad", ["", "***", PUBLIC, SIGNATURE, armour(b"no pem")])
def test_a_bad_private_key_is_the_user_s_error(bad):
    with pytest.raises(UsageError, match="genkey"):
        peerguard.sign(bad)


def test_any_key_with_ecdsa_in_its_name_lets_in():
    keys = {"a-ecdsa": json.dumps(OTHER_PUBLIC), "ecdsa_1": json.dumps(PUBLIC)}
    assert peerguard.authenticate_untrusted({"sigs": SIGNATURE}, "challenge", keys) == "ecdsa_1"


@pytest.mark.parametrize(
    ("annotations", "keys"),
    [
        (None, {"ecdsa": json.dumps(PUBLIC)}),
        ({}, {"ecdsa": json.dumps(PUBLIC)}),
        ({"sigs": 5.0}, {"ecdsa": json.dumps(PUBLIC)}),
        ({"sigs": SIGNATURE}, {}),
        ({"sigs": SIGNATURE}, {"rsa": json.dumps(PUBLIC)}),
        ({"sigs": SIGNATURE}, {"ECDSA": json.dumps(PUBLIC)}),
        ({"sigs": SIGNATURE}, {"ecdsa": json.dumps(OTHER_PUBLIC)}),
        ({"sigs": SIGNATURE}, {"ecdsa": PUBLIC}),
        ({"sigs": SIGNATURE}, {"ecdsa": "5", "ecdsa2": "[" * 10_000, "ecdsa3": '"x"'}),
    ],
)
def test_nobody_else_gets_in(annotations, keys):
    with pytest.raises(UntrustedDataError):
        peerguard.authenticate_untrusted(annotations, "challenge", keys)


def test_a_bad_key_does_not_hide_a_good_one():
    keys = {"ecdsa_0": '"nonsense"', "ecdsa_1": json.dumps(PUBLIC)}
    assert peerguard.authenticate_untrusted({"sigs": SIGNATURE}, "challenge", keys) == "ecdsa_1"


@given(st.text(), st.text(), st.text(st.characters()), st.binary())
def test_arbitrary_text_raises_only_untrusted_data(key, signature, message, pem):
    block = b"-----BEGIN X-----\n" + base64.b64encode(pem) + b"\n-----END X-----\n"
    for public, sig in ((key, signature), (PUBLIC, signature), (PUBLIC, armour(block)), (armour(block), SIGNATURE)):
        with pytest.raises(UntrustedDataError):
            peerguard.verify_untrusted(public, sig, message)
    with pytest.raises(UntrustedDataError):
        peerguard.authenticate_untrusted({"sigs": signature}, message, {"ecdsa": key})
