"""Trainer: its numbers are those of our own loop, resumed runs are exact, and what it leaves is a model directory."""

import dataclasses
import json
import shutil

import gin
import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x import cli, DataCollatorForLanguageModeling, GPT4LMHeadModel, GPT4Tokenizer, TextDataset, Trainer
from gpt4x.data import example_rows
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.training import loop
from gpt4x.training.metrics import read_metrics
from tests.api import small

MASKED = {"mlm": True, "mlm_probability": 0.4}


def losses(directory, split="train"):
  return [(line["step"], line["loss"]) for line in read_metrics(str(directory)) if line["split"] == split]


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module", name="blocks")
def _blocks(text):
  return TextDataset(small.make_tokenizer(), text, small.BLOCK)


@pytest.fixture(scope="module", name="trained")
def _trained(blocks, tmp_path_factory):
  """A trainer that has trained on all blocks but two, which it evaluates on; its initial parameters; what it gave."""
  model = small.make_model()
  before = model.params
  trainer = small.make_trainer(
      tmp_path_factory.mktemp("runs") / "out", [blocks[i] for i in range(8)], model, eval_dataset=blocks[8:],
      eval_strategy="steps", eval_steps=6,
      data_collator=DataCollatorForLanguageModeling(small.make_tokenizer(), mlm=False))
  return trainer, before, trainer.train()


def test_what_training_gives(trained, capsys):
  trainer, before, result = trained
  history = trainer.state.log_history
  assert result.global_step == trainer.state.global_step == trainer.state.max_steps == 6
  logged = [line for line in history if "loss" in line]
  assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6] and logged[0].keys() >= {"grad_norm", "learning_rate"}
  assert logged[0]["learning_rate"] == pytest.approx(0.01) and logged[3]["epoch"] == 2.0
  assert result.training_loss == pytest.approx(np.mean([line["loss"] for line in logged]))
  assert result.metrics["train_steps_per_second"] > 0 and result.metrics["epoch"] == 3.0
  evaluated = [line for line in history if "eval_loss" in line]
  assert [line["step"] for line in evaluated[:2]] == [0, 6] and evaluated[1]["eval_loss"] < evaluated[0]["eval_loss"]
  assert any((one != other).any() for one, other in zip(*map(jax.tree.leaves, (before, trainer.model.params))))


def test_an_evaluation_is_that_of_the_run(trained, blocks):
  """And that of the model's own call, on the parameters of now."""
  trainer, before, _ = trained
  evaluated = [line for line in trainer.state.log_history if "eval_loss" in line]
  found = trainer.evaluate()
  assert found["eval_loss"] == pytest.approx(evaluated[1]["eval_loss"], rel=1e-6)
  assert found["eval_tokens"] == 2 * small.BLOCK
  assert found["eval_perplexity"] == pytest.approx(np.exp(found["eval_loss"]))
  two = blocks[8:]
  assert found["eval_loss"] == pytest.approx(float(trainer.model(two, labels=two).loss), rel=1e-5)
  assert trainer.evaluate(two[:1])["eval_loss"] == pytest.approx(float(trainer.model(two[:1], labels=two[:1]).loss),
                                                                 rel=1e-5)
  assert float(trainer.model(two, labels=two).loss) < evaluated[0]["eval_loss"]


def test_metrics_of_one_s_own(trained, monkeypatch):
  """They are given logits as transformers has them: those at a place are for the token after it."""
  trainer, _, _ = trained

  def metrics(prediction):
    assert prediction.predictions.shape == (2, small.BLOCK, 264)
    return {"right": np.mean(prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:])}

  monkeypatch.setattr(trainer, "compute_metrics", metrics)
  found = trainer.evaluate()
  assert found["eval_right"] == pytest.approx(found["eval_accuracy"], abs=1 / small.BLOCK)  # The first counts there.


