// Matrix products and convolutions for machines without the vendor's libraries. A convolution is a product whose left matrix,
// the windows of the pictures, is never stored: loading it computes where its elements are.
#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/gelu.h"
#include "backends/cuda/kernels/gemm_arguments.h"

namespace sinter::device {

constexpr int kChunk = 8;  // 16-bit elements that are copied together

/// Rows and columns of a matrix in memory; what lies outside reads as zero. A source keeps up to kSlots rows at hand.
template <class T>
class MatrixRows {
 public:
  MatrixRows(const MatrixArguments& a, int rows, int columns)
      : base_(reinterpret_cast<const T*>(a.base) + block_z() * a.batch_stride), a_(a), rows_(rows), columns_(columns) {}

  template <int kSlots>
  struct Rows {
    const T* at[kSlots];
    bool inside[kSlots];
  };
  template <int kSlots>
  SINTER_DEVICE_INLINE void prepare(Rows<kSlots>& r, int slot, int row) const {
    r.inside[slot] = row < rows_;
    r.at[slot] = base_ + (r.inside[slot] ? row : 0) * a_.row_stride;
  }
  /// Where the elements from `column` on are; dense columns only. Outside: some address that may be named.
  template <int kSlots>
  SINTER_DEVICE_INLINE const T* chunk(const Rows<kSlots>& r, int slot, int column, bool& inside) const {
    inside = r.inside[slot] && column < columns_;
    return inside ? r.at[slot] + column : base_;
  }
  template <int kSlots>
  SINTER_DEVICE_INLINE T element(const Rows<kSlots>& r, int slot, int column) const {
    return r.inside[slot] && column < columns_ ? r.at[slot][column * a_.column_stride] : T{};
  }

 private:
  const T* base_;
  const MatrixArguments& a_;
  int rows_, columns_;
};

template <class T>
class WindowRows {
 public:
  WindowRows(const WindowArguments& a, int rows, int columns)
      : base_(reinterpret_cast<const T*>(a.base)), a_(a), rows_(rows), columns_(columns) {}

  template <int kSlots>
  struct Rows {
    const T* picture[kSlots];
    int y[kSlots], x[kSlots];  // of the window's first pixel; far outside for rows that there are not
  };
  template <int kSlots>
  SINTER_DEVICE_INLINE void prepare(Rows<kSlots>& r, int slot, int row) const {
    const bool inside = row < rows_;
    const int pixel = inside ? row : 0, n = pixel / (a_.out_h * a_.out_w), rest = pixel % (a_.out_h * a_.out_w);
    r.picture[slot] = base_ + int64_t(n) * a_.h * a_.w * a_.pixel_stride;
    r.y[slot] = inside ? rest / a_.out_w * a_.stride - a_.pad_top : -(1 << 30);
    r.x[slot] = rest % a_.out_w * a_.stride - a_.pad_left;
  }
  template <int kSlots>
  SINTER_DEVICE_INLINE const T* chunk(const Rows<kSlots>& r, int slot, int column, bool& inside) const {
    const int tap = column / a_.c, channel = column % a_.c;
    const int y = r.y[slot] + tap / a_.kernel_w, x = r.x[slot] + tap % a_.kernel_w;
    inside = column < columns_ && y >= 0 && y < a_.h && x >= 0 && x < a_.w;
    return inside ? r.picture[slot] + (int64_t(y) * a_.w + x) * a_.pixel_stride + channel : base_;
  }
  template <int kSlots>
  SINTER_DEVICE_INLINE T element(const Rows<kSlots>& r, int slot, int column) const {
    bool inside;
    const T* at = chunk(r, slot, column, inside);
    return inside ? *at : T{};
  }

