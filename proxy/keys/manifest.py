"""Manifests: what an account says of itself, signed by both root keys.

Claims of the JWS (``typ`` is :data:`TYP`); exactly these members, in any order:

========== =============================================================
``sub``     bare JID, normalised (RFC 7622)
``seq``     1..2**32-1; one more with each manifest
``prev``    base64 of the previous manifest's digest; absent in the first
``root``    ``{"ed25519", "mldsa65"}``, base64
``devices`` ``[{"pub", "added", "removed"?, "label", "sig"}]``, at most 64
``suites``  suite numbers, most wanted first, 1 to 16 of them
``iat``     when it was signed
========== =============================================================

Times in claims are whole seconds since 1970 (RFC 7519, ``NumericDate``); in the
records here, as in every ``now``, they are milliseconds.  Neither ever decides
whether a manifest is valid (I8).  Base64 is the standard alphabet, padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import PeerFault, TrustFault
from ..suites.fields import b64, fields
from . import documents
from .claims import (
    bytes_of,
    check_members,
    integer_of,
    keys_claim,
    keys_of,
    text_of,
    time_of,
)
from .identity import (
    DevicePrivate,
    RootPrivate,
    RootPublic,
    check_device_signature,
    device_id,
)

TYP = "tillie-manifest+jws"
DEVICES_MAX = 64
LABEL_MAX = 64
SEQ_MAX = 2**32 - 1
SUITES = (1,)
"""The suites that a manifest of ours offers."""

REMOVED_KEPT_MS = 366 * 24 * 3600 * 1000
"""How long a removed device stays listed, so that its old messages can be judged."""

_WHAT = "a manifest"
_MEMBERS = frozenset({"sub", "seq", "root", "devices", "suites", "iat"})
_DEVICE_MEMBERS = frozenset({"pub", "added", "label", "sig"})


@dataclass(frozen=True, slots=True)
class Device:
    """One device of an account (I21).

    :param public: Ed25519 public key, 32 bytes.
    :param added: Unix milliseconds.
    :param removed: Unix milliseconds, None while the device is in use.
    :param label: its person's name for it, printable, at most 64 characters.
    :param signature: by the device itself, 64 bytes; see :func:`device_statement`.
    """

    public: bytes
    added: int
    removed: int | None
    label: str
    signature: bytes

    @property
    def id(self) -> bytes:
        """The device id, 8 bytes, computed."""
        return device_id(self.public)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose signatures, root's and devices', were all verified.

    :param jid: bare JID of the account, normalised.
    :param seq: 1..2**32-1.
    :param previous: digest of the manifest before; evidence only (I24).
    :param devices: removed ones included, in the order of the document.
    :param suites: suite numbers, most wanted first.
    :param issued: Unix milliseconds, whole seconds.
    :param digest: SHA-256 of the signed payload, 32 bytes.
    :param document: the JWS, as text.
    """

    jid: str
    seq: int
    previous: bytes | None
    root: RootPublic
    devices: tuple[Device, ...]
    suites: tuple[int, ...]
    issued: int
    digest: bytes
    document: str
    active: tuple[Device, ...] = field(init=False, compare=False)
    """The devices in use."""

    def __post_init__(self) -> None:
        active = tuple(device for device in self.devices if device.removed is None)
        object.__setattr__(self, "active", active)

    @property
    def retired(self) -> bool:
        """Whether the account says that it has no key any more (I25)."""
        return not self.active

    def device(self, public: bytes) -> Device | None:
        """Find a device, in use or removed, by its public key."""
        return next((one for one in self.devices if one.public == public), None)

    def by_id(self, wanted: bytes) -> Device | None:
        """Find a device, in use or removed, by its id."""
        return next((one for one in self.devices if one.id == wanted), None)


def device_statement(jid: str, root_fp: bytes, public: bytes) -> bytes:
    """Give the bytes by which a device says to which account it belongs (I21)."""
    return fields("device", jid, root_fp, public)


def first_manifest(
    jid: str, root: RootPrivate, device: DevicePrivate, label: str, now: int
) -> Manifest:
    """Make the manifest with which an account begins.

    :param jid: bare JID, normalised.
    :param label: a name for the device; see :func:`check_label`.
    :param now: Unix milliseconds.
    :raises TrustFault: the label is not one.
    """
    public = root.public
    signature = device.sign(device_statement(jid, public.fingerprint, device.public))
    entry = Device(device.public, now, None, check_label(label), signature)
    return _sign(jid, root, 1, None, (entry,), SUITES, now)