def test_what_is_left_is_a_model_directory(trained, tmp_path, capsys):
  """Which is generated from and read; evaluated and continued it is by the program alone."""
  trainer, _, _ = trained
  place = trainer.args.output_dir
  again = GPT4LMHeadModel.from_pretrained(place)
  assert_same(again.params, trainer.model.params)
  ids = again.generate(GPT4Tokenizer.from_pretrained(place)("ab", return_tensors="np").input_ids, max_new_tokens=5)
  flags = [f"--model_dir={place}", "--prompt=ab", "--max_tokens=5", "--temperature=0", "--json"]
  assert cli.main(["generate", *flags]) == 0
  assert json.loads(capsys.readouterr().out)["tokens"] == ids[0, 2:].tolist()
  assert cli.main(["export", f"--model_dir={place}", f"--output={tmp_path / 'exported'}"]) == 0
  assert_same(GPT4LMHeadModel.from_pretrained(tmp_path / "exported").params, again.params)
  for command in ("eval", "train"):
    assert cli.main([command, f"--model_dir={place}"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "by a program on data of its own (gpt4x.Trainer)" in last, command
  trainer.save_model()
  trainer.save_state()
  with pytest.raises(UserError, match="has a training run"):
    small.make_model().save_pretrained(place)


def test_a_directory_with_a_run(trained, blocks, tmp_path):
  """It is refused, gone on with where nothing is left to do, or set aside."""
  trainer, _, _ = trained
  place = tmp_path / "out"
  shutil.copytree(trainer.args.output_dir, place)
  train = [blocks[i] for i in range(8)]
  with pytest.raises(UserError, match="has a run or a model already, at step 6"):
    small.make_trainer(place, train).train()
  model = small.make_model(1)
  done = small.make_trainer(place, train, model, data_collator=trainer.data_collator).train(resume_from_checkpoint=True)
  assert done.global_step == 6 and done.metrics["train_steps_per_second"] == 0
  assert_same(model.params, trainer.model.params)
  again = small.make_trainer(place, train, model, overwrite_output_dir=True, max_steps=1)
  assert again.train().global_step == 1
  assert sorted(path.name for path in (tmp_path / "out.aside" / "checkpoints").iterdir()) == ["3", "6"]
  with pytest.raises(UserError, match="has no checkpoint: leave it out"):
    small.make_trainer(tmp_path / "none", train).train(resume_from_checkpoint=True)
  with pytest.raises(UserError, match="is no checkpoint of output_dir"):
    small.make_trainer(place, train).train(resume_from_checkpoint=tmp_path / "elsewhere" / "3")


def test_it_starts_from_where_the_model_was_read(trained, blocks, tmp_path):
  """Unless that has been changed."""
  trainer, _, _ = trained
  place = trainer.args.output_dir
  for name, change in (("as read", 0.0), ("changed", 0.5)):
    model = GPT4LMHeadModel.from_pretrained(place)
    if change:
      model.params = jax.tree.map(lambda leaf: leaf + change, model.params)
    before = model.params
    one = small.make_trainer(tmp_path / name, blocks[:4], model, learning_rate=0.0, max_steps=1)
    one.train()
    assert_same(model.params, before)
    assert (tmp_path / name / "initial").exists() == bool(change)
    assert f"train.init_from = '{tmp_path / name / 'initial' if change else place}'" in " ".join(
        (tmp_path / name / "config.gin").read_text().replace("\\\n", "").split())


# The same numbers as our own loop's.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class InOrder(DatasetConfig):
  """A task's examples, in the order of the task."""

  def open(self, vocabulary=None, token_features=None):
    return _InOrder(self, vocabulary, token_features)


class _InOrder(Dataset):

  def train(self, split="train", rows=None):
    return _Batches(example_rows.once(self.config, self._tasks(split), split, rows))


class _Batches:

  def __init__(self, batches):
    self._batches = batches

  def __iter__(self):
    return self

  def __next__(self):
    return next(self._batches)

  def get_state(self):
    return {}


def test_the_losses_are_those_of_our_own_loop(blocks, tmp_path):
  """On a seqio task of the same blocks in the same order, with the feature converter `lm`, from the same weights."""
  trainer = small.make_trainer(tmp_path / "face", blocks, data_collator=DataCollatorForLanguageModeling(
      small.make_tokenizer(), mlm=False), seed=0)
  experiment = trainer._experiment(trainer._train, None, 4)
  batches = experiment.data.train()
  order = np.concatenate([next(batches)["decoder_target_tokens"] for _ in range(8)])
  for epoch in range(3):
    assert sorted(order[10 * epoch:10 * (epoch + 1)].tolist()) == sorted(blocks.examples.tolist())
  assert not np.array_equal(order[:10], order[10:20])

  name = "face_blocks"
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"targets": order}), ["train"]),
      preprocessors=[],
      output_features={"targets": seqio.Feature(seqio.ByteVocabulary(1), add_eos=False)})
  try:
    config = trainer._config(experiment, len(blocks), None)
    dataset = InOrder(name, {"targets": small.BLOCK}, 4, feature_converter="lm")
    ours = dataclasses.replace(config, experiment=Experiment(experiment.model, dataset))
    loop.train(str(tmp_path / "ours"), ours)
  finally:
    seqio.TaskRegistry.remove(name)
  trainer.train()
  (steps, found), (same, expected) = zip(*losses(tmp_path / "face")), zip(*losses(tmp_path / "ours"))
  assert steps == same == (1, 2, 3, 4, 5, 6)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one(blocks, tmp_path):
  """Bit for bit, masks too; other examples, or other masks, are no continuation."""
  collator = lambda **more: DataCollatorForLanguageModeling(small.make_tokenizer(), **MASKED | more)
  whole = small.make_trainer(tmp_path / "out", blocks, data_collator=collator())
  whole.train()
  expected = losses(tmp_path / "out")
  resumed = small.make_trainer(tmp_path / "out", blocks, small.make_model(5), data_collator=collator())
  resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoints" / "3"))
  assert losses(tmp_path / "out") == expected
  assert_same(resumed.model.params, whole.model.params)
  assert (tmp_path / "out" / "checkpoints" / "6.aside").exists()
  other = blocks.examples.copy()
  other[9, 3] += 1
  for data, draws in ((other, collator()), (blocks, collator(seed=1))):
    with pytest.raises(UserError, match="the checkpoint's place in the data has"):
      small.make_trainer(tmp_path / "out", data, data_collator=draws, max_steps=9).train(resume_from_checkpoint=True)


