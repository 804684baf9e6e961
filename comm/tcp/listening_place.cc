#include "shardstep/comm/tcp/listening_place.h"

#include <sys/random.h>
#include <unistd.h>

#include <array>

#include "absl/strings/match.h"

namespace shardstep {

absl::Status CheckHostAddress(absl::string_view host) {
  if (host.find_first_of(" \t\n[]") == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("host_address: \"", host, "\" is neither a name nor an address"));
}

std::string SystemHostName() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

absl::StatusOr<ListeningPlace> ListenSomewhere(const std::string& host, Descriptor* listener) {
  SHARDSTEP_ASSIGN_OR_RETURN(*listener, Listen({.host = host, .port = "0"}));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string port, PortOf(*listener));
  ListeningPlace place{.address = absl::StrContains(host, ":") ? absl::StrCat("[", host, "]:", port)
                                                               : absl::StrCat(host, ":", port)};
  if (getrandom(&place.key, sizeof(place.key), 0) != static_cast<ssize_t>(sizeof(place.key))) {
    return absl::UnavailableError("getrandom: no random bytes");
  }
  return place;
}

}  // namespace shardstep
