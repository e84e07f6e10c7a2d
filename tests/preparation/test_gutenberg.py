"""Books made up here, in the forms that files of Project Gutenberg have had."""

import pickle

import pytest

from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.gutenberg import Gutenberg

BOOK = "A TALE\n\nby Nobody\n\n\n\nCHAPTER I\n\nIt rained on Monday,\nand on Tuesday too.\n\nThen it was dry."

PRESENT = f"""The Project Gutenberg EBook of A Tale, by Nobody

Title: A Tale

*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***




Produced by Somebody and the Distributed
Proofreaders



{BOOK}




End of Project Gutenberg's A Tale, by Nobody

*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***

***** This file should be named 1.txt *****
*** START: FULL LICENSE ***
A licence.
"""

OLDER = f"""**Welcome To The World of Free Plain Texts**

The Project Gutenberg Etext of A Tale

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is there a small print?
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*


{BOOK}


End of The Project Gutenberg Etext of A Tale
"""

BOTH = f"""Header
***START OF THE PROJECT GUTENBERG EBOOK A TALE***
E-text prepared by Somebody

***START**THE SMALL PRINT!**START***
A licence within.
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*END*

{BOOK}

***END OF THE PROJECT GUTENBERG EBOOK A TALE***
"""

BEHIND = f"""{BOOK}

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is there a small print?
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
"""


def stripped(text):
  return Gutenberg()(Document("a", text)).text


def book(body):
  return stripped(f"*** START OF THE PROJECT GUTENBERG EBOOK\n\n{body}\n\n*** END OF THE PROJECT GUTENBERG EBOOK")


@pytest.mark.parametrize("text", [PRESENT, OLDER, BOTH, BEHIND], ids=["present", "older", "both", "behind"])
def test_all_forms_give_the_same_book(text):
  assert stripped(text) == BOOK
  assert stripped(stripped(text)) == BOOK


def test_a_file_of_several_books_keeps_them():
  text = stripped(PRESENT + OLDER.replace("Monday", "Friday"))
  assert "Monday" in text and "Friday" in text and "icence" not in text and "small print" not in text.lower()
  assert "Produced" not in stripped(PRESENT + PRESENT)


def test_only_newlines_end_lines():
  """A border behind another separator is no line, and the separators of the book stay."""
  body = "It was\u2028*** END OF THE PROJECT GUTENBERG EBOOK, he said.\x0bThen\x85it rained."
  assert book(body) == body


@pytest.mark.parametrize("text", [
    "", "word", "An essay on Project Gutenberg.\n[Illustration] {12} [Pg 3]",
    "See *** START OF THE PROJECT GUTENBERG x",
    "The end of Project Gutenberg is not near.", "End of the Project Gutenberg era, some say.",
    "[Pg 12]\n{12}\n\n\n\n\n\na"])
def test_other_documents_stay(text):
  document = Document("a", text)
  assert Gutenberg()(document) is document


@pytest.mark.parametrize("body, left", [
    ("the [Pg 12] king", "the king"), ("the king[Pg 12] was", "the king was"), ("king-[Pg xii]dom", "king-dom"),
    ("one\n[Pg 12]\ntwo", "one\ntwo"), ("{12} king", "king"), ("one\n{12}\n\ntwo", "one\n\ntwo"),
    ("the {Pg 3}end", "the end"),
    ("[Page 12]", None), ("a note [12] of the author", "a note [12] of the author"),
    ("one\n\n[Illustration]\n\ntwo", "one\n\n\n\ntwo"),
    ("one [Illustration: A king [so-called]\nsits.] two", "one  two"),
    ("[Transcriber's Note: Spelling\nwas [sic] kept.]\n\none", "one"),
    ("one\n\nTranscriber's Notes:\n  Spelling was kept.\n  So was more.\n\ntwo", "one\n\n\n\ntwo"),
    ("[sic] and [Greek: logos]", "[sic] and [Greek: logos]"), ("one\n\n\n\n\n\n\ntwo", "one\n\n\n\ntwo"),
    ("He produced it by hand.\n\nProduced by magic, it stood there.", "He produced it by hand.")])
def test_furniture_of_pages(body, left):
  if left is None:
    assert Gutenberg()(Document("a", f"*** START OF THE PROJECT GUTENBERG EBOOK\n{body}")) == Dropped("no_book")
  else:
    assert book(body) == left


def test_credits_are_at_the_head_only():
  paragraphs = "\n\n".join(f"Paragraph {n}." for n in range(30))
  assert book(paragraphs + "\n\nProduced by a machine.").endswith("Produced by a machine.")


@pytest.mark.parametrize("unit", [
    "[", "[Illustration", "[Pg ", "{1", " ", "\n", "[Transcriber's note ", "\t\n", "*", "\n \t",
    "Transcriber's note:\n", "Produced ", "[x]", "[Illustration [x] "])
def test_much_of_one_thing_is_read_in_one_pass(unit):
  text = "*** START OF THE PROJECT GUTENBERG EBOOK\nbook\n" + unit * (200_000 // len(unit))
  assert isinstance(Gutenberg()(Document("a", text)), Document)


def test_it_can_be_sent_to_another_process():
  assert pickle.loads(pickle.dumps(Gutenberg())) == Gutenberg()
