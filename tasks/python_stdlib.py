"""The Python standard library: sources, test suites and documentation, about 30 MB."""

import seqio

from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.python_stdlib import PythonStdlibSource
from gpt4x.data.vocabularies import LosslessSentencePieceVocabulary

seqio.TaskRegistry.add(
    "stdlib_bytes",
    source=PythonStdlibSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)},
)

# gpt4x vocabulary --task=stdlib_bytes --size=4096 --output=stdlib_spm
seqio.TaskRegistry.add(
    "stdlib_spm",
    source=PythonStdlibSource(),
    preprocessors=[text_to_targets, tokenize, append_eos],
    output_features={
        "targets": seqio.Feature(LosslessSentencePieceVocabulary("stdlib_spm", "stdlib_bytes"), add_eos=True)},
)
