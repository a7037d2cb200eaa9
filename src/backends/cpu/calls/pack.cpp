#include "backends/cpu/calls/pack.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/cpu/calls/rows.h"
#include "base/error.h"

namespace sinter {
namespace {

constexpr int kBlock = 128;       // elements of k packed at a time
constexpr int kMostColumns = 32;  // of a panel
constexpr int kMostTaps = 64;     // of a convolution's window that are gathered together

DType storage_type(PanelType type) {
  return type == PanelType::f32 ? DType::f32 : type == PanelType::f16 ? DType::f16 : DType::bf16;
}

/// to[i * to_stride + j] = from[j * from_stride + i] for 4 x 4 words of 32 bits; strides in bytes.
void transpose_words(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
  auto load = [&](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + row * from_stride)); };
  __m128i a = load(0), b = load(1), c = load(2), d = load(3);
  __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d), AB = _mm_unpackhi_epi32(a, b),
          CD = _mm_unpackhi_epi32(c, d);
  auto store = [&](int row, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to + row * to_stride), v); };
  store(0, _mm_unpacklo_epi64(ab, cd));
  store(1, _mm_unpackhi_epi64(ab, cd));
  store(2, _mm_unpacklo_epi64(AB, CD));
  store(3, _mm_unpackhi_epi64(AB, CD));
}

/// The same for 8 x 8 halfwords.
void transpose_halves(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
  __m128i r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {
    __m128i p = _mm_unpacklo_epi32(s[half], s[half + 2]), q = _mm_unpackhi_epi32(s[half], s[half + 2]);
    __m128i u = _mm_unpacklo_epi32(s[half + 4], s[half + 6]), v = _mm_unpackhi_epi32(s[half + 4], s[half + 6]);
    auto store = [&](int row, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (half * 4 + row) * to_stride), x); };
    store(0, _mm_unpacklo_epi64(p, u));
    store(1, _mm_unpackhi_epi64(p, u));
    store(2, _mm_unpacklo_epi64(q, v));
    store(3, _mm_unpackhi_epi64(q, v));
  }
}

/// Writes `rows` rows (columns of the panel from `column`) of `count` elements to a panel from element `k` on.
/// In pair types k must be even, and an odd count ends a group: a zero fills its last pair.
void put(char* panel, int panel_columns, bool pairs, int64_t element_bytes, const char* from, int64_t from_stride, int column,
         int rows, int64_t k, int64_t count) {
  const int64_t unit = pairs ? 4 : element_bytes;  // what is moved as one: a pair or an element
  const int64_t units = pairs ? count / 2 : count, first = pairs ? k / 2 : k;
  const int64_t to_stride = panel_columns * unit;
  char* to = panel + first * to_stride + column * unit;
  const int side = unit == 4 ? 4 : 8;
  const int64_t whole_units = units / side * side;
  const int whole_rows = rows / side * side;
  for (int64_t u = 0; u < whole_units; u += side)
    for (int r = 0; r < whole_rows; r += side) {
      const char* corner = from + r * from_stride + u * unit;
      char* target = to + u * to_stride + r * unit;
      if (unit == 4)
        transpose_words(corner, from_stride, target, to_stride);
      else
        transpose_halves(corner, from_stride, target, to_stride);
    }
  auto move = [&](int r, int64_t u) {
    std::memcpy(to + u * to_stride + r * unit, from + r * from_stride + u * unit, size_t(unit));
  };
  for (int r = 0; r < rows; ++r)
    for (int64_t u = r < whole_rows ? whole_units : 0; u < units; ++u) move(r, u);
  if (pairs && count % 2) {
    for (int r = 0; r < rows; ++r) {
      char* last = to + units * to_stride + r * unit;
      std::memcpy(last, from + r * from_stride + units * unit, 2);
      std::memset(last + 2, 0, 2);
    }
  }
}

/// Converts to a panel's element type. f8 goes through a table: each value of it is exact in f16.
class Converter {
 public:
  Converter(DType from, DType to) : from_(from), to_(to), table_used_(byte_size(from) == 1 && to != DType::f32) {
    if (!table_used_) return;
    for (int i = 0; i < 256; ++i) {
      auto byte = uint8_t(i);
      convert(&byte, from, &table_[size_t(i)], to, 1);
    }
  }
  bool needed() const { return from_ != to_; }
  int64_t from_bytes() const { return byte_size(from_); }
  void operator()(const char* from, char* to, int64_t count) const {
    if (table_used_) {
      for (int64_t i = 0; i < count; ++i) std::memcpy(to + 2 * i, &table_[uint8_t(from[i])], 2);
    } else {
      convert_row(from, from_, to, to_, count);
    }
  }

 private:
  DType from_, to_;
  bool table_used_;
  std::array<uint16_t, 256> table_;
};

/// Calls body(panel, first column, rows, first source row) for each panel that the source's rows touch.
template <class Body>
void for_each_panel(const PanelLayout& layout, const PackSource& s, ThreadPool& pool, const Body& body) {
  SINTER_ASSERT(s.first_row >= 0 && s.first_row + s.rows <= layout.n);
  if (s.rows <= 0) return;
  int64_t first = s.first_row / layout.columns, last = (s.first_row + s.rows - 1) / layout.columns;
  pool.parallel_for(last - first + 1, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = first + begin; panel < first + end; ++panel) {
      int64_t row = std::max(s.first_row, panel * layout.columns);
      int64_t row_end = std::min(s.first_row + s.rows, (panel + 1) * layout.columns);
      body(panel, int(row - panel * layout.columns), int(row_end - row), row - s.first_row);
    }
  });
}

