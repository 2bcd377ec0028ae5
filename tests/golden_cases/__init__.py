"""The cases of `python -m tests.golden`, one file a subject."""
