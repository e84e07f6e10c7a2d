import collections
import itertools
import json
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from gpt4x.data import stream
from gpt4x.errors import UserError

# The first example pays for imports, and grain's shuffle takes milliseconds for a document of so small a corpus.
few_examples = hypothesis.settings(deadline=None, max_examples=25)
documents_strategy = st.lists(st.integers(1, 40), min_size=1, max_size=12)


class Whole:
  """What no fake store fails in."""
  num_ids, start_id = 2**31, 0

  def check(self, patience=None):
    pass


class FakeStore(Whole):
  """Document d is 1000 * d + 1, 1000 * d + 2, ... , so that each token tells where it is from."""

  def __init__(self, lengths, name="task/train", first=0):
    self.documents = [1000 * (first + i) + 1 + np.arange(n, dtype=np.uint32) for i, n in enumerate(lengths)]
    self.name = name
    self.fingerprint = f"{name} {lengths}"
    self.num_tokens, self.longest = sum(lengths), max(lengths)

  def __len__(self):
    return len(self.documents)

  def __getitem__(self, index):
    return self.documents[index]

  def lengths(self):
    return np.array([len(document) for document in self.documents])


class HugeStore(Whole):
  """Very many documents of three tokens, made when asked for."""
  name, fingerprint, longest = "huge/train", "huge", 3

  def __init__(self, size):
    self.size, self.num_tokens, self.asked = size, 3 * size, []

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    self.asked.append(index)
    return np.array([index % 1000, 1, 2], np.uint16)

  def lengths(self):
    raise AssertionError("reads every document's length")


def make(lengths, batch_size=4, segment_length=8, **kwargs):
  return stream.SegmentStream([FakeStore(lengths)], batch_size=batch_size, segment_length=segment_length, **kwargs)


def take(iterator, count):
  batches = list(itertools.islice(iterator, count))
  return {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in batches[0]}


def assert_equal(left, right):
  assert left.keys() == right.keys()
  for name in left:
    np.testing.assert_array_equal(left[name], right[name], name)


@pytest.fixture
def short_pieces(monkeypatch):
  monkeypatch.setattr(stream, "SHORTEST_PIECE", 4)


def check_rows(row, number_of_documents):
  """Documents of one row end to end, each whole and in order, the last one perhaps not finished. Returns their ids."""
  targets, inputs = row["decoder_target_tokens"], row["decoder_input_tokens"]
  starts = np.flatnonzero(np.diff(row["decoder_segment_ids"], prepend=0))
  documents = []
  for start, stop in zip(starts, [*starts[1:], len(targets)]):
    document, first = divmod(int(targets[start]), 1000)
    assert first == 1 and 0 <= document < number_of_documents
    np.testing.assert_array_equal(targets[start:stop], targets[start] + np.arange(stop - start))
    np.testing.assert_array_equal(inputs[start:stop], [0, *targets[start:stop - 1]])
    documents.append((document, stop - start))
  np.testing.assert_array_equal(row["decoder_loss_weights"], 1)
  assert row["decoder_segment_ids"].min() > 0
  return documents


@few_examples
@hypothesis.given(documents_strategy, st.integers(1, 5), st.integers(1, 17), st.integers(0, 3))
def test_rows_are_whole_documents_end_to_end(lengths, batch_size, segment_length, seed):
  batches = take(make(lengths, batch_size, segment_length, seed=seed), 6)
  for i in range(batch_size):
    documents = check_rows({name: value[i] for name, value in batches.items()}, len(lengths))
    assert all(lengths[document] == length for document, length in documents[:-1])


def test_batch_types_and_shapes():
  batch = next(make([5, 9], batch_size=3, segment_length=7))
  assert list(batch) == [
      "decoder_target_tokens", "decoder_input_tokens", "decoder_segment_ids", "decoder_loss_weights"]
  assert {value.shape for value in batch.values()} == {(3, 7)}
  assert [value.dtype.name for value in batch.values()] == ["int32"] * 3 + ["float32"]


