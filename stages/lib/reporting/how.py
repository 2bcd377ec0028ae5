"""How to use a model elsewhere, and how to do it all again."""

from stages.lib.reporting import markup
from stages.lib.reporting.material import Material

LOAD = """import timm, torch
from PIL import Image

model = timm.create_model("local-dir:data/exported/student", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    scores = model(prepare(Image.open("image.png").convert("RGB"))[None]).softmax(1)[0]
print(model.pretrained_cfg["label_names"][int(scores.argmax())], float(scores.max()))"""
REPRODUCE = """make demo                                 # from a fresh clone: environment, every stage, this page
dvc repro                                 # after an edit: what depends on it, nothing else
dvc exp run -S train.distill=soft         # another recipe, from the first stage it touches
dvc metrics diff                          # what that changed"""


def load(found: Material) -> str:
    """Using a model elsewhere."""
    del found
    intro = (
        "Each exported model is a folder that timm reads by itself, weights, preprocessing and class names together:"
    )
    return markup.section("load", "Load a model", markup.paragraph(intro) + markup.block(LOAD))


def reproduce(found: Material) -> str:
    """Doing it again."""
    del found
    intro = "One command makes everything here again, and only what is out of date:"
    return markup.section("reproduce", "Do it again", markup.paragraph(intro) + markup.block(REPRODUCE))