def with_device(
    manifest: Manifest,
    root: RootPrivate,
    new_public: bytes,
    new_signature: bytes,
    label: str,
    now: int,
) -> Manifest:
    """Make the next manifest, with one more device.

    Applying it again to a manifest that has the device gives that manifest, so
    that a lost race is answered by doing the same on the newer one (I24).

    :param new_signature: by the new device over :func:`device_statement`.
    :raises TrustFault: the signature is not the device's, the label is not one,
        the device was removed once, *root* is another root, or too many devices.
    """
    known = manifest.device(new_public)
    if known is not None and known.removed is not None:
        raise TrustFault(
            "this device was removed from the account before",
            hint="let the device make a new key and link it again",
        )
    if known is not None:
        return manifest
    entry = Device(new_public, now, None, check_label(label), new_signature)
    return _next(manifest, root, (*manifest.devices, entry), now)


def without_device(
    manifest: Manifest, root: RootPrivate, wanted: bytes, now: int
) -> Manifest:
    """Make the next manifest, in which the device with id *wanted* is removed.

    It stays listed for :data:`REMOVED_KEPT_MS` (I8).  Where it is removed
    already the manifest given is returned.

    :raises TrustFault: no such device, or *root* is another root.
    """
    known = manifest.by_id(wanted)
    if known is None:
        raise TrustFault("the account has no such device")
    if known.removed is not None:
        return manifest
    devices = (_removed(one, now) if one == known else one for one in manifest.devices)
    return _next(manifest, root, devices, now)


def renamed(
    manifest: Manifest, root: RootPrivate, wanted: bytes, label: str, now: int
) -> Manifest:
    """Make the next manifest, in which the device with id *wanted* has a new label.

    :raises TrustFault: no such device, the label is none, or *root* is another.
    """
    known = manifest.by_id(wanted)
    if known is None:
        raise TrustFault("the account has no such device")
    entry = replace(known, label=check_label(label))
    devices = (entry if one == known else one for one in manifest.devices)
    return _next(manifest, root, devices, now)


def retired(manifest: Manifest, root: RootPrivate, now: int) -> Manifest:
    """Make the next manifest, with no device in use: a provable "no key" (I25).

    :raises TrustFault: *root* is another root.
    """
    if manifest.retired:
        return manifest
    devices = (
        one if one.removed is not None else _removed(one, now)
        for one in manifest.devices
    )
    return _next(manifest, root, devices, now)


def rolled_over(
    manifest: Manifest, root: RootPrivate, device: DevicePrivate, now: int
) -> Manifest:
    """Make the next manifest, under a new *root*, with *device* alone (3.10).

    Its number and ``prev`` go on; what the others said of themselves names the old
    root, and is worth nothing under this one.

    :raises TrustFault: the device is not in use, or the root is the old one.
    """
    known = manifest.device(device.public)
    if known is None or known.removed is not None:
        raise TrustFault("a device that is not in use cannot change the root")
    fingerprint = root.public.fingerprint
    if fingerprint == manifest.root.fingerprint:
        raise TrustFault("this is the root that the manifest has already")
    signature = device.sign(device_statement(manifest.jid, fingerprint, device.public))
    entry = replace(known, signature=signature)
    return _sign(
        manifest.jid,
        root,
        manifest.seq + 1,
        manifest.digest,
        (entry,),
        manifest.suites,
        now,
    )


def open_manifest(document: bytes, jid: str) -> Manifest:
    """Verify a manifest by the root that it names itself.

    Whether that root is the account's is for ``keys.trust`` to judge.

    :param jid: bare JID, normalised, for which the manifest was looked up.
    :raises PeerFault: the form is wrong.
    :raises TrustFault: a signature is not valid, a key is malformed, or it is
        the manifest of another account.
    """
    doc = documents.open_own_doc(document, TYP, _root)
    claims, root = doc.claims, doc.signer
    check_members(claims, _MEMBERS, frozenset({"prev"}), what=_WHAT)
    if claims["sub"] != jid:
        raise TrustFault("a manifest belongs to another account")
    seq = integer_of(claims, "seq", 1, SEQ_MAX, what=_WHAT)
    return Manifest(
        jid=jid,
        seq=seq,
        previous=_previous(claims, seq),
        root=root,
        devices=_devices(claims["devices"], jid, root.fingerprint),
        suites=_suites(claims["suites"]),
        issued=time_of(claims, "iat", what=_WHAT),
        digest=doc.digest,
        document=document.decode("ascii"),
    )


