"""02 and 03_pos_interp: sin-cos tables, and position embeddings on another grid."""

import hashlib
from typing import Any

import numpy as np
import torch

from stages.lib.models import positions
from tests.golden_cases.built import DTYPES
from tests.golden_cases.reference import EXACT, Case

SUMS, ENTRIES = 1e-8, 1e-10
RESAMPLED = {"f64": 1e-10, "f32": 1e-5}


def tables(case: Case) -> None:
    """Every entry of 02_pos_embed."""
    for entry in case.data["entries"]:
        _table(case, entry, f"{entry['dim']} channels, {entry['grid']} x {entry['grid']}")


def _table(case: Case, entry: dict[str, Any], row: str) -> None:
    """One table, whole or by some of its rows and columns, and its sums."""
    dim, grid, arrays = entry["dim"], entry["grid"], case.arrays
    key, ours = f"{dim}_{grid}", positions.sincos_2d(dim, grid).numpy()
    case.same(row, [len(ours) + 1, dim], entry["shape_with_cls"], "shape")
    if entry["full"]:
        case.compare(row, np.concatenate([np.zeros((1, dim)), ours]), arrays[f"full_{key}"], ENTRIES)
    else:
        case.compare(row, ours[arrays[f"rows_{key}"]], arrays[f"row_values_{key}"], ENTRIES, "rows")
        case.compare(row, ours[:, arrays[f"cols_{key}"]], arrays[f"col_values_{key}"], ENTRIES, "columns")
    probe = case.formula.probe(f"pos.{dim}.{grid}", ours.shape)
    ramp = np.arange(ours.size).reshape(ours.shape) / ours.size
    sums = {"sum": ours.sum(), "sum_abs": np.abs(ours).sum(), "sum_sq": (ours**2).sum()}
    for name, value in {**sums, "probe_dot": (ours * probe).sum(), "ramp_dot": (ours * ramp).sum()}.items():
        case.compare(f"{row}, sums", value, entry[name], SUMS, name)
    digests = {"f64": ours.astype("<f8"), "f32": ours.astype("<f4")}
    equal = [name for name, data in digests.items() if _sha(data) == entry[f"sha256_{name}_le_bytes"]]
    case.table.note(
        f"{case.stem} {row}: sha256 equal in {', '.join(equal) or 'neither'} (a matter of the maths library)"
    )


def resampling(case: Case) -> None:
    """Every case of 03_pos_interp."""
    for one in case.data["cases"]:
        key, extra = one["key"], one["extra_tokens"]
        shape = (1, one["old_grid"] ** 2 + extra, one["dim"])
        case.given(case.formula.table(f"interp.{key}", shape), f"in_{key}")
        for name, dtype in DTYPES.items():
            ours = positions.resample(case.arrays.tensor(f"in_{key}", dtype), one["new_grid"], extra)
            case.compare(f"{key} {name}", ours, case.arrays[f"out_{key}_{name}"], RESAMPLED[name])
            tokens = torch.equal(ours[:, :extra], case.arrays.tensor(f"in_{key}", dtype)[:, :extra])
            case.compare(f"{key} {name}", float(not tokens), 0, EXACT, "extra tokens copied")


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
