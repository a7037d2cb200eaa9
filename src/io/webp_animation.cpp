#include <webp/encode.h>
#include <webp/mux.h>

#include "base/error.h"
#include "base/file.h"
#include "io/animation_writers.h"

namespace sinter {
namespace {

class WebpWriter : public AnimationWriter {
 public:
  WebpWriter(const std::filesystem::path& path, int64_t width, int64_t height) : file_(path), width_(width), height_(height) {
    WebPAnimEncoderOptions options;
    bool ready = WebPAnimEncoderOptionsInit(&options) && WebPConfigPreset(&config_, WEBP_PRESET_DRAWING, kQuality);
    options.allow_mixed = 1;  // flat areas are smaller without loss
    if (ready) encoder_.reset(WebPAnimEncoderNew(int(width), int(height), &options));
    if (!encoder_) fail(Code::Internal, "the WebP library has another version than expected, or no memory");
  }

  void add(const Tensor& pixels, int milliseconds) override {
    SINTER_ASSERT((pixels.shape() == std::vector<int64_t>{height_, width_, 3}) && pixels.dtype() == DType::u8);
    WebPPicture picture;
    bool good = WebPPictureInit(&picture);
    std::unique_ptr<WebPPicture, void (*)(WebPPicture*)> owned(&picture, WebPPictureFree);
    picture.use_argb = 1;
    picture.width = int(width_);
    picture.height = int(height_);
    good = good && WebPPictureImportRGB(&picture, reinterpret_cast<const uint8_t*>(pixels.data()), picture.width * 3) &&
           WebPAnimEncoderAdd(encoder_.get(), &picture, time_, &config_);
    if (!good) refuse();
    time_ += milliseconds;
  }

  void finish() override {
    WebPData data{};
    bool good = WebPAnimEncoderAdd(encoder_.get(), nullptr, time_, nullptr) && WebPAnimEncoderAssemble(encoder_.get(), &data);
    std::unique_ptr<WebPData, void (*)(WebPData*)> owned(&data, WebPDataClear);
    if (!good) refuse();
    file_.write(data.bytes, data.size);
    file_.commit();
  }

 private:
  static constexpr float kQuality = 90;

  [[noreturn]] void refuse() {
    fail(Code::Internal, "the animation cannot be written as WebP: {}", WebPAnimEncoderGetError(encoder_.get()));
  }

  struct Delete {
    void operator()(WebPAnimEncoder* encoder) const { WebPAnimEncoderDelete(encoder); }
  };
  AtomicFile file_;
  int64_t width_, height_;
  WebPConfig config_;
  std::unique_ptr<WebPAnimEncoder, Delete> encoder_;
  int time_ = 0;
};

}  // namespace

std::unique_ptr<AnimationWriter> open_animated_webp(const std::filesystem::path& path, int64_t width, int64_t height) {
  return std::make_unique<WebpWriter>(path, width, height);
}

}  // namespace sinter
