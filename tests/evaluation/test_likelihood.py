import math

import numpy as np
import pytest

from gpt4x.evaluation import likelihood
from gpt4x.models.sums import Sum


@pytest.mark.parametrize("loss", [0.0, 5.5, 699.0, 709.0, 710.0, 1e6, 1e300, math.inf, math.nan])
def test_perplexity_of_any_loss(loss):
  """e^loss, which from 710 on no float holds."""
  found = likelihood._means({"loss": Sum(np.float64(loss * 4), np.float64(4))}, 8.0, "here")
  with np.errstate(over="ignore"):
    expected = np.exp(np.longdouble(loss)).astype(np.float64)
  np.testing.assert_allclose(found["perplexity"], math.inf if 700 < loss < 710 else expected, rtol=1e-12)
  np.testing.assert_allclose(found["bits_per_byte"], loss * 4 / np.log(2) / 8)
