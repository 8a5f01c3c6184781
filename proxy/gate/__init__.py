"""The gate in front of a server: who is let in, and what is signed; no I/O."""
