"""Examples whose inputs have each other's media: what a model loses by that is what it takes from media."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import hashlib
import sys

import numpy as np

from gpt4x.data.dataset import Batch, Dataset
from gpt4x.data.modalities import FEATURE, Modalities
from gpt4x.errors import UserError
from gpt4x.media.layout import MODALITIES


def batches(data: Dataset, split: str, rows: Sequence[int] | None = None) -> Iterator[Batch]:
  """`Dataset.evaluation` with the media of the inputs shuffled over the whole split."""
  examples = [{name: values[row] for name, values in batch.items()}
              for batch in data.evaluation(split) for row in range(data.config.batch_size)]
  examples, exchanged = shuffled(examples, data)
  if not exchanged:
    raise UserError(f"evaluate.shuffle_media = True, but the inputs of task {data.config.mixture_or_task_name}, split"
                    f" {split}, have no media that differ: unset it, or choose another task or split")
  size = data.config.batch_size
  for start in range(0, len(examples), size):
    group = [examples[start + row] for row in (range(size) if rows is None else rows)]
    yield {name: np.stack([example[name] for example in group]) for name in group[0]}


def check(data: Dataset) -> None:
  """Raises UserError if the examples have no inputs of their own, or no media."""
  if data.config.feature_converter != "prefix_lm" or data.config.pack or not data.modalities:
    raise UserError("evaluate.shuffle_media = True, but that takes examples with media in their inputs, one a row: use"
                    " such a task, DatasetConfig.feature_converter = 'prefix_lm' and DatasetConfig.pack = False")


def shuffled(examples: Sequence[Mapping[str, np.ndarray]], data: Dataset) -> tuple[list[Batch], int]:
  """Examples of `prefix_lm`, [L] each feature, whose inputs have the media of another, and never equal ones.

  Examples exchange media of the same kinds in the same order. Those whose media more than half of the examples have
  cannot all get others. Returns the examples, and how many have got others.
  """
  check(data)
  config, modalities = data.config, data.modalities
  media = [_media(_inputs(example), modalities) for example in examples]
  groups: dict[tuple, list[int]] = {}
  for number, (example, spans) in enumerate(zip(examples, media)):
    if spans:
      kinds = tuple(tuple(np.unique(modalities.of(_inputs(example)[span]))) for span in spans)
      groups.setdefault(kinds, []).append(number)
  of = [tuple(_inputs(example)[span].tobytes() for span in spans) for example, spans in zip(examples, media)]
  found, same, total = [dict(example) for example in examples], 0, sum(map(len, groups.values()))
  for members in groups.values():
    # Equal media lie together, in an order of chance. So many places on, there are others.
    members.sort(key=lambda number: hashlib.sha256(b"".join(of[number])).digest())
    most = max(Counter(of[number] for number in members).values())
    for number, donor in zip(members, members[most % len(members):] + members[:most % len(members)]):
      same += of[number] == of[donor]
      parts = [_inputs(examples[donor])[span] for span in media[donor]]
      found[number] = _with_inputs(examples[number], _replaced(_inputs(examples[number]), media[number], parts),
                                   config.task_feature_lengths["inputs"], modalities)
  if 0 < same < total:
    print(f"gpt4x: warning: {same} of {total} examples keep media equal to their own, which most have", file=sys.stderr)
  return found, total - same


def _inputs(example: Mapping[str, np.ndarray]) -> np.ndarray:
  """The inputs of a row, whose first target sees them too; none of a row of padding."""
  return example["decoder_target_tokens"][:max(0, int(example["decoder_causal_attention"].sum()) - 1)]


def _media(inputs: np.ndarray, modalities: Modalities) -> list[slice]:
  """Where what is no text begins and ends."""
  is_media = modalities.of(inputs) != MODALITIES.index("text")
  edges = np.flatnonzero(np.diff(np.concatenate([[False], is_media, [False]]).astype(np.int8)))
  return [slice(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _replaced(inputs: np.ndarray, spans: Sequence[slice], others: Sequence[np.ndarray]) -> np.ndarray:
  pieces, end = [], 0
  for span, other in zip(spans, others):
    pieces += [inputs[end:span.start], other]
    end = span.stop
  return np.concatenate([*pieces, inputs[end:]])


def _with_inputs(example: Mapping[str, np.ndarray], inputs: np.ndarray, limit: int, modalities: Modalities) -> Batch:
  """A row with other inputs, cut at `limit` as all inputs are; its targets stay."""
  inputs, before, length = inputs[:limit], len(_inputs(example)), len(example["decoder_target_tokens"])

  def moved(name: str, first: np.ndarray) -> np.ndarray:
    values = np.concatenate([first, example[name][before:]])[:length]
    return np.pad(values, (0, length - len(values))).astype(example[name].dtype)

  ones = np.ones(len(inputs))
  firsts = {"decoder_target_tokens": inputs, "decoder_loss_weights": 0 * ones, "decoder_segment_ids": ones,
            "decoder_causal_attention": ones, FEATURE: modalities.of(inputs)}
  found = {name: moved(name, first) for name, first in firsts.items() if name in example}
  tokens = found["decoder_target_tokens"]
  return {**example, **found, "decoder_input_tokens": np.concatenate([[0], tokens[:-1]]).astype(tokens.dtype)}
