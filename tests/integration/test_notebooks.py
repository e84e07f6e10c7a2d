"""Every notebook runs from top to bottom, with few steps; its first cell installs only what is missing."""

import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from gpt4x.media.files import images


def cells_of(root: pathlib.Path, name: str = "train_tiny") -> list[str]:
  cells = json.loads((root / "notebooks" / f"{name}.ipynb").read_text())["cells"]
  return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(name="shown")
def _shown(tmp_path, monkeypatch):
  """What a notebook displays, by IPython; pip is not needed."""
  shown = []
  display = types.SimpleNamespace(Image=lambda path: path, display=shown.append)
  monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(version_info=(9, 0)))  # Matplotlib asks for it.
  monkeypatch.setitem(sys.modules, "IPython.display", display)
  run = subprocess.run
  monkeypatch.setattr(subprocess, "run", lambda command, **options: pytest.fail("gpt4x is here already")
                      if "pip" in command else run(command, **options))
  monkeypatch.chdir(tmp_path)
  return shown


def test_train_tiny(repository, tmp_path, shown, capsys):
  code = "\n\n".join(cells_of(repository))
  assert "steps = 200" in code
  code = code.replace("steps = 200", "steps = 2")
  code = code.replace("'EVAL_STEPS=20'", "'EVAL_STEPS=2'")
  exec(compile(code, "notebook", "exec"), {})
  assert shown == ["runs/notebook/loss.png"] and (tmp_path / shown[0]).exists()
  printed = capsys.readouterr().out
  assert "def main(" in printed and "(2, 64, 384) 2,066,496 parameters" in printed


def test_draw_tiny(repository, tmp_path, shown):
  first, *cells = cells_of(repository, "draw_tiny")
  assert first == cells_of(repository)[0], "which the next test runs"
  code = "\n\n".join([first, *cells])
  for whole, small in (("steps = 200", "steps = 2"), ("side = 12", "side = 8"), ("range(600)", "range(40)"),
                       ("num_layers=4", "num_layers=1"), ("'BATCH_SIZE=16'", "'BATCH_SIZE=8', 'EVAL_STEPS=1'"),
                       ("draw.integers(2, 5)", "2")):
    assert code.count(whole) == 1, whole
    code = code.replace(whole, small)
  exec(compile(code, "notebook", "exec"), {})
  assert shown == [f"{name}-{sample}.png" for name in ("square", "disc", "cross") for sample in (0, 1)]
  assert all(images.read(tmp_path / path).pixels.shape == (64, 64, 1) for path in shown)


def test_assistant_tiny(repository, tmp_path, shown, capsys):
  first, *cells = cells_of(repository, "assistant_tiny")
  assert first == cells_of(repository)[0]
  code = "\n\n".join([first, *cells])
  for whole, small in (("base_steps, steps = 200, 100", "base_steps, steps = 2, 2"), ("max_tokens=60", "max_tokens=4"),
                       ("'EVAL_STEPS=20'", "'EVAL_STEPS=1'"),
                       ("'EVAL_PERIOD=50'", "'EVAL_PERIOD=2', 'BATCH_SIZE=8', 'EVAL_STEPS=1'")):
    assert code.count(whole) == 1, whole
    code = code.replace(whole, small)
  exec(compile(code, "notebook", "exec"), {})
  printed = capsys.readouterr().out
  assert "What does copyfile do? ->" in printed and " of 2,066,496 parameters trained" in printed
  assert (tmp_path / "exported" / "model.safetensors").exists()


# In the place of pip: notes what it is to install, and brings another version of `later`.
PIP = """
import pathlib, sys
here = pathlib.Path(__file__).parents[1]
(here / "asked").write_text(" ".join(sys.argv[1:]))
if LATER:
  (here / "later-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\\nName: later\\nVersion: 2.0\\n")
"""


@pytest.mark.parametrize("first, changes, says", [
    ("import later", True, "Other versions of later are loaded: restart the session, and run all again."),
    ("import later", False, ""), ("", True, "")], ids=["loaded", "kept", "not loaded"])
def test_the_first_cell_says_when_to_restart(repository, tmp_path, first, changes, says):
  for name in ("later", "libtpu"):
    (tmp_path / f"{name}-1.0.dist-info").mkdir()
    (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (tmp_path / f"{name}-1.0.dist-info" / "top_level.txt").write_text(f"{name}\n")
    (tmp_path / f"{name}.py").touch()
  (tmp_path / "pip").mkdir()
  (tmp_path / "pip" / "__init__.py").touch()  # Else it is no match for the real one.
  (tmp_path / "pip" / "__main__.py").write_text(PIP.replace("LATER", str(changes)))
  # -S: none of this environment's packages, gpt4x among them.
  result = subprocess.run([sys.executable, "-S", "-c", f"{first}\n{cells_of(repository)[0]}"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
  assert (tmp_path / "asked").read_text() == "install --quiet .. jax[tpu]"
  assert (result.returncode, result.stderr.strip()) == (int(bool(says)), says)
