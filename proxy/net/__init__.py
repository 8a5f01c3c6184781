"""Twisted and pyOpenSSL live here and only here; no decisions are made."""
