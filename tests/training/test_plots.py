"""The loss curve of a run shows what it says."""

import json

import numpy as np
import pytest

from gpt4x.training import plots
from gpt4x.training.metrics import MetricsWriter


def training(curve, first=1, apart=1):
  return [{"step": first + apart * i, "split": "train", "loss": float(loss)} for i, loss in enumerate(curve)]


def test_plot(tmp_path):
  plots.plot_losses(str(tmp_path))
  assert not list(tmp_path.iterdir()), "there is nothing to draw yet"
  writer = MetricsWriter(str(tmp_path))
  writer.write(1, "train", {"loss": 5.0})
  writer.write(1, "validation", {"loss": 5.0, "bits_per_byte": 7.0})
  plots.plot_losses(str(tmp_path))
  before = (tmp_path / "loss.png").read_bytes()
  assert before.startswith(b"\x89PNG")
  (tmp_path / "compressors.json").write_text(json.dumps({"bits_per_byte": {"gzip -9": 1.5}}))
  plots.plot_losses(str(tmp_path))
  assert (tmp_path / "loss.png").read_bytes() != before


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
  assert legend(bits) == ["validation: 1.000 at the end"]
  assert smoothed.get_label().startswith("train, smoothed") and validation.get_label().startswith("validation")
  assert bits_of_validation.get_color() == validation.get_color() != smoothed.get_color()


def test_a_codec_has_a_psnr_and_a_loss_that_is_no_likelihood():
  losses, psnr = plots.figure([{"step": step, "split": "validation", "loss": 1 / step, "psnr": 20.0 + step}
                               for step in (1, 2)]).axes
  assert losses.get_ylabel() == "loss" and psnr.get_ylabel() == "PSNR (dB)"
  np.testing.assert_allclose(psnr.lines[0].get_xydata(), [(1, 21.0), (2, 22.0)])


def legend(panel):
  return [text.get_text() for text in panel.get_legend().get_texts()]


def test_a_panel_without_values_is_left_out():
  (panel,) = plots.figure(training([1.0])).axes
  assert panel.get_ylabel() == "loss (nats per token)"
  assert plots.figure([{"step": 1, "split": "train", "tokens_per_second": 1.0}]) is None


def test_compressors_are_lines_to_pass_under():
  metrics = [{"step": step, "split": "validation", "loss": 1.0, "bits_per_byte": 4.0 - step} for step in (0, 1, 2)]
  losses, bits = plots.figure(metrics, {"gzip -9": 1.635, "xz -9": 1.394}).axes
  _, gzip, xz = bits.lines
  assert set(gzip.get_ydata()) == {1.635} and set(xz.get_ydata()) == {1.394} and len(losses.lines) == 1
  assert [text.get_text() for text in bits.texts] == ["gzip -9: 1.635", "xz -9: 1.394"]
  low, high = bits.get_ylim()
  assert low < 1.394 and high > 4.0, "both are in view, with so few points all of them"


def test_evaluations_of_a_part_are_hollow():
  metrics = [{"step": step, "split": "validation", "loss": 3.0 - step, "partial": 1.0} for step in (0, 1)]
  metrics.append({"step": 2, "split": "validation", "loss": 0.5})
  (panel,) = plots.figure(metrics).axes
  _, hollow = panel.lines
  assert list(hollow.get_xdata()) == [0, 1] and hollow.get_markerfacecolor() != hollow.get_color()
  assert legend(panel) == ["validation: 0.500 at the end", "validation: a part of it"]
  (panel,) = plots.figure(metrics[:2]).axes
  assert legend(panel) == ["validation: 2.000 at the end (a part of it)"]


@pytest.mark.parametrize("length", [65, 500, 2000, 20_000])
def test_smoothing_is_a_centred_mean_over_a_twentieth(length):
  """White noise is as quiet as such a mean makes it, at any length; and a straight line stays where it is."""
  noise = np.random.default_rng(0).normal(2.0, 0.5, length)
  (panel,) = plots.figure(training(noise, first=10, apart=10)).axes
  raw, smoothed = panel.lines
  np.testing.assert_array_equal(raw.get_ydata(), noise)
  late = smoothed.get_ydata()[len(smoothed.get_ydata()) // 4:]
  # A Gaussian of deviation s, in points, has the variance of a mean of 2 * sqrt(pi) * s points.
  expected = 0.5 / np.sqrt(2 * np.sqrt(np.pi) * length / 40)
  assert 0.4 * expected < np.std(late) < 1.6 * expected

  line = np.linspace(8.0, 1.0, length)
  (panel,) = plots.figure(training(line, first=10, apart=10)).axes
  _, smoothed = panel.lines
  steps, values = smoothed.get_data()
  middle = slice(len(steps) // 5, -len(steps) // 5)
  np.testing.assert_allclose(values[middle], np.interp(steps, 10 + 10 * np.arange(length), line)[middle], atol=1e-3)


def test_smoothing_follows_a_steep_start():
  curve = 1.2 + 5.0 * np.exp(-np.arange(300) / 5.0)
  (panel,) = plots.figure(training(curve)).axes
  _, smoothed = panel.lines
  assert smoothed.get_ydata()[0] == pytest.approx(curve[0], rel=0.02)
  np.testing.assert_allclose(smoothed.get_ydata(), curve, rtol=0.12)


def test_the_first_steps_do_not_flatten_the_rest():
  """What is above the view says so; two evaluations, and a curve that falls all the way, are in view as a whole."""
  steep = 1.5 + 8.0 * np.exp(-np.arange(200) / 3.0) + np.linspace(0.5, 0, 200)
  (panel,) = plots.figure(training(steep, first=0)).axes
  low, high = panel.get_ylim()
  assert high < 2.7 and low < 1.5
  assert [text.get_text() for text in panel.texts] == ["↑ 10.00 at step 0"]
  (panel,) = plots.figure(training(np.linspace(9.0, 1.0, 200))).axes
  assert panel.get_ylim()[1] > 8.9 and not panel.texts
  ends = [{"step": step, "split": "validation", "loss": loss} for step, loss in ((0, 9.0), (650, 2.0))]
  (panel,) = plots.figure(ends).axes
  assert panel.get_ylim()[1] > 9.0


def test_any_name_of_a_split_can_be_drawn():
  name = "a$b$ <c> _d \\frac{"
  drawn = plots.figure([{"step": 1, "split": name, "loss": 1.0}])
  assert "a$b$ &lt;c&gt; _d \\frac{" in plots.svg(drawn, {})
