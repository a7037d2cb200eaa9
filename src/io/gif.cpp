#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/file.h"
#include "io/animation_writers.h"
#include "io/palette.h"

// A writer of our own instead of Debian's libgif: that one would leave the quantiser, the differences of frames and the writing
// whole or not at all to us anyway, and what it would take over are the sixty lines of Lzw below.

namespace sinter {
namespace {

using namespace std::string_view_literals;

void put_word(std::string& out, int64_t value) { out += {char(value & 255), char(value >> 8 & 255)}; }

/// GIF's variant of Lempel-Ziv-Welch: codes grow from `bits` + 1 to 12 bits, low bits first, in blocks of at most 255 bytes.
class Lzw {
 public:
  static std::string pack(std::span<const uint8_t> indices, int bits) {
    Lzw lzw(bits);
    lzw.put(lzw.clear_);
    uint32_t prefix = indices[0];
    for (uint8_t index : indices.subspan(1)) {
      uint32_t& slot = lzw.slot(prefix, index);
      if (slot != kFree && slot >> 20 == prefix && (slot >> 12 & 255) == index) {
        prefix = slot & 4095;
        continue;
      }
      lzw.put(prefix);
      lzw.learn(slot, prefix, index);
      prefix = index;
    }
    lzw.put(prefix);
    lzw.grow();
    lzw.put(lzw.clear_ + 1);
    return lzw.finish(bits);
  }

 private:
  static constexpr uint32_t kFree = UINT32_MAX, kLastCode = 4095;

  explicit Lzw(int bits) : clear_(1u << bits), table_(1 << 14, kFree) { reset(); }

  void reset() {
    std::ranges::fill(table_, kFree);
    next_ = clear_ + 2;
    code_bits_ = std::bit_width(clear_);
  }
  /// Where the string (prefix, index) is or belongs: prefix, index and code in 12 + 8 + 12 bits.
  uint32_t& slot(uint32_t prefix, uint8_t index) {
    uint32_t at = (prefix << 8 | index) * 2654435761u >> 18;
    while (table_[at] != kFree && table_[at] >> 12 != (prefix << 8 | index)) at = (at + 1) & (uint32_t(table_.size()) - 1);
    return table_[at];
  }
  /// The decoder learns a string one code later than the encoder.
  void grow() {
    if (next_ == 1u << code_bits_ && code_bits_ < 12) ++code_bits_;
  }
  void learn(uint32_t& slot, uint32_t prefix, uint8_t index) {
    grow();
    if (next_ < kLastCode) {
      slot = prefix << 20 | uint32_t(index) << 12 | next_++;
      return;
    }
    put(clear_);
    reset();
  }
  void put(uint32_t code) {
    pending_ |= uint64_t(code) << pending_bits_;
    pending_bits_ += code_bits_;
    for (; pending_bits_ >= 8; pending_bits_ -= 8, pending_ >>= 8) bytes_ += char(pending_ & 255);
  }
  std::string finish(int bits) {
    if (pending_bits_ > 0) bytes_ += char(pending_ & 255);
    std::string out(1, char(bits));
    for (size_t at = 0; at < bytes_.size(); at += 255) {
      size_t length = std::min<size_t>(255, bytes_.size() - at);
      out += char(length);
      out.append(bytes_, at, length);
    }
    return out + '\0';
  }

  uint32_t clear_, next_ = 0;
  int code_bits_ = 0, pending_bits_ = 0;
  uint64_t pending_ = 0;
  std::vector<uint32_t> table_;
  std::string bytes_;
};

/// The part of a picture that a frame replaces.
struct Area {
  int64_t left, top, right, bottom;
  int64_t width() const { return right - left; }
  int64_t height() const { return bottom - top; }
};

/// Each frame holds the rectangle that changed, with a palette of its own; unchanged pixels in it are transparent and keep what
/// the frames before have drawn.
class GifWriter : public AnimationWriter {
 public:
  GifWriter(const std::filesystem::path& path, int64_t width, int64_t height)
      : file_(path), width_(width), height_(height), shown_(size_t(width * height)) {
    std::string head = "GIF89a";
    put_word(head, width);
    put_word(head, height);
    head += "\x70\x00\x00"sv;                                 // no palette for all frames
    head += "\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"sv;  // again and again
    file_.write(head);
  }

