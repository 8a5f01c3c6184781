"""Tillie: always-on end-to-end encryption in front of an unmodified XMPP client."""

__version__ = "0.1.0"
