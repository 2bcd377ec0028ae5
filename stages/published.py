"""Published DeiT, DeiT III and MAE checkpoints, in and out. A command for people, no stage of the pipeline.

in    import: a .pth or .safetensors as those papers' authors publish them; export: a model folder
out   import: a model folder that timm loads; export: one file in the published layout, .pth with {"model": ...} or .safetensors
run   python -m stages.published import deit_small_patch16_224-cd65a155.pth data/models/theirs Apache-2.0
      python -m stages.published export data/models/student student.safetensors
"""

import logging
import sys
from pathlib import Path

from stages.lib.core import outcome
from stages.lib.core.outcome import Refusal
from stages.lib.models import published

log = logging.getLogger(__name__)
USE = (
    "use: python -m stages.published import <file> <folder> <licence> [<heads> [<decoder heads>]]\n"
    "     python -m stages.published export <folder> <file.safetensors or file.pth>"
)


def main() -> None:
    """Raises Refusal."""
    match sys.argv[1:]:
        case ["import", file, folder, licence, *heads] if len(heads) < 3 and all(count.isdigit() for count in heads):
            if not Path(file).is_file():
                raise Refusal(f"there is no file {file}.\n{USE}")
            layout = published.read(Path(file), Path(folder), licence, *(int(count) for count in heads))
            log.info("%s: a %s checkpoint, now in %s", file, layout, folder)
        case ["export", folder, file]:
            layout = published.write(Path(folder), Path(file))
            log.info("%s: written in the layout %s to %s", folder, layout, file)
        case _:
            raise Refusal(USE)


if __name__ == "__main__":
    outcome.run("published@file", main)
