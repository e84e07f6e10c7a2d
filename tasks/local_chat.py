"""Conversations on this machine: gin's `LocalChat.files` says which, and `ChatTemplate` how they are written.

`local_chat_*` trains on answers, `local_preferences_*` has two answers of which one is better, and `local_prompts_*`
those that a model is to answer itself. Each is there for the three kinds of vocabulary.
"""

import functools

import seqio

from gpt4x.data.chat_records import Kind
from gpt4x.data.local_chat import chat_tokens, LocalChatSource
from gpt4x.data.vocabularies import HuggingFaceVocabulary, LosslessSentencePieceVocabulary

_TASKS: dict[str, Kind] = {"local_chat": "answers", "local_prompts": "prompts", "local_preferences": "preferences"}
_VOCABULARIES = {
    "bytes": seqio.ByteVocabulary,
    "spm": lambda: LosslessSentencePieceVocabulary("local_text_spm", "local_text_bytes"),
    "tokenizer": HuggingFaceVocabulary,  # --gin.LocalText.tokenizer="'MODEL_DIR'"
}
_BESIDE = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)  # A number for each token.

for _name, _kind in _TASKS.items():
  for _form, _vocabulary in _VOCABULARIES.items():
    seqio.TaskRegistry.add(
        f"{_name}_{_form}",
        source=LocalChatSource(_kind),
        preprocessors=[functools.partial(chat_tokens, kind=_kind)],
        output_features={"targets": seqio.Feature(_vocabulary(), add_eos=False), "weights": _BESIDE} | (
            {"segments": _BESIDE} if _kind == "preferences" else {}),
    )
