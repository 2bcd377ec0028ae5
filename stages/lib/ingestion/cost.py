"""What `shard.store` costs and saves: data/stored/<set>.json, which the report shows. No time and no path is in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.reencode import Anew
from stages.lib.ingestion.shard_writer import Shard
from stages.lib.params.shard import Store


def facts(name: str, rows: Sequence[Row], shards: Sequence[Shard], store: Store | None) -> dict[str, Any]:
    """Bytes are those of image files, without tar's; PSNR in dB as fidelity.py defines it, over the images measured."""
    anew: Mapping[str, Anew] = {key: one for shard in shards for key, one in shard.anew.items()}
    original = sum(row.bytes for row in rows)
    stored = sum(anew[row.key].bytes if row.key in anew else row.stored_bytes for row in rows)
    measured = [one for _, one in sorted(anew.items()) if one.coding_db is not None]
    found = {
        "set": name,
        "store": store.model_dump() if store else "original",
        "images": len(rows),
        "images_stored_anew": len(anew),
        "original_bytes": original,
        "stored_bytes": stored,
        "stored_share": round(stored / original, 6),
        "lost": "JPEG and a smaller size" if anew else "nothing",
        "images_measured": len(measured),
    }
    if measured:
        found["coding_psnr_db"] = _spread([one.coding_db for one in measured])
        found["crop_psnr_db"] = _spread([one.crop_db for one in measured])
    return found


def _spread(values: Sequence[float | None]) -> dict[str, float]:
    """Mean and fifth percentile."""
    numbers = np.array(values, np.float64)
    return {"mean": round(float(numbers.mean()), 2), "p5": round(float(np.percentile(numbers, 5)), 2)}


def sentence(found: Mapping[str, Any]) -> str:
    """The same for a log."""
    if not found["images_stored_anew"]:
        return "every image is stored as it is, nothing lost"
    return (
        f"{found['images_stored_anew']:,} of {found['images']:,} images stored anew, {100 * found['stored_share']:.1f} % of the "
        f"bytes; PSNR on {found['images_measured']} of them: coding {found['coding_psnr_db']['mean']:.1f} dB, "
        f"a training crop {found['crop_psnr_db']['mean']:.1f} dB"
    )
