// Streams, events and graphs: the order in which the device does what the host asks for.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "launch.h"

namespace emu {

using Operation = std::function<Status()>;

struct Event;
struct Stream;

// One item of a stream: something to do, or an event to record or to wait for.
struct Item {
  Operation run;
  std::shared_ptr<Event> record;
  std::shared_ptr<Event> wait;
  uint64_t wait_for = 0;  // the event's recording that must be done
  uint64_t number = 0;    // in the order of issue, over all streams
};

struct Event {
  uint64_t recorded = 0;  // times that a record was issued
  uint64_t done = 0;      // times that one was reached
  double time_ms = 0;
  Stream* captured_in = nullptr;  // the stream whose capture it was last recorded in
};

struct Graph {
  std::vector<Operation> operations;
};

struct Capture {
  Graph* graph;
  Stream* origin;
  int mode;
  bool invalid = false;
};

struct Stream {
  bool blocking = true;  // ordered with the legacy default stream
  std::deque<Item> items;
  std::shared_ptr<Capture> capture;
};

class Device {
 public:
  std::recursive_mutex mutex;

  Stream* create_stream(bool blocking);
  void destroy_stream(Stream* stream);
  // Null, cudaStreamLegacy and cudaStreamPerThread stand for the default stream.
  Stream* resolve(void* handle);
  // Run it now, or queue it, or record it in a graph.
  Status submit(Stream* stream, Operation operation);
  Status record(Stream* stream, const std::shared_ptr<Event>& event);
  Status wait(Stream* stream, const std::shared_ptr<Event>& event);
  Status synchronize(Stream* stream);
  Status synchronize(Event& event);
  Status synchronize_all();
  bool idle(const Stream* stream) const { return stream->items.empty(); }

  Status begin_capture(Stream* stream, int mode);
  Status end_capture(Stream* stream, Graph** graph);
  // Why a call that waits or allocates must not be made now; success if it may.
  Status check_capture(const Stream* stream, const char* call);

  // The status of the last call that failed, as cudaGetLastError keeps it.
  Status last_error = Status::success;

 private:
  bool may_run(const Stream* stream, const Item& item) const;
  Status step();
  Status enqueue(Stream* stream, Item item);
  template <class Done>
  Status run_until(Done done);

  std::vector<std::unique_ptr<Stream>> streams_;
  Stream default_stream_;
  uint64_t issued_ = 0;
  uint64_t runs_ = 0;
  std::vector<std::shared_ptr<Capture>> captures_;
};

Device& device();

}  // namespace emu
