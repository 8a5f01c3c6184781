"""The program without I/O: events in, effects out."""
