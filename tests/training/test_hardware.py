"""Peaks by device kind, and the measured peak."""

import types

import jax
import pytest

from gpt4x.training import hardware


@pytest.mark.parametrize("kind, tflops", [
    ("TPU v2", 22.5), ("TPU v3", 61.5), ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v5p", 459),
    ("TPU v6 lite", 918), ("TPU7x", 1153.5), ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA GH200 480GB", 989), ("NVIDIA L4", 121),
    ("NVIDIA L40S", None), ("Tesla V100-SXM2-16GB", 125), ("Tesla V100-PCIE-32GB", 112), ("Tesla T4", 65),
    ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500), ("cpu", None), ("TPU v9", None)])
def test_published_peaks(kind, tflops):
  assert hardware._published_peak(kind) == (tflops and pytest.approx(1e12 * tflops))


def test_a_known_chip_counts_each_device(monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind="TPU v4", platform="tpu")] * 16)
  monkeypatch.setattr(jax, "device_count", lambda: 16)
  assert hardware.peak_flops("bfloat16", 16) == (pytest.approx(16 * 275e12), "published")


def test_an_unknown_chip_is_measured_once(monkeypatch):
  peak, source = hardware.peak_flops("float32", 8)
  assert source == "measured" and 1e8 < peak < 1e16
  assert hardware.peak_flops("float32", 8) == (peak, source)
  # However many devices are simulated, there is one machine.
  monkeypatch.setattr(jax, "device_count", lambda: 1000)
  assert hardware.peak_flops("float32", 8) == (peak, source)
