"""Verdicts beside jwcrypto's, which reads RFC 7515 in its own way.

It is asked as narrowly as it can be: each signature as a compact JWS, one algorithm
allowed, one key.  Of the form it knows less than `keys.documents`, so it may only be
the more lenient of the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk, jws
from jwcrypto.common import JWException

from proxy.errors import PeerFault, TrustFault
from proxy.keys import documents
from proxy.keys.documents import make_doc, open_doc

from . import forge
from .forge import ALGORITHMS, ROOT, TYP
from .test_document_vectors import KEYS, NAMES, SIGNER, read


def verifies(data: bytes, keys: Sequence[bytes]) -> bool:
    """Whether jwcrypto takes the first two signatures."""
    members = (
        {"kty": "OKP", "crv": "Ed25519", "x": forge.b64url(keys[0])},
        {"kty": "AKP", "alg": "ML-DSA-65", "pub": forge.b64url(keys[1])},
    )
    outer = json.loads(data)
    for algorithm, key, entry in zip(
        ALGORITHMS, members, outer["signatures"], strict=True
    ):
        one = jws.JWS()
        one.allowed_algs = [algorithm]
        compact = f"{entry['protected']}.{outer['payload']}.{entry['signature']}"
        try:
            one.deserialize(compact, jwk.JWK(**key))
        except JWException:
            return False
    return True


def opens(data: bytes, typ: str, keys: Sequence[bytes]) -> bool:
    try:
        open_doc(data, typ, keys[0], keys[1])
    except TrustFault:
        return False
    return True


@pytest.mark.parametrize(
    "name", [name for name in NAMES if read(name).header["expect"] != "bad-form"]
)
def test_i4_the_same_signatures_are_valid(name: str) -> None:
    vector = read(name)
    good = vector.header["expect"] == "good"
    assert opens(vector.artefact, SIGNER["typ"], KEYS) == good
    assert verifies(vector.artefact, KEYS) == good


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.integers(0, 2**53 - 1), max_size=3))
def test_i4_what_is_made_here_is_a_jws_elsewhere(claims: dict[str, object]) -> None:
    keys = ROOT.public.ed25519, ROOT.public.mldsa65
    assert verifies(make_doc(claims, TYP, ROOT).encode(), keys)


def test_i4_what_is_signed_elsewhere_opens() -> None:
    keys = ROOT.public.ed25519, ROOT.public.mldsa65
    seeds = (
        {"crv": "Ed25519", "kty": "OKP", "d": forge.b64url(ROOT.ed25519)},
        {"alg": "ML-DSA-65", "kty": "AKP", "priv": forge.b64url(ROOT.mldsa65)},
    )
    made = jws.JWS(b'{"a":1}')
    made.allowed_algs = list(ALGORITHMS)
    for seed, public, header in zip(seeds, keys, forge.headers(), strict=True):
        name = "x" if seed["kty"] == "OKP" else "pub"
        key = jwk.JWK(**seed, **{name: forge.b64url(public)})
        made.add_signature(key, protected=header.decode())
    opened = open_doc(made.serialize().encode(), TYP, *keys)
    assert opened.claims == {"a": 1}
    assert opened.signer == ROOT.public


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_i4_signatures_damaged_anywhere(data: st.DataObject) -> None:
    """A bit of either signature or of the payload: both say no, or both yes."""
    document = forge.document()
    keys = ROOT.public.ed25519, ROOT.public.mldsa65
    which = data.draw(st.sampled_from(["payload", 0, 1]))
    entry = document if which == "payload" else document["signatures"][which]
    member = "payload" if which == "payload" else "signature"
    raw = bytearray(documents._unb64url(entry[member])[1])
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    entry[member] = forge.b64url(bytes(raw))
    broken = forge.text(document)
    try:
        here = opens(broken, TYP, keys)
    except PeerFault:
        # the payload is no JSON any more: nothing was verified
        assert which == "payload"
        return
    assert not here
    assert not verifies(broken, keys)
