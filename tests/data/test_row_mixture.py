"""Parts side by side in a batch: each is what it would be by itself, and a run goes on where it stopped."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gpt4x.data.dataset import DatasetConfig
from gpt4x.data.denoised_text import hide_spans, mask_tokens
from gpt4x.data.infilling import infill
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.row_mixture import PART, RowMixture
from gpt4x.data.vocabularies import MarkedVocabulary, Marks
from gpt4x.errors import UserError

MARKS = Marks(spans=9)
TEXTS = {"train": [f"{'the quick brown fox ' * (1 + i % 4)}number {i}" for i in range(12)],
         "validation": ["jumps over the lazy dog", "and runs " * 9]}
FEATURES = {"decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights", "decoder_segment_ids",
            "decoder_causal_attention"}
L = 32


def add(name, steps, *beside, add_eos=True):
  feature = lambda eos: seqio.Feature(MarkedVocabulary(MARKS), add_eos=eos)
  features = {"targets": feature(add_eos)} | ({"inputs": feature(False)} if beside else {})
  if "weights" in beside:
    features["weights"] = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
  source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
      {"text": TEXTS[split]}), splits=list(TEXTS))
  seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=features)


@pytest.fixture(autouse=True, scope="module")
def tasks(tmp_path_factory):
  ids = [text_to_targets, tokenize]
  add("row_text", [*ids, append_eos])
  add("row_infill", [infill, append_eos])
  add("row_spans", [*ids, hide_spans, append_eos], "inputs")
  add("row_masked", [*ids, mask_tokens], "inputs", "weights", add_eos=False)
  seqio.TaskRegistry.add("row_other", source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"text": TEXTS[split]}),
      splits=list(TEXTS)), preprocessors=[*ids, append_eos],
      output_features={"targets": seqio.Feature(seqio.ByteVocabulary())})
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("GPT4X_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    yield
  for name in list(seqio.TaskRegistry.names()):
    if name.startswith("row_"):
      seqio.TaskRegistry.remove(name)


def config(kind, rows=2, converter="stream", **kwargs):
  lengths = {"inputs": 20, "targets": L - 20} if converter == "prefix_lm" else {"targets": L}
  return DatasetConfig(f"row_{kind}", lengths, rows, converter, **kwargs)


PARTS = {"text": config("text", 3), "infill": config("infill", 1), "spans": config("spans", 2, "prefix_lm"),
         "masked": config("masked", 2, "masked_lm")}
MIXTURE = RowMixture(PARTS, weights={"spans": 0.5})


def rows_of(batch, name):
  """A part's own rows, with what else they are marked with."""
  mine = batch[f"{PART}{name}"][:, 0] == 1
  return {feature: value[mine] for feature, value in batch.items() if not feature.startswith(PART)}


def test_each_part_is_what_it_is_by_itself():
  mixed, apart = MIXTURE.open().train(), {name: one.open().train() for name, one in PARTS.items()}
  for _ in range(4):
    batch = next(mixed)
    assert {name for name in batch if not name.startswith(PART)} == FEATURES
    assert all(value.shape == (8, L) for value in batch.values())
    assert sum(batch[f"{PART}{name}"] for name in PARTS).tolist() == np.ones((8, L), int).tolist()
    for name, alone in apart.items():
      mine, expected = rows_of(batch, name), next(alone)
      for feature in ("decoder_input_tokens", "decoder_target_tokens"):
        np.testing.assert_array_equal(mine[feature], expected[feature], err_msg=f"{name} {feature}")
      weight = MIXTURE.weights.get(name, 1.0)
      np.testing.assert_allclose(mine["decoder_loss_weights"], weight * expected["decoder_loss_weights"])
      np.testing.assert_array_equal(mine["decoder_causal_attention"], expected.get(
          "decoder_causal_attention", np.zeros_like(mine["decoder_causal_attention"])))
      np.testing.assert_array_equal(mine["decoder_segment_ids"] > 0, expected["decoder_segment_ids"] > 0)


def test_examples_see_nothing_of_the_batches_before():
  """What the memory holds has other documents' numbers, though a stream goes on in its own."""
  batches = list(itertools.islice(MIXTURE.open().train(), 6))
  ids = np.concatenate([batch["decoder_segment_ids"] for batch in batches], 1)
  for row in range(8):
    found = [set(ids[row, i * L:(i + 1) * L].tolist()) - {0} for i in range(6)]
    shared = [bool(one & other) for one, other in itertools.combinations(found, 2)]
    assert not any(shared) if row >= 4 else any(shared)


def test_a_run_goes_on_where_it_stopped():
  mixed = MIXTURE.open().train()
  for _ in range(3):
    next(mixed)
  state = mixed.get_state()
  again = MIXTURE.open().train()
  again.set_state(state)
  for _ in range(3):
    expected, found = next(mixed), next(again)
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)
  others = RowMixture(PARTS | {"text": config("text", 4)}, MIXTURE.weights).open().train()
  with pytest.raises(UserError, match="parts {'text': 3, .*but this run has {'text': 4"):
    others.set_state(state)


def test_hosts_have_their_rows():
  whole, shares = MIXTURE.open().train(), [MIXTURE.open().train(rows=rows) for rows in (range(4), range(4, 8))]
  for _ in range(3):
    expected, found = next(whole), [next(one) for one in shares]
    for name, value in expected.items():
      np.testing.assert_array_equal(np.concatenate([one[name] for one in found]), value, err_msg=name)


