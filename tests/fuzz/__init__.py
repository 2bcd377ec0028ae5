"""Damaged and hostile input, made in thousands from good files: what reads a file somebody else wrote must refuse it or read it.

python -m tests.fuzz tar --minutes 10          (make fuzz: all of them, ten minutes each)
"""
