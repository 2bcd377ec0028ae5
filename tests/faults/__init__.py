"""Planted faults: bad input of every kind, and proof that the stage that meets it says so. `python -m tests.faults` prints all."""
