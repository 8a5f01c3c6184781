"""Everything that runs: the accounts and their sessions, and who may ask of them.

The commands of the control socket are answered here; ``app.service`` only
carries them over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from ..errors import Fault, PeerFault
from ..keys.manifest import Device
from ..keys.store import Store
from ..wire.jid import Jid
from .account import Account, Settings
from .gatefacts import gate_facts
from .identity import Standing
from .keyrequests import KeyRequests
from .linking import Linking, read_code
from .newroots import NewRoots
from .phase import Phase
from .rotation import Rotations
from .sasl import unbound
from .servers import Servers
from .session import Session

Reply: TypeAlias = Callable[[object], None]
"""Called once with the result, or with the Fault that came instead."""


@dataclass(frozen=True, slots=True)
class ContactRow:
    jid: str
    level: str
    fingerprint: str | None
    since: str | None
    devices: int
    policy: str
    last_seen_key: str | None


class House:
    """See the module.

    :param clock: milliseconds since 1970.
    :param listeners: what ``status`` shows of them.
    """

    def __init__(
        self, store: Store, clock: Callable[[], int], settings: Settings
    ) -> None:
        self.store = store
        self.clock = clock
        self.settings = settings
        self.sessions: list[Session] = []
        self.dirty: set[Session] = set()
        self.servers = Servers(store)
        self._accounts: dict[str, Account] = {}
        self._requests: dict[str, KeyRequests] = {}
        self._rotations: dict[str, Rotations] = {}
        self._linkings: dict[str, Linking] = {}
        self._new_roots = NewRoots(clock)
        self._commands: dict[str, Callable[[Account, str], None]] = {
            "allow": self._allow,
            "require": self._require,
            "forget": self._forget,
        }

    # -- for sessions ------

    def session(self, *, tls_available: bool, secure: bool) -> Session:
        session = Session(self, tls_available=tls_available, secure=secure)
        self.sessions.append(session)
        return session

    def account(self, jid: str) -> Account:
        found = self._accounts.get(jid)
        if found is None:
            found = Account(jid, self.store, self.clock, self.settings, self.servers)
            self._accounts[jid] = found
        return found

    def key_requests(self, account: Account) -> KeyRequests:
        return self._requests.setdefault(account.jid, KeyRequests(account))

    def rotations(self, account: Account) -> Rotations:
        return self._rotations.setdefault(account.jid, Rotations(account))

    def linking(self, account: Account) -> Linking:
        return self._linkings.setdefault(account.jid, Linking(account))

    def touched(self, session: Session) -> None:
        """*session* has effects to perform."""
        self.dirty.add(session)

    def left(self, session: Session) -> None:
        if session in self.sessions:
            self.sessions.remove(session)
        if session.account is not None:
            session.account.left(session)

    def forget_if_unknown(self, account: Account) -> None:
        """A login failed: whoever tries names must not fill the memory."""
        jid = account.jid
        busy = any(
            one.account is account and one.phase not in (Phase.LOGIN, Phase.OVER)
            for one in self.sessions
        )
        if not busy and jid not in self.store.accounts():
            self._accounts.pop(jid, None)
            self._requests.pop(jid, None)
            self._rotations.pop(jid, None)
            self._linkings.pop(jid, None)

    def rolled_back(self) -> None:
        """A transaction failed: memory may be ahead of the store."""
        self.servers.forget_caches()
        for account in self._accounts.values():
            account.forget_caches()

    def reconfigure(self, settings: Settings) -> None:
        """The configuration was read again."""
        self.settings = settings
        for account in self._accounts.values():
            account.reconfigure(settings)

    def tick(self) -> None:
        """What concerns no single session; see ``Session.tick`` for the rest."""
        for linking in self._linkings.values():
            linking.tick(self.clock())
        self._new_roots.tick()

    # -- commands ------

    def command(self, name: str, args: Mapping[str, object], reply: Reply) -> None:
        """Answer one command; *reply* is called now or later, once."""
        try:
            self._command(name, args, reply)
        except Fault as fault:
            reply(fault)

    def _command(self, name: str, args: Mapping[str, object], reply: Reply) -> None:
        wanted = args.get("account")
        if name == "contacts":
            reply([asdict(row) for one in self._chosen(wanted) for row in _rows(one)])
        elif name == "notices":
            reply([row for one in self._chosen(wanted) for row in _notices(one)])
        elif name == "accounts":
            reply([self._account_status(one) for one in self._chosen(wanted)])
        elif name == "gates":
            found = self._chosen(wanted)
            reply({one.jid: asdict(gate_facts(one, self.clock())) for one in found})
        elif name.startswith("devices"):
            self._devices(name, args, reply)
        elif name == "link":
            self._link(args, reply)
        elif name == "enrol":
            jid = _bare(args.get("jid"))
            self.account(jid).token.keep_code(str(args.get("code")))
            reply({"jid": jid})
        elif name in self._commands:
            self._decide(name, args, reply)
        else:
            raise Fault(f"there is no command {name}")

    def _decide(self, name: str, args: Mapping[str, object], reply: Reply) -> None:
        """A person's word on one address."""
        wanted, jid = args.get("account"), _bare(args.get("jid"))
        if name == "forget" and jid == Jid.parse(jid).domain:
            # a domain's key is pinned once for all accounts here (13.4)
            self.servers.forget(jid)
            self._forget_binding(jid)
        for account in self._chosen(wanted, some=True):
            self._commands[name](account, jid)
            for stream in account.streams:
                stream.pump()
        reply({"jid": jid, "policy": self._policy(wanted, jid)})

    def _forget_binding(self, domain: str) -> None:
        """A person's word that a gate may stand where channel binding was (15.1.1)."""
        for name in {*self._accounts, *self.store.accounts()}:
            reached = self.store.get("own", name, "mechanism")
            if reached is not None and Jid.parse(name).domain == domain:
                bare = unbound(reached.decode())
                self.store.put("own", name, "mechanism", bare.encode())

    def _chosen(self, wanted: object, *, some: bool = False) -> list[Account]:
        """The accounts a command is about: the one named, or all that are known."""
        if wanted:
            jid = _bare(wanted)
            if jid not in self._accounts and jid not in self.store.accounts():
                raise Fault(
                    f"there is no account {jid} here",
                    hint="tillie status lists the accounts",
                )
            return [self.account(jid)]
        names = sorted({*self._accounts, *self.store.accounts()})
        if some and not names:
            raise Fault(
                "there is no account here yet",
                hint="log in once with your client first",
            )
        return [self.account(name) for name in names]

    def _one(self, wanted: object) -> Account:
        chosen = self._chosen(wanted, some=True)
        if len(chosen) > 1:
            raise Fault(
                "there are several accounts here",
                hint="say which one with --account JID",
            )
        return chosen[0]

    def _policy(self, wanted: object, jid: str) -> str:
        words = {one.contacts.policy(jid) for one in self._chosen(wanted)}
        return words.pop() if len(words) == 1 else "mixed"

    def _allow(self, account: Account, jid: str) -> None:
        account.contacts.set_policy(jid, "clear")

    def _require(self, account: Account, jid: str) -> None:
        account.contacts.set_policy(jid, "require")

    def _forget(self, account: Account, jid: str) -> None:
        if jid == account.jid:
            self._forget_false_keys(account)
        account.contacts.forget(jid)
        account.ratchets.rotate(jid)
        account.unheard.heard(jid)

    def _forget_false_keys(self, account: Account) -> None:
        """The person's word that the own keys here are the right ones."""
        if account.identity.standing is Standing.ALARM:
            account.identity.adopt(account.identity.manifest)
            for stream in account.streams[:1]:
                account.publication.publish(stream)

    def _account_status(self, account: Account) -> dict[str, object]:
        connected = [one for one in account.streams if one.phase is Phase.LIVE]
        identity, token = account.identity, account.token.current
        return {
            "jid": account.jid,
            "server": Jid.parse(account.jid).domain,
            "connected": bool(connected),
            "gate": account.token.gated,
            "token_expires": _time(token.expires) if token is not None else None,
            "state": identity.standing.name.lower(),
            "published": account.publication.published,
            "fingerprint": (
                identity.manifest.root.people() if identity.has_manifest else None
            ),
        }

    def _devices(self, name: str, args: Mapping[str, object], reply: Reply) -> None:
        account = self._one(args.get("account"))
        if name == "devices-remove":
            removed = self._remove(account, str(args.get("id")))
            reply({"id": removed, "removed": True})
            return
        if name == "devices-rollover":
            self._new_roots.begin(account, reply, alone=bool(args.get("alone")))
            return
        if name == "devices-name":
            reply(self._rename(account, args.get("id"), str(args.get("name"))))
            return
        identity = account.identity
        if not identity.has_manifest:
            reply([])
            return
        reply(
            [
                {
                    "id": device.id.hex(),
                    "name": device.label,
                    "added": _time(device.added),
                    "removed": _time(device.removed) if device.removed else None,
                    "this": device.public == identity.device.public,
                }
                for device in identity.manifest.devices
            ]
        )

    def _device(self, account: Account, wanted: str) -> Device:
        """:raises Fault: devices cannot be changed here, or there is none like it."""
        identity = account.identity
        if not identity.owner:
            raise Fault(
                "devices can only be changed where the account's keys were made",
                hint="run this on the first device",
            )
        found = [
            device
            for device in identity.manifest.active
            if wanted in (device.id.hex(), device.label)
        ]
        if len(found) != 1:
            raise Fault(
                f"there is no device {wanted}", hint="tillie devices lists them"
            )
        return found[0]

    def _remove(self, account: Account, wanted: str) -> str:
        device, identity = self._device(account, wanted), account.identity
        identity.check_settled()
        if device.public == identity.device.public:
            raise Fault("this device cannot remove itself")
        identity.remove_device(device.id, self.clock())
        account.ratchets.rotate_all()
        for stream in account.streams[:1]:
            account.publication.publish(stream)
            account.publication.remove_prekey(stream, device.id.hex())
        return device.id.hex()

    def _rename(
        self, account: Account, wanted: object, label: str
    ) -> dict[str, object]:
        own = account.identity.device.id.hex()
        device = self._device(account, str(wanted or own))
        account.identity.check_settled()
        account.identity.rename_device(device.id, label, self.clock())
        for stream in account.streams[:1]:
            account.publication.publish(stream)
        return {"id": device.id.hex(), "name": label}

    def _link(self, args: Mapping[str, object], reply: Reply) -> None:
        account = self._one(args.get("account"))
        linking = self.linking(account)
        code = args.get("code")
        if not code:
            text = linking.offer()
            people = account.identity.manifest.root.people()
            reply({"code": text, "fingerprint": people})
            return
        streams = [
            one
            for one in self.sessions
            if one.account is account and one.phase in (Phase.LIVE, Phase.LINKING)
        ]
        if not streams:
            raise self._unconnected(account, linking, str(code))

        def done(fault: Fault | None) -> None:
            reply(fault if fault is not None else {"joined": True})

        streams[0].join(linking.join(str(code), done))

    def _unconnected(self, account: Account, linking: Linking, code: str) -> Fault:
        """Why nobody can be asked for a place among the account's devices.

        A gate lets a removed device not even log in: it needs its new key first.  One
        that no gate has turned away keeps its key, whatever code it is told.
        """
        read_code(code)
        identity = account.identity
        # one that never got the answer to its request was shown and has no manifest
        known = identity.has_device and not identity.owner
        if known and (account.turned_away or identity.removed):
            linking.start_over()
            account.turned_away = False
        if not account.token.gated or identity.owner:
            hint = "log in with your client first, and keep it running"
        else:
            hint = "log in with your client, and say tillie link CODE once more"
        return Fault(f"{account.jid} is not connected", hint=hint)


