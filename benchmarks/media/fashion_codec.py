"""A codec of Fashion-MNIST's pictures, learned from the 1,800 training images at hand, moved and mirrored.

It codes the 4,400 test images: 49 codes of 1,000, 488 bits.

  image_codec       their PSNR, in dB; the first working codec of this size had 23.5
  image_codec_used  the share of the codes that they use, in per cent
"""

from collections.abc import Iterator

from benchmarks.harness import Row
from benchmarks.media import fashion, runs


def rows(bench: runs.Bench) -> Iterator[Row]:
  fashion.write(bench)
  codecs = bench.each_seed(lambda seed: fashion.codec(bench, seed))
  found = [runs.last_metrics(f"{codec}_run") for codec in codecs]
  yield runs.row("image_codec", [one["psnr"] for one in found], "dB", ">=", 23.5)
  yield runs.row("image_codec_used", [100 * one["codes_used"] for one in found], "%", ">=", 95)


if __name__ == "__main__":
  runs.main(rows)
