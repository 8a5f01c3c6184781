"""XMPP streams, stanzas and addresses; knows nothing of encryption."""
