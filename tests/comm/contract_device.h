#ifndef SHARDSTEP_TESTS_COMM_CONTRACT_DEVICE_H_
#define SHARDSTEP_TESTS_COMM_CONTRACT_DEVICE_H_

#include <memory>
#include <utility>

#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/memory.h"

namespace shardstep {

/// What the contract suites need of a rank's device: streams, host functions in their order, and memory that the host
/// may touch. Here the host's own; a backend with streams of another kind brings its own.
class ContractDevice {
 public:
  ContractDevice() = default;
  virtual ~ContractDevice() = default;
  ContractDevice(const ContractDevice&) = delete;
  ContractDevice& operator=(const ContractDevice&) = delete;

  virtual std::unique_ptr<Stream> MakeStream() { return std::make_unique<ThreadStream>(); }
  /// The stream of a caller's own thread.
  virtual std::unique_ptr<Stream> MakeCallerStream() { return std::make_unique<InlineStream>(); }
  /// `work` in the order of `stream`, which one of these made; its error is the stream's. `name` is a literal.
  virtual void Enqueue(Stream& stream, absl::string_view name, HostStream::Work work) {
    static_cast<HostStream&>(stream).Enqueue(name, std::move(work));
  }
  virtual Memory& memory() { return HostMemory(); }
};

/// The host's.
inline ContractDevice& HostContractDevice() {
  static ContractDevice device;
  return device;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_CONTRACT_DEVICE_H_
