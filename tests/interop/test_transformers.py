"""Against transformers itself, where it is installed; benchmarks/transfo_xl_parity.py says how, and has all cases."""

import pytest

pytest.importorskip("torch", reason="needs torch: see benchmarks/transfo_xl_parity.py")
transformers = pytest.importorskip("transformers", reason="needs transformers==4.35.2: as there")
if not hasattr(transformers, "TransfoXLLMHeadModel"):
  pytest.skip("this version of transformers has no Transformer-XL: 4.35.2 is the last", allow_module_level=True)


@pytest.mark.parametrize("options", [
    dict(cutoffs=[20, 60], div_val=4, d_embed=24),
    dict(cutoffs=[20, 60], div_val=1, d_embed=32, untie_r=False, same_length=False),
], ids=["published", "joint"])
def test_log_probs_over_four_segments(options, tmp_path):
  from benchmarks import transfo_xl_parity
  assert transfo_xl_parity.difference(transfo_xl_parity.random_model(options), tmp_path) <= transfo_xl_parity.BAR
