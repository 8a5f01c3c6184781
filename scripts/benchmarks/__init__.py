"""What scripts/bench measures; scripts/bench.py is its entry."""
