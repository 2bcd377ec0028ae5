"""bf16 trains as fp32 does, nearly; and fp32 is not moved by the other being there."""

import pytest
import torch
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.data.batch import Batch
from stages.lib.models.mae import MAE
from stages.lib.models.precision import autocast
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.optimizer import Optimizer
from stages.lib.params.precision import Precision
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from stages.lib.training import optimizer
from stages.lib.training.loop import Trained, _step


def started() -> Trained:
    torch.manual_seed(0)
    mae = MAE(16, ViT(patch_size=4, width=48, depth=2, heads=4), Decoder(width=32, depth=1, heads=4), 0.75)
    values = {"name": "adamw", "lr": 1e-3, "lr_per": 256, "weight_decay": 0.05, "decay_tokens": "all"}
    return Trained(Reconstruct(mae, False), mae, optimizer.build(Optimizer.model_validate(values), mae, 2))


def batches(count: int) -> list[Batch]:
    """Smooth images: something to learn."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        coarse = torch.rand(32, 3, 4, 4, generator=draw) * 255
        images = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").to(torch.uint8)
        places = torch.arange(32)
        found.append(Batch(images, places, places, noise=torch.rand(32, 16, generator=draw)))
    return found


def losses(precision: Precision, steps: int = 60) -> list[float]:
    trained = started()
    return [_step(trained, batch, 2e-3, 0.0, precision)["loss"].item() for batch in batches(steps)]


def test_bf16__ends_near_fp32_and_is_not_the_same() -> None:
    """The mean of the last ten losses: both have learnt most of what there is, and differ by less than 3 %."""
    single, half = losses("fp32"), losses("bf16")
    last = [sum(values[-10:]) / 10 for values in (single, half)]
    assert last[0] < 0.6 * single[0] and last[1] < 0.6 * half[0]
    assert abs(last[1] / last[0] - 1) < 0.03
    assert single != half


def test_bf16__weights_gradients_and_state_stay_in_single_precision() -> None:
    trained = started()
    found = _step(trained, batches(1)[0], 1e-3, 0.0, "bf16")["loss"]
    assert found == found.float()  # a single-precision loss, summed in double
    tensors = [
        *trained.network.state_dict().values(),
        *(p.grad for p in trained.network.parameters() if p.grad is not None),
    ]
    tensors += [t for state in trained.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_fp32__is_bit_for_bit_the_objective_alone() -> None:
    """Also inside somebody else's autocast."""
    batch = batches(1)[0]
    plain = started()
    expected = plain.objective(batch)["loss"]
    assert torch.equal(_step(started(), batch, 1e-3, 0.0, "fp32")["loss"], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_step(started(), batch, 1e-3, 0.0, "fp32")["loss"], expected)
    assert not torch.equal(_step(started(), batch, 1e-3, 0.0, "bf16")["loss"], expected)  # control


def test_autocast__refuses_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    with pytest.raises(Refusal, match="Old GPU has no bfloat16; set precision to fp32"):
        autocast(torch.device("cuda"), "bf16")
