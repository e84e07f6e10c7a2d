"""GPT4LMHeadModel: its numbers by the objectives and the engine, and where it is read from and written."""

import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from gpt4x import cli, GPT4Config, GPT4LMHeadModel, GPT4Tokenizer
from gpt4x.api import pretrained
from gpt4x.errors import UserError
from gpt4x.models.sums import metrics
from gpt4x.objectives.next_token import NextToken
from gpt4x.training.state import run_keys
from tests.api import small
from tests.interop import llama

IDS = np.random.default_rng(0).integers(3, 259, (2, 12), dtype=np.int32)


def test_the_loss_is_that_of_a_likelihood_run(model):
  """Of what seqio's converter makes of the same blocks: every token counts, the first behind the start id."""
  converter = seqio.LMFeatureConverter(pack=False)
  import tensorflow as tf
  rows = converter(tf.data.Dataset.from_tensor_slices({"targets": IDS}), {"targets": IDS.shape[1]})
  batch = {name: jnp.asarray(value) for name, value in next(rows.batch(2).as_numpy_iterator()).items()}
  batch["decoder_segment_ids"] = jnp.ones_like(batch["decoder_input_tokens"])
  batch["decoder_loss_weights"] = batch["decoder_loss_weights"].astype(jnp.float32)  # As our data has them.
  lm = model.language_model
  sums, _ = NextToken()(lm, model.params, {}, batch, lm.initial_memory(2, 0), None)
  output = model(IDS, labels=IDS)
  np.testing.assert_allclose(output.loss, metrics(sums)["loss"], rtol=1e-6)
  log_probs = jax.nn.log_softmax(model(IDS).logits)
  rest = -np.take_along_axis(np.asarray(log_probs[:, :-1]), IDS[:, 1:, None], 2)
  ignored = np.where(np.arange(12) == 0, -100, IDS)
  np.testing.assert_allclose(model(IDS, labels=ignored).loss, rest.mean(), rtol=1e-5)


def test_fresh_weights_are_those_of_a_run(model):
  expected = jax.jit(model.language_model.init)(run_keys(0)[0])
  assert jax.tree.all(jax.tree.map(lambda one, other: bool((one == other).all()), model.params, expected))
  assert model.num_parameters() == model.config.transformer.num_params()
  assert model.num_parameters() == sum(leaf.size for leaf in jax.tree.leaves(model.params))


@pytest.mark.parametrize("changes", [{}, dict(positions="relative", memory_length=6, n_positions=10)],
                         ids=["rotary", "relative"])
def test_a_text_in_pieces_has_the_same_logits(model, changes):
  """Also where it is longer than what a token sees."""
  model = small.make_model(**changes) if changes else model
  ids = np.random.default_rng(1).integers(3, 259, (2, 30), dtype=np.int32)
  whole = model(ids, labels=ids)
  past, found = None, []
  for piece in np.split(ids, [6, 18], axis=1):
    output = model(piece, past_key_values=past)
    past = output.past_key_values
    found.append(output.logits)
  np.testing.assert_allclose(np.concatenate(found, 1), whole.logits, rtol=2e-4, atol=2e-5)
  assert model(ids, use_cache=False).past_key_values is None


def test_padding_changes_nothing(model):
  row = IDS[:1, :7]
  alone = model(row, labels=row)
  for side in ("left", "right"):
    pad = (3, 0) if side == "left" else (0, 3)
    ids, mask = (np.pad(value, ((0, 0), pad)) for value in (row, np.ones_like(row)))
    output = model(ids, attention_mask=mask, labels=ids)
    np.testing.assert_allclose(output.loss, alone.loss, rtol=1e-5)
    np.testing.assert_allclose(output.logits[mask > 0], alone.logits[0], rtol=2e-4, atol=2e-5)


def test_both_sides_are_seen_where_that_is_asked_for(model):
  """And nothing is shifted: the logits at a place follow from the last token as well as from the first."""
  other = IDS.copy()
  other[:, -1] = 3 + (other[:, -1] - 2) % 256
  causal, both = (np.abs(np.asarray(model(IDS, bidirectional=b).logits - model(other, bidirectional=b).logits)).max(2)
                  for b in (False, True))
  assert not causal[:, :-1].any() and (both > 1e-6).all()


