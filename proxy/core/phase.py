"""The phases of a session, and the name that Tillie itself goes by locally."""

from __future__ import annotations

from enum import Enum

LOCAL_DOMAIN = "proxy.invalid"
NOTICES = f"tillie@{LOCAL_DOMAIN}"


class Phase(Enum):
    """What the session waits for."""

    LOGIN = "the client's login"
    REACHING = "the server, for that login"
    RECOVERING = "what an earlier, cut stream still holds"
    BINDING = "the client's resource"
    VOUCHING = "the gate's word on this device's keys"
    LINKING = "this device's place in the account's manifest"
    LIVE = "nothing: stanzas flow"
    CUT = "the server again; the client notices nothing yet"
    DRAINING = "acknowledgements; the client is gone"
    OVER = "nothing more"
