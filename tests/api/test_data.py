"""Blocks of a file, collators, and what an objective is given of them."""

import os

import numpy as np
import pytest
import seqio

from gpt4x import DataCollatorForLanguageModeling, TextDataset
from gpt4x.api import layout
from gpt4x.api.collators import DefaultCollator
from gpt4x.api.examples import Examples
from gpt4x.errors import UserError
from tests.api import small


def test_blocks_of_a_file(tokenizer, text, capsys):
  data = TextDataset(tokenizer=tokenizer, file_path=str(text), block_size=16)
  ids = tokenizer.encode(text.read_text())
  assert len(data) == 10 and data[3].tolist() == ids[48:64] and data[3].dtype == np.int32
  TextDataset(tokenizer, text, 16)
  assert capsys.readouterr().err == f"gpt4x: {text}: the last 1 of 161 tokens fill no block of 16 and are left out\n"


@pytest.mark.parametrize("content, message", [
    (b"short", "has 5 tokens, fewer than a block of block_size = 16"), (b"\xff" * 40, "not UTF-8 at byte 0"),
    (None, "cannot be read .No such file")])
def test_files_of_no_use(tokenizer, tmp_path, content, message):
  if content is not None:
    (tmp_path / "text").write_bytes(content)
  with pytest.raises(UserError, match=message):
    TextDataset(tokenizer, tmp_path / "text", 16)


@pytest.mark.parametrize("cached", [False, True])
def test_a_changed_file_is_read_again(tokenizer, tmp_path, cached):
  """Of the same name, size and time; nor does another tokenizer, or a damaged cache, give what was there."""
  path, cache = tmp_path / "text", tmp_path / "cache" if cached else None
  path.write_text("abcd" * 8)
  stat = os.stat(path)
  first = TextDataset(tokenizer, path, 16, cache_dir=cache)
  path.write_text("wxyz" * 8)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  second = TextDataset(tokenizer, path, 16, cache_dir=cache)
  assert tokenizer.decode(first[0]) == "abcd" * 4 and tokenizer.decode(second[1]) == "wxyz" * 4
  if cached:
    assert len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
      file.write_bytes(file.read_bytes()[:40])
    assert tokenizer.decode(TextDataset(tokenizer, path, 16, cache_dir=cache)[0]) == "wxyz" * 4
    TextDataset(small.make_tokenizer(2), path, 16, cache_dir=cache)
    assert len(list(cache.iterdir())) == 3


def test_what_is_in_the_cache_is_taken(tokenizer, text, tmp_path, monkeypatch):
  TextDataset(tokenizer, text, 16, cache_dir=tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(type(tokenizer), "encode", None)
    assert len(TextDataset(tokenizer, text, 16, cache_dir=tmp_path)) == 10
  assert len(TextDataset(tokenizer, text, 16, overwrite_cache=True, cache_dir=tmp_path)) == 10


def test_masks(tokenizer):
  """Their shares, what is never hidden, and that one seed draws one mask."""
  collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.3, seed=5)
  rng = np.random.default_rng(0)
  rows = [rng.integers(3, 259, 1000) for _ in range(20)] + [np.array([1, 2, 0, 100] * 100)]
  batch = collator(rows)
  original = np.array(tokenizer.pad(rows).input_ids)
  hidden = batch.labels != -100
  assert hidden[:20].mean() == pytest.approx(0.3, abs=0.01)
  np.testing.assert_array_equal(batch.labels[hidden], original[hidden])
  np.testing.assert_array_equal(batch.input_ids[~hidden], original[~hidden])
  assert not hidden[20, 400:].any() and not hidden[20, :400].reshape(100, 4)[:, :3].any()
  shown, was = batch.input_ids[hidden], original[hidden]
  shares = (shown == tokenizer.mask_token_id).mean(), (shown == was).mean()
  assert shares == pytest.approx((0.8, 0.1), abs=0.02)
  assert set(shown) - {tokenizer.mask_token_id} <= set(range(3, 259))
  again = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=5)
  np.testing.assert_array_equal(again(rows).labels, batch.labels)
  assert (again(rows).labels != batch.labels).any()
  one, other, same = (collator.seeded(*numbers)(rows).labels for numbers in ((0, 1), (0, 2), (0, 1)))
  assert (one != other).any() and (one == same).all()


