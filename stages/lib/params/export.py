"""`export`: in which formats a model leaves the house, and what is proven before it does."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params.frozen import Frozen


class Export(Frozen):
    """Parity of every exported file, run by the library it is for, with this pipeline's own model and the evaluated predictions."""

    formats: Annotated[list[Literal["timm", "onnx", "torch-export"]], Field(min_length=1)]
    """timm: the folder with model.safetensors, config.json and README.md, always. onnx: model.onnx beside them. torch-export:
    model.pt2, for torch.export.load."""
    parity_images: Annotated[int, Field(ge=32)]
    """Images compared, from the start of the evaluated split; all of them where it has fewer."""
    parity_tolerance: Annotated[float, Field(gt=0, lt=0.1)]
    """Largest allowed difference of a probability, and of a logit in single precision."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        """The folder is there whatever else is, and nothing twice."""
        if "timm" not in self.formats:
            raise ValueError("formats needs timm: the other files lie in its folder, beside its config.json and card")
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats names one twice: {', '.join(self.formats)}")
        return self