def test_the_likeliest_tokens(model):
  """Step by step by the model's own logits, also behind padding and beyond what a token sees."""
  prompts = [IDS[0, :5], IDS[1, :2]]
  ids, mask = np.zeros((2, 5), np.int32), np.zeros((2, 5), np.int32)
  for row, prompt in enumerate(prompts):
    ids[row, 5 - len(prompt):], mask[row, 5 - len(prompt):] = prompt, 1
  found = model.generate(ids, attention_mask=mask, max_new_tokens=24)
  assert found.dtype == np.int32 and found.shape == (2, 29)
  np.testing.assert_array_equal(found[:, :5], ids)
  for row, prompt in enumerate(prompts):
    whole = np.concatenate([prompt, found[row, 5:]])[None]
    np.testing.assert_array_equal(np.argmax(model(whole).logits[0, len(prompt) - 1:-1], -1), found[row, 5:])
  assert model.generate(max_new_tokens=3).shape == (1, 3)


def test_draws_are_a_row_s_own(model):
  draw = lambda ids, **more: model.generate(ids, max_new_tokens=6, do_sample=True, top_k=50, **more)
  two = draw(IDS[:2, :3], num_return_sequences=2, seed=1)
  np.testing.assert_array_equal(two[2:], draw(IDS[1:2, :3], num_return_sequences=2, seed=1))
  assert (two[0] != two[1]).any() and (draw(IDS[:1, :3], seed=2)[0] != two[0]).any()


def test_a_row_that_ends_is_filled_up(model):
  free = model.generate(IDS[:2, :4], max_new_tokens=8)[:, 4:]
  eos = int(free[0, 2])
  found = model.generate(IDS[:2, :4], max_new_tokens=8, eos_token_id=eos, pad_token_id=7)[:, 4:]
  for row, expected in zip(found, free):
    ends = np.flatnonzero(expected == eos)
    length = ends[0] + 1 if ends.size else len(expected)
    np.testing.assert_array_equal(row[:length], expected[:length])
    assert (row[length:] == 7).all()


@pytest.mark.parametrize("call, message", [
    (lambda model: model([[3, 400]]), "input_ids has the id 400, and the model knows 0 to 263"),
    (lambda model: model([3, 4]), "give whole numbers in rows"), (lambda model: model([[3], [4, 5]]), "pad them"),
    (lambda model: model([[3, 4]], labels=[[3]]), "beside input_ids"),
    (lambda model: model.generate([[3]], num_return_sequences=2), "set do_sample=True"),
    (lambda model: model.generate([[3]], num_beams=4), "generate has no num_beams"),
    (lambda model: setattr(model, "params", {}), "not the parameters of this model")],
    ids=["id", "flat", "ragged", "labels", "alike", "beams", "params"])
def test_what_is_wrong_is_told(model, call, message):
  with pytest.raises(UserError, match=message):
    call(model)


# Names.


def test_saved_and_read_again(model, tmp_path, capsys):
  """By this class, and by the command line; once more is a newer checkpoint, and nothing of the first is lost."""
  place = tmp_path / "saved"
  small.make_tokenizer().save_pretrained(place)
  model.save_pretrained(place)
  again = GPT4LMHeadModel.from_pretrained(place)
  np.testing.assert_array_equal(again(IDS).logits, model(IDS).logits)
  assert again.config.to_dict() == model.config.to_dict() | {"eos_token_id": 1, "pad_token_id": 0}
  assert GPT4Config.from_pretrained(place) == again.config and again.checkpoint == (str(place), 0)
  assert GPT4LMHeadModel.from_pretrained(place, n_positions=50).config.n_positions == 50
  ids = again.generate(GPT4Tokenizer.from_pretrained(place)("ab", return_tensors="np").input_ids, max_new_tokens=5)
  flags = [f"--model_dir={place}", "--prompt=ab", "--max_tokens=5", "--temperature=0", "--json"]
  assert cli.main(["generate", *flags]) == 0
  assert json.loads(capsys.readouterr().out)["tokens"] == ids[0, 2:].tolist()
  again.params = jax.tree.map(lambda leaf: leaf + 1, again.params)
  assert again.checkpoint is None
  again.save_pretrained(place)
  assert GPT4LMHeadModel.from_pretrained(place).checkpoint == (str(place), 1)
  assert sorted(path.name for path in (place / "checkpoints").iterdir()) == ["0", "1"]


