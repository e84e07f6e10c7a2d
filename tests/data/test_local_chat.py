"""Conversations: what a record gives, what counts in the loss, and that a pair stays one."""

import json

import gin
import numpy as np
import pytest
import seqio

from gpt4x.data import chat_records
from gpt4x.data.chat_template import Template
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.errors import UserError
import gpt4x.tasks  # noqa: F401

BYTES = seqio.ByteVocabulary()
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}
OTHER = {"role": "assistant", "content": "No"}


def made(line, kind="answers"):
  """(text, what of it counts) of each sequence of a record; an end of a document is |."""
  text = lambda ids: bytes(124 if one == 1 else one - 3 for one in ids).decode()
  return [(text(one.ids), text(token for token, weight in zip(*one) if weight)) for one in chat_records.tokens(
      chat_records.parse(line, kind), kind, Template(), BYTES)]


@pytest.mark.parametrize("line, kind, expected", [
    ({"prompt": "1+1=", "completion": "2"}, "answers", [("1+1=2|", "2|")]),
    ({"messages": [USER, ANSWER]}, "answers", [("<|user|>\nHi\n<|assistant|>\nYes|", "Yes|")]),
    ({"messages": [USER, ANSWER, USER, OTHER]}, "answers", [(
        "<|user|>\nHi\n<|assistant|>\nYes|\n<|user|>\nHi\n<|assistant|>\nNo|", "Yes|No|")]),
    ({"prompt": [USER, ANSWER, USER], "completion": [OTHER]}, "answers", [(
        "<|user|>\nHi\n<|assistant|>\nYes|\n<|user|>\nHi\n<|assistant|>\nNo|", "No|")]),
    ({"prompt": "Hi", "completion": [ANSWER]}, "answers", [("<|user|>\nHi\n<|assistant|>\nYes|", "Yes|")]),
    ({"prompt": "1+1=", "chosen": "2", "rejected": "3"}, "preferences", [("1+1=2|", "2|"), ("1+1=3|", "3|")]),
    ({"prompt": [USER], "chosen": "Yes", "rejected": [OTHER]}, "preferences", [
        ("<|user|>\nHi\n<|assistant|>\nYes|", "Yes|"), ("<|user|>\nHi\n<|assistant|>\nNo|", "No|")]),
    ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "preferences", [
        ("<|user|>\nHi\n<|assistant|>\nYes|", "Yes|"), ("<|user|>\nHi\n<|assistant|>\nNo|", "No|")]),
    ({"prompt": "1+1="}, "prompts", [("1+1=", "")]),
    ({"prompt": "1+1=", "completion": "2"}, "prompts", [("1+1=2", "2")]),
    ({"messages": [USER, ANSWER]}, "prompts", [("<|user|>\nHi\n<|assistant|>\nYes", "Yes")]),
    ({"messages": [USER, ANSWER, USER]}, "prompts", [
        ("<|user|>\nHi\n<|assistant|>\nYes|\n<|user|>\nHi\n<|assistant|>\n", "")]),
])
def test_a_record_gives_these_sequences(line, kind, expected):
  assert made(line, kind) == expected


@pytest.mark.parametrize("line, kind, message", [
    ({"text": "a"}, "answers", "it has 'text': write"),
    ({"prompt": "a"}, "answers", "it has 'prompt': write"),
    ({"prompt": "a", "completion": ""}, "answers", "answer without text"),
    ({"prompt": "a", "completion": 2}, "answers", 'its "completion" is no list of messages'),
    ({"messages": [USER]}, "answers", "do not end with an answer"),
    ({"messages": [{"role": "user"}, ANSWER]}, "answers", "no text as its content"),
    ({"prompt": "a", "chosen": "b"}, "preferences", "it has 'prompt', 'chosen': write"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preferences", "are the same"),
    ({"chosen": "b", "rejected": "c"}, "preferences", "write"),
    ({"prompt": [USER], "completion": [USER]}, "answers", "does not end"),
])
def test_a_record_that_does_not_do(line, kind, message):
  with pytest.raises(ValueError, match=message):
    chat_records.parse(line, kind)


def test_parts_of_a_message_are_joined():
  parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
  assert made({"messages": [{"role": "user", "content": parts}, ANSWER]}) == made({"messages": [USER, ANSWER]})


@pytest.fixture(name="dataset")
def _dataset(tmp_path):
  """Makes the data of lines, with one or several validation lines apart."""
  def make(lines, task="local_chat_bytes", length=64, **options) -> Dataset:
    for name, some in (("train", lines), ("validation", lines[:1])):
      (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)) + "\n")
    gin.parse_config([f"LocalChat.files = '{tmp_path}/train.jsonl'",
                      f"LocalChat.validation_files = '{tmp_path}/validation.jsonl'"])
    return Dataset(DatasetConfig(task, {"targets": length}, 2, "lm", **options))

  yield make
  gin.clear_config()


def test_a_row_weighs_answers_alone(dataset):
  batch = next(dataset([{"prompt": "ab", "completion": "c"}, {"messages": [USER, ANSWER]}]).evaluation("validation"))
  ids = [*BYTES.encode("abc"), 1]
  assert batch["decoder_target_tokens"][0, :5].tolist() == [*ids, 0]
  assert batch["decoder_input_tokens"][0, :5].tolist() == [0, *ids]
  assert batch["decoder_loss_weights"][0, :5].tolist() == [0, 0, 1, 1, 0]
  assert batch["decoder_segment_ids"][0, :5].tolist() == [1, 1, 1, 1, 0]
  assert not batch["decoder_segment_ids"][1].any(), "a row of padding"


