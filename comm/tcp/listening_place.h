#ifndef SHARDSTEP_COMM_TCP_LISTENING_PLACE_H_
#define SHARDSTEP_COMM_TCP_LISTENING_PLACE_H_

#include <cstdint>
#include <string>

#include "shardstep/comm/status.h"
#include "shardstep/comm/tcp/socket.h"

namespace shardstep {

/// Where ranks meet that are told so (listening_rendezvous.h).
struct ListeningPlace {
  std::string address;  ///< "host:port"; an IPv6 address in brackets
  uint64_t key = 0;     ///< random: of this one meeting
};

/// `host` without spaces and brackets, as it goes into an address; InvalidArgument names the option otherwise.
absl::Status CheckHostAddress(absl::string_view host);

/// The name that the system has for this host.
std::string SystemHostName();

/// Listens on `host` at a port that the system chooses; `*listener` is open afterwards.
absl::StatusOr<ListeningPlace> ListenSomewhere(const std::string& host, Descriptor* listener);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_LISTENING_PLACE_H_
