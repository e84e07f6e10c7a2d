"""Prints the seconds of one step of llama.cpp: FILE WINDOW STEPS THREADS. Needs numpy and llama-cpp-python alone."""

import sys
import time

import llama_cpp


def main() -> None:
  file, (window, steps, threads) = sys.argv[1], map(int, sys.argv[2:])
  model = llama_cpp.Llama(file, n_ctx=window, n_threads=threads, n_threads_batch=threads, verbose=False)
  model.eval([1] * (window - 2 * steps))
  model.eval([1])  # Its first step plans the others.
  start = time.perf_counter()
  for _ in range(steps):
    model.eval([1])
  print((time.perf_counter() - start) / steps)


if __name__ == "__main__":
  main()
