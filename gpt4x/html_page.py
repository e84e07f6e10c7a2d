"""HTML pages that need nothing else: no network, no script, no other file."""

from collections.abc import Iterable, Sequence
import html

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfc; --card: #f4f4f1; --ink: #1d2125; --soft: #5c646d; --faint: #c9cdd2; --line: #e4e5e2;
  --train: #2f62c9; --other: #cf4f22; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --card: #1d2126; --ink: #e8eaec; --soft: #9aa3ad; --faint: #4a525b; --line: #2b3138;
  --train: #7aa5ff; --other: #ff8a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3.5rem 1.5rem 4rem; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.7rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 3rem 0 1rem; letter-spacing: -0.01em; }
p { margin: 0 0 1rem; } .lead { font-size: 1.1rem; color: var(--soft); max-width: 46rem; }
.lead b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem; margin: 2rem 0; }
.tile { background: var(--card); border-radius: 0.6rem; padding: 0.9rem 1.1rem; display: flex; flex-direction: column;
  justify-content: space-between; }
.tile span { display: block; color: var(--soft); font-size: 0.82rem; }
.tile strong { display: block; font-size: 1.6rem; line-height: 1.3; letter-spacing: -0.02em; font-weight: 620; }
.tile.first strong { color: var(--other); }
figure { margin: 2.2rem 0 0; } figure svg { display: block; width: 100%; height: auto; }
figure img { max-width: 100%; }
figcaption, .note { color: var(--soft); font-size: 0.88rem; margin-top: 0.6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.5rem 1rem 0.5rem 0; border-bottom: 1px solid var(--line); font-weight: 400;
  vertical-align: top; }
th { color: var(--soft); white-space: nowrap; } .number { text-align: right; white-space: nowrap; width: 5rem; }
.bars th { width: 14rem; } .bars .bar { padding-right: 0; vertical-align: middle; }
.bar div { height: 0.75rem; border-radius: 0.2rem; background: var(--faint); }
.model th, .model td { color: var(--ink); font-weight: 620; } .model .bar div { background: var(--other); }
.beyond .bar div { background: linear-gradient(90deg, var(--faint) 70%, transparent); }
pre { background: var(--card); border-radius: 0.6rem; padding: 1rem 1.2rem; margin: 0 0 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 0.82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre b { font-weight: 400; color: var(--soft); }
details { border-bottom: 1px solid var(--line); padding: 0.7rem 0; } summary { cursor: pointer; }
details pre { margin-top: 0.8rem; }
@media print { main { padding: 0; } .tile, pre { border: 1px solid var(--line); } }
"""


def page(title: str, parts: Sequence[str]) -> str:
  """A page of elements, one below the other."""
  return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
          f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
          f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n")


def tiles(labelled: Iterable[tuple[str, str]]) -> str:
  """Figures side by side, of which the first stands out."""
  return '<div class="tiles">' + "".join(
      f'<div class="tile{"" if number else " first"}"><span>{text(label)}</span><strong>{text(value)}</strong></div>'
      for number, (label, value) in enumerate(labelled)) + "</div>"


def table(rows: Iterable[tuple[str, str]]) -> str:
  """Names and what is said of each."""
  return "<table>" + "".join(
      f"<tr><th scope='row'>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows) + "</table>"


def bars(rows: Iterable[tuple[str, str, float]]) -> str:
  """Labels, what is shown of each, and the length of its bar from 0 to 1."""
  return "<table class='bars'>" + "".join(
      f"<tr><th scope='row'>{text(label)}</th><td class='number'>{text(shown)}</td><td class='bar'>"
      f"<div style='width: {100 * length:.1f}%'></div></td></tr>" for label, shown, length in rows) + "</table>"


def text(value: object) -> str:
  """Text for HTML, in which what no browser may be given is replaced."""
  return html.escape("".join(one if one in "\n\t" or one.isprintable() else "\N{REPLACEMENT CHARACTER}"
                             for one in str(value)))


def count(number: float) -> str:
  """Three digits and a word, such as 2.07 million."""
  for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
    if number >= size:
      return f"{number / size:.3g}{word}"
  return f"{number:,.0f}"
