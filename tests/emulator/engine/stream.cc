#include "stream.h"

#include <algorithm>
#include <chrono>

#include "random.h"
#include "report.h"

namespace emu {
namespace {

double milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Device& device() {
  static auto* instance = new Device;  // outlives everything that is destroyed at exit
  return *instance;
}

Stream* Device::create_stream(bool blocking) {
  streams_.push_back(std::make_unique<Stream>());
  streams_.back()->blocking = blocking;
  return streams_.back().get();
}

void Device::destroy_stream(Stream* stream) {
  synchronize(stream);
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(),
                                [stream](const auto& one) { return one.get() == stream; }),
                 streams_.end());
}

Stream* Device::resolve(void* handle) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  return number <= 2 ? &default_stream_ : static_cast<Stream*>(handle);
}

// The legacy default stream and the blocking ones wait for what was issued to each other before.
bool Device::may_run(const Stream* stream, const Item& item) const {
  if (item.wait && item.wait->done < item.wait_for) return false;
  const auto earlier = [&](const Stream& other) {
    return !other.items.empty() && other.items.front().number < item.number;
  };
  if (stream != &default_stream_) return !stream->blocking || !earlier(default_stream_);
  return std::none_of(streams_.begin(), streams_.end(),
                      [&](const auto& other) { return other->blocking && earlier(*other); });
}

// Run the next item of some stream that can go on: any of them, when several can.
Status Device::step() {
  std::vector<Stream*> able;
  const auto consider = [&](Stream* stream) {
    if (!stream->items.empty() && may_run(stream, stream->items.front())) able.push_back(stream);
  };
  consider(&default_stream_);
  for (const auto& stream : streams_) consider(stream.get());
  if (able.empty()) return Status::not_ready;
  Random random(settings.seed ^ ++runs_ << 32);
  Stream* stream = able[random.below(uint32_t(able.size()))];
  Item item = std::move(stream->items.front());
  stream->items.pop_front();
  if (item.record) {
    ++item.record->done;
    item.record->time_ms = milliseconds();
  }
  return item.run ? item.run() : Status::success;
}

template <class Done>
Status Device::run_until(Done done) {
  Status first = Status::success;
  while (!done()) {
    const Status status = step();
    if (status == Status::not_ready) {
      report("streams wait for each other's events for ever");
      return Status::launch_failure;
    }
    if (first == Status::success) first = status;
  }
  return first;
}

Status Device::enqueue(Stream* stream, Item item) {
  item.number = ++issued_;
  stream->items.push_back(std::move(item));
  return settings.lazy_streams ? Status::success : synchronize_all();
}

Status Device::submit(Stream* stream, Operation operation) {
  if (stream->capture) {
    stream->capture->graph->operations.push_back(std::move(operation));
    return Status::success;
  }
  if (stream == &default_stream_ && !captures_.empty()) {
    for (const auto& capture : captures_) {
      if (!capture->origin->blocking) continue;
      capture->invalid = true;
      report("work for the default stream while a blocking stream is being captured");
      return Status::capture_implicit;
    }
  }
  Item item;
  item.run = std::move(operation);
  return enqueue(stream, std::move(item));
}

Status Device::record(Stream* stream, const std::shared_ptr<Event>& event) {
  event->captured_in = stream->capture ? stream : nullptr;
  if (stream->capture) return Status::success;
  ++event->recorded;
  Item item;
  item.record = event;
  return enqueue(stream, std::move(item));
}

Status Device::wait(Stream* stream, const std::shared_ptr<Event>& event) {
  if (event->captured_in) {  // the stream joins the capture
    stream->capture = event->captured_in->capture;
    return Status::success;
  }
  if (stream->capture) {
    stream->capture->invalid = true;
    report("a stream that is being captured waits for an event from outside of the capture");
    return Status::capture_invalidated;
  }
  Item item;
  item.wait = event;
  item.wait_for = event->recorded;
  return enqueue(stream, std::move(item));
}

Status Device::synchronize(Stream* stream) {
  return run_until([stream] { return stream->items.empty(); });
}

Status Device::synchronize(Event& event) {
  return run_until([&event] { return event.done == event.recorded; });
}

Status Device::synchronize_all() {
  return run_until([this] {
    return default_stream_.items.empty() &&
           std::all_of(streams_.begin(), streams_.end(),
                       [](const auto& stream) { return stream->items.empty(); });
  });
}

Status Device::begin_capture(Stream* stream, int mode) {
  if (stream == &default_stream_) {
    report("the default stream cannot be captured");
    return Status::capture_unsupported;
  }
  if (stream->capture) return Status::invalid_value;
  stream->capture = std::make_shared<Capture>(Capture{new Graph, stream, mode});
  captures_.push_back(stream->capture);
  return Status::success;
}

Status Device::end_capture(Stream* stream, Graph** graph) {
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (!capture || capture->origin != stream) {
    report("cudaStreamEndCapture on a stream that does not begin a capture");
    return Status::capture_unmatched;
  }
  for (const auto& other : streams_) {
    if (other->capture == capture) other->capture.reset();
  }
  captures_.erase(std::find(captures_.begin(), captures_.end(), capture));
  if (capture->invalid) {
    delete capture->graph;
    return Status::capture_invalidated;
  }
  *graph = capture->graph;
  return Status::success;
}

Status Device::check_capture(const Stream* stream, const char* call) {
  for (const auto& capture : captures_) {
    const bool relaxed = capture->mode == 2;  // cudaStreamCaptureModeRelaxed
    if (stream ? stream->capture == capture : !relaxed) {
      capture->invalid = true;
      report(std::string(call) + " while a stream is being captured");
      return Status::capture_unsupported;
    }
  }
  return Status::success;
}

}  // namespace emu
