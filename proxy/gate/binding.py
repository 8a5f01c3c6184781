"""Behind SASL: a resource is bound, or an old stream resumed (14.8, 14.13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..core.streams import MANAGEMENT, STATE_INDICATION
from . import names
from .names import BIND
from .phases import Phase
from .questions import Answer, Resumable, Resume, Unavailable

if TYPE_CHECKING:
    from ..wire.stanza import Stanza
    from .line import Line
    from .unvouched import Unvouched

_BIND: Final = f"{{{BIND}}}bind"


class Binding:
    """Between SASL's success and the account that the server names."""

    def __init__(self, line: Line, unvouched: Unvouched) -> None:
        self._line = line
        self._unvouched = unvouched
        self._asked: str | None = None
        self._previd = ""
        self._owner: Resumable | None = None

    # -- from the client ------

    def on_client(self, stanza: Stanza) -> None:
        """Something came before a resource is bound."""
        line = self._line
        if stanza.name == "iq" and stanza.is_stanza and stanza.children == (_BIND,):
            self._on_bind(stanza)
        elif stanza.is_stanza:
            if stanza.type not in ("error", "result"):
                line.to_client(
                    names.refusal(
                        stanza,
                        "not-authorized",
                        "Bind a resource first.",
                        from_=line.domain,
                    )
                )
        elif (stanza.ns, stanza.name) == (MANAGEMENT, "resume"):
            self._on_resume(stanza)
        elif stanza.ns == MANAGEMENT:
            line.to_client(names.managed_failure(MANAGEMENT, "unexpected-request"))
        elif stanza.ns != STATE_INDICATION:
            line.end("not-authorized", "bind a resource first")

    def _on_bind(self, stanza: Stanza) -> None:
        line = self._line
        if stanza.type != "set" or not stanza.id or self._asked is not None:
            line.end("not-authorized", "one resource is bound, once")
            return
        self._asked = stanza.id
        line.to_backend(stanza.to_bytes())

    def _on_resume(self, stanza: Stanza) -> None:
        """Pass it if the stream belongs to an account of this device (14.13)."""
        line = self._line
        previd, device = stanza.attrs.get("previd"), line.shown
        if previd is None or device is None or self._asked is not None:
            self._not_resumed("item-not-found")
            return

        def answered(answer: Answer) -> None:
            match answer:
                case Resumable():
                    self._previd, self._owner = previd, answer
                    line.phase = Phase.RESUMING
                    line.to_backend(stanza.to_bytes())
                case Unavailable():
                    line.end("resource-constraint", names.LATER)
                case _:
                    self._not_resumed("item-not-found")

        question = Resume(previd, line.domain, device.device, device.root)
        line.ask(question, answered)

    def _not_resumed(self, condition: str) -> None:
        # The client binds anew, and vouches as behind any binding.
        self._line.to_client(names.managed_failure(MANAGEMENT, condition))

    # -- from the server ------

    def on_backend(self, stanza: Stanza) -> None:
        """The server's answer, or what it sends beside it."""
        line = self._line
        if line.phase is Phase.RESUMING and stanza.ns == MANAGEMENT:
            self._on_resumption(stanza)
        elif (
            stanza.name == "iq"
            and self._asked is not None
            and stanza.id == self._asked
            and stanza.type in ("result", "error")
            and line.by_server(stanza)
        ):
            self._asked = None
            self._on_bound(stanza)
        else:
            line.to_client(stanza.to_bytes())

    def _on_bound(self, stanza: Stanza) -> None:
        line = self._line
        if stanza.type == "error":
            line.to_client(stanza.to_bytes())
            return
        jid = stanza.tree().findtext(f"{_BIND}/{{{BIND}}}jid") or ""
        self._unvouched.named(jid, stanza, shown=True)

    def _on_resumption(self, stanza: Stanza) -> None:
        line = self._line
        owner, self._owner = self._owner, None
        if stanza.name == "resumed":
            if owner is None or stanza.attrs.get("previd") != self._previd:
                line.note("trouble", "the server resumed another stream")
                line.end("internal-server-error", "the server is out of step")
                return
            line.account, line.jid = owner.account, owner.jid
            line.note("resumed")
            line.to_client(stanza.to_bytes())
            self._unvouched.release()
            return
        line.phase = Phase.BINDING
        line.to_client(stanza.to_bytes())
