#include "backends/cuda/weight_stream.h"

#include <algorithm>

namespace sinter::cuda {

WeightStream::~WeightStream() {
  try {
    if (copies_) copies_->synchronize();  // a run that was cut off may still copy from what goes away now
  } catch (const Error&) {                // the device is lost, which the run has said
  }
}

void WeightStream::add(std::vector<StreamedBytes> parts) {
  if (!copies_) {
    copies_ = std::make_unique<Stream>(engine_.context());
    opened_ = std::make_unique<Event>(engine_.context());
  }
  // What follows each other on both sides is one copy.
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  Block block{{}, std::make_unique<Event>(engine_.context()), std::make_unique<Event>(engine_.context())};
  for (const StreamedBytes& part : parts) {
    StreamedBytes* last = block.parts.empty() ? nullptr : &block.parts.back();
    if (last && last->from + last->bytes == part.from && last->offset + last->bytes == part.offset)
      last->bytes += part.bytes;
    else if (part.bytes > 0)
      block.parts.push_back(part);
  }
  blocks_.push_back(std::move(block));
  ready_ = false;
}

int64_t WeightStream::bytes() const {
  int64_t sum = 0;
  for (const Block& block : blocks_)
    for (const StreamedBytes& part : block.parts) sum += part.bytes;
  return sum;
}

void WeightStream::bring(int i, const Stream& stream) {
  for (const StreamedBytes& part : blocks_[size_t(i)].parts)
    copy_to_device(slots_[size_t(i % kStreamSlots)] + DevicePtr(part.offset), part.from, part.bytes, stream);
}

void WeightStream::begin_run() {
  if (!ready_) {
    copies_->synchronize();  // what a run that was cut off still brings must not land in the slots later
    bring(0, engine_.stream());
  }
  ready_ = false;
}

void WeightStream::open() {
  opened_->record(engine_.stream());
  copies_->wait(*opened_);
}

void WeightStream::before(int i) {
  // The next block's slot was last read by the block before this one.
  if (i + 1 < count()) {
    if (int reader = i + 1 - kStreamSlots; reader >= 0) copies_->wait(*blocks_[size_t(reader)].free);
    bring(i + 1, *copies_);
    blocks_[size_t(i + 1)].arrived->record(*copies_);
  }
  if (i > 0) engine_.stream().wait(*blocks_[size_t(i)].arrived);
}

void WeightStream::after(int i) { blocks_[size_t(i)].free->record(engine_.stream()); }

void WeightStream::close() {
  // The first block of the next run, while the last ones of this one compute.
  const int last_reader = (count() - 1) / kStreamSlots * kStreamSlots;
  copies_->wait(*blocks_[size_t(last_reader)].free);
  bring(0, *copies_);
  blocks_[0].arrived->record(*copies_);
  engine_.stream().wait(*blocks_[0].arrived);
}

}  // namespace sinter::cuda