/// The padding columns of the last panel.
void clear_padding(const PanelLayout& layout, char* packed) {
  int64_t panel = layout.panels() - 1;
  int columns = layout.panel_columns(panel), used = int(layout.n - panel * layout.columns);
  int64_t unit = layout.pairs() ? 4 : layout.element_bytes();
  int64_t units = layout.groups * layout.group_length() * layout.element_bytes() / unit;
  for (int64_t i = 0; i < units && used < columns; ++i)
    std::memset(packed + layout.panel_offset(panel) + (i * columns + used) * unit, 0, size_t((columns - used) * unit));
}

}  // namespace

void pack_matrix(const PanelLayout& layout, const PackSource& s, void* packed, ThreadPool& pool) {
  SINTER_ASSERT(layout.groups == 1 && layout.columns <= kMostColumns);
  const Converter convert_to(s.type, storage_type(layout.type));
  const int64_t source_row = layout.k * convert_to.from_bytes(), bytes = layout.element_bytes();
  for_each_panel(layout, s, pool, [&](int64_t panel, int column, int rows, int64_t row) {
    alignas(64) char staging[kMostColumns * (kBlock * 4 + 64)];
    const int64_t staging_row = kBlock * 4 + 64;
    const char* from = static_cast<const char*>(s.source) + row * source_row;
    char* to = static_cast<char*>(packed) + layout.panel_offset(panel);
    for (int64_t k = 0; k < layout.k; k += kBlock) {
      int64_t count = std::min<int64_t>(kBlock, layout.k - k);
      const char* block = from + k * convert_to.from_bytes();
      if (convert_to.needed())
        for (int r = 0; r < rows; ++r) convert_to(block + r * source_row, staging + r * staging_row, count);
      put(to, layout.panel_columns(panel), layout.pairs(), bytes, convert_to.needed() ? staging : block,
          convert_to.needed() ? staging_row : source_row, column, rows, k, count);
    }
  });
  if (s.first_row + s.rows == layout.n) clear_padding(layout, static_cast<char*>(packed));
}

PanelLayout conv_layout(PanelType type, int64_t out_channels, int64_t channels, int height, int width,
                        const Microkernels& kernels) {
  return panel_layout(type, out_channels, width * channels, height, kernels);
}

void pack_conv(const PanelLayout& layout, const PackSource& s, int64_t channels, int height, int width, void* packed,
               ThreadPool& pool) {
  SINTER_ASSERT(layout.groups == height && layout.k == width * channels && height * width <= kMostTaps);
  const Converter convert_to(s.type, storage_type(layout.type));
  const int taps = height * width;
  const int64_t bytes = layout.element_bytes(), source_row = channels * taps * convert_to.from_bytes();
  // A whole window row is gathered at once where a pair would straddle two taps.
  const bool straddles = layout.pairs() && channels % 2;
  const int64_t block = straddles ? channels : std::min<int64_t>(channels, std::max(2, kBlock * 9 / taps / 2 * 2));
  for_each_panel(layout, s, pool, [&](int64_t panel, int column, int rows, int64_t row) {
    std::vector<char> converted(size_t(block * taps * 4 + 64)), gathered(size_t(kMostColumns * block * taps * bytes + 64));
    const int64_t row_bytes = block * taps * bytes;
    const char* from = static_cast<const char*>(s.source) + row * source_row;
    char* to = static_cast<char*>(packed) + layout.panel_offset(panel);
    const int columns = layout.panel_columns(panel);
    auto gather = [&]<class T>(T, const char* source, char* target, int64_t count) {  // [channel][tap] to [tap][channel]
      for (int tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < count; ++c)
          std::memcpy(target + (tap * count + c) * int64_t(sizeof(T)), source + (c * taps + tap) * int64_t(sizeof(T)), sizeof(T));
    };
    for (int64_t c = 0; c < channels; c += block) {
      int64_t count = std::min(block, channels - c);
      for (int r = 0; r < rows; ++r) {
        const char* source = from + r * source_row + c * taps * convert_to.from_bytes();
        if (convert_to.needed()) {
          convert_to(source, converted.data(), count * taps);
          source = converted.data();
        }
        if (bytes == 4)
          gather(uint32_t(), source, gathered.data() + r * row_bytes, count);
        else
          gather(uint16_t(), source, gathered.data() + r * row_bytes, count);
      }
      for (int y = 0; y < height; ++y) {
        const char* window_row = gathered.data() + y * width * count * bytes;
        if (straddles) {
          put(to, columns, true, bytes, window_row, row_bytes, column, rows, y * layout.group_length(), width * count);
          continue;
        }
        for (int x = 0; x < width; ++x)
          put(to, columns, layout.pairs(), bytes, window_row + x * count * bytes, row_bytes, column, rows,
              y * layout.group_length() + x * channels + c, count);
      }
    }
  });
  if (s.first_row + s.rows == layout.n) clear_padding(layout, static_cast<char*>(packed));
}

}  // namespace sinter
