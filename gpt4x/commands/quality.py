"""`gpt4x quality`: trains a classifier of documents on good and bad examples."""

import argparse
from collections.abc import Iterator, Sequence
import itertools
import sys

from gpt4x.errors import CommandError
from gpt4x.preparation import inputs, sources
from gpt4x.preparation.document import Dropped
from gpt4x.preparation.extraction import Extract
from gpt4x.preparation.rules import quality

_HELD_OUT = 10  # Every tenth document says how good the classifier is.


def run(arguments: argparse.Namespace) -> None:
  if not arguments.output.endswith(".npz"):
    raise CommandError(f"--output={arguments.output}: name a file that ends in .npz")
  good, bad = (list(itertools.islice(texts(f"--{name}", getattr(arguments, name)), arguments.max_documents))
               for name in ("good", "bad"))
  rest = lambda all_texts: (text for number, text in enumerate(all_texts) if number % _HELD_OUT)
  model = quality.train(rest(good), rest(bad), arguments.output)
  right = [(model.probability(text) >= 0.5) == is_good for kind, is_good in ((good, True), (bad, False))
           for text in kind[::_HELD_OUT]]
  print(f"wrote {arguments.output}: {len(good):,} good and {len(bad):,} bad documents; of {len(right):,} that were held"
        f" out, {sum(right) / len(right):.1%} are told apart")


def texts(flag: str, patterns: Sequence[str]) -> Iterator[str]:
  """The texts of all documents that are not blank."""
  extract = Extract()
  warn = lambda message: print(f"gpt4x: warning: {message}", file=sys.stderr)
  for file in itertools.chain.from_iterable(inputs.find(patterns, flag=flag)):
    for document in sources.read(file.path, file.name, warn):
      found = extract(document)
      if not isinstance(found, Dropped) and found.text.strip():
        yield found.text