@few_examples
@hypothesis.given(documents_strategy, st.integers(1, 4))
def test_each_epoch_visits_every_document_once(lengths, batch_size):
  # Row i reads the global documents i, i + B, ...: interleaving the rows' documents gives the global order.
  segments = make(lengths, batch_size, segment_length=40)
  rows = [collections.deque() for _ in range(batch_size)]
  epochs = 2
  needed = -(-epochs * len(lengths) // batch_size)
  while min(map(len, rows)) < needed + 1:
    batch = next(segments)
    for i, row in enumerate(rows):
      targets = batch["decoder_target_tokens"][i]
      row.extend((targets[targets % 1000 == 1] // 1000).tolist())
  order = [row[k] for k in range(needed) for row in rows][:epochs * len(lengths)]
  for epoch in range(epochs):
    assert sorted(order[epoch * len(lengths):(epoch + 1) * len(lengths)]) == list(range(len(lengths)))


def order_of(seed, name="task/train", epochs=2, size=30):
  store = FakeStore([1] * size, name)
  batches = take(stream.SegmentStream([store], batch_size=1, segment_length=size, seed=seed), epochs)
  return (batches["decoder_target_tokens"].reshape(epochs, size) // 1000).tolist()


def test_order_differs_between_epochs_seeds_and_tasks():
  orders = [*order_of(0), *order_of(1), *order_of(0, "other/train")]
  assert len(set(map(tuple, orders))) == 6
  assert order_of(0) == order_of(0)


@few_examples
@hypothesis.given(
    documents_strategy, st.sampled_from([1, 2, 4]), st.integers(1, 17), st.integers(0, 8), st.sampled_from([4, 1000]))
def test_restored_stream_continues_identically(lengths, batch_size, segment_length, stop, shortest_piece):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, "SHORTEST_PIECE", shortest_piece)
    whole = make(lengths, batch_size, segment_length)
    for _ in range(stop):
      next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    restored = make(lengths, batch_size, segment_length)
    restored.set_state(state)
    assert restored.get_state() == state
    assert_equal(take(restored, 3), take(whole, 3))


def test_state_does_not_change_after_it_was_taken():
  segments = make([3, 20, 5])
  state = segments.get_state()
  saved = json.dumps(state)
  next(segments)
  assert json.dumps(state) == saved != json.dumps(segments.get_state())


@few_examples
@hypothesis.given(documents_strategy, st.sampled_from([1, 2, 4]))
def test_hosts_rows_concatenated_are_one_hosts_batch(lengths, hosts):
  whole = make(lengths)
  share = 4 // hosts
  parts = [make(lengths, rows=range(host * share, (host + 1) * share)) for host in range(hosts)]
  for _ in range(5):
    batch = next(whole)
    shares = [next(part) for part in parts]
    assert_equal({name: np.concatenate([part[name] for part in shares]) for name in batch}, batch)
    assert all(part.get_state() == whole.get_state() for part in parts)


def test_saved_on_two_hosts_continues_on_one():
  whole, half = make([3, 20, 5, 9]), make([3, 20, 5, 9], rows=range(2, 4))
  for _ in range(7):
    next(whole), next(half)
  other = make([3, 20, 5, 9])
  other.set_state(half.get_state())
  assert_equal(next(other), next(whole))


def test_state_is_a_few_numbers_a_row():
  batch_size = 256
  store = HugeStore(10_000_000)
  segments = stream.SegmentStream([store], batch_size=batch_size, segment_length=64)
  state = segments.get_state() | {"documents": [10**9] * batch_size, "offsets": [10**6] * batch_size}
  segments.set_state(state)
  assert len(json.dumps(segments.get_state())) < 300 + 24 * batch_size


def test_ten_million_documents_are_not_walked_through():
  store = HugeStore(10_000_000)
  segments = stream.SegmentStream([store], batch_size=8, segment_length=6)
  far = 25_000_000_000  # Documents a row; beyond 32 bits.
  segments.set_state(segments.get_state() | {"documents": [far] * 8, "offsets": [1] * 8})
  assert not store.asked
  batch = next(segments)
  assert len(store.asked) == 8 * 3
  assert len(set(store.asked)) == 8 * 3 and max(store.asked) < len(store)
  np.testing.assert_array_equal(np.diff(batch["decoder_segment_ids"]) > 0, [[False, True, False, False, True]] * 8)
  assert 0 < batch["decoder_segment_ids"].min() and batch["decoder_segment_ids"].max() <= 2**30
  assert segments.get_state()["documents"] == [far + 2] * 8


def test_shuffle_is_a_permutation_beyond_32_bits():
  store = HugeStore(2**33)
  segments = stream.SegmentStream([store], batch_size=1, segment_length=3)
  segments.set_state(segments.get_state() | {"documents": [2**32 - 1000]})
  for _ in range(2000):
    next(segments)
  assert len(set(store.asked)) == 2000 and max(store.asked) > 2**32


def test_segment_ids_stay_positive_and_differ_where_they_wrap():
  segments = make([2], batch_size=1, segment_length=4)
  segments.set_state(segments.get_state() | {"documents": [2**30 - 1]})
  assert next(segments)["decoder_segment_ids"].tolist() == [[2**30, 2**30, 1, 1]]


@pytest.mark.parametrize("change,said", [
    ({"batch_size": 2}, "batch_size 4, but this run has 2"),
    ({"segment_length": 16}, "segment_length 8, but this run has 16"),
    ({"seed": 1}, "seed 0, but this run has 1"),
    ({"lengths": [5, 7]}, "fingerprint of tokens"),
])
def test_state_of_other_data_is_refused(change, said):
  saved = make([5, 6]).get_state()
  with pytest.raises(UserError, match=said) as error:
    make(**({"lengths": [5, 6]} | change)).set_state(saved)
  assert "\n" not in str(error.value)


def mixture(rates, batch_size=4, segment_length=16, **kwargs):
  stores = [FakeStore([3] * 1000, "first/train"), FakeStore([3] * 700, "second/train", first=2000)]
  return stream.SegmentStream(stores, rates=rates, batch_size=batch_size, segment_length=segment_length, **kwargs)


def second_task(batches):
  """1 where a document of the second task begins, 0 where one of the first does, for each row."""
  return [(row[row % 1000 == 1] >= 2_000_000).astype(int) for row in batches["decoder_target_tokens"]]


@pytest.mark.parametrize("rates", [[1, 1], [3, 1], [0.2, 1.8]])
def test_mixture_has_its_rates_in_every_row(rates):
  rows = second_task(take(mixture(rates), 300))
  expected = rates[1] / sum(rates)
  assert abs(np.concatenate(rows).mean() - expected) < 0.02
  for row in rows:  # Without windows, rows of [1, 1] would have one task each.
    assert abs(row.mean() - expected) < 0.08


def test_mixture_is_deterministic_and_continues():
  whole, other = mixture([2, 1]), mixture([2, 1])
  assert_equal(take(whole, 9), take(other, 9))
  restored = mixture([2, 1])
  restored.set_state(json.loads(json.dumps(whole.get_state())))
  assert_equal(take(restored, 9), take(whole, 9))
  with pytest.raises(UserError, match="fingerprint of tokens"):
    mixture([3, 1]).set_state(whole.get_state())


def test_mixture_visits_every_document_of_a_task_once_an_epoch():
  windows = 2
  targets = take(mixture([1, 1], batch_size=1, segment_length=3), windows * stream.MIXTURE_WINDOW)
  counts = collections.Counter((targets["decoder_target_tokens"][0, ::3] // 1000).tolist())
  each = windows * stream.MIXTURE_WINDOW // 2
  for documents in (range(1000), range(2000, 2700)):
    assert sum(counts[document] for document in documents) == each
    assert {counts[document] for document in documents} <= {each // len(documents), each // len(documents) + 1}


def test_one_long_document_gives_each_row_text_of_its_own(short_pieces):
  batches = take(make([40], batch_size=4, segment_length=5), 2)
  targets = batches["decoder_target_tokens"]
  assert sorted(targets.flatten().tolist()) == list(range(1, 41))
  # The first input of a later part is the token before it.
  np.testing.assert_array_equal(batches["decoder_input_tokens"], targets - 1)


@few_examples
@hypothesis.given(documents_strategy, st.integers(1, 6), st.integers(1, 17), st.sampled_from([4, 1000]))
def test_evaluation_covers_each_token_once(lengths, batch_size, segment_length, shortest_piece):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, "SHORTEST_PIECE", shortest_piece)
    stores = [FakeStore(lengths), FakeStore([7], "second/train", first=900)]
    segments = stream.EvaluationSegments(stores, batch_size=batch_size, segment_length=segment_length)
    batches = list(segments)
  batch = {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in batches[0]}
  real = batch["decoder_segment_ids"] > 0
  np.testing.assert_array_equal(batch["decoder_loss_weights"], real)
  assert not any(value[~real].any() for value in batch.values())
  expected = [token for store in stores for document in store.documents for token in document.tolist()]
  assert sorted(batch["decoder_target_tokens"][real].tolist()) == sorted(expected)
  # Whatever was cut, a token's input is the one before it in its document.
  targets, inputs = batch["decoder_target_tokens"][real], batch["decoder_input_tokens"][real]
  np.testing.assert_array_equal(inputs, np.where(targets % 1000 == 1, 0, targets - 1))
  # Padding comes last, and no row is much longer than it must be.
  assert (np.diff(real.astype(int), axis=1) <= 0).all()
  assert len(batches) * segment_length <= sum(lengths) / batch_size + 7 + max(lengths) + segment_length


@few_examples
@hypothesis.given(documents_strategy, st.integers(1, 6), st.integers(1, 17), st.integers(1, 4))
def test_a_few_batches_of_an_evaluation_are_of_all_parts(lengths, batch_size, segment_length, max_batches):
  """Row i starts i / B of the way, and what it reads stands there one after the other in the whole evaluation."""
  stores = [FakeStore(lengths)]
  make = lambda **some: stream.EvaluationSegments(
      stores, batch_size=batch_size, segment_length=segment_length, **some)
  lay = lambda batches: {name: np.concatenate([batch[name] for batch in batches], axis=1) for name in batches[0]}
  whole, batches = lay(list(make())), list(itertools.islice(make(max_batches=max_batches), max_batches))
  part, length = lay(batches), max_batches * segment_length
  if whole["decoder_target_tokens"].shape[1] <= length:
    assert_equal(part, whole)
    return
  for row in range(batch_size):
    end = int((whole["decoder_segment_ids"][row] > 0).sum())
    start = max(0, end - length) * (2 * row + 1) // (2 * batch_size)
    assert_equal({name: value[row] for name, value in part.items()},
                 {name: value[row, start:start + length] for name, value in whole.items()})


def test_evaluation_rows_of_hosts_are_one_hosts_batches():
  store = FakeStore([5, 30, 2, 9, 9, 1])
  make_eval = lambda rows: stream.EvaluationSegments([store], batch_size=4, segment_length=4, rows=rows)
  parts = zip(make_eval(range(2)), make_eval(range(2, 4)), strict=True)
  for batch, shares in zip(make_eval(None), parts, strict=True):
    assert_equal({name: np.concatenate([share[name] for share in shares]) for name in batch}, batch)


def test_imports_are_light():
  code = "import sys; from gpt4x.data import dataset, stream, token_store; print('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# Features beside the tokens.


class Doubles(Whole):
  """Of each token twice itself and one more."""
  features = {"doubles": ((2,), np.int64)}

  def __init__(self, store, fingerprint="doubles"):
    self._store, self.fingerprint = store, fingerprint

  def rows(self, document):
    tokens = self._store[document].astype(np.int64)
    return {"doubles": np.stack([2 * tokens, tokens + 1], 1)}


@few_examples
@hypothesis.given(documents_strategy, st.integers(1, 4), st.integers(1, 17), st.sampled_from([4, 1000]))
def test_features_beside_go_with_their_tokens(lengths, batch_size, segment_length, shortest_piece):
  """However documents are cut, shuffled, repeated and laid out; padding has zeros."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, "SHORTEST_PIECE", shortest_piece)
    stores = [FakeStore(lengths), FakeStore([7], "second/train", first=900)]
    sizes = dict(batch_size=batch_size, segment_length=segment_length, beside=[Doubles(store) for store in stores])
    batches = list(itertools.islice(stream.SegmentStream(stores, rows=range(batch_size)[-1:], **sizes), 6))
    batches += stream.EvaluationSegments(stores, **sizes)
  for batch in batches:
    targets, real = batch["decoder_target_tokens"][..., None], (batch["decoder_segment_ids"] > 0)[..., None]
    np.testing.assert_array_equal(batch["doubles"], real * np.concatenate([2 * targets, targets + 1], -1))


def test_whole_documents_are_never_cut(short_pieces):
  store = FakeStore([40, 3, 5])
  make = lambda **options: list(stream.EvaluationSegments([store], batch_size=4, segment_length=40, **options))
  firsts = lambda batches: sum((batch["decoder_input_tokens"] == 0)[batch["decoder_segment_ids"] > 0].sum()
                               for batch in batches)
  assert firsts(make(whole=True)) == 3
  rows = make(whole=True)[0]["decoder_target_tokens"].tolist()
  assert store[0].tolist() in rows and all(store[0].tolist() not in batch["decoder_target_tokens"].tolist()
                                           for batch in make())


def test_a_position_is_of_what_lies_beside_too():
  of = lambda *known: stream.SegmentStream([FakeStore([5, 6])], batch_size=2, segment_length=4, beside=[
      Doubles(FakeStore([5, 6]), one) for one in known])
  saved = json.loads(json.dumps(of("one").get_state()))
  of("one").set_state(saved)
  with pytest.raises(UserError, match=r"what a teacher says of its tokens, \['one'\], but this run has \['other'\]"):
    of("other").set_state(saved)
  with pytest.raises(UserError, match="None, but this run has"):
    of("one").set_state(of().get_state())
  assert "beside" not in of().get_state()