def test_parts_of_a_batch_with_unequal_masks(tmp_path):
  """Their gradients are those of the whole batch, whose mean is over all labels."""
  rng = np.random.default_rng(0)
  rows = []
  for count in (1, 12, 3, 16):
    ids = rng.integers(3, 259, 16)
    rows.append({"input_ids": ids, "labels": np.where(np.arange(16) < count, ids, -100)})
  whole, parts = small.make_model(), small.make_model()
  for name, model, size in (("whole", whole, 4), ("parts", parts, 1)):
    small.make_trainer(tmp_path / name, rows, model, per_device_train_batch_size=size, max_steps=2, learning_rate=1e-3,
                       gradient_accumulation_steps=4 // size).train()
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), whole.params, parts.params)
  found = losses(tmp_path / "parts")
  np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in losses(tmp_path / "whole")], rtol=1e-5)
  first = small.make_model()
  expected = first([row["input_ids"] for row in rows], labels=[row["labels"] for row in rows]).loss
  assert found[0][1] == pytest.approx(float(expected), rel=1e-5)


def test_masks_are_filled_from_the_right_too(tmp_path):
  """The first of two equal tokens is known from the second alone: from what is behind it, and unshifted."""
  rows = np.repeat(np.random.default_rng(0).integers(10, 30, (512, 2)), 2, axis=1)
  collator = DataCollatorForLanguageModeling(small.make_tokenizer(), mlm=True, mlm_probability=0.3)
  trainer = small.make_trainer(tmp_path / "out", rows[:448], data_collator=collator, max_steps=200, logging_steps=200,
                               per_device_train_batch_size=32, save_strategy="no")
  trainer.train()
  held = rows[448:]
  hidden = held.copy()
  hidden[:, 0] = trainer.tokenizer.mask_token_id
  filled = lambda: np.argmax(trainer.model(hidden, bidirectional=True).logits, -1)
  assert (filled()[:, 0] == held[:, 0]).mean() > 0.9
  hidden[:, 1] = 10 + (hidden[:, 1] - 9) % 20  # Another neighbour on the right, another answer.
  assert (filled()[:, 0] == hidden[:, 1]).mean() > 0.9
  logits, labels, metrics = trainer.predict(held)
  assert (np.argmax(logits, -1) == labels)[labels != -100].mean() == pytest.approx(metrics["test_accuracy"])


