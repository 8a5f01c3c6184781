# Any bytes are refused by PeerFault or TrustFault, or are a document that the signer has
# signed: its payload is then one of those in the vectors that are good.
"""Signed documents: what a server may show as somebody's manifest."""

from __future__ import annotations

from functools import cache

from proxy.errors import REMOTE
from proxy.keys import documents, manifest

from ..unit.keys.test_document_vectors import KEYS, NAMES, SIGNER, read


@cache
def genuine() -> frozenset[bytes]:
    """The digests of all that the signer of the vectors has signed."""
    good = [read(name) for name in NAMES]
    return frozenset(
        documents.open_doc(one.artefact, SIGNER["typ"], *KEYS).digest
        for one in good
        if one.header["expect"] == "good"
    )


def seeds() -> list[bytes]:
    return [read(name).artefact for name in NAMES]


def one(data: bytes) -> None:
    for limit in (documents.LIMIT, 2_000):
        try:
            documents.peek_doc(data, SIGNER["typ"], limit=limit)
        except REMOTE:
            continue
    try:
        opened = documents.open_doc(data, SIGNER["typ"], *KEYS)
    except REMOTE:
        pass
    else:
        assert opened.digest in genuine(), "signed by nobody and taken"
    try:
        manifest.open_manifest(data, "alice@a.test")
    except REMOTE:
        return
    raise AssertionError("a manifest of alice that she has not signed")
