"""The faults of this code base, by who has to act.

A fault carries the XMPP condition that the far side is told, one sentence for
a person, and, where there is something to do, a hint.  Nothing here formats
XML or terminal output: ``wire.stanza`` and ``app.cli`` do.
"""

from __future__ import annotations


class Fault(Exception):
    """Something went wrong that has a name.

    :param text: what happened, one sentence for a person, no full stop needed.
    :param condition: the defined condition of RFC 6120, 4.9.3 or 8.3.3.
    :param hint: what the person can do, or an empty string.
    """

    default_condition = "undefined-condition"

    def __init__(
        self, text: str, *, condition: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(text)
        self.text = text
        self.condition = condition or self.default_condition
        self.hint = hint


class PeerFault(Fault):
    """The far side broke the protocol; it is told the condition."""

    default_condition = "bad-format"


class TrustFault(Fault):
    """A key, a signature or the policy says no; never retried by itself."""

    default_condition = "not-acceptable"


REMOTE = (PeerFault, TrustFault)
"""What a far side can cause; a ``StoreFault`` or ``LocalFault`` never hides here."""


class EnvFault(Fault):
    """DNS, TLS, disk or database failed; may be tried again later."""

    default_condition = "remote-connection-failed"


class StoreFault(EnvFault):
    """The state could not be read or written; nothing was sent because of it."""

    default_condition = "resource-constraint"


class LostFault(StoreFault):
    """The disk lost what it was given, or the database is damaged: no later write can
    be believed, so the program ends (REL-15, REL-17)."""


class ConfigFault(Fault):
    """The configuration or the command line is wrong; nothing was started."""


class LocalFault(Fault):
    """A bug of ours: the stream is closed and the traceback logged."""

    default_condition = "internal-server-error"
