#ifndef SHARDSTEP_COMM_TCP_SOCKET_H_
#define SHARDSTEP_COMM_TCP_SOCKET_H_

#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_ = -1;  // none
};

struct HostAndPort {
  std::string host;  // without brackets
  std::string port;
};

/// "host:port" or "[IPv6 address]:port", 1 <= port <= 65535. InvalidArgument says what is wrong.
absl::StatusOr<HostAndPort> ParseAddress(absl::string_view address);

/// All sockets here do not block, are not inherited by programs that are executed, and raise no SIGPIPE.

/// Listens on all networks, or on the loopback one that `address` names; at a port that the system chooses if it is
/// "0". Unavailable says why not.
absl::StatusOr<Descriptor> Listen(const HostAndPort& address);

/// Where a socket listens.
absl::StatusOr<std::string> PortOf(const Descriptor& listener);

/// One attempt at every address that the name has, until `end` at the latest. Unavailable tells the last reason.
absl::StatusOr<Descriptor> Connect(const HostAndPort& address, absl::Time end);

/// A connection that a listening socket has ready, and in `name` who it is; not open when there is none any more.
Descriptor Accept(const Descriptor& listener, std::string* name);

/// Two connected sockets of this process.
absl::StatusOr<std::pair<Descriptor, Descriptor>> SocketPair();

enum class Transfer { kSome, kWouldBlock, kClosed };

/// Appends at most 256 KiB of what has come to `bytes`. A connection that broke is closed.
Transfer Receive(const Descriptor& socket, std::string* bytes);
/// Sends as much of `bytes` as fits and adds it to *sent_bytes.
Transfer Send(const Descriptor& socket, absl::string_view bytes, size_t* sent_bytes);

/// Until the socket has any of the poll(2) `events`, is broken, or `end` has come: whether it was not `end`.
bool WaitFor(const Descriptor& socket, short events, absl::Time end);

/// For poll(2): milliseconds until `end`, rounded up; -1 for an infinite one.
int PollTimeoutMs(absl::Time end);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_SOCKET_H_
