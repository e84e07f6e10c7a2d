"""The rules of C4 (Raffel et al. 2020, JMLR 21:140, section 2.2), by the paper or by TensorFlow Datasets."""

import dataclasses
import re

import gin

from gpt4x.errors import require
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.word_lists import listed_words
from gpt4x.preparation.rules.words import split, words_of

_READINGS = {"tfds": (5, 3), "paper": (3, 5)}  # Words a line, sentences a page.
_ENDS = (".", "?", "!", '"')
_ELLIPSIS = "..."
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_SCRIPT = re.compile("javascript")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_SENTENCE_END = re.compile(r"""[.?!]["')\]]*\s+(?=[^\sa-z])""")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class C4:
  """Keeps the lines that look like sentences, and drops the pages with too few of them.

  A line goes if a word is too long, if it does not end in `. ? ! "` or ends in "...", if it has too few words, or if it
  speaks of JavaScript, cookies or policies. A page goes if it has "lorem ipsum", "{", a listed bad word, or too few
  sentences in the lines left. Marks of citations, such as "[1]" and "[edit]", are cut out.

  The two readings differ in the words of a line (5 or 3), in the sentences of a page (3 or 5), and in where "lorem
  ipsum", "{" and bad words are looked for: "paper" looks in the whole page; "tfds" in lines that end and are as long as
  they must, for "{" without those of JavaScript, for bad words in the lines that are kept. Keeping one copy of each
  line is a join of all documents, and none of this.

  A sentence ends at `. ? !` before a blank and no small letter, and with its line. TensorFlow Datasets takes a learned
  splitter, which knows abbreviations and so counts fewer. A document written mostly without blanks (see
  `words.split`) has its words counted by characters; the ends of its lines and its sentences are not asked for, as in
  mC4 (Xue et al. 2021, arXiv:2010.11934).

  Attributes:
    reading: "tfds" or "paper".
    min_words_per_line, min_sentences: instead of the reading's; 0 for none.
    bad_words: a UTF-8 file, a word or several a line; found between non-letters. None for no list.
    terminal_punctuation: whether lines must end in it; FineWeb does without.
    max_word_length: in characters.
    max_characters: of a page, before lines are cut.
  """

  reading: str = "tfds"
  min_words_per_line: int | None = None
  min_sentences: int | None = None
  bad_words: str | None = None
  terminal_punctuation: bool = True
  max_word_length: int = 1000
  max_characters: int = 190_000

  def __post_init__(self):
    require(self, " or ".join(map(repr, _READINGS)), lambda value: value in _READINGS, "reading")
    require(self, "at least 0", lambda value: value >= 0, "min_words_per_line", "min_sentences")
    require(self, "at least 1", lambda value: value >= 1, "max_word_length", "max_characters")
    require(self, "a file of words", lambda value: isinstance(value, str) and value, "bad_words")

  def __call__(self, document: Document) -> Document | Dropped:
    text = document.text
    if len(text) > self.max_characters:
      return Dropped("too_long", len(text))
    unspaced = words_of(text).unspaced
    lines, lower = self._lines(text, unspaced), text.lower()
    scriptless = _without(_SCRIPT, lines, lower)
    kept = _without(_POLICY, scriptless, lower)
    left = "\n".join(kept)
    if dropped := self._dropped(text, text, text) if self.reading == "paper" else self._dropped(
        "\n".join(lines), "\n".join(scriptless), left):
      return dropped
    least = _READINGS[self.reading][1] if self.min_sentences is None else self.min_sentences
    if not unspaced and len(kept) < least:  # A line is a sentence or more.
      sentences = sum([len(_SENTENCE_END.findall(line)) + 1 for line in kept])
      if sentences < least:
        return Dropped("too_few_sentences", sentences)
    if not left:
      return Dropped("no_lines")
    return document if left == text else document.with_text(left)

  def _lines(self, text: str, unspaced: bool) -> list[str]:
    """The lines that end as sentences do and have enough words, none too long; without citations."""
    least = _READINGS[self.reading][0] if self.min_words_per_line is None else self.min_words_per_line
    ends = self.terminal_punctuation and not unspaced
    kept = []
    for line in text.split("\n"):
      if "[" in line:
        line = _CITATION.sub("", line)
      line = line.strip()
      if ends and (not line.endswith(_ENDS) or line.endswith(_ELLIPSIS)):
        continue
      words = split(line).words
      if len(words) < least or not words:
        continue
      if len(line) > self.max_word_length and max(map(len, words)) > self.max_word_length:
        continue
      kept.append(line)
    return kept

  def _dropped(self, filler: str, code: str, words: str) -> Dropped | None:
    """Why a page is dropped that has these texts to look for filler, code and bad words in, if it is."""
    if "lorem ipsum" in filler.lower():
      return Dropped("lorem_ipsum")
    if "{" in code:
      return Dropped("curly_bracket")
    if self.bad_words is not None:
      counts = listed_words(self.bad_words).counts(words)
      if counts:
        return Dropped("bad_word", max(counts, key=lambda word: counts[word]))
    return None


def _without(pattern: re.Pattern[str], lines: list[str], page: str) -> list[str]:
  """The lines without those that have a pattern in small letters, which few pages have anywhere."""
  return [line for line in lines if not pattern.search(line.lower())] if pattern.search(page) else lines
