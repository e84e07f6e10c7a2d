"""Knowledge on this machine, as triples: gin's `LocalGraph.files` says which.

`local_triples_*` are sentences for pre-training, `local_triple_questions_*` train on the answers alone, and
`local_descriptions_*` have what describes the ends of a triple, for @JointEmbedding(). Each is there for the three
kinds of vocabulary of text, and for one with marks.
"""

import functools

import seqio

from gpt4x.data.described_triples import DescribedTriplesSource, description_tokens
from gpt4x.data.local_graph import Kind, LocalGraphSource, triple_tokens
from gpt4x.data.vocabularies import HuggingFaceVocabulary, LosslessSentencePieceVocabulary, MarkedVocabulary

_TASKS: dict[str, Kind] = {"local_triples": "documents", "local_triple_questions": "questions"}
_VOCABULARIES = {
    "bytes": seqio.ByteVocabulary,
    # First: gpt4x vocabulary --task=local_triples_bytes --size=4096 --output=local_text_spm \
    #   --gin.LocalGraph.files="'graph/*.tsv'"
    "spm": lambda: LosslessSentencePieceVocabulary("local_text_spm", "local_triples_bytes"),
    "tokenizer": HuggingFaceVocabulary,  # --gin.LocalText.tokenizer="'MODEL_DIR'"
    "marked": MarkedVocabulary,  # --gin.Marks.text="'MODEL_DIR'"
}
_BESIDE = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)  # A number for each token.

for _name, _kind in _TASKS.items():
  for _form, _vocabulary in _VOCABULARIES.items():
    seqio.TaskRegistry.add(
        f"{_name}_{_form}",
        source=LocalGraphSource(_kind),
        preprocessors=[functools.partial(triple_tokens, kind=_kind)],
        output_features={"targets": seqio.Feature(_vocabulary(), add_eos=False)} | (
            {"weights": _BESIDE} if _kind == "questions" else {}),
    )

for _form, _vocabulary in _VOCABULARIES.items():
  seqio.TaskRegistry.add(
      f"local_descriptions_{_form}",
      source=DescribedTriplesSource(),
      preprocessors=[description_tokens],
      output_features={"targets": seqio.Feature(_vocabulary(), add_eos=False), "weights": _BESIDE,
                       "segments": _BESIDE},
  )
