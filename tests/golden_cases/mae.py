"""01: the masked autoencoder's forward pass, losses and gradients, and its published names and shapes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stages.lib.data.batch import Batch
from stages.lib.models import mae
from stages.lib.objectives import reconstruct
from tests.golden_cases import built
from tests.golden_cases.reference import EXACT, Case

FORWARD = {"f64": 1e-10, "f32": 1e-5}
LOSS = {"f64": 1e-10, "f32": 2e-6}
GRADIENT = {"f64": 1e-10, "f32": 5e-5}  # float32: sums of thousands of rounded numbers
SHIFTED_KEY = 1e-12  # attention does not see a shift of all keys: rounding is all that may remain
KINDS = {"plain": False, "norm_pix": True}


class Reconstruct(reconstruct.Reconstruct):
    """The stage's objective with nothing replaced but the bytes: a reference gives pixels already normalised."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}."""
        stored = reconstruct.normalise
        reconstruct.normalise = lambda images: images
        try:
            return super().forward(batch)
        finally:
            reconstruct.normalise = stored


@dataclass(frozen=True)
class Inputs:
    """Normalised images, and the noise that masks them."""

    images: Tensor
    noise: Tensor

    @property
    def batch(self) -> Batch:
        """As the stages hand them over."""
        places = torch.arange(len(self.images))
        return Batch(images=self.images, labels=torch.zeros_like(places), positions=places, noise=self.noise)


def forward_and_losses(case: Case) -> None:
    """Everything of 01_mae_<id>."""
    _inputs(case)
    _names(case, built.mae(case.data["config"], case.formula, torch.float64))
    for dtype in built.DTYPES:
        model = built.mae(case.data["config"], case.formula, built.DTYPES[dtype])
        _forward(case, model, dtype)
        _targets(case, dtype)
        for kind in KINDS:
            _loss(case, model, kind, dtype)
    _sensitivity(case)


def inputs_of(case: Case, dtype: str) -> Inputs:
    """The stored ones."""
    return Inputs(*(case.arrays.tensor(name, built.DTYPES[dtype]) for name in ("images", "noise")))


def _inputs(case: Case) -> None:
    """The stored inputs are the formula's, and our fixed positions the stored ones."""
    config, name = case.data["config"], case.stem.removeprefix("01_").replace("_", ".")
    shape = (config["batch"], config["in_chans"], config["img_size"], config["img_size"])
    case.given(case.formula.images(f"{name}.images", shape), "images")
    case.given(case.formula.noise(f"{name}.noise", (config["batch"], case.data["num_patches"])), "noise")
    case.given(case.formula.table(f"{name}.unpatchify_in", case.arrays["unpatchify_in"].shape), "unpatchify_in")
    model = built.mae(config, case.formula, torch.float32)
    for table in built.FIXED:
        case.compare("fixed positions", model.get_parameter(table), case.arrays[table], EXACT, table)


def _names(case: Case, model: nn.Module) -> None:
    state, data = model.state_dict(), case.data
    case.same("names and shapes", list(state), data["state_dict_order"], "state dict")
    case.same("names and shapes", [name for name, _ in model.named_parameters()], data["param_order"], "parameters")
    case.same("names and shapes", {name: list(value.shape) for name, value in state.items()}, data["shapes"], "shapes")
    keep = mae.visible(data["num_patches"], data["config"]["mask_ratio"])
    case.same("names and shapes", keep, data["len_keep"], "visible patches")


def _forward(case: Case, model: mae.MAE, dtype: str) -> None:
    given = inputs_of(case, dtype)
    latent, mask, restore, kept = model.encode(given.images, given.noise)
    masking = {"mask": mask, "ids_restore": restore, "ids_shuffle": restore.argsort(1), "ids_keep": kept}
    for name, ours in masking.items():
        case.compare("masking", ours, case.arrays[name], EXACT, name)
    case.compare(f"latent {dtype}", latent, case.arrays[f"latent_{dtype}"], FORWARD[dtype])
    for name, pred in (("decode", model.decode(latent, restore)), ("forward", model(given.images, given.noise)[0])):
        case.compare(f"pred {dtype}", pred, case.arrays[f"pred_{dtype}"], FORWARD[dtype], name)


