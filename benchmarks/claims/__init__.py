"""What the papers claim and what this pipeline measures, side by side: `python -m benchmarks.claims`, docs/claims.md."""