def test_packed_rows_hold_what_rows_alone_hold(dataset):
  lines = [{"prompt": "p" * i, "completion": "c" * (7 - i)} for i in range(1, 6)]
  alone = dataset(lines, length=16).train()
  packed = dataset(lines, length=16, pack=True).train()
  seen, wanted = set(), set()
  for _ in range(9):
    for batch, found in ((next(alone), wanted), (next(packed), seen)):
      for targets, inputs, weights, segments in zip(*(batch[f"decoder_{name}"] for name in (
          "target_tokens", "input_tokens", "loss_weights", "segment_ids"))):
        for number in set(segments.tolist()) - {0}:
          own = segments == number
          found.add((tuple(targets[own]), tuple(inputs[own]), tuple(weights[own])))
  assert seen == wanted and len(wanted) == 5


def test_a_pair_is_one_row_of_two_sequences(dataset):
  data = dataset([{"prompt": "a", "chosen": "b", "rejected": "cd"}], "local_preferences_bytes")
  assert data.sequences == "pairs"
  batch = next(data.evaluation("validation"))
  one, other = [*BYTES.encode("ab"), 1], [*BYTES.encode("acd"), 1]
  assert batch["decoder_target_tokens"][0, :8].tolist() == [*one, *other, 0]
  assert batch["decoder_input_tokens"][0, :8].tolist() == [0, *one[:-1], 0, *other[:-1], 0]
  assert batch["decoder_loss_weights"][0, :8].tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
  assert batch["decoder_segment_ids"][0, :8].tolist() == [1, 1, 1, 2, 2, 2, 2, 0]


def test_a_pair_that_does_not_fit_is_an_error(dataset):
  lines = [{"prompt": "a", "chosen": "b" * 30, "rejected": "c"}]
  with pytest.raises(UserError, match=r"train.jsonl:1: both answers with their prompts are 35 tokens, and a row"):
    next(dataset(lines, "local_preferences_bytes", length=16).train())


def test_prompts_stand_in_a_batch_as_often_as_is_asked(dataset):
  data = dataset([{"prompt": c} for c in "abc"], "local_prompts_bytes", length=4, repeat=2)
  batches = data.train()
  for _ in range(4):
    batch = next(batches)
    assert np.array_equal(*batch["decoder_target_tokens"])
    assert not batch["decoder_loss_weights"].any()


def test_a_resumed_stream_goes_on_and_knows_its_data(dataset):
  lines = [{"prompt": f"{i}", "completion": "c"} for i in range(7)]
  batches = dataset(lines).train()
  _, state, expected = next(batches), batches.get_state(), [next(batches) for _ in range(5)]
  again = dataset(lines).train()
  again.set_state(state)
  for batch in expected:
    assert all(np.array_equal(value, other) for value, other in zip(batch.values(), next(again).values()))
  changed = dataset([*lines[:-1], {"prompt": "6", "completion": "d"}]).train()
  with pytest.raises(UserError, match="local_chat_bytes/train"):
    changed.set_state(state)


def test_another_template_is_other_data(dataset, tmp_path):
  """A stale note of what the data held would let a run go on with other text."""
  lines = [{"messages": [USER, ANSWER]}]
  state = dataset(lines).train().get_state()
  (tmp_path / "own.jinja").write_text("{% for message in messages %}{{ message.content }};{% endfor %}")
  data = dataset(lines)
  gin.parse_config(f"ChatTemplate.source = '{tmp_path}/own.jinja'")
  with pytest.raises(UserError, match="local_chat_bytes/train"):
    data.train().set_state(state)


def test_bad_records_are_said_or_skipped(dataset, tmp_path, capfd):
  with pytest.raises(UserError, match=r"train.jsonl:1: not a JSON object such as .*\(but of type list\)"):
    next(dataset([[]]).train())
  data = dataset([{"prompt": "a", "completion": "b"}, {"prompt": "a"}])
  with pytest.raises(UserError, match=r"train.jsonl:2: it has 'prompt': write .*on_bad_record = 'skip'"):
    next(data.train())
  gin.parse_config("LocalChat.on_bad_record = 'skip'")
  next(data.train())
  assert "skipped 1 bad records of 2" in capfd.readouterr().err


@pytest.mark.parametrize("options, message", [
    ({"pack": True, "task": "local_preferences_bytes"}, "several sequences an example"),
    ({"repeat": 3}, "DatasetConfig.repeat = 3 must be 1, or a part of BATCH_SIZE = 2"),
])
def test_a_layout_that_does_not_do(dataset, options, message):
  with pytest.raises(UserError, match=message):
    dataset([{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}], **options)


def test_a_stream_would_drop_the_weights(dataset):
  dataset([{"prompt": "a", "completion": "b"}])
  with pytest.raises(UserError, match="says which tokens count"):
    Dataset(DatasetConfig("local_chat_bytes", {"targets": 8}, 2))


def test_inputs_are_read_from_left_to_right(dataset):
  """As with `prefix_lm`, but for what sees both directions."""
  name = "causal_lm_of_a_test"
  if name not in seqio.TaskRegistry.names():
    import tensorflow as tf
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
            {"inputs": "ab", "targets": "c"}), splits=("train",)),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": seqio.Feature(BYTES, add_eos=False), "targets": seqio.Feature(BYTES)})
  found = {kind: next(Dataset(DatasetConfig(name, {"inputs": 3, "targets": 3}, 1, kind)).evaluation("train"))
           for kind in ("causal_lm", "prefix_lm")}
  del found["prefix_lm"]["decoder_causal_attention"]
  assert found["causal_lm"].keys() == found["prefix_lm"].keys()
  assert all(np.array_equal(found["causal_lm"][key], found["prefix_lm"][key]) for key in found["causal_lm"])
  assert found["causal_lm"]["decoder_loss_weights"][0].tolist() == [0, 0, 1, 1, 0, 0]
