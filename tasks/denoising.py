"""Tasks that hide parts of a text, or tell it in another order: of `local_text`, and of Python's standard library.

All have the vocabulary of gin's `Marks`, so they mix: `X_marked` has whole documents, `X_infill` documents whose
middles come last, both for streams; `X_spans` and `X_prefix` have inputs and targets; `X_masked` what BERT has.
`local_text_spans_names` and `local_text_masked_names` hide names of a graph as a whole.
"""

import functools

import seqio

from gpt4x.data.denoised_text import hide_spans, mask_tokens
from gpt4x.data.infilling import infill
from gpt4x.data.local_text import LocalTextSource
from gpt4x.data.named_text import find_names, NamedTextSource
from gpt4x.data.preprocessors import append_eos, text_to_targets, tokenize
from gpt4x.data.python_stdlib import PythonStdlibSource
from gpt4x.data.vocabularies import MarkedVocabulary

_IDS = [text_to_targets, tokenize]
_TASKS = {
    "marked": [*_IDS, append_eos],
    "infill": [infill, append_eos],
    "spans": [*_IDS, hide_spans, append_eos],
    "prefix": [*_IDS, functools.partial(hide_spans, denoisers="prefix"), append_eos],
    "masked": [*_IDS, mask_tokens],
}



def _add(name: str, source: seqio.DataSource, kind: str, steps: list) -> None:
  features = {"targets": seqio.Feature(MarkedVocabulary(), add_eos=kind != "masked")}
  if kind in ("spans", "prefix", "masked"):
    features["inputs"] = seqio.Feature(MarkedVocabulary(), add_eos=False)
  if kind == "masked":
    features["weights"] = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
  seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=features)


for _name, _source in (("local_text", LocalTextSource), ("stdlib", PythonStdlibSource)):
  for _kind, _steps in _TASKS.items():
    _add(f"{_name}_{_kind}", _source(), _kind, _steps)
for _kind in ("spans", "masked"):
  _add(f"local_text_{_kind}_names", NamedTextSource(), _kind, [find_names, *_TASKS[_kind][len(_IDS):]])
