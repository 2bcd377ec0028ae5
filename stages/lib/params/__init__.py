"""One torch-free file per block of params.yaml: its frozen, typed schema."""