  void add(const Tensor& pixels, int milliseconds) override {
    SINTER_ASSERT((pixels.shape() == std::vector<int64_t>{height_, width_, 3}) && pixels.dtype() == DType::u8);
    const auto* rgb = reinterpret_cast<const Rgb*>(pixels.data());
    Area area = first_ ? Area{0, 0, width_, height_} : changed(rgb);
    std::string frame("\x21\xf9\x04"sv);
    constexpr char kKeepAndTransparent = 1 << 2 | 1;
    frame += first_ ? char(1 << 2) : kKeepAndTransparent;
    put_word(frame, std::max(1, (milliseconds + 5) / 10));
    append_pixels(frame, rgb, area);
    file_.write(frame);
    std::copy_n(rgb, shown_.size(), shown_.begin());
    first_ = false;
  }

  void finish() override {
    file_.write(";");
    file_.commit();
  }

 private:
  bool same(const Rgb* rgb, int64_t at) const { return !first_ && rgb[at] == shown_[size_t(at)]; }

  /// A single pixel where nothing changed: a frame may not be empty.
  Area changed(const Rgb* rgb) const {
    Area area{width_, height_, 0, 0};
    for (int64_t y = 0; y < height_; ++y)
      for (int64_t x = 0; x < width_; ++x)
        if (!same(rgb, y * width_ + x))
          area = {std::min(area.left, x), std::min(area.top, y), std::max(area.right, x + 1), y + 1};
    return area.right ? area : Area{0, 0, 1, 1};
  }

  /// Color 0 is the transparent one.
  void append_pixels(std::string& frame, const Rgb* rgb, const Area& area) const {
    constexpr size_t kSamples = 1 << 18;  // enough to choose 255 colours from
    std::vector<Rgb> colors;
    for (int64_t y = area.top; y < area.bottom; ++y)
      for (int64_t x = area.left; x < area.right; ++x)
        if (!same(rgb, y * width_ + x)) colors.push_back(rgb[y * width_ + x]);
    if (size_t stride = colors.size() / kSamples; stride > 1) {
      for (size_t i = 0; i * stride < colors.size(); ++i) colors[i] = colors[i * stride];
      colors.resize(colors.size() / stride);
    }
    std::vector<Rgb> palette = choose_palette(colors, 255);
    PaletteIndex index(palette);
    std::vector<uint8_t> indices;
    indices.reserve(size_t(area.width() * area.height()));
    for (int64_t y = area.top; y < area.bottom; ++y)
      for (int64_t x = area.left; x < area.right; ++x)
        indices.push_back(same(rgb, y * width_ + x) ? uint8_t(0) : uint8_t(index.nearest(rgb[y * width_ + x]) + 1));

    int bits = std::max(2, int(std::bit_width(palette.size())));  // for palette.size() + 1 colours
    frame += "\x00\x00\x2c"sv;                                    // transparent is 0; end of the block; a picture
    for (int64_t value : {area.left, area.top, area.width(), area.height()}) put_word(frame, value);
    frame += char(0x80 | (bits - 1));
    frame.append(3, '\0');
    for (Rgb color : palette) frame.append(reinterpret_cast<const char*>(color.data()), 3);
    frame.append(3 * ((size_t(1) << bits) - palette.size() - 1), '\0');
    frame += Lzw::pack(indices, bits);
  }

  AtomicFile file_;
  int64_t width_, height_;
  std::vector<Rgb> shown_;  ///< the last frame, before its colours were cut to a palette
  bool first_ = true;
};

}  // namespace

std::unique_ptr<AnimationWriter> open_gif(const std::filesystem::path& path, int64_t width, int64_t height) {
  return std::make_unique<GifWriter>(path, width, height);
}

}  // namespace sinter
