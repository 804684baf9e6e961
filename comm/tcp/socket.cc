#include "shardstep/comm/tcp/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/time/clock.h"

namespace shardstep {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::Status SystemError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<AddressList> Resolve(const HostAndPort& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &list);
  if (error != 0) return absl::UnavailableError(absl::StrCat(address.host, ": ", gai_strerror(error)));
  return AddressList(list, &freeaddrinfo);
}

Descriptor NewSocket(int family) { return Descriptor(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); }

void SetOption(const Descriptor& socket, int level, int option, int value) {
  setsockopt(socket.get(), level, option, &value, sizeof(value));
}

// A host that vanishes closes nothing: it is missed after half a minute.
void SetConnectionOptions(const Descriptor& socket) {
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

bool NamesLoopback(const HostAndPort& address) {
  return address.host == "localhost" || address.host == "::1" || absl::StartsWith(address.host, "127.");
}

in_port_t PortIn(const sockaddr* where) {
  return where->sa_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(where)->sin6_port
                                      : reinterpret_cast<const sockaddr_in*>(where)->sin_port;
}

absl::StatusOr<Descriptor> ListenAt(int family, const sockaddr* where, socklen_t where_bytes) {
  Descriptor socket = NewSocket(family);
  if (!socket.is_open()) return SystemError("socket");
  // A port that the system chooses may otherwise be another's that does not listen yet.
  if (PortIn(where) != 0) SetOption(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  if (family == AF_INET6) SetOption(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(socket.get(), where, where_bytes) != 0) return SystemError("bind");
  if (listen(socket.get(), SOMAXCONN) != 0) return SystemError("listen");
  return socket;
}

// IPv6 and IPv4 at once, where there is IPv6.
absl::StatusOr<Descriptor> ListenEverywhere(in_port_t port) {
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  any6.sin6_addr = in6addr_any;
  any6.sin6_port = port;
  absl::StatusOr<Descriptor> socket = ListenAt(AF_INET6, reinterpret_cast<const sockaddr*>(&any6), sizeof(any6));
  if (socket.ok() || (errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL)) return socket;
  sockaddr_in any4{};
  any4.sin_family = AF_INET;
  any4.sin_addr.s_addr = htonl(INADDR_ANY);
  any4.sin_port = port;
  return ListenAt(AF_INET, reinterpret_cast<const sockaddr*>(&any4), sizeof(any4));
}

// What may happen to a port that the system also gives to those who connect.
bool IsConnectedToItself(const Descriptor& socket) {
  sockaddr_storage own{};
  sockaddr_storage other{};
  socklen_t own_bytes = sizeof(own);
  socklen_t other_bytes = sizeof(other);
  return getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &own_bytes) == 0 &&
         getpeername(socket.get(), reinterpret_cast<sockaddr*>(&other), &other_bytes) == 0 &&
         own_bytes == other_bytes && std::memcmp(&own, &other, own_bytes) == 0;
}

absl::StatusOr<Descriptor> ConnectTo(const addrinfo& where, absl::Time end) {
  Descriptor socket = NewSocket(where.ai_family);
  if (!socket.is_open()) return SystemError("socket");
  if (connect(socket.get(), where.ai_addr, where.ai_addrlen) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) return SystemError("connect");
    if (!WaitFor(socket, POLLOUT, end)) return absl::UnavailableError("connect: no answer");
    socklen_t error_bytes = sizeof(errno);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &errno, &error_bytes);
    if (errno != 0) return SystemError("connect");
  }
  if (IsConnectedToItself(socket)) return absl::UnavailableError("connect: nobody listens");
  SetConnectionOptions(socket);
  return socket;
}

}  // namespace

void Descriptor::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::StatusOr<HostAndPort> ParseAddress(absl::string_view address) {
  const auto wrong = [address](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("address: \"", address, "\" ", why));
  };
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || address.back() == ']') return wrong("has no port");
  absl::string_view host = address.substr(0, colon);
  const absl::string_view port = address.substr(colon + 1);
  int number = 0;
  const bool digits = port.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits || !absl::SimpleAtoi(port, &number) || number < 1 || number > 65535) {
    return wrong("has a port that is not in 1..65535");
  }
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return wrong("has an IPv6 address without brackets");
  }
  if (host.empty()) return wrong("has no host");
  return HostAndPort{.host = std::string(host), .port = std::string(port)};
}

