"""The server is watched: one that falls silent is noticed in time (RES-10).

Where it has no XEP-0198, a ping behind the messages tells that they arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ..errors import EnvFault
from .phase import Phase
from .questions import PING, Answer, Silence

if TYPE_CHECKING:
    from .uplink import Uplink

QUIET = 40_000
DEAD = 60_000
LOGIN = 30_000


class Watch:
    """When the server of *uplink* was heard last."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._session = uplink.session
        self._heard = 0
        self._probed = False
        self._confirming = False

    def heard(self) -> None:
        """Something came, or something new is waited for from now on."""
        self._heard, self._probed = self._session.house.clock(), False

    def login(self, now: int) -> None:
        """A server that accepts and then says nothing holds nobody up."""
        uplink = self._uplink
        if not uplink.reached or now - self._heard <= LOGIN:
            return
        if self._session.phase is Phase.BINDING and not uplink.entering.binding:
            return
        text = f"the server of {uplink.domain} did not answer in {LOGIN // 1000} s"
        uplink.drop(EnvFault(text, condition="remote-server-timeout"))

    def live(self, now: int) -> None:
        """Notice a server that went away without a word within a minute."""
        quiet = now - self._heard
        if quiet > DEAD:
            self._heard = now
            self._uplink.drop(EnvFault("the server stopped answering"))
        elif quiet > QUIET and not self._probed:
            self._probed = True
            self._uplink.request_ack()
            self._uplink.ask("get", None, Element(PING), lambda _: None)

    def confirm(self) -> None:
        """Ask whether the messages that are under way have arrived."""
        uplink = self._uplink
        if self._confirming or not uplink.reached or uplink.ledger is None:
            return
        self._confirming = True
        number = uplink.ledger.sent

        def answered(answer: Answer) -> None:
            self._confirming = False
            # an error is an answer too: the server has read what came before it
            if uplink.managed or uplink.ledger is None or isinstance(answer, Silence):
                return
            uplink.ledger.acknowledge(number)
            if uplink.ledger.messages_waiting:
                self.confirm()
            self._session.drained()

        uplink.ask("get", None, Element(PING), answered)
