"""Texts to prepare: Wikipedia's articles of WikiText-2, as they were written, and their near copies."""

from collections.abc import Sequence
import gzip
import json
import os
import pathlib
import random
import re


def articles(source: str, count: int) -> list[str]:
  """So many of the training articles, with their punctuation in place."""
  return _articles(gzip.decompress(pathlib.Path(source, "wikitext-2", "train.txt.gz").read_bytes()).decode())[:count]


def validation_articles(source: str) -> list[str]:
  return _articles(pathlib.Path(source, "wikitext-2", "valid.txt").read_text("utf-8"))


def _articles(text: str) -> list[str]:
  starts = [match.start() for match in re.finditer(r"^ = [^=\n].*[^=\n] = $", text, re.MULTILINE)]
  return [written(text[start:stop]) for start, stop in zip(starts, [*starts[1:], len(text)])]


def written(text: str) -> str:
  """Without the blanks that WikiText puts around punctuation."""
  text = re.sub(r" @([-,.])@ ", r"\1", text)
  text = re.sub(r" ([,.;:!?%)\]]|'s\b|n't\b)", r"\1", text)
  text = re.sub(r"([(\[]) ", r"\1", text)
  return "\n".join(line.strip() for line in text.split("\n"))


def changed(text: str, share: float, draw: random.Random) -> str:
  """A copy in which so many of the words are others of the same text."""
  words = text.split(" ")
  for place in draw.sample(range(len(words)), round(share * len(words))):
    words[place] = draw.choice(words)
  return " ".join(words)


def write(path: os.PathLike, texts: Sequence[str]) -> None:
  pathlib.Path(path).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def size(texts: Sequence[str]) -> float:
  """In MB."""
  return sum(len(text.encode()) for text in texts) / 1e6
