"""Tasks that hide parts of a text, or tell it in another order: of `local_text`, and of Python's standard library.

All have the vocabulary of gin's `Marks`, so they mix: `X_marked` has whole documents, `X_infill` documents whose
middles come last, both for streams; `X_spans` and `X_prefix` have inputs and targets; `X_masked` what BERT has.
"""

import functools

import seqio

from gpt4x.data.denoised_text import hide_spans, mask_tokens
from gpt4x.data.infilling import infill
from gpt4x.data.local_text import LocalTextSource
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

for _name, _source in (("local_text", LocalTextSource), ("stdlib", PythonStdlibSource)):
  for _kind, _steps in _TASKS.items():
    _ids = seqio.Feature(MarkedVocabulary(), add_eos=False)
    _features = {"targets": seqio.Feature(MarkedVocabulary(), add_eos=_kind != "masked")}
    if _kind in ("spans", "prefix", "masked"):
      _features["inputs"] = _ids
    if _kind == "masked":
      _features["weights"] = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    seqio.TaskRegistry.add(f"{_name}_{_kind}", source=_source(), preprocessors=_steps, output_features=_features)