def _targets(case: Case, dtype: str) -> None:
    """Patches there and back, the normalised target by the reference's means and variances, and each patch's loss."""
    arrays, patch, images = case.arrays, case.data["config"]["patch_size"], inputs_of(case, dtype).images
    patches = mae.patchify(images, patch)
    case.compare("patches", patches, arrays[f"patchify_{dtype}"], EXACT, f"patchify {dtype}")
    case.compare("patches", mae.unpatchify(patches, patch), images, EXACT, f"there and back {dtype}")
    given = arrays.tensor("unpatchify_in", images.dtype)
    case.compare("patches", mae.unpatchify(given, patch), arrays[f"unpatchify_{dtype}"], EXACT, f"unpatchify {dtype}")
    mean, variance = (arrays[f"norm_pix_{kind}_{dtype}"][..., None] for kind in ("mean", "var"))
    normalised = (arrays[f"patchify_{dtype}"] - mean) / np.sqrt(variance + 1e-6)
    ours = reconstruct.target(images, patch, norm_pix=True)
    case.compare(f"normalised target {dtype}", ours, normalised, FORWARD[dtype])
    for kind, norm_pix in KINDS.items():
        squares = (arrays.tensor(f"pred_{dtype}") - reconstruct.target(images, patch, norm_pix)) ** 2
        theirs = arrays[f"per_patch_loss_{kind}_{dtype}"]
        case.compare(f"per-patch loss {kind} {dtype}", squares.mean(-1), theirs, FORWARD[dtype])


def _loss(case: Case, model: mae.MAE, kind: str, dtype: str) -> None:
    """The stage's objective and every gradient of it."""
    model.zero_grad()
    loss = Reconstruct(model, KINDS[kind])(inputs_of(case, dtype).batch)["loss"]
    loss.backward()
    case.compare(f"loss {kind} {dtype}", loss, case.data["loss"][kind][dtype], LOSS[dtype])
    ours, theirs = built.gradients(model), case.data["grads"][kind][dtype]
    case.same(f"gradients {kind} {dtype}", sorted(ours), sorted(theirs), "names")
    case.summaries(f"gradients {kind} {dtype}", ours, theirs, GRADIENT[dtype])


@torch.no_grad()
def _sensitivity(case: Case) -> None:
    """Move one parameter at a time a little: outputs move as far as the reference's did; and keys may be shifted."""
    model, given = built.mae(case.data["config"], case.formula, torch.float64), inputs_of(case, "f64")
    before = _outputs(model, given)
    for name, theirs in case.data["sensitivity_1e-3"].items():
        with built.nudged(model, name, case.formula):
            after = _outputs(model, given)
        for output, moved in theirs.items():
            ours = (after[output] - before[output]).abs().max()
            case.compare("sensitivity", ours, moved, FORWARD["f64"], f"{output} to {name}")
    for name, parameter in model.named_parameters():
        if name.endswith("attn.qkv.bias"):
            parameter[len(parameter) // 3 : 2 * len(parameter) // 3] += 0.5
    moved = (_outputs(model, given)["pred"] - before["pred"]).abs().max()
    case.compare("keys shifted by 0.5", moved, case.data["k_bias_shift_0.5_pred_change"], SHIFTED_KEY)


def _outputs(model: mae.MAE, given: Inputs) -> dict[str, Tensor]:
    latent, _, restore, _ = model.encode(given.images, given.noise)
    loss = Reconstruct(model, norm_pix=True)(given.batch)["loss"]
    return {"latent": latent, "pred": model.decode(latent, restore), "loss": loss}


def keys(case: Case) -> None:
    """01_mae_keys: the published sizes, built without memory, and how many patches stay visible."""
    for row, theirs in case.data["models"].items():
        with torch.device("meta"):
            model = built.mae_of(dict(theirs["state_dict"]))
        ours = [[name, list(value.shape)] for name, value in model.state_dict().items()]
        case.same(row, ours, theirs["state_dict"], "state dict")
        parameters = dict(model.named_parameters())
        case.same(row, sum(p.numel() for p in parameters.values()), theirs["total_numel"], "parameters")
        trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
        case.same(row, trained, theirs["trainable_numel"], "trainable parameters")
        case.same(row, [name for name, p in parameters.items() if not p.requires_grad], theirs["frozen"], "frozen")
        case.same(row, [name for name, _ in model.named_buffers()], theirs["buffers"], "buffers")
    for one in case.data["len_keep"]:
        keep = mae.visible(one["L"], one["mask_ratio"])
        case.same("visible patches", keep, one["len_keep"], f"{one['L']} at {one['mask_ratio']}")
