// Usage: host_probe BYTES ROUNDS PAUSE_MS DEADLINE_S
// A job that does nothing but meet: ROUNDS times every rank sends BYTES to every other one and then pauses. Rank 0
// prints "rank <r> on <hostname>, host <n>" for each rank, n counting the different DefaultHostId, then "round <i>"
// after each.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/comm/shm/host_id.h"

namespace shardstep {
namespace {

struct ProbeOptions {
  int bytes = 0;
  int rounds = 0;
  int pause_ms = 0;
  int deadline_s = 0;
};

void PrintHosts(const std::vector<std::string>& names, const std::vector<std::string>& ids) {
  std::vector<std::string> different;
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    auto found = std::find(different.begin(), different.end(), ids[rank]);
    if (found == different.end()) found = different.insert(found, ids[rank]);
    std::printf("rank %zu on %s, host %td\n", rank, names[rank].c_str(), found - different.begin());
  }
  std::fflush(stdout);
}

absl::Status Meet(const ProbeOptions& options, Rendezvous& rendezvous) {
  const absl::Duration deadline = absl::Seconds(options.deadline_s);
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  SHARDSTEP_ASSIGN_OR_RETURN(const auto names, rendezvous.AllGatherBytes("names", name, deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(const auto ids, rendezvous.AllGatherBytes("host ids", DefaultHostId(), deadline));
  if (rendezvous.rank() == 0) PrintHosts(names, ids);
  const std::string mine(static_cast<size_t>(options.bytes), static_cast<char>('a' + rendezvous.rank()));
  for (int round = 0; round < options.rounds; ++round) {
    SHARDSTEP_ASSIGN_OR_RETURN(const auto all, rendezvous.AllGatherBytes("bytes", mine, deadline));
    for (size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank] != std::string(mine.size(), static_cast<char>('a' + rank))) {
        return absl::DataLossError(absl::StrCat("round ", round, ": other bytes from rank ", rank));
      }
    }
    if (rendezvous.rank() == 0) {
      std::printf("round %d\n", round);
      std::fflush(stdout);
    }
    absl::SleepFor(absl::Milliseconds(options.pause_ms));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  ProbeOptions options;
  if (argc != 5 || !absl::SimpleAtoi(argv[1], &options.bytes) || !absl::SimpleAtoi(argv[2], &options.rounds) ||
      !absl::SimpleAtoi(argv[3], &options.pause_ms) || !absl::SimpleAtoi(argv[4], &options.deadline_s)) {
    std::fprintf(stderr, "usage: host_probe BYTES ROUNDS PAUSE_MS DEADLINE_S\n");
    return 64;
  }
  auto rendezvous = MpiRendezvous::Create();
  const absl::Status status = rendezvous.ok() ? Meet(options, **rendezvous) : rendezvous.status();
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 75;
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
