"""Measures this project against its references, interleaved in one process; no stage imports anything from here."""