def check_label(label: str) -> str:
    """Give *label* back if a terminal and a person can bear it.

    :raises TrustFault: longer than 64 characters, or with control or format
        characters, which could imitate other text.
    """
    if not _bearable(label):
        raise TrustFault(
            "a device's name is too long or not printable",
            hint=f"take at most {LABEL_MAX} printable characters",
        )
    return label


def _bearable(label: str) -> bool:
    return len(label) <= LABEL_MAX and label.isprintable()


# -- writing ----------------------------------------------------------------


def _next(
    manifest: Manifest, root: RootPrivate, devices: Iterable[Device], now: int
) -> Manifest:
    if root.public != manifest.root:
        raise TrustFault("this is not the root key of the manifest")
    kept = tuple(
        one
        for one in devices
        if one.removed is None or now - one.removed < REMOVED_KEPT_MS
    )
    return _sign(
        manifest.jid,
        root,
        manifest.seq + 1,
        manifest.digest,
        kept,
        manifest.suites,
        now,
    )


def _sign(
    jid: str,
    root: RootPrivate,
    seq: int,
    previous: bytes | None,
    devices: tuple[Device, ...],
    suites: tuple[int, ...],
    now: int,
) -> Manifest:
    if len(devices) > DEVICES_MAX:
        raise _too_many()
    public = root.public
    claims: dict[str, object] = {
        "sub": jid,
        "seq": seq,
        "root": keys_claim(public),
        "devices": [_device_claims(device) for device in devices],
        "suites": list(suites),
        "iat": now // 1000,
    }
    if previous is not None:
        claims["prev"] = b64(previous)
    document = documents.make_doc(claims, TYP, root).encode("ascii")
    if len(document) > documents.LIMIT:
        raise _too_many()
    # What others would refuse must never be published.
    return open_manifest(document, jid)


def _too_many() -> TrustFault:
    return TrustFault(
        "the account has too many devices for one manifest",
        hint="removed devices leave the list after a year; give shorter names",
    )


def _device_claims(device: Device) -> dict[str, object]:
    claims: dict[str, object] = {
        "pub": b64(device.public),
        "added": device.added // 1000,
        "label": device.label,
        "sig": b64(device.signature),
    }
    if device.removed is not None:
        claims["removed"] = device.removed // 1000
    return claims


def _removed(device: Device, now: int) -> Device:
    # A clock that was set back must not make the entry contradict itself.
    return replace(device, removed=max(now, device.added))


# -- reading ----------------------------------------------------------------


def _root(claims: Mapping[str, object]) -> RootPublic:
    return keys_of(claims.get("root"), what=_WHAT)


def _previous(claims: Mapping[str, object], seq: int) -> bytes | None:
    if "prev" not in claims:
        return None
    previous = bytes_of(claims, "prev", 32, what=_WHAT)
    if seq == 1:
        raise PeerFault("a manifest names a previous one wrongly")
    return previous


def _devices(value: object, jid: str, root_fp: bytes) -> tuple[Device, ...]:
    # Counted before a signature is verified: the count bounds the work.
    if not isinstance(value, list) or len(value) > DEVICES_MAX:
        raise PeerFault(f"a manifest has no list of at most {DEVICES_MAX} devices")
    devices = tuple(_device(entry) for entry in value)
    if len({device.id for device in devices}) != len(devices):
        raise PeerFault("a manifest lists a device twice")
    for device in devices:
        statement = device_statement(jid, root_fp, device.public)
        check_device_signature(device.public, device.signature, statement)
    return devices


def _device(value: object) -> Device:
    if not isinstance(value, dict):
        raise PeerFault("a manifest lists something that is no device")
    check_members(value, _DEVICE_MEMBERS, frozenset({"removed"}), what=_WHAT)
    added = time_of(value, "added", what=_WHAT)
    removed = time_of(value, "removed", what=_WHAT) if "removed" in value else None
    if removed is not None and removed < added:
        raise PeerFault("a manifest removes a device before it was added")
    label = text_of(value, "label", what=_WHAT)
    if not _bearable(label):
        raise PeerFault("a device's name in a manifest is not printable")
    public = bytes_of(value, "pub", what=_WHAT)
    return Device(public, added, removed, label, bytes_of(value, "sig", what=_WHAT))


def _suites(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 16:
        raise PeerFault("a manifest has no list of 1 to 16 suites")
    suites = tuple(one for one in value if isinstance(one, int) and 1 <= one <= 0xFFFF)
    if len(set(suites)) != len(value):
        raise PeerFault("a manifest has a suite twice or one that is no number")
    return suites
