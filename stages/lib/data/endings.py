"""Which image formats are stored in shards as they came."""

ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Pillow's format -> ending of bytes stored unchanged; timm reads `jpg;png;webp`. MPO is a JPEG with more behind it.
Every other format is stored as PNG, pixel for pixel."""
