"""Any text on this machine: gin's `LocalText.files` says which."""

import seqio

from gpt4x.data.local_text import LocalTextSource
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.vocabularies import HuggingFaceVocabulary, LosslessSentencePieceVocabulary, WordVocabulary

seqio.TaskRegistry.add(
    "local_text_bytes",
    source=LocalTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)},
)

# gpt4x vocabulary --task=local_text_bytes --size=4096 --output=local_text_spm --gin.LocalText.files="'corpus/**/*.txt'"
seqio.TaskRegistry.add(
    "local_text_spm",
    source=LocalTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={
        "targets": seqio.Feature(LosslessSentencePieceVocabulary("local_text_spm", "local_text_bytes"), add_eos=True)},
)

# For a model with a vocabulary of words: --gin.LocalText.words="'FILE'", and text in the tokenised form of its corpus.
seqio.TaskRegistry.add(
    "local_text_words",
    source=LocalTextSource(),
    preprocessors=[text_to_targets, tokenize],
    output_features={"targets": seqio.Feature(WordVocabulary(), add_eos=False)},
)

# For a model with a tokenizer.json: --gin.LocalText.tokenizer="'MODEL_DIR'".
seqio.TaskRegistry.add(
    "local_text_tokenizer",
    source=LocalTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={"targets": seqio.Feature(HuggingFaceVocabulary(), add_eos=True)},
)
