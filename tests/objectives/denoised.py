"""Batches of every form of denoising beside streams, as a RowMixture makes them of tasks."""

import functools
import itertools

import seqio
import tensorflow as tf

from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.denoised_text import hide_spans, mask_tokens
from gpt4x.data.infilling import infill
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.row_mixture import RowMixture
from gpt4x.data.vocabularies import MarkedVocabulary, Marks

MARKS = MarkedVocabulary(Marks(spans=9)).held()
LENGTH = 32
_TEXTS = [f"{'the quick brown fox ' * (4 + i % 4)}number {i}" for i in range(12)]
_IDS = [text_to_targets, tokenize]
# (preprocessors, converter, rows) of each part; the first two go on with their documents.
_PARTS = {
    "text": ([*_IDS, append_eos], "stream", 1),
    "infill": ([infill, append_eos], "stream", 1),
    "spans": ([*_IDS, hide_spans, append_eos], "prefix_lm", 2),
    "ul2": ([*_IDS, functools.partial(hide_spans, denoisers="ul2"), append_eos], "prefix_lm", 2),
    "prefix": ([*_IDS, functools.partial(hide_spans, denoisers="prefix"), append_eos], "prefix_lm", 1),
    "masked": ([*_IDS, mask_tokens], "masked_lm", 1),
}
ROWS = sum(rows for *_, rows in _PARTS.values())
GOES_ON = 2  # Rows.


def _add(name: str, steps: list, converter: str) -> None:
  source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
      {"text": _TEXTS}), splits=["train"])
  features = {"targets": seqio.Feature(MARKS, add_eos=converter != "masked_lm")}
  if converter != "stream":
    features["inputs"] = seqio.Feature(MARKS, add_eos=False)
  if converter == "masked_lm":
    features["weights"] = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
  seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=features)


@functools.cache
def batches(count):
  """So many batches, one after the other, of ROWS rows; a target of masked spans counts for half."""
  parts = {}
  try:
    for name, (steps, converter, rows) in _PARTS.items():
      _add(f"denoised_{name}", steps, converter)
      lengths = {"inputs": LENGTH - 12, "targets": 12} if converter == "prefix_lm" else {"targets": LENGTH}
      parts[name] = DatasetConfig(f"denoised_{name}", lengths, rows, converter)
    return list(itertools.islice(RowMixture(parts, {"spans": 0.5}).open().train(), count))
  finally:
    for name in _PARTS:
      seqio.TaskRegistry.remove(f"denoised_{name}")
