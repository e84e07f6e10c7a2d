"""Near duplicates on one core: signatures in MB of text a second, and what of pairs with a known similarity is found.

  minhash          ours and datatrove's signatures of 14 bands of 8, of word 5-grams
  minhash_recall   the largest distance, in standard errors, of the share of pairs that meet from 1 - (1 - J^8)^14, over
                   bins of J; goal: 3
  minhash_wrong    pairs below the threshold that were dropped, of all

    python -m benchmarks.preparation.near_duplicates --data=DIR [--peer=PYTHON] [--rounds=5] [--dry_run]
"""

from collections.abc import Callable, Iterator, Sequence
import random
import re
import tempfile
import unicodedata

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.preparation import scripts, texts
from benchmarks.preparation.filters import timed

DOCUMENTS, PAIRS = 300, 3000


def rows(given: scripts.Given) -> Iterator[Row]:
  documents = texts.articles(given.data, DOCUMENTS)
  if given.peers:
    sides = harness.alternate({"ours": our_signatures, "peer": datatrove_signatures}, documents, given.rounds,
                              pythons={"peer": given.peers[scripts.DATATROVE]})
    yield harness.compare("preparation/minhash", "MB/s", sides["ours"], sides["peer"], "speed",
                          goal="ratio >= 3 and value >= 0.83")
  farthest, wrong = harness.in_a_process(pairs, documents)
  yield Row("preparation/minhash_recall", farthest, "standard errors", goal="value <= 3")
  yield Row("preparation/minhash_wrong", wrong, "pairs", goal="value <= 0")


def our_signatures(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.duplicates.near import NearDuplicates
  join = NearDuplicates()
  return timed(documents, lambda text: join.keys(Document("", text)))


def datatrove_signatures(documents: Sequence[str]) -> Callable[[], harness.Round]:
  from datatrove.pipeline.dedup import MinhashDedupSignature
  from datatrove.pipeline.dedup.minhash import MinhashConfig
  config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
  step = MinhashDedupSignature(tempfile.mkdtemp(), config)

  def call(text: str) -> None:
    shingles = step.get_shingles(text)
    if shingles.size:
      step.get_signature(shingles)

  return timed(documents, call)


def pairs(documents: Sequence[str]) -> tuple[float, int]:
  """(distance from the formula, wrong pairs) of articles and copies with some of their words changed."""
  from gpt4x.preparation.document import Document
  from gpt4x.preparation.duplicates.near import NearDuplicates
  join, draw, seen = NearDuplicates(), random.Random(0), list[tuple[float, bool]]()
  wrong, documents = 0, [text for text in documents if len(text) > 2000]
  for _ in range(PAIRS):
    text = draw.choice(documents)
    words = text.split(" ")
    start = draw.randrange(max(1, len(words) - 300))
    text = " ".join(words[start:start + 300])
    both = text, texts.changed(text, draw.uniform(0, 0.1), draw)
    similarity = jaccard(*both)
    one, other = (join.features(Document("", part)) for part in both)
    meet = bool(set(join.keys_of(one)[0].tolist()) & set(join.keys_of(other)[0].tolist()))
    seen.append((similarity, meet))
    wrong += meet and join.similarity(one, other) >= join.threshold and similarity < join.threshold
  farthest = 0.0
  for low in np.arange(0.4, 1.0, 0.05):
    of_bin = [(1 - (1 - one**8) ** 14, meet) for one, meet in seen if low <= one < low + 0.05]
    if len(of_bin) >= 30:
      expected = np.array([chance for chance, _ in of_bin])
      error = np.sqrt((expected * (1 - expected)).sum())
      farthest = max(farthest, abs(sum(meet for _, meet in of_bin) - expected.sum()) / max(error, 1e-9))
  return float(farthest), int(wrong)


def jaccard(*both: str) -> float:
  """Of word 5-grams, without case, digits and diacritics, as sets of words."""
  plain = (unicodedata.normalize("NFD", re.sub(r"\d", "0", text.lower())) for text in both)
  words = [re.findall(r"\w+", re.sub("[\u0300-\u036f]", "", text)) for text in plain]
  mine, theirs = ({tuple(some[start:start + 5]) for start in range(len(some) - 4)} for some in words)
  return len(mine & theirs) / len(mine | theirs)


if __name__ == "__main__":
  scripts.main(rows, peers=[scripts.DATATROVE], rounds=5)