def test_evaluation_is_as_long_on_every_host():
  counts = [len(list(MIXTURE.open().evaluation("validation", rows))) for rows in (None, range(4), range(4, 8))]
  assert len(set(counts)) == 1


def test_evaluation_has_each_part_once():
  data = MIXTURE.open()
  batches = list(data.evaluation("validation"))
  for name, one in PARTS.items():
    expected = list(one.open().evaluation("validation"))
    tokens = lambda batch: batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0].tolist()
    assert [tokens(rows_of(batch, name)) for batch in batches if tokens(rows_of(batch, name))] == [
        tokens(batch) for batch in expected if tokens(batch)], name
  assert {frozenset(batch) for batch in batches} == {frozenset(FEATURES | {PART + name for name in PARTS})}


@pytest.mark.parametrize("parts, weights, message", [
    ({"text": config("text"), "masked": DatasetConfig("row_masked", {"targets": 8}, 2, "masked_lm")}, {},
     r"RowMixture.parts have rows of \{'text': 32, 'masked': 8\} positions"),
    ({"Text": config("text")}, {}, "RowMixture.parts = .* must name each part in small letters"),
    ({}, {}, "RowMixture.parts"),
    ({"text": config("text")}, {"spans": 1.0}, "RowMixture.weights has 'spans': 1.0, and the parts are text"),
    ({"text": config("text")}, {"text": -1.0}, "RowMixture.weights has 'text': -1.0"),
])
def test_what_does_not_fit_is_refused(parts, weights, message):
  with pytest.raises(UserError, match=message):
    RowMixture(parts, weights)


def test_vocabularies_that_differ_are_refused():
  with pytest.raises(UserError, match="row_text and row_other differ in their vocabulary"):
    RowMixture({"text": config("text"), "other": config("other")}).open()


# Masked tokens, as the rows have them.


def test_what_is_masked_is_predicted_where_it_stands():
  data = config("masked", 2, "masked_lm").open()
  vocabulary, batch = data.vocabulary, next(data.train())
  real, hidden = batch["decoder_segment_ids"] > 0, batch["decoder_loss_weights"] > 0
  targets, inputs = batch["decoder_target_tokens"], batch["decoder_input_tokens"]
  np.testing.assert_array_equal(batch["decoder_causal_attention"] > 0, real)
  np.testing.assert_array_equal(inputs[real & ~hidden], targets[real & ~hidden])
  assert not hidden[~real].any(), "padding is never masked"
  assert not (targets == vocabulary.mark("<mask>")).any() and (inputs == vocabulary.mark("<mask>")).any()
  texts = [vocabulary.decode(row[mask].tolist()) for row, mask in zip(targets, real)]
  assert all(any(text in whole for whole in TEXTS["train"]) for text in texts)


def test_neither_ends_nor_marks_are_masked():
  """Whatever a document has of them: they are no text. What stands in for text is the mask, or text."""
  vocabulary = MarkedVocabulary(MARKS).held()
  specials = [vocabulary.eos_id, *vocabulary.special_tokens]
  ids = np.resize([*vocabulary.encode("the quick brown fox"), vocabulary.eos_id, vocabulary.span_id(0)], 600)
  documents = tf.data.Dataset.from_tensors({"targets": ids.astype(np.int32)})
  feature = {"targets": seqio.Feature(vocabulary, add_eos=False)}
  for share in (0.15, 0.95):
    with seqio.utils.map_seed_manager(initial_seed=3):
      found, = mask_tokens(documents, feature, {"targets": 600}, share=share).as_numpy_iterator()
    hidden, inputs = found["weights"] > 0, found["inputs"]
    assert not np.isin(ids[hidden], specials).any()
    assert hidden.sum() == pytest.approx(share * (~np.isin(ids, specials)).sum(), abs=1)
    shown = np.setdiff1d(inputs[hidden], [vocabulary.mark("<mask>")])
    assert len(shown) > 3 and not np.isin(shown, specials).any() and shown.min() >= 3


def test_masks_differ_from_epoch_to_epoch():
  stream = config("masked", 4, "masked_lm").open().train()
  seen = {}
  for batch in itertools.islice(stream, 20):
    for targets, weights in zip(batch["decoder_target_tokens"], batch["decoder_loss_weights"]):
      seen.setdefault(tuple(targets.tolist()), set()).add(tuple(weights.tolist()))
  assert max(map(len, seen.values())) > 2


def test_spans_leave_no_text_out():
  """What inputs and targets of a document tell is the document."""
  data = DatasetConfig("row_spans", {"inputs": 20, "targets": 12}, 1, "prefix_lm").open()
  vocabulary, found = data.vocabulary, []
  for batch in data.evaluation("validation"):
    for row in range(len(batch["decoder_target_tokens"])):
      ids = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] > 0].tolist()
      weights = batch["decoder_loss_weights"][row][:len(ids)]
      inputs, targets = ids[:int((weights == 0).sum())], ids[int((weights == 0).sum()):]
      marks = {vocabulary.span_id(i): [] for i in range(9)}
      for token in targets[:-1]:
        if token in marks:
          mark = token
        else:
          marks[mark].append(token)
      found.append(vocabulary.decode([one for token in inputs for one in marks.get(token, [token])]))
      assert targets[-1] == vocabulary.eos_id
  assert "".join(found) == "".join(TEXTS["validation"])
