"""Marks behind the ids of text: which they are, that no text has one, and that a run keeps them."""

import numpy as np
import pytest
import seqio

from gpt4x.api import special_tokens
from gpt4x.data import vocabularies
from gpt4x.data.vocabularies import MarkedVocabulary, Marks
from gpt4x.errors import UserError
from gpt4x.media.tokens import MediaTokens
from gpt4x.media.vocabulary import MediaVocabulary

VOCABULARY = MarkedVocabulary(Marks(spans=5)).held()


def test_text_keeps_its_ids_and_marks_follow():
  plain = seqio.ByteVocabulary()
  assert list(VOCABULARY.encode("aé")) == list(plain.encode("aé")) and VOCABULARY.eos_id == plain.eos_id
  assert VOCABULARY.vocab_size == 259 + 8 + 5 and VOCABULARY.mark("<end>") == 259
  assert [VOCABULARY.span_id(i) for i in range(5)] == [271, 270, 269, 268, 267], "as T5 has them, from the end"
  assert sorted(VOCABULARY.special_tokens) == list(range(259, 272))
  named = {name: i for i, name in VOCABULARY.special_tokens.items()}
  assert (named["<extra_id_0>"], named["<extra_id_4>"], named["<mask>"]) == (271, 267, VOCABULARY.mark("<mask>"))
  sizes = vocabularies.token_bytes(VOCABULARY)
  assert sizes.shape == (272,) and sizes[3:259].min() == 1 and not sizes[259:].any()


def test_the_python_face_finds_its_mask():
  special = special_tokens.special_tokens(VOCABULARY)
  assert special_tokens.mask_id(special) == VOCABULARY.mark("<mask>") and special[1] == "</s>"


def test_no_text_has_a_mark():
  ids = VOCABULARY.encode("<mask> [S]<extra_id_0>")
  assert max(ids) < 259 and VOCABULARY.decode(ids) == "<mask> [S]<extra_id_0>"


def test_marks_are_read_and_written_where_they_are_meant():
  ids = VOCABULARY.encode_marked("[S]a<extra_id_1> b<extra_id_7>")
  assert ids[:3] == [VOCABULARY.mark("[S]"), 97 + 3, VOCABULARY.span_id(1)] and max(ids[3:]) < 259
  assert VOCABULARY.decode([*ids, VOCABULARY.mark("<end>")]) == "[S]a<extra_id_1> b<extra_id_7>"


def test_tensorflow_encodes_alike():
  import tensorflow as tf
  assert VOCABULARY.encode_tf(tf.constant("aé")).numpy().tolist() == list(VOCABULARY.encode("aé"))


def test_a_run_keeps_it(tmp_path):
  vocabularies.save(VOCABULARY, tmp_path)
  found = vocabularies.load(tmp_path)
  assert isinstance(found, MarkedVocabulary) and vocabularies.alike(found, VOCABULARY)
  assert not vocabularies.alike(MarkedVocabulary(Marks(spans=6)).held(), VOCABULARY)
  (tmp_path / "vocabulary.bin").write_bytes(b"none")
  with pytest.raises(UserError, match="damaged"):
    vocabularies.load(tmp_path)


def test_a_model_of_its_text_may_learn_it(tmp_path):
  vocabularies.save(seqio.ByteVocabulary(), tmp_path)
  assert vocabularies.extends(VOCABULARY, tmp_path) == 259
  vocabularies.check_alike(VOCABULARY, "a task", tmp_path)


def test_media_may_stand_behind_marks(tmp_path):
  vocabularies.save(VOCABULARY, tmp_path)
  media = MediaVocabulary(MediaTokens(text=str(tmp_path), image="grey")).held()
  assert isinstance(media.text, MarkedVocabulary) and media.layout.text_size == 272
  assert not np.any(vocabularies.token_bytes(media)[259:])


@pytest.mark.parametrize("spans", [0, -1, 2.5, 20_000])
def test_so_many_marks_are_refused(spans):
  with pytest.raises(UserError, match="Marks.spans = .* whole number from 1 to 10,000"):
    Marks(spans=spans)
