"""What `gpt4x prepare` wrote: gin's `PreparedText.sets` says where it is."""

import seqio

from gpt4x.data.prepared_text import PreparedTextSource
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.vocabularies import HuggingFaceVocabulary, LosslessSentencePieceVocabulary

seqio.TaskRegistry.add(
    "prepared_text_bytes",
    source=PreparedTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)},
)

# gpt4x vocabulary --task=prepared_text_bytes --size=32768 --output=prepared_text \
#   --gin.PreparedText.sets="{'web': 'prepared/web'}"
seqio.TaskRegistry.add(
    "prepared_text",
    source=PreparedTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={
        "targets": seqio.Feature(LosslessSentencePieceVocabulary("prepared_text", "prepared_text_bytes"),
                                 add_eos=True)},
)

# For a model with a tokenizer.json: --gin.LocalText.tokenizer="'MODEL_DIR'".
seqio.TaskRegistry.add(
    "prepared_text_tokenizer",
    source=PreparedTextSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={"targets": seqio.Feature(HuggingFaceVocabulary(), add_eos=True)},
)
