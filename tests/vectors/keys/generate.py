"""Write the document vectors beside this file: ``python -m tests.vectors.keys.generate``.

ML-DSA signs with fresh randomness, so a second run gives other bytes and the
same verdicts.
"""

from __future__ import annotations

import base64
import copy
import json
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from tests.unit.keys.forge import (
    ALGORITHMS,
    OTHER_ROOT,
    ROOT,
    TYP,
    b64url,
    document,
    headers,
    signatures,
    text,
)

HERE = pathlib.Path(__file__).parent
ORDER = 2**252 + 27742317777372353535851937790883648493

BAD = "bad-form"
NO = "not-valid"
WELL_FORMED = "not well-formed"
MEMBERS = "other members"
TWO = "exactly two"
BASE64 = "base64url"
HEADER = "protected header"
TWICE = "twice"


@dataclass
class Case:
    name: str
    expect: str
    says: str
    comment: str
    artefact: bytes


Change = Callable[[dict[str, Any]], Any]


def changed(change: Change) -> bytes:
    outer = copy.deepcopy(document())
    result = change(outer)
    return text(outer if result is None else result)


def unb64url(coded: str) -> bytes:
    return base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))


def flip(coded: str) -> str:
    raw = bytearray(unb64url(coded))
    raw[len(raw) // 2] ^= 1
    return b64url(bytes(raw))


def good() -> Iterator[Case]:
    yield Case("good-plain", "good", "", "what is written", text(document()))
    outer = document()
    yield Case(
        "good-white-space",
        "good",
        "",
        "the outer text is not signed and a person may have laid it out",
        json.dumps(outer, indent=1).encode() + b"\n",
    )
    swapped = {"signatures": outer["signatures"], "payload": outer["payload"]}
    yield Case("good-member-order", "good", "", "JSON has no order", text(swapped))
    claims = '{"a":"\\u00e9 \\ud83d\\ude00","b":[{"c":9007199254740991},[],{}],"d":0}'
    yield Case(
        "good-values",
        "good",
        "",
        "every type there is",
        text(document(claims.encode())),
    )


def stripped() -> Iterator[Case]:
    def case(name: str, expect: str, says: str, comment: str, change: Change) -> Case:
        return Case(name, expect, says, comment, changed(change))

    def entry(index: int, name: str, value: Callable[[str], object]) -> Change:
        def change(outer: dict[str, Any]) -> None:
            member = outer["signatures"][index]
            member[name] = value(member[name])

        return change

    for index, algorithm in enumerate(ALGORITHMS):
        name = ("ed", "mldsa")[index]
        yield case(
            f"{name}-corrupted",
            NO,
            algorithm,
            "one bit of one signature; the other is good",
            entry(index, "signature", flip),
        )
        yield case(
            f"{name}-zero",
            NO,
            algorithm,
            "zero bytes of the right number",
            entry(index, "signature", lambda s: b64url(bytes(len(unb64url(s))))),
        )
        yield case(
            f"{name}-removed",
            BAD,
            TWO,
            "one good signature alone",
            lambda outer, i=index: outer["signatures"].pop(i) and None,
        )
        yield case(
            f"{name}-doubled",
            BAD,
            HEADER,
            "two entries, both by the same key",
            lambda outer, i=index: outer["signatures"].__setitem__(
                1 - i, outer["signatures"][i]
            ),
        )
        yield case(
            f"{name}-short",
            BAD,
            "wrong size",
            "a signature without its last byte",
            entry(index, "signature", lambda s: b64url(unb64url(s)[:-1])),
        )
        yield case(
            f"{name}-empty",
            BAD,
            "wrong size",
            "no signature bytes at all",
            entry(index, "signature", lambda s: ""),
        )
        yield case(
            f"{name}-number",
            BAD,
            "no text",
            "a number for a signature",
            entry(index, "signature", lambda s: 7),
        )
        yield Case(
            f"{name}-other-root",
            NO,
            algorithm,
            "one of the two signatures by another root",
            mixed(index),
        )
    yield case(
        "entry-third",
        BAD,
        TWO,
        "both signatures and one of them again",
        lambda outer: outer["signatures"].append(outer["signatures"][1]),
    )
    yield case(
        "entries-swapped",
        BAD,
        HEADER,
        "the order is fixed",
        lambda outer: outer["signatures"].reverse(),
    )
    yield case(
        "entries-swapped-signatures",
        BAD,
        "wrong size",
        "the signature of each under the header of the other",
        swap_signatures,
    )
    yield case(
        "entries-none",
        BAD,
        TWO,
        "no signatures",
        lambda outer: {**outer, "signatures": []},
    )
    yield case(
        "entries-object",
        BAD,
        TWO,
        "signatures as an object",
        lambda outer: {**outer, "signatures": {"0": 1, "1": 2}},
    )
    yield case(
        "entries-text",
        BAD,
        MEMBERS,
        "entries that are no objects",
        lambda outer: {**outer, "signatures": ["a", "b"]},
    )
    yield case(
        "entries-junk", BAD, TWO, "200 junk signatures before the good ones", junk
    )
    yield case(
        "payload-changed",
        NO,
        "EdDSA",
        "other claims under old signatures",
        other_payload,
    )
    yield Case(
        "signer-other",
        NO,
        "EdDSA",
        "both signatures by another root",
        text(document(root=OTHER_ROOT)),
    )
    yield case(
        "ed-scalar-high",
        NO,
        "EdDSA",
        "S + L, the same signature spelt anew",
        high_scalar,
    )
    yield Case(
        "mldsa-context",
        NO,
        "ML-DSA-65",
        "signed with a context string (FIPS 204, 5.2)",
        with_context(),
    )
    yield Case(
        "payload-signed-bare",
        NO,
        "EdDSA",
        "signatures over the payload without the header",
        bare(),
    )
    yield Case(
        "typ-transplanted",
        NO,
        "EdDSA",
        "signatures made for another purpose under this purpose's header (DIR-01)",
        transplanted(),
    )


def mixed(index: int) -> bytes:
    outer: dict[str, Any] = document()
    outer["signatures"][index] = document(root=OTHER_ROOT)["signatures"][index]  # type: ignore[index]
    return text(outer)


def swap_signatures(outer: dict[str, Any]) -> None:
    first, second = outer["signatures"]
    first["signature"], second["signature"] = second["signature"], first["signature"]


def junk(outer: dict[str, Any]) -> None:
    header = b64url(headers()[0])
    entries = [
        {"protected": header, "signature": b64url(bytes([i]))} for i in range(200)
    ]
    outer["signatures"] = entries + outer["signatures"]


def other_payload(outer: dict[str, Any]) -> None:
    outer["payload"] = b64url(b'{"a":2}')


def high_scalar(outer: dict[str, Any]) -> None:
    entry = outer["signatures"][0]
    raw = unb64url(entry["signature"])
    scalar = int.from_bytes(raw[32:], "little") + ORDER
    entry["signature"] = b64url(raw[:32] + scalar.to_bytes(32, "little"))


def with_context() -> bytes:
    outer: dict[str, Any] = document()
    entry = outer["signatures"][1]
    data = f"{entry['protected']}.{outer['payload']}".encode()
    key = MLDSA65PrivateKey.from_seed_bytes(ROOT.mldsa65)
    entry["signature"] = b64url(key.sign(data, context=b"jws"))
    return text(outer)


def bare() -> bytes:
    outer: dict[str, Any] = document()
    data = outer["payload"].encode()
    ed25519 = Ed25519PrivateKey.from_private_bytes(ROOT.ed25519)
    mldsa65 = MLDSA65PrivateKey.from_seed_bytes(ROOT.mldsa65)
    outer["signatures"][0]["signature"] = b64url(ed25519.sign(data))
    outer["signatures"][1]["signature"] = b64url(mldsa65.sign(data))
    return text(outer)


def transplanted() -> bytes:
    outer: dict[str, Any] = document(typ="tillie-other+jws")
    for entry, header in zip(outer["signatures"], headers(), strict=True):
        entry["protected"] = b64url(header)
    return text(outer)


def shapes() -> Iterator[Case]:
    def case(name: str, says: str, comment: str, artefact: bytes) -> Case:
        return Case(name, BAD, says, comment, artefact)

    outer: dict[str, Any] = document()
    payload, entries = outer["payload"], outer["signatures"]
    whole = text(outer)
    yield case(
        "shape-flattened",
        MEMBERS,
        "flattened JSON serialisation (RFC 7515, 7.2.2)",
        text({"payload": payload, **entries[0]}),
    )
    yield case(
        "shape-flattened-beside",
        MEMBERS,
        "general and flattened form at once",
        text({**outer, **entries[0]}),
    )
    compact = f"{entries[0]['protected']}.{payload}.{entries[0]['signature']}"
    yield case("shape-compact", WELL_FORMED, "compact serialisation", compact.encode())
    yield case(
        "shape-compact-quoted",
        MEMBERS,
        "compact serialisation as JSON text",
        text(compact),
    )
    yield case("shape-array", MEMBERS, "an array around it", text([outer]))
    yield case(
        "shape-detached",
        MEMBERS,
        "detached content (RFC 7515, appendix F)",
        text({"signatures": entries}),
    )
    yield case(
        "shape-payload-null",
        "unknown type",
        "no payload",
        text({**outer, "payload": None}),
    )
    yield case(
        "shape-payload-number", "no text", "a number", text({**outer, "payload": 5})
    )
    yield case(
        "shape-payload-object",
        "no text",
        "claims not encoded",
        text({**outer, "payload": {"a": 1}}),
    )
    yield case(
        "shape-outer-member", MEMBERS, "a member more", text({**outer, "typ": TYP})
    )
    for name, member in {
        "alg": {"header": {"alg": "EdDSA"}},
        "typ": {"header": {"typ": TYP}},
        "empty": {"header": {}},
        "kid": {"kid": "1"},
    }.items():
        yield case(
            f"shape-unprotected-{name}",
            MEMBERS,
            "an entry with a member that no signature covers",
            text({**outer, "signatures": [{**entries[0], **member}, entries[1]]}),
        )
    yield case(
        "shape-no-protected",
        MEMBERS,
        "the header only unprotected",
        text(
            {
                **outer,
                "signatures": [
                    {"header": {"alg": "EdDSA"}, "signature": entries[0]["signature"]},
                    entries[1],
                ],
            }
        ),
    )
    evil = b64url(b'{"a":9}').encode()
    yield case(
        "twice-payload-first",
        TWICE,
        "two outer payloads, the first one forged",
        b'{"payload":"' + evil + b'",' + whole[1:],
    )
    yield case(
        "twice-payload-last",
        TWICE,
        "two outer payloads, the last one forged",
        whole[:-1] + b',"payload":"' + evil + b'"}',
    )
    yield case(
        "twice-payload-escaped",
        TWICE,
        "the second one with an escape in its name",
        whole[:-1] + b',"p\\u0061yload":"' + evil + b'"}',
    )
    yield case(
        "twice-signatures", TWICE, "two lists", whole[:-1] + b',"signatures":[]}'
    )
    yield case(
        "twice-protected",
        TWICE,
        "two headers in one entry",
        whole.replace(b'{"protected"', b'{"protected":"e30","protected"', 1),
    )
    yield case("outer-trailing", WELL_FORMED, "data behind the document", whole + b"{}")
    yield case("outer-cut", WELL_FORMED, "the last byte missing", whole[:-1])
    yield case("outer-empty", WELL_FORMED, "nothing", b"")
    yield case(
        "outer-bom", WELL_FORMED, "a byte order mark before it", b"\xef\xbb\xbf" + whole
    )
    yield case("outer-utf-16", WELL_FORMED, "UTF-16", whole.decode().encode("utf-16"))
    yield case("outer-nul", WELL_FORMED, "a NUL behind it", whole + b"\0")
    yield case("outer-nested", WELL_FORMED, "30,000 brackets", b"[" * 30_000)
    yield case(
        "outer-single-quotes", WELL_FORMED, "not JSON", whole.replace(b'"', b"'")
    )


def coded() -> Iterator[Case]:
    outer: dict[str, Any] = document()
    payload = outer["payload"]
    # {"a":1} has 7 bytes: its last character carries 4 spare bits.
    variants = {
        "junk": ("!!!!" + payload, "characters that a lax decoder skips"),
        "junk-inside": (payload[:3] + "!!!!" + payload[3:], "the same inside"),
        "padded": (payload + "==", "padding, which JWS leaves out"),
        "white-space": (payload[:4] + " " + payload[4:], "a blank inside"),
        "newline": (payload + "\n", "a newline behind it"),
        "spare-bits": (payload[:-1] + chr(ord(payload[-1]) + 1), "spare bits set"),
        "cut": (payload[:-1], "one character short: no whole number of bytes"),
        "not-ascii": (payload + "é", "not ASCII"),
        "empty": ("", "no bytes: no claims"),
    }
    for name, (value, comment) in variants.items():
        # Signed as spelt, so that only the spelling can be what is refused.
        artefact = text({"payload": value, "signatures": _sign_text(value)})
        says = WELL_FORMED if name == "empty" else BASE64
        yield Case(f"base64-{name}", BAD, says, comment, artefact)
    claims = b'{"a":"???>>>"}'
    standard = base64.b64encode(claims).decode().rstrip("=")
    yield Case(
        "base64-standard-alphabet",
        BAD,
        BASE64,
        "+ and / for - and _",
        text({"payload": standard, "signatures": _sign_text(standard)}),
    )
    for index, name in enumerate(("ed", "mldsa")):
        for member in ("protected", "signature"):
            broken = copy.deepcopy(outer)
            entry = broken["signatures"][index]
            entry[member] = entry[member][:5] + "*" + entry[member][5:]
            yield Case(
                f"base64-{name}-{member}",
                BAD,
                BASE64,
                "a character that a lax decoder skips",
                text(broken),
            )


def _sign_text(payload: str) -> list[dict[str, object]]:
    return signatures(payload, headers())


def protected() -> Iterator[Case]:
    ed, ml = headers()
    firsts = {
        "typ-other": (
            headers("tillie-manifest+jws")[0],
            "a document of another kind (DIR-01)",
        ),
        "typ-missing": (b'{"alg":"EdDSA"}', "no kind"),
        "typ-case": (ed.replace(b"tillie", b"Tillie"), "another case"),
        "typ-media-type": (
            ed.replace(b'"tillie', b'"application/tillie'),
            "the long form",
        ),
        "alg-none": (ed.replace(b"EdDSA", b"none"), "unsecured (ENC-14)"),
        "alg-hs256": (
            ed.replace(b"EdDSA", b"HS256"),
            "the public key taken for a secret",
        ),
        "alg-es256": (ed.replace(b"EdDSA", b"ES256"), "another algorithm (ENC-15)"),
        "alg-rs256": (ed.replace(b"EdDSA", b"RS256"), "another algorithm (ENC-15)"),
        "alg-ed25519": (ed.replace(b"EdDSA", b"Ed25519"), "RFC 9864's name for it"),
        "alg-mldsa": (ml, "the second header first"),
        "crit": (ed[:-1] + b',"crit":["x"],"x":1}', "a critical member (ENC-14)"),
        "b64": (ed[:-1] + b',"b64":false,"crit":["b64"]}', "RFC 7797"),
        "jwk": (ed[:-1] + b',"jwk":{"kty":"OKP"}}', "a key of the sender's choice"),
        "kid": (ed[:-1] + b',"kid":"1"}', "a member more"),
        "order": (
            f'{{"typ":"{TYP}","alg":"EdDSA"}}'.encode(),
            "the members in another order",
        ),
        "white-space": (ed.replace(b",", b", "), "a blank"),
        "twice": (b'{"alg":"HS256",' + ed[1:], "a member twice"),
        "escaped": (ed.replace(b"EdDSA", b"EdDS\\u0041"), "an escape"),
        "empty": (b"", "no header"),
        "array": (b"[]", "no object"),
    }
    for name, (header, comment) in firsts.items():
        yield Case(
            f"header-{name}",
            BAD,
            HEADER,
            comment,
            text(document(protected=(header, ml))),
        )
    seconds = {
        "mldsa-44": (ml.replace(b"65", b"44"), "a weaker parameter set"),
        "mldsa-typ-other": (
            headers("tillie-manifest+jws")[1],
            "another kind in the second",
        ),
    }
    for name, (header, comment) in seconds.items():
        yield Case(
            f"header-{name}",
            BAD,
            HEADER,
            comment,
            text(document(protected=(ed, header))),
        )


def claims() -> Iterator[Case]:
    whole = "no integer"
    kind = "unknown type"
    spread = "out of range"
    deep = b'{"a":' + b"[" * 9 + b"]" * 9 + b"}"
    variants: dict[str, tuple[bytes, str, str]] = {
        "twice": (b'{"seq":1,"seq":9}', TWICE, "a lax reader takes the last"),
        "twice-nested": (b'{"a":{"b":1,"b":1}}', TWICE, "in an object inside"),
        "twice-in-list": (b'{"a":[[{"b":1,"b":2}]]}', TWICE, "in a list inside"),
        "twice-escaped": (b'{"seq":1,"s\\u0065q":9}', TWICE, "with an escape"),
        "float": (b'{"a":1.0}', whole, "a float that is whole"),
        "exponent": (b'{"a":1e0}', whole, "an exponent"),
        "nan": (b'{"a":NaN}', whole, "what Python's json takes beyond JSON"),
        "infinity": (b'{"a":-Infinity}', whole, "likewise"),
        "integer-large": (b'{"a":9007199254740992}', spread, "2**53 (RFC 7493, 2.2)"),
        "integer-huge": (b'{"a":1' + b"0" * 5000 + b"}", spread, "5,001 digits"),
        "integer-negative": (b'{"a":-1}', spread, "no claim is negative"),
        "integer-minus-zero": (b'{"a":-0}', spread, "zero spelt anew"),
        "integer-zeros": (b'{"a":007}', WELL_FORMED, "leading zeros"),
        "null": (b'{"a":null}', kind, "absent is absent"),
        "true": (b'{"a":true}', kind, "an int to Python"),
        "false-in-list": (b'{"a":[false]}', kind, "likewise"),
        "deep": (deep, "nested too deeply", "nine lists"),
        "deeper": (
            b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}",
            f"{WELL_FORMED}|too deeply",
            "9,000 lists",
        ),
        "array": (b'[{"a":1}]', "no JSON object", "no object"),
        "text": (b'"a"', "no JSON object", "no object"),
        "number": (b"1", "no JSON object", "no object"),
        "xml": (b"<a/>", WELL_FORMED, "not JSON"),
        "trailing": (b'{"a":1}{"a":2}', WELL_FORMED, "two objects (DIR-02)"),
        "comma": (b'{"a":1,}', WELL_FORMED, "not JSON"),
        "control": (b'{"a":"\n"}', WELL_FORMED, "a bare newline in text"),
        "utf-16": (
            '{"a":1}'.encode("utf-16-le"),
            WELL_FORMED,
            "json.loads would take it",
        ),
        "utf-8-broken": (b'{"a":"\xc3"}', WELL_FORMED, "half a character"),
        "utf-8-surrogate": (b'{"a":"\xed\xa0\x80"}', WELL_FORMED, "CESU-8"),
        "bom": (b'\xef\xbb\xbf{"a":1}', WELL_FORMED, "a byte order mark"),
        "surrogate": (b'{"a":"\\ud800"}', "not Unicode", "half a pair"),
        "surrogate-name": (b'{"\\udc00":1}', "not Unicode", "half a pair in a name"),
    }
    for name, (payload, says, comment) in variants.items():
        yield Case(f"claims-{name}", BAD, says, comment, text(document(payload)))


def cases() -> Iterator[Case]:
    for family in (good, stripped, shapes, coded, protected, claims):
        yield from family()


def main() -> None:
    target = HERE / "documents"
    target.mkdir(exist_ok=True)
    for old in target.glob("*.vector"):
        old.unlink()
    for case in cases():
        path = target / f"{case.name}.vector"
        if path.exists():
            raise SystemExit(f"two vectors are named {case.name}")
        # `says` is a regular expression: how deep is too deep for the JSON reader
        # itself depends on the version of Python.
        head = (
            f"expect: {case.expect}\nsays: {case.says}\nclause: I4\n"
            f"comment: {case.comment}\n\n"
        )
        path.write_bytes(head.encode() + case.artefact)
    public = ROOT.public
    keys = {
        "typ": TYP,
        "ed25519": b64url(public.ed25519),
        "mldsa65": b64url(public.mldsa65),
    }
    (target / "signer.json").write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    main()
