// Products of few rows of numbers by matrices of int8, as foreign functions of XLA's. See integer_products.py.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

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

// x [I] as `parts` rows of integers up to `most`, each of what the one before leaves over in steps 1 / (2 most) as
// large; returns the first one's step.
float Round(const float* x, int64_t I, int32_t parts, float most, int16_t* rows) {
  float largest = 1e-30f;
  for (int64_t i = 0; i < I; ++i) largest = std::max(largest, std::abs(x[i]));
  const float step = largest / most;
  for (int64_t i = 0; i < I; ++i) {
    float rest = x[i] / step;
    for (int32_t part = 0; part < parts; ++part) {
      const float nearest = std::rint(rest);
      rows[part * I + i] = static_cast<int16_t>(nearest);
      rest = (rest - nearest) * 2 * most;
    }
  }
  return step;
}

// values [N, O, I], scales [N, O], x [N, R, I] -> [N, R, O]. Rows of int16 are multiplied three times as fast as int8.
ffi::Error RowsByColumns(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values, ffi::Buffer<ffi::F32> scales,
                         ffi::Buffer<ffi::F32> x, ffi::Result<ffi::Buffer<ffi::F32>> out, int32_t parts, float most) {
  const int64_t N = values.dimensions()[0], O = values.dimensions()[1], I = values.dimensions()[2];
  const int64_t R = x.dimensions()[1], size = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, I));
  const int64_t pieces = (O + size - 1) / size;
  std::vector<int16_t> rows(N * R * parts * I);
  std::vector<float> steps(N * R);
  for (int64_t r = 0; r < N * R; ++r) {
    steps[r] = Round(x.typed_data() + r * I, I, parts, most, rows.data() + r * parts * I);
  }
  const int8_t* v = values.typed_data();
  const float* scale = scales.typed_data();
  float* y = out->typed_data();
  // All of it is over when Each is: what is on this stack may be used.
  Each(pool, N * pieces, N * O * I, [=, &rows, &steps](int64_t piece) {
    const int64_t n = piece / pieces, from = piece % pieces * size, to = std::min(O, from + size);
    for (int64_t r = n * R; r < (n + 1) * R; ++r) {
      for (int64_t o = from; o < to; ++o) {
        float total = 0, share = 1;
        for (int32_t part = 0; part < parts; ++part) {
          const int16_t* row = rows.data() + (r * parts + part) * I;
          int32_t sum = 0;
          for (int64_t i = 0; i < I; ++i) sum += int16_t(v[(n * O + o) * I + i]) * row[i];
          total += sum * share;
          share /= 2 * most;
        }
        y[r * O + o] = total * steps[r] * scale[n * O + o];
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

// values [N, T, K], scales [N, T], weights [N, R, T] -> [N, R, K]
ffi::Error RowsByRows(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values, ffi::Buffer<ffi::F32> scales,
                      ffi::Buffer<ffi::F32> weights, ffi::Result<ffi::Buffer<ffi::F32>> out) {
  const int64_t T = values.dimensions()[1], K = values.dimensions()[2], R = weights.dimensions()[1];
  const int8_t* v = values.typed_data();
  const float *scale = scales.typed_data(), *x = weights.typed_data();
  float* y = out->typed_data();
  Each(pool, values.dimensions()[0] * R, values.element_count() * R, [=](int64_t row) {
    const int8_t* matrix = v + row / R * T * K;
    float* sums = y + row * K;
    std::vector<float> scaled(T);
    for (int64_t t = 0; t < T; ++t) scaled[t] = x[row * T + t] * scale[row / R * T + t];
    int64_t k = 0;
    for (; k + 64 <= K; k += 64) Mix<64>(matrix + k, scaled.data(), sums + k, T, K);
    for (; k + 8 <= K; k += 8) Mix<8>(matrix + k, scaled.data(), sums + k, T, K);
    for (; k < K; ++k) Mix<1>(matrix + k, scaled.data(), sums + k, T, K);
  });
  return ffi::Error::Success();
}

#define INPUTS                                                                                          \
  ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::S8>>().Arg<ffi::Buffer<ffi::F32>>()      \
      .Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt4x_rows_by_columns, RowsByColumns,
                              INPUTS.Attr<int32_t>("parts").Attr<float>("most"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt4x_rows_by_rows, RowsByRows, INPUTS);
