"""Public text, read by tensorflow-datasets where the network is: C4, mC4, Wikipedia, PG-19 and others.

Each set is two tasks: NAME_bytes, and NAME with SentencePiece. A language is the end of a name: mc4_de, wikipedia_ja.
The languages of a set share the vocabulary that has the set's name, so that they fit into one mixture.
"""

from collections.abc import Mapping
import functools

import seqio

from gpt4x.data.preprocessors import append_eos, tokenize
from gpt4x.data.public_sets import PublicSource
from gpt4x.data.vocabularies import LosslessSentencePieceVocabulary

_OWN = {"train": "train", "validation": "validation"}
_CUT = {"train": "train[:99%]", "validation": "train[99%:]"}  # Documents by chance: tfds has shuffled them.

# As mC4 has them: iw is Hebrew, no Norwegian, fil Filipino; of ru-Latn, which mc4_ru_Latn reads, the letters are Latin.
_MC4 = """
af am ar az be bg bg-Latn bn ca ceb co cs cy da de el el-Latn en eo es et eu fa fi fil fr fy ga gd gl gu ha haw hi
hi-Latn hmn ht hu hy id ig is it iw ja ja-Latn jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt my ne nl
no ny pa pl ps pt ro ru ru-Latn sd si sk sl sm sn so sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo zh zh-Latn zu
"""
# Large ones of 287; `add_tasks` is for others.
_WIKIPEDIA = "ar bg ca cs da de el en es fa fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk vi zh"


def add_tasks(name: str, set_name: str, splits: Mapping[str, str] = _OWN, *, text: str = "text",
              vocabulary: str | None = None) -> None:
  """Registers NAME_bytes and NAME.

  Args:
    name: of the tasks.
    set_name: as tfds has it, with its version: "c4/en:3.1.0".
    splits: what train, validation and others are in tfds, slices such as "train[:1%]" among them.
    text: the feature that holds a document.
    vocabulary: the SentencePiece model of NAME, a name or a file; None: the one called NAME.
  """
  kinds = {f"{name}_bytes": seqio.ByteVocabulary(),
           name: LosslessSentencePieceVocabulary(vocabulary or name, f"{name}_bytes")}
  for task, kind in kinds.items():
    seqio.TaskRegistry.add(
        task,
        source=PublicSource(set_name, splits),
        preprocessors=[functools.partial(seqio.preprocessors.rekey, key_map={"targets": text}), tokenize, append_eos],
        output_features={"targets": seqio.Feature(kind, add_eos=True)},
    )


# gpt4x vocabulary --task=c4_bytes --size=32768 --output=c4
add_tasks("c4", "c4/en:3.1.0")
add_tasks("c4_realnewslike", "c4/realnewslike:3.1.0")
for _language in _MC4.split():
  add_tasks(f"mc4_{_language.replace('-', '_')}", "c4/multilingual:3.1.0",
            {"train": _language, "validation": f"{_language}-validation"}, vocabulary="mc4")
for _language in _WIKIPEDIA.split():
  add_tasks(f"wikipedia_{_language}", f"wikipedia/20230601.{_language}:1.0.0", _CUT, vocabulary="wikipedia")
add_tasks("pg19", "pg19:0.1.1", {**_OWN, "test": "test"}, text="book_text")
add_tasks("lm1b", "lm1b:1.1.0", {"train": "train", "validation": "test"})  # Sentences: there is no past to attend to.
add_tasks("tiny_shakespeare", "tiny_shakespeare:1.0.0", {**_OWN, "test": "test"})  # One megabyte, to try things with.