 private:
  const T* base_;
  const WindowArguments& a_;
  int rows_, columns_;
};

SINTER_DEVICE_INLINE float load_one(uint64_t base, int type, int64_t i) {
  if (type == kF32) return reinterpret_cast<const float*>(base)[i];
  if (type == kF16) return to_float(reinterpret_cast<const F16*>(base)[i]);
  return to_float(reinterpret_cast<const Bf16*>(base)[i]);
}
SINTER_DEVICE_INLINE void store_one(uint64_t base, int type, int64_t i, float value) {
  if (type == kF32) return from_float(value, reinterpret_cast<F32*>(base)[i]);
  if (type == kF16) return from_float(value, reinterpret_cast<F16*>(base)[i]);
  from_float(value, reinterpret_cast<Bf16*>(base)[i]);
}

/// Finishes `rows` sums of one column, `pitch` apart.
SINTER_DEVICE_INLINE void finish_rows(const EpilogueArguments& e, const float* sums, int pitch, int first_row, int rows,
                                      int column) {
  const float bias = e.bias ? load_one(e.bias, e.bias_type, column) : 0.f;
  int64_t residual = block_z() * e.residual_batch_stride + first_row * e.residual_stride + column;
  int64_t out = block_z() * e.out_batch_stride + first_row * e.out_stride + column;
  SINTER_NO_UNROLL
  for (int i = 0; i < rows; ++i) {
    float value = sums[i * pitch] * e.scale + bias;
    if (e.gelu) value = gelu_tanh(value);
    if (e.residual) value += load_one(e.residual, e.residual_type, residual);
    const int row = first_row + i;
    if (e.line_rows) out = row / e.line_rows * e.line_stride + row % e.line_rows * e.out_stride + column;
    store_one(e.out, e.out_type, out, value);
    residual += e.residual_stride;
    out += e.out_stride;
  }
}

// Products of 16-bit matrices on tensor cores: a block of 8 warps makes 128 x 128 elements, a warp 64 x 32. Tiles of 32 columns
// of both matrices go through three stages of shared memory, two of which are under way while one is used. Rows in shared
// memory are 40 elements apart, so that eight of them begin in eight different sets of banks.
constexpr int kTile = 128, kDepth = 32, kPitch = 40, kStages = 3;
constexpr int kStageElements = 2 * kTile * kPitch;

/// kChunks: whole chunks of 16 bytes lie dense and aligned in both matrices.
template <bool kBf16, bool kChunks, class Left>
SINTER_DEVICE_INLINE void tensor_core_product(const Left& left, const MatrixRows<uint16_t>& right, const EpilogueArguments& e,
                                              const ProductSize& size) {
  auto* shared = reinterpret_cast<uint16_t*>(shared_memory());
  const int first_row = block_x() * kTile, first_column = block_y() * kTile;
  const int thread = thread_x(), warp = thread / 32, lane = thread % 32;

  // Copying: four threads take the four chunks of a row; each thread has two rows of each matrix.
  constexpr int kSlots = 2;
  const int own_row = thread / 4, own_column = thread % 4 * kChunk;
  typename Left::template Rows<kSlots> left_rows;
  typename MatrixRows<uint16_t>::template Rows<kSlots> right_rows;
  SINTER_UNROLL
  for (int slot = 0; slot < kSlots; ++slot) {
    left.template prepare<kSlots>(left_rows, slot, first_row + own_row + slot * 64);
    right.template prepare<kSlots>(right_rows, slot, first_column + own_row + slot * 64);
  }
  auto copy = [&](const auto& source, const auto& rows, int slot, int column, uint16_t* to) {
    if constexpr (kChunks) {
      bool inside;
      const uint16_t* from = source.chunk(rows, slot, column, inside);
      copy_async(to, from, inside);
    } else {
      SINTER_UNROLL
      for (int i = 0; i < kChunk; ++i) to[i] = source.element(rows, slot, column + i);
    }
  };
  auto copy_tile = [&](int tile) {
    uint16_t* stage = shared + tile % kStages * kStageElements;
    const int column = tile * kDepth + own_column;
    if (tile * kDepth < size.k) {
      SINTER_UNROLL
      for (int slot = 0; slot < kSlots; ++slot) {
        uint16_t* to = stage + (own_row + slot * 64) * kPitch + own_column;
        copy(left, left_rows, slot, column, to);
        copy(right, right_rows, slot, column, to + kTile * kPitch);
      }
    }
    copy_async_commit();  // empty groups keep the count right
  };

  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  float sums[4][4][4] = {};  // [16 rows][8 columns][see multiply_bf16]
  auto multiply_tile = [&](int tile) {
    const uint16_t* a = shared + tile % kStages * kStageElements;
    const uint16_t* b = a + kTile * kPitch;
    SINTER_UNROLL
    for (int depth = 0; depth < kDepth; depth += 16) {
      uint32_t rows[4][4], columns[2][4];
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) load_matrices(rows[i], a + (warp_row + i * 16 + lane % 16) * kPitch + depth + lane / 16 * 8);
      SINTER_UNROLL
      for (int j = 0; j < 2; ++j)
        load_matrices(columns[j], b + (warp_column + j * 16 + lane / 16 * 8 + lane % 8) * kPitch + depth + lane / 8 % 2 * 8);
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) {
        SINTER_UNROLL
        for (int j = 0; j < 4; ++j) {
          if constexpr (kBf16)
            multiply_bf16(sums[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
          else
            multiply_f16(sums[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  };

  const int tiles = divide_up(size.k, kDepth);
  copy_tile(0);
  copy_tile(1);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<kStages - 2>();
    barrier();  // the tile is there for all, and all are done with the one that is overwritten next
    copy_tile(tile + 2);
    multiply_tile(tile);
  }
  copy_async_wait<0>();

  // Sums go through shared memory, 16 rows of a warp at a time, so that neighbours in memory are written together.
  constexpr int kSliceRows = 16, kSliceColumns = 32, kSlicePitch = kSliceColumns + 1;
  auto* slice = reinterpret_cast<float*>(shared_memory()) + warp * kSliceRows * kSlicePitch;
  SINTER_UNROLL
  for (int i = 0; i < 4; ++i) {
    barrier();
    SINTER_UNROLL
    for (int j = 0; j < 4; ++j) {
      SINTER_UNROLL
      for (int v = 0; v < 4; ++v) slice[(lane / 4 + v / 2 * 8) * kSlicePitch + j * 8 + lane % 4 * 2 + v % 2] = sums[i][j][v];
    }
    barrier();
    const int row = first_row + warp_row + i * kSliceRows, column = first_column + warp_column + lane;
    if (column < size.n) finish_rows(e, slice + lane, kSlicePitch, row, least(kSliceRows, size.m - row), column);
  }
}

// f32 without tensor cores: 256 threads make 64 x 64 elements, 4 x 4 each, through tiles of 16 columns.
constexpr int kPlainTile = 64, kPlainDepth = 16, kPlainPitch = 68;

template <class Left>
SINTER_DEVICE_INLINE void plain_product(const Left& left, const MatrixRows<float>& right, const EpilogueArguments& e,
                                        const ProductSize& size) {
  auto* a = reinterpret_cast<float*>(shared_memory());  // [depth][row]
  float* b = a + kPlainDepth * kPlainPitch;
  const int first_row = block_x() * kPlainTile, first_column = block_y() * kPlainTile;
  const int thread = thread_x(), own_row = thread / 4, own_depth = thread % 4 * 4;
  typename Left::template Rows<1> left_row;
  typename MatrixRows<float>::template Rows<1> right_row;
  left.template prepare<1>(left_row, 0, first_row + own_row);
  right.template prepare<1>(right_row, 0, first_column + own_row);
  const int row = thread / 16 * 4, column = thread % 16 * 4;
  float sums[4][4] = {};
  for (int k = 0; k < size.k; k += kPlainDepth) {
    SINTER_UNROLL
    for (int i = 0; i < 4; ++i) {
      a[(own_depth + i) * kPlainPitch + own_row] = left.element(left_row, 0, k + own_depth + i);
      b[(own_depth + i) * kPlainPitch + own_row] = right.element(right_row, 0, k + own_depth + i);
    }
    barrier();
    SINTER_UNROLL
    for (int d = 0; d < kPlainDepth; ++d) {
      float x[4], y[4];
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) {
        x[i] = a[d * kPlainPitch + row + i];
        y[i] = b[d * kPlainPitch + column + i];
      }
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i) {
        SINTER_UNROLL
        for (int j = 0; j < 4; ++j) sums[i][j] += x[i] * y[j];
      }
    }
    barrier();
  }
  SINTER_UNROLL
  for (int i = 0; i < 4; ++i) {
    SINTER_UNROLL
    for (int j = 0; j < 4; ++j) a[(row + i) * kPlainPitch + column + j] = sums[i][j];
  }
  barrier();
  const int out_row = thread / kPlainTile * 16, out_column = thread % kPlainTile;
  if (first_column + out_column < size.n)
    finish_rows(e, a + out_row * kPlainPitch + out_column, kPlainPitch, first_row + out_row,
                least(16, size.m - first_row - out_row), first_column + out_column);
}

#define SINTER_PRODUCT(name, Left, LeftArguments, bf16, chunks)                                                       \
  SINTER_DEVICE_KERNEL(gemm__##name, LeftArguments left, MatrixArguments right, EpilogueArguments e, ProductSize s) { \
    tensor_core_product<bf16, chunks>(Left<uint16_t>(left, s.m, s.k), MatrixRows<uint16_t>(right, s.n, s.k), e, s);   \
  }
SINTER_PRODUCT(matmul_bf16, MatrixRows, MatrixArguments, true, true)
SINTER_PRODUCT(matmul_bf16_any, MatrixRows, MatrixArguments, true, false)
SINTER_PRODUCT(matmul_f16, MatrixRows, MatrixArguments, false, true)
SINTER_PRODUCT(matmul_f16_any, MatrixRows, MatrixArguments, false, false)
SINTER_PRODUCT(conv_bf16, WindowRows, WindowArguments, true, true)
SINTER_PRODUCT(conv_bf16_any, WindowRows, WindowArguments, true, false)
SINTER_PRODUCT(conv_f16, WindowRows, WindowArguments, false, true)
SINTER_PRODUCT(conv_f16_any, WindowRows, WindowArguments, false, false)

SINTER_DEVICE_KERNEL(gemm__matmul_f32, MatrixArguments left, MatrixArguments right, EpilogueArguments e, ProductSize s) {
  plain_product(MatrixRows<float>(left, s.m, s.k), MatrixRows<float>(right, s.n, s.k), e, s);
}
SINTER_DEVICE_KERNEL(gemm__conv_f32, WindowArguments left, MatrixArguments right, EpilogueArguments e, ProductSize s) {
  plain_product(WindowRows<float>(left, s.m, s.k), MatrixRows<float>(right, s.n, s.k), e, s);
}

}  // namespace sinter::device
