from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LocalFault, PeerFault, TrustFault
from proxy.keys import documents
from proxy.keys.documents import make_doc, open_doc, open_own_doc, peek_doc
from proxy.keys.identity import RootPrivate, RootPublic

from . import forge
from .forge import OTHER_ROOT, ROOT, TYP

PUBLIC = ROOT.public
KEYS = PUBLIC.ed25519, PUBLIC.mldsa65

VALUES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.integers(0, documents.INTEGER_MAX),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def nesting(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 1


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), VALUES, max_size=3))
def test_what_is_made_opens(claims: dict[str, object]) -> None:
    if nesting(claims) > 8:
        with pytest.raises(LocalFault):
            make_doc(claims, TYP, ROOT)
        return
    document = make_doc(claims, TYP, ROOT).encode("ascii")
    opened = open_doc(document, TYP, *KEYS)
    assert opened.claims == claims == peek_doc(document, TYP)
    assert json.loads(opened.payload) == claims
    assert opened.digest == hashlib.sha256(opened.payload).digest()


def test_the_text_is_general_jws_with_the_two_headers() -> None:
    outer = json.loads(make_doc({"b": 1, "a": 2}, TYP, ROOT))
    assert list(outer) == ["payload", "signatures"]
    assert outer["payload"] == forge.b64url(b'{"a":2,"b":1}')
    headers = [entry.pop("protected") for entry in outer["signatures"]]
    assert headers == [forge.b64url(header) for header in forge.headers()]
    assert [list(entry) for entry in outer["signatures"]] == [["signature"]] * 2


@pytest.mark.parametrize(
    "claims",
    [
        {"a": 1.5},
        {"a": float("nan")},
        {"a": None},
        {"a": True},
        {"a": -1},
        {"a": 2**53},
        {"a": "\ud800"},
    ],
    ids=str,
)
def test_nothing_is_signed_that_would_not_open(claims: dict[str, object]) -> None:
    with pytest.raises(LocalFault):
        make_doc(claims, TYP, ROOT)


def nested(levels: int) -> dict[str, object]:
    value: object = 0
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


def test_i4_depth() -> None:
    assert nesting(nested(8)) == 8
    fine = forge.signed(nested(8), TYP)
    assert open_doc(fine, TYP, *KEYS).claims == nested(8)
    with pytest.raises(PeerFault, match="too deeply"):
        open_doc(forge.signed(nested(9), TYP), TYP, *KEYS)


def test_dir_01_another_purpose() -> None:
    document = make_doc({"a": 1}, "tillie-token+jws", ROOT).encode()
    with pytest.raises(PeerFault, match="protected header"):
        open_doc(document, TYP, *KEYS)


@pytest.mark.parametrize("mixed", [0, 1])
def test_dir_01_another_signer(mixed: int) -> None:
    document = make_doc({"a": 1}, TYP, ROOT).encode()
    other = OTHER_ROOT.public.ed25519, OTHER_ROOT.public.mldsa65
    keys = (other[0], KEYS[1]) if mixed == 0 else (KEYS[0], other[1])
    with pytest.raises(TrustFault, match=forge.ALGORITHMS[mixed]):
        open_doc(document, TYP, *keys)


def test_i4_the_size_is_judged_first() -> None:
    document = forge.text(forge.document())
    padded = document.ljust(documents.LIMIT)
    assert open_doc(padded, TYP, *KEYS).claims == {"a": 1}
    for call in (lambda d: open_doc(d, TYP, *KEYS), lambda d: peek_doc(d, TYP)):
        with pytest.raises(PeerFault, match="larger than 32768"):
            call(padded + b" ")
        with pytest.raises(PeerFault, match="larger than 32768"):
            call(b"[" * 10_000_000)
    with pytest.raises(PeerFault, match="larger than 100 "):
        open_doc(document, TYP, *KEYS, limit=100)


@pytest.mark.parametrize(
    "keys",
    [
        (b"", KEYS[1]),
        (KEYS[0] + b"\0", KEYS[1]),
        (KEYS[0], b""),
        (KEYS[0], KEYS[1][:-1]),
        (bytes(32), KEYS[1]),
    ],
    ids=["no-ed", "long-ed", "no-mldsa", "short-mldsa", "small-order-ed"],
)
def test_enc_15_malformed_signer_keys(keys: tuple[bytes, bytes]) -> None:
    with pytest.raises(TrustFault, match="malformed"):
        open_doc(forge.text(forge.document()), TYP, *keys)


def test_no_flipped_bit_opens() -> None:
    document = forge.text(forge.document())
    for at in range(0, len(document), 7):
        broken = bytearray(document)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises((PeerFault, TrustFault)):
            open_doc(bytes(broken), TYP, *KEYS)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_garbage_is_a_fault_of_the_peer(data: bytes) -> None:
    with pytest.raises(PeerFault):
        open_doc(data, TYP, *KEYS)


def test_dir_01_signed_by_the_keys_that_it_names() -> None:
    claims = {"keys": "ours"}
    document = make_doc(claims, TYP, ROOT).encode()
    opened = open_own_doc(document, TYP, lambda found: named(found, claims, ROOT))
    assert opened == open_doc(document, TYP, *KEYS)
    assert opened.signer == ROOT.public
    with pytest.raises(TrustFault, match="EdDSA"):
        open_own_doc(document, TYP, lambda found: named(found, claims, OTHER_ROOT))
    half = RootPublic(KEYS[0], OTHER_ROOT.public.mldsa65)
    with pytest.raises(TrustFault, match="ML-DSA-65"):
        open_own_doc(document, TYP, lambda _: half)


def named(found: object, wanted: object, root: RootPrivate) -> RootPublic:
    assert found == wanted
    return root.public


def test_i4_keys_are_asked_for_after_the_form() -> None:
    """Nothing is read from the claims of what is no document (3.4)."""
    document = forge.text({**forge.document(), "more": 1})
    with pytest.raises(PeerFault, match="other members"):
        open_own_doc(document, TYP, lambda _: pytest.fail("asked"))
    with pytest.raises(PeerFault, match="larger than 100 "):
        open_own_doc(document, TYP, lambda _: pytest.fail("asked"), limit=100)


def test_no_jose_library_is_loaded() -> None:
    """Whoever installs Tillie gets none: `jwcrypto` is the tests' second opinion."""
    code = (
        "import sys, proxy.app.gate, proxy.app.service, proxy.app.signhost;"
        "sys.exit(any(name.startswith('jwcrypto') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
