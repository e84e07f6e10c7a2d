"""The loss curve of a run shows what it says."""

import numpy as np

from gpt4x.training import plots
from gpt4x.training.metrics import MetricsWriter


def test_plot(tmp_path):
  plots.plot_losses(str(tmp_path))
  assert not list(tmp_path.iterdir()), "there is nothing to draw yet"
  writer = MetricsWriter(str(tmp_path))
  writer.write(1, "train", {"loss": 5.0})
  writer.write(1, "validation", {"loss": 5.0, "bits_per_byte": 7.0})
  plots.plot_losses(str(tmp_path))
  assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_each_panel_shows_its_metric():
  metrics = [{"step": step, "split": "train", "loss": 4.0 / step} for step in range(1, 6)]
  metrics += [{"step": step, "split": "validation", "loss": 3.0 / step, "bits_per_byte": 6.0 - step} for step in (2, 5)]
  metrics.insert(3, {"step": 3, "split": "validation", "loss": None})  # A loss that was not finite.
  losses, bits = plots.figure(metrics).axes
  raw, smoothed, validation = losses.lines
  (bits_of_validation,) = bits.lines
  assert losses.get_ylabel() == "loss (nats per token)" and bits.get_ylabel() == "bits per byte"
  assert losses.get_xlabel() == bits.get_xlabel() == "step"
  np.testing.assert_allclose(raw.get_xydata(), [(step, 4.0 / step) for step in range(1, 6)])
  np.testing.assert_allclose(validation.get_xydata(), [(2, 1.5), (5, 0.6)])
  np.testing.assert_allclose(bits_of_validation.get_xydata(), [(2, 4.0), (5, 1.0)])
  assert [text.get_text() for text in bits.get_legend().get_texts()] == ["validation: 1.000 at the end"]
  assert smoothed.get_label().startswith("train, smoothed") and validation.get_label().startswith("validation")
  assert bits_of_validation.get_color() == validation.get_color() != smoothed.get_color()


def test_a_panel_without_values_is_left_out():
  (panel,) = plots.figure([{"step": 1, "split": "train", "loss": 1.0}]).axes
  assert panel.get_ylabel() == "loss (nats per token)"
  assert plots.figure([{"step": 1, "split": "train", "tokens_per_second": 1.0}]) is None


def test_smoothing_is_an_average_that_lags_little():
  curve = np.random.default_rng(0).normal(2.0, 0.5, 2000)
  (panel,) = plots.figure({"step": step, "split": "train", "loss": loss} for step, loss in enumerate(curve)).axes
  raw, smoothed = (line.get_ydata() for line in panel.lines)
  np.testing.assert_array_equal(raw, curve)
  assert smoothed[0] == curve[0]
  # Over 20 values: an exponential average of a twentieth has a deviation of 1 / sqrt(39) of theirs.
  assert np.std(smoothed[200:]) < 0.5 / 5 and np.std(smoothed[200:]) > 0.5 / 8
