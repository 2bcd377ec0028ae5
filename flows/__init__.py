"""Prefect: when, where, again, tell whom. Imports from stages/ only stages/lib/params; DVC is asked, never imported by a
stage."""