absl::StatusOr<Descriptor> Listen(const HostAndPort& address) {
  if (NamesLoopback(address)) {
    SHARDSTEP_ASSIGN_OR_RETURN(const AddressList list, Resolve(address));
    return ListenAt(list->ai_family, list->ai_addr, list->ai_addrlen);
  }
  int port = 0;
  if (!absl::SimpleAtoi(address.port, &port)) return absl::InvalidArgumentError("address: port");
  return ListenEverywhere(htons(static_cast<in_port_t>(port)));
}

absl::StatusOr<std::string> PortOf(const Descriptor& listener) {
  sockaddr_storage own{};
  socklen_t own_bytes = sizeof(own);
  auto* const where = reinterpret_cast<sockaddr*>(&own);
  if (getsockname(listener.get(), where, &own_bytes) != 0) return SystemError("getsockname");
  return absl::StrCat(ntohs(PortIn(where)));
}

absl::StatusOr<Descriptor> Connect(const HostAndPort& address, absl::Time end) {
  SHARDSTEP_ASSIGN_OR_RETURN(const AddressList list, Resolve(address));
  absl::StatusOr<Descriptor> socket = absl::UnavailableError("no address");
  for (const addrinfo* where = list.get(); where != nullptr && !socket.ok(); where = where->ai_next) {
    socket = ConnectTo(*where, end);
  }
  return socket;
}

Descriptor Accept(const Descriptor& listener, std::string* name) {
  sockaddr_storage from{};
  socklen_t from_bytes = sizeof(from);
  auto* address = reinterpret_cast<sockaddr*>(&from);
  Descriptor socket(accept4(listener.get(), address, &from_bytes, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.is_open()) {
    // Out of descriptors, it stays ready: who polls must not spin.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
      absl::SleepFor(absl::Milliseconds(10));
    return socket;
  }
  SetConnectionOptions(socket);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(address, from_bytes, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
    *name = absl::StrCat(host.data(), " port ", port.data());
  }
  return socket;
}

absl::StatusOr<std::pair<Descriptor, Descriptor>> SocketPair() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return SystemError("socketpair");
  }
  return std::make_pair(Descriptor(ends[0]), Descriptor(ends[1]));
}

Transfer Receive(const Descriptor& socket, std::string* bytes) {
  constexpr size_t kChunkBytes = size_t{256} << 10;
  const size_t before = bytes->size();
  bytes->resize(before + kChunkBytes);
  ssize_t count = 0;
  do {
    count = recv(socket.get(), bytes->data() + before, kChunkBytes, 0);
  } while (count < 0 && errno == EINTR);
  bytes->resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
  if (count > 0) return Transfer::kSome;
  return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? Transfer::kWouldBlock : Transfer::kClosed;
}

Transfer Send(const Descriptor& socket, absl::string_view bytes, size_t* sent_bytes) {
  ssize_t count = 0;
  do {
    count = send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  if (count >= 0) {
    *sent_bytes += static_cast<size_t>(count);
    return Transfer::kSome;
  }
  return errno == EAGAIN || errno == EWOULDBLOCK ? Transfer::kWouldBlock : Transfer::kClosed;
}

bool WaitFor(const Descriptor& socket, short events, absl::Time end) {
  while (true) {
    pollfd one{.fd = socket.get(), .events = events, .revents = 0};
    const int ready = poll(&one, 1, PollTimeoutMs(end));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // what is next on the socket will tell
    if (absl::Now() >= end) return false;
  }
}

int PollTimeoutMs(absl::Time end) {
  if (end == absl::InfiniteFuture()) return -1;
  constexpr absl::Duration kLongest = absl::Hours(24);
  const absl::Duration left = std::clamp(end - absl::Now(), absl::ZeroDuration(), kLongest);
  return static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))));
}

}  // namespace shardstep
