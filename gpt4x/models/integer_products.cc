// Products of few rows of numbers by matrices of int8, as foreign functions of XLA's. See integer_products.py.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

constexpr int64_t kPiece = 1 << 15;  // Bytes of a matrix that a thread takes at a time; fewer are not worth another.

// Runs `piece(i)` for each i below `count`, of so many bytes in all, on this thread and on those of the pool that are
// free: it never waits for one that has not begun.
template <typename Piece>
void Each(ffi::ThreadPool& pool, int64_t count, int64_t bytes, Piece piece) {
  struct Counts {
    std::atomic<int64_t> begun{0}, done{0};
  };
  auto counts = std::make_shared<Counts>();
  auto work = [=] {
    for (int64_t i; (i = counts->begun++) < count; counts->done++) piece(i);
  };
  const int64_t others = std::min({pool.num_threads(), count, bytes / kPiece}) - 1;
  for (int64_t i = 0; i < others; ++i) pool.Schedule([work] { work(); });
  work();
  while (counts->done < count) std::this_thread::yield();
}

// values [N, O, I], rows [N, R, I] -> [N, R, O]. Rows of int16 are multiplied three times as fast as rows of int8.
ffi::Error RowsByColumns(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values, ffi::Buffer<ffi::S16> rows,
                         ffi::Result<ffi::Buffer<ffi::S32>> out) {
  const int64_t N = values.dimensions()[0], O = values.dimensions()[1], I = values.dimensions()[2];
  const int64_t R = rows.dimensions()[1], size = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, I));
  const int64_t pieces = (O + size - 1) / size;
  const int8_t* v = values.typed_data();
  const int16_t* x = rows.typed_data();
  int32_t* y = out->typed_data();
  Each(pool, N * pieces, N * O * I, [=](int64_t piece) {
    const int64_t n = piece / pieces, from = piece % pieces * size, to = std::min(O, from + size);
    for (int64_t r = n * R; r < (n + 1) * R; ++r) {
      for (int64_t o = from; o < to; ++o) {
        int32_t sum = 0;
        for (int64_t i = 0; i < I; ++i) sum += int16_t(v[(n * O + o) * I + i]) * x[r * I + i];
        y[r * O + o] = sum;
      }
    }
  });
  return ffi::Error::Success();
}

// The sums of `weights` times kColumns columns of values [T, K].
template <int kColumns>
void Mix(const int8_t* values, const float* weights, float* out, int64_t T, int64_t K) {
  float sums[kColumns] = {};
  for (int64_t t = 0; t < T; ++t) {
#pragma omp simd
    for (int k = 0; k < kColumns; ++k) sums[k] += weights[t] * values[t * K + k];
  }
  std::memcpy(out, sums, sizeof(sums));
}

// values [N, T, K], rows [N, R, T] -> [N, R, K]
ffi::Error RowsByRows(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values, ffi::Buffer<ffi::F32> rows,
                      ffi::Result<ffi::Buffer<ffi::F32>> out) {
  const int64_t T = values.dimensions()[1], K = values.dimensions()[2], R = rows.dimensions()[1];
  const int8_t* v = values.typed_data();
  const float* x = rows.typed_data();
  float* y = out->typed_data();
  Each(pool, values.dimensions()[0] * R, values.element_count() * R, [=](int64_t row) {
    const int8_t* matrix = v + row / R * T * K;
    const float* weights = x + row * T;
    float* sums = y + row * K;
    int64_t k = 0;
    for (; k + 64 <= K; k += 64) Mix<64>(matrix + k, weights, sums + k, T, K);
    for (; k + 8 <= K; k += 8) Mix<8>(matrix + k, weights, sums + k, T, K);
    for (; k < K; ++k) Mix<1>(matrix + k, weights, sums + k, T, K);
  });
  return ffi::Error::Success();
}

#define FUNCTION(name, function, number, sum)                                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                                                       \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::S8>>()   \
                                    .Arg<ffi::Buffer<number>>().Ret<ffi::Buffer<sum>>())

FUNCTION(gpt4x_rows_by_columns, RowsByColumns, ffi::S16, ffi::S32);
FUNCTION(gpt4x_rows_by_rows, RowsByRows, ffi::F32, ffi::F32);