def test_without_masks_all_tokens_are_labels(tokenizer):
  collator = DataCollatorForLanguageModeling(tokenizer, mlm=False, pad_to_multiple_of=4)
  batch = collator([[5, 6, 0], {"input_ids": [7, 8, 9, 10, 11], "attention_mask": [0, 1, 1, 1, 1]}])
  assert batch.labels.tolist() == [[5, 6, 0] + [-100] * 5, [-100, 8, 9, 10, 11] + [-100] * 3]
  assert batch.attention_mask.tolist() == [[1] * 3 + [0] * 5, [0, 1, 1, 1, 1, 0, 0, 0]]
  left = small.make_tokenizer()
  left.padding_side = "left"
  batch = DefaultCollator(left)([{"input_ids": [5, 6], "labels": [-100, 6]}, [7, 8, 9]])
  assert batch.labels.tolist() == [[-100, -100, 6], [7, 8, 9]] and batch.input_ids.tolist() == [[0, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("make, message", [
    (lambda tokenizer: DataCollatorForLanguageModeling(small.make_tokenizer(0)), "the tokenizer has none: set mlm"),
    (lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.0), "above 0 and at most 1"),
    (lambda tokenizer: DefaultCollator(tokenizer)([{"ids": [3]}]), "takes examples with input_ids"),
    (lambda tokenizer: DefaultCollator(tokenizer)([{"input_ids": [3], "labels": [3, 4]}]), "labels .2. beside 1"),
    (lambda tokenizer: Examples(iter([[3]]), "mine"), "mine is a list_iterator without a length"),
    (lambda tokenizer: Examples([], "mine"), "mine has no examples"),
    (lambda tokenizer: Examples({"train": [[3]]}, "mine"), "mine has several datasets .train."),
    (lambda tokenizer: Examples([[3], [0.5]], "mine").content, r"mine\[1\] has input_ids float64 \[1\]"),
    (lambda tokenizer: Examples([{"text": "a"}], "mine").content, r"mine\[0\] has text: give it input_ids")])
def test_what_is_wrong_is_told(tokenizer, make, message):
  with pytest.raises(UserError, match=message):
    make(tokenizer)


def test_the_layout_is_that_of_seqio_s_converter():
  import tensorflow as tf
  ids = np.array([[5, 6, 7, 8], [9, 10, 0, 0]], np.int32)
  rows = seqio.LMFeatureConverter(pack=False)(tf.data.Dataset.from_tensor_slices({"targets": ids}), {"targets": 6})
  expected = next(rows.batch(2).as_numpy_iterator())
  found = layout.decoder_features({"input_ids": ids, "attention_mask": ids > 0}, 6, 0, mlm=False)
  assert found.keys() == expected.keys() | {"decoder_segment_ids"}
  real = expected["decoder_target_tokens"] > 0
  np.testing.assert_array_equal(found["decoder_segment_ids"], real)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value * real, err_msg=name)  # What padding reads is never seen.


def test_the_layout_of_masks_is_not_shifted():
  batch = {"input_ids": [[5, 99, 7]], "attention_mask": [[1, 1, 1]], "labels": [[-100, 6, -100]]}
  found = {name: value.tolist() for name, value in layout.decoder_features(batch, 4, 0, mlm=True).items()}
  assert found == {"decoder_input_tokens": [[5, 99, 7, 0]], "decoder_target_tokens": [[5, 6, 7, 0]],
                   "decoder_loss_weights": [[0, 1, 0, 0]], "decoder_segment_ids": [[1, 1, 1, 0]],
                   "decoder_causal_attention": [[1, 1, 1, 0]]}


def test_the_layout_of_padding_in_front():
  batch = {"input_ids": [[0, 0, 5, 6]], "attention_mask": [[0, 0, 1, 1]]}
  found = {name: value.tolist() for name, value in layout.decoder_features(batch, 5, 77, mlm=False).items()}
  assert found["decoder_input_tokens"] == [[0, 0, 77, 5, 0]] and found["decoder_loss_weights"] == [[0, 0, 1, 1, 0]]