def _bare(value: object) -> str:
    """:raises PeerFault: not an address."""
    if not isinstance(value, str):
        raise PeerFault("an address is missing")
    return str(Jid.parse(value).bare)


def _time(milliseconds: int) -> str:
    stamp = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%SZ")


def _rows(account: Account) -> list[ContactRow]:
    words = account.contacts.policies()
    rows = []
    for contact in account.contacts.all():
        if contact.jid == account.jid:
            continue
        words.pop(contact.jid, None)
        rows.append(
            ContactRow(
                jid=contact.jid,
                level=account.contacts.level(contact, account.servers, account.clock()),
                fingerprint=contact.manifest.root.people(),
                since=_time(contact.pin.since),
                devices=len(contact.manifest.active),
                policy=account.contacts.policy(contact.jid),
                last_seen_key=_time(contact.pin.checked),
            )
        )
    rows += [
        ContactRow(jid, "none", None, None, 0, word, None)
        for jid, word in words.items()
    ]
    return sorted(rows, key=lambda row: row.jid)


def _notices(account: Account) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for _, data in account.store.scan("notice", account.jid):
        record = json.loads(data)
        found.append(
            {
                "time": _time(record["time"]),
                "account": account.jid,
                "jid": record["jid"],
                "text": record["text"],
            }
        )
    return found