def test_a_compressed_model_is_read(model, tmp_path):
  """As arrays, which can be trained; what they are read from is not where a run could start."""
  small.make_tokenizer().save_pretrained(tmp_path / "saved")
  model.save_pretrained(tmp_path / "saved")
  flags = [f"--model_dir={tmp_path / 'saved'}", f"--output={tmp_path / 'int8'}", "--quantize=int8", "--max_batches=0"]
  assert cli.main(["compress", *flags]) == 0
  found = GPT4LMHeadModel.from_pretrained(tmp_path / "int8")
  assert found.checkpoint is None and not np.array_equal(found(IDS).logits, model(IDS).logits)
  np.testing.assert_allclose(found(IDS).logits, model(IDS).logits, atol=0.05)


def test_a_model_that_ships_with_the_package(model, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "shipped")
  model.save_pretrained(tmp_path / "shipped" / "gpt4")
  np.testing.assert_array_equal(GPT4LMHeadModel.from_pretrained("gpt4")(IDS).logits, model(IDS).logits)
  with pytest.raises(UserError, match=r"no model './gpt5'.*with gpt4x come: gpt4.*correct the path"):
    GPT4LMHeadModel.from_pretrained("./gpt5")


def test_a_directory_in_the_layout_of_hugging_face(tmp_path):
  config = llama.make_config("smollm")
  tensors = llama.make_tensors(config)
  place = llama.write(tmp_path / "smollm", config, tensors)
  llama.write_tokenizer(place)
  model = GPT4LMHeadModel.from_pretrained(place, dtype="float32")
  tokenizer = GPT4Tokenizer.from_pretrained(place)
  ids = tokenizer("w3 w1 w9", return_tensors="np").input_ids
  assert (model.config.bos_token_id, model.config.eos_token_id, model.config.n_positions) == (1, 2, 64)
  expected = llama.forward(tensors, config, np.array([1, *ids[0]]))[1:]
  np.testing.assert_allclose(model(ids).logits[0], expected, rtol=1e-3, atol=1e-4)
  assert GPT4Config.from_pretrained(place).to_dict() == model.config.to_dict() | {"dtype": "auto"}
  model.save_pretrained(tmp_path / "saved")
  np.testing.assert_array_equal(GPT4LMHeadModel.from_pretrained(tmp_path / "saved")(ids).logits, model(ids).logits)
  assert GPT4Tokenizer.from_pretrained(tmp_path / "saved").encode("w3") == tokenizer.encode("w3")
  assert (tmp_path / "saved" / "chat_template.jinja").exists()
  shutil.rmtree(tmp_path / "saved" / "checkpoints")
  with pytest.raises(UserError, match="has no model"):
    GPT4LMHeadModel.from_pretrained(tmp_path / "saved")


class _NoHub(types.ModuleType):

  def snapshot_download(self, name, **_):
    raise ConnectionError(f"cannot reach\nthe hub for {name}")


@pytest.mark.parametrize("hub, remedy", [
    (None, "pip install huggingface_hub"),
    (_NoHub("huggingface_hub"), "ConnectionError: cannot reach the hub for gpt9")], ids=["absent", "failing"])
def test_an_unknown_name_is_one_line_without_a_network(monkeypatch, tmp_path, hub, remedy):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  for cls in (GPT4LMHeadModel, GPT4Tokenizer, GPT4Config):
    with pytest.raises(UserError, match="no model 'gpt9'") as error:
      cls.from_pretrained("gpt9")
    assert remedy in str(error.value) and "\n" not in str(error.value) and error.value.__suppress_context__


def test_the_hub_s_answer_is_read(monkeypatch, tmp_path):
  hub = types.ModuleType("huggingface_hub")
  config = llama.make_config("llama")
  place = llama.write(tmp_path / "cache", config, llama.make_tensors(config))
  hub.snapshot_download = lambda name, **_: str(place) if name == "someone/llama" else None
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  assert GPT4Config.from_pretrained("someone/llama").n_layer == 2
