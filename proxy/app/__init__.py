"""Command line, configuration, control socket and the running service."""