def test_the_mesh_of_all_devices(blocks, tmp_path):
  """The batch is split over them, and the numbers are those of one device."""
  one, all_of_them = (small.make_trainer(
      tmp_path / str(size), blocks, per_device_train_batch_size=size, per_device_eval_batch_size=1, partitioner=mesh,
      eval_dataset=blocks[8:], max_steps=2) for size, mesh in ((8, small.make_arguments("").partitioner), (1, None)))
  results = [(trainer.train().training_loss, trainer.evaluate()["eval_loss"]) for trainer in (one, all_of_them)]
  assert results[1] == pytest.approx(results[0], rel=1e-4)


def test_a_run_that_is_stopped_does_not_go_on_as_if_it_were_done(blocks, tmp_path, monkeypatch):
  for number, (status, error) in enumerate([(130, KeyboardInterrupt), (75, SystemExit)]):
    monkeypatch.setattr(loop, "train", lambda *_, **__: status)
    with pytest.raises(error):
      small.make_trainer(tmp_path / str(number), blocks).train()


def test_how_activations_are_computed(blocks):
  trainer = small.make_trainer("out", blocks, bf16=True, gradient_checkpointing=True)
  config = trainer._experiment(trainer._train, None, 4).model.config
  assert (config.dtype, config.remat, trainer.model.config.dtype) == ("bfloat16", "full", "float32")


@pytest.mark.parametrize("make, message", [
    (dict(processing_class=small.make_tokenizer()), "tokenizer and processing_class, two names of one thing"),
    (dict(callbacks=[print]), "takes no callbacks here"), (dict(datas=1), "takes no datas"),
    (dict(model=3), "trains a GPT4LMHeadModel, not a int"), (dict(tokenizer=None), "Trainer needs the tokenizer"),
    (dict(args=small.make_arguments("out", eval_strategy="steps")), "needs an eval_dataset")])
def test_what_is_wrong_is_told_at_once(blocks, make, message):
  with pytest.raises(UserError, match=message):
    Trainer(**dict(model=small.make_model(), args=small.make_arguments("out"), train_dataset=blocks,
                   tokenizer=small.make_tokenizer()) | make)


def test_what_does_not_fit_is_told_before_training(blocks, tmp_path):
  with pytest.raises(UserError, match="a row of 16 tokens, and a token of the model sees n_positions = 12"):
    small.make_trainer(tmp_path / "out", blocks, small.make_model(n_positions=12)).train()
  with pytest.raises(UserError, match="train_dataset has the id 300, and the model knows 0 to 263"):
    small.make_trainer(tmp_path / "out", [[5, 300]]).train()
  with pytest.raises(UserError, match="vocab_size = 259 is smaller than the 260 ids"):
    small.make_trainer(tmp_path / "out", blocks, small.make_model(vocab_size=259)).train()
  with pytest.raises(UserError, match="there is no train_dataset"):
    small.make_trainer(tmp_path / "out", None).train()
  with pytest.raises(UserError, match="there is no eval_dataset"):
    small.make_trainer(tmp_path / "out", blocks).evaluate()
  assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_not_the_model_s(trained, blocks, tmp_path):
  """It is refused, but for one with more extra ids of bytes, such as one for a mask."""
  from gpt4x.data import vocabularies
  trainer, _, _ = trained
  words = GPT4Tokenizer(vocabularies.write_words(["a", "b"], tmp_path / "words"))
  model = GPT4LMHeadModel.from_pretrained(trainer.args.output_dir)
  with pytest.raises(UserError, match="take the model's own tokenizer"):
    small.make_trainer(tmp_path / "out", blocks, model, words)
  more = small.make_trainer(tmp_path / "out", blocks, model, small.make_tokenizer(2), max_steps=1)
  more.train()
  assert len(GPT4Tokenizer.from_pretrained(tmp_path / "out")) == 261
