"""The page of a run shows its figures, and whatever text a run has stays text."""

import base64
import dataclasses
import types

import pytest

from gpt4x.inference.text import Completion
from gpt4x.training.page import page
from gpt4x.training.summary import Summary
from tests import html_pages

HOSTILE = ("</pre></style></svg><script src='http://x.y/z'>alert(1)</script><img src=x onerror=\"a\">&amp;\0\x1b[31m"
           "\ud800$\\frac$")
LINES = [{"step": step, "split": split, "loss": 4.0 / (step + 1), "bits_per_byte": 9.25 / (step + 1), "tokens": 512.0,
          "partial": 1.0} for step in (0, 5, 9) for split in ("validation", HOSTILE)]
LINES.append({"step": 10, "split": "validation", "loss": 0.25, "bits_per_byte": 1.0625, "tokens": 4096.0})
SUMMARY = Summary(
    model_dir="runs/tiny", metrics=LINES, first=LINES[0], last=LINES[-1],
    baselines={"gzip -9": 1.6351, "xz -9": 1.3942}, num_params=2_066_496,
    steps=10, tokens=10_240, seconds=152.4, tokens_per_second=5541.4, mfu=0.4567,
    environment={"hardware": "8 x TPU v5 lite", "python": "3.12.1", "versions": {"gpt4x": "0.1.0", "jax": "0.10.2"}})


def experiment(task="stdlib_bytes"):
  config = types.SimpleNamespace(num_layers=4, embed_dim=192, num_heads=4, vocab_size=384, compute_dtype="float32")
  dataset = types.SimpleNamespace(mixture_or_task_name=task, batch_size=16, segment_length=64)
  return types.SimpleNamespace(model=types.SimpleNamespace(config=config), dataset=dataset, memory_length=64,
                               eval_memory_length=128)


def sample(prompt, text):
  return Completion(prompt, 0, text, "length", [], [])


def test_its_figures():
  found = html_pages.check(page(SUMMARY, experiment(), "train.seed = 3", [sample("def ", "main():")], "Drawn."))
  for words in ("2.07 million parameters", "10,240 tokens", "2 min 32 s", "8 x TPU v5 lite", "1.062", "9.250", "1.635",
                "1.394", "5,541", "45.7%", "2,066,496", "4,096 tokens", "train.seed = 3", "def main():",
                "Python 3.12.1", "jax 0.10.2", "Hollow points"):
    assert words in found.text, words
  assert found.tags["svg"] == found.tags["details"] == 1 and found.tags["pre"] == 2 and found.tags["title"] == 1


def test_its_media():
  png = bytes(range(256)) * 40  # Any bytes, such as those whose base64 has "//" in it.
  found = html_pages.check(page(SUMMARY, experiment(), "", sheet=(1200, png)))
  [source] = [value for tag, name, value in found.attributes if (tag, name) == ("img", "src")]
  assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) == png
  assert "step 1,200" in found.text
  assert not html_pages.check(page(SUMMARY, experiment(), "")).tags["img"]


@pytest.mark.parametrize("measure, unit", [
    ("bits_per_dim", "bits per dimension"), ("bits_per_sample", "bits per sample"), ("loss", "nats per token")])
def test_a_run_without_text(measure, unit):
  lines = [{"step": step, "split": "validation", "loss": 2.5, measure: value, "tokens": 512.0}
           for step, value in ((0, 8.125), (9, 3.625))]
  told = dataclasses.replace(SUMMARY, metrics=lines, first=lines[0], last=lines[-1], baselines={}, measure=measure)
  found = html_pages.check(page(told, experiment(), ""))
  for words in (unit, "3.625", "8.125", f"{unit.capitalize()} on the held-out data"):
    assert words in found.text, words
  assert "compressors" not in found.text and "bits per byte" not in found.text


def test_text_stays_text():
  told = dataclasses.replace(SUMMARY, model_dir=f"runs/{HOSTILE}", baselines={HOSTILE: 1.5}, environment={
      "hardware": HOSTILE, "versions": {HOSTILE: HOSTILE}})
  content = page(told, experiment(HOSTILE), HOSTILE, [sample(HOSTILE, HOSTILE)], HOSTILE)
  content.encode()  # Half of a character is none.
  found = html_pages.check(content)
  assert found.text.count("<script src='http://x.y/z'>alert(1)</script>") > 8 and "\0" not in content
  assert "var(--other)" in content and "#05" not in content, "the figure's colors are the page's"


@pytest.mark.parametrize("changes", [
    {"environment": {}}, {"environment": {"versions": 3}}, {"tokens_per_second": None, "mfu": None, "seconds": None},
    {"baselines": {}}, {"last": LINES[0]}, {"last": LINES[-1] | {"bits_per_byte": None}},
    {"first": LINES[0] | {"bits_per_byte": None}}])
def test_what_a_run_lacks_is_left_out(changes):
  found = html_pages.check(page(dataclasses.replace(SUMMARY, **changes), experiment(), ""))
  assert "None" not in found.text and "Samples" not in found.text and found.tags["svg"] == 1


def test_a_run_of_which_nothing_is_finite():
  line = {"step": 3, "split": "validation", "loss": None, "bits_per_byte": None, "tokens": 512.0}
  found = html_pages.check(page(dataclasses.replace(SUMMARY, metrics=[line], first=line, last=line), experiment(), ""))
  assert "not finite" in found.text and not found.tags["svg"]
