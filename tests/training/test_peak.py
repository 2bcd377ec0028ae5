"""What counts as the whole of a device."""

import pytest
import torch

from stages.lib.training import peak


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H200", 989.4e12, 66.9e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
    ],
)
def test_peak_flops__of_a_known_gpu(monkeypatch: pytest.MonkeyPatch, name: str, bf16: float, fp32: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak.peak_flops(torch.device("cuda"), "bf16") == (pytest.approx(bf16), "table")
    assert peak.peak_flops(torch.device("cuda"), "fp32") == (pytest.approx(fp32), "table")


def test_peak_flops__of_this_processor_is_measured() -> None:
    found, source = peak.peak_flops(torch.device("cpu"), "fp32")
    assert source == "measured" and 1e9 < found < 1e15
    assert peak.peak_flops(torch.device("cpu"), "fp32")[0] == found  # once a process


def test_peak_bytes__grows_with_what_is_used() -> None:
    before = peak.peak_bytes(torch.device("cpu"))
    kept = torch.ones(before // 4 + 2**24)  # as many bytes again, and more
    assert peak.peak_bytes(torch.device("cpu")) > before
    del kept
