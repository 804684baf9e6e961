#include "shardstep/comm/mpi/mpi_exchange.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "shardstep/comm/rank_list.h"

namespace shardstep {
namespace {

constexpr size_t kLargestMessageBytes = size_t{1} << 30;  // counts of MPI are int

// Precedes a rank's tag and bytes. Plain bytes between processes of one build.
struct Header {
  uint64_t round = 0;
  uint64_t what_bytes = 0;
  uint64_t payload_bytes = 0;  // tag and bytes
  uint32_t failed = 0;         // this rank takes part in nothing any more; `reason` says why
  int32_t cause = 0;           // of the failure: absl::StatusCode
  char reason[480] = "";
};
static_assert(sizeof(Header) == 512);

absl::Status FailureOf(int rank, const Header& header) {
  return AbortedBy(rank, static_cast<absl::StatusCode>(header.cause), absl::StrCat("failed: ", header.reason));
}

// Failures that end everything overtake the messages of rounds, hence a tag of their own.
constexpr int FailureTag(int message_tag) { return message_tag + 1; }

}  // namespace

absl::Status MpiStatus(int code, absl::string_view call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::InternalError(absl::StrCat(call, ": ", absl::string_view(text, static_cast<size_t>(length))));
}

void PollingPause::Sleep() {
  constexpr int kYields = 50;
  constexpr useconds_t kLongestUs = 1000;
  ++rounds_;
  if (rounds_ <= kYields) {
    sched_yield();
  } else {
    usleep(std::min(static_cast<useconds_t>(rounds_ - kYields) * 10, kLongestUs));
  }
}

struct MpiExchange::Peer {
  enum Stage { kHeader, kPayload, kDone };

  Stage stage = kHeader;
  Header sent;
  Header received;
  std::string payload;
  std::vector<MPI_Request> sends;
  std::vector<MPI_Request> receives;
};

MpiExchange::MpiExchange(MPI_Comm comm, int message_tag, uint64_t round)
    : comm_(comm), message_tag_(message_tag), round_(round) {
  int size = 0;
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size);
  peers_.resize(static_cast<size_t>(size));
}

MpiExchange::~MpiExchange() {
  const bool all_done = std::all_of(peers_.begin(), peers_.end(),
                                    [](const auto& peer) { return peer == nullptr || peer->stage == Peer::kDone; });
  if (all_done) return;
  for (std::unique_ptr<Peer>& peer : peers_) static_cast<void>(peer.release());
  static_cast<void>(payload_.release());
}

absl::StatusOr<std::vector<std::string>> MpiExchange::Gather(absl::string_view what, absl::string_view bytes,
                                                             absl::Duration deadline) {
  const absl::Time end = absl::Now() + deadline;
  SHARDSTEP_RETURN_IF_ERROR(Start(what, bytes));
  PollingPause pause;
  while (true) {
    const absl::Status heard = HearFailure(comm_, message_tag_);
    heard_failure_ = absl::IsAborted(heard);
    SHARDSTEP_RETURN_IF_ERROR(heard);
    std::vector<int> absent;
    for (size_t rank = 0; rank < peers_.size(); ++rank) {
      if (peers_[rank] == nullptr) continue;
      SHARDSTEP_RETURN_IF_ERROR(Progress(static_cast<int>(rank), *peers_[rank]));
      if (peers_[rank]->stage != Peer::kDone) absent.push_back(static_cast<int>(rank));
    }
    if (absent.empty()) return Finish(what, bytes);
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat(what, ": ", RankList(absent), " did not arrive within ", absl::FormatDuration(deadline)));
    }
    pause.Sleep();
  }
}

absl::Status MpiExchange::Start(absl::string_view what, absl::string_view bytes) {
  payload_ = std::make_unique<std::string>(absl::StrCat(what, bytes));
  for (size_t rank = 0; rank < peers_.size(); ++rank) {
    if (static_cast<int>(rank) == rank_) continue;
    peers_[rank] = std::make_unique<Peer>();
    Peer& peer = *peers_[rank];
    peer.sent.round = round_;
    peer.sent.what_bytes = what.size();
    peer.sent.payload_bytes = payload_->size();
    peer.receives.emplace_back();
    SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Irecv(&peer.received, sizeof(Header), MPI_BYTE, static_cast<int>(rank),
                                                  message_tag_, comm_, &peer.receives.back()),
                                        "MPI_Irecv"));
    SHARDSTEP_RETURN_IF_ERROR(SendTo(static_cast<int>(rank), *payload_, peer));
  }
  return absl::OkStatus();
}

absl::Status MpiExchange::SendTo(int rank, const std::string& payload, Peer& peer) {
  peer.sends.emplace_back();
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(
      MPI_Isend(&peer.sent, sizeof(Header), MPI_BYTE, rank, message_tag_, comm_, &peer.sends.back()), "MPI_Isend"));
  for (size_t offset = 0; offset < payload.size(); offset += kLargestMessageBytes) {
    const size_t count = std::min(kLargestMessageBytes, payload.size() - offset);
    peer.sends.emplace_back();
    SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Isend(payload.data() + offset, static_cast<int>(count), MPI_BYTE, rank,
                                                  message_tag_, comm_, &peer.sends.back()),
                                        "MPI_Isend"));
  }
  return absl::OkStatus();
}

absl::Status MpiExchange::ReceivePayload(int rank, Peer& peer) {
  const Header& header = peer.received;
  if (header.failed != 0) return FailureOf(rank, header);
  if (header.round != round_ || header.what_bytes > header.payload_bytes) {
    return absl::InternalError(
        absl::StrCat("rendezvous: rank ", rank, " sent round ", header.round, " in round ", round_));
  }
  peer.payload.resize(header.payload_bytes);
  peer.receives.clear();
  for (size_t offset = 0; offset < peer.payload.size(); offset += kLargestMessageBytes) {
    const size_t count = std::min(kLargestMessageBytes, peer.payload.size() - offset);
    peer.receives.emplace_back();
    SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Irecv(peer.payload.data() + offset, static_cast<int>(count), MPI_BYTE, rank,
                                                  message_tag_, comm_, &peer.receives.back()),
                                        "MPI_Irecv"));
  }
  peer.stage = Peer::kPayload;
  return absl::OkStatus();
}

absl::Status MpiExchange::Progress(int rank, Peer& peer) {
  const auto all_complete = [](std::vector<MPI_Request>& requests, bool* complete) {
    int flag = 0;
    const int code = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag, MPI_STATUSES_IGNORE);
    *complete = flag != 0;
    return MpiStatus(code, "MPI_Testall");
  };
  bool complete = false;
  if (peer.stage == Peer::kHeader) {
    SHARDSTEP_RETURN_IF_ERROR(all_complete(peer.receives, &complete));
    if (complete) SHARDSTEP_RETURN_IF_ERROR(ReceivePayload(rank, peer));
  }
  if (peer.stage == Peer::kPayload) {
    bool sent = false;
    SHARDSTEP_RETURN_IF_ERROR(all_complete(peer.receives, &complete));
    SHARDSTEP_RETURN_IF_ERROR(all_complete(peer.sends, &sent));
    if (complete && sent) peer.stage = Peer::kDone;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> MpiExchange::Finish(absl::string_view what, absl::string_view bytes) {
  std::vector<std::string> tags(peers_.size(), std::string(what));
  std::vector<std::string> all(peers_.size(), std::string(bytes));
  for (size_t rank = 0; rank < peers_.size(); ++rank) {
    if (peers_[rank] == nullptr) continue;
    const std::string& payload = peers_[rank]->payload;
    tags[rank] = payload.substr(0, peers_[rank]->received.what_bytes);
    all[rank] = payload.substr(peers_[rank]->received.what_bytes);
  }
  for (size_t rank = 1; rank < tags.size(); ++rank) {
    if (tags[rank] == tags[0]) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("rendezvous: rank 0 is at \"", tags[0], "\", rank ", rank, " at \"", tags[rank], "\""));
  }
  return all;
}

void MpiExchange::AnnounceFailure(MPI_Comm comm, int message_tag, Reach reach, const absl::Status& failure) {
  const int tag = reach == Reach::kEverything ? FailureTag(message_tag) : message_tag;
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  auto* header = new Header;  // in MPI's hands for good: nobody waits for these messages
  header->failed = 1;
  header->cause = static_cast<int32_t>(CauseOf(failure));
  const std::string reason(failure.message());
  std::strncpy(header->reason, reason.c_str(), sizeof(header->reason) - 1);
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Isend(header, sizeof(Header), MPI_BYTE, peer, tag, comm, &request) == MPI_SUCCESS) {
      MPI_Request_free(&request);
    }
  }
}

absl::Status MpiExchange::HearFailure(MPI_Comm comm, int message_tag) {
  const int tag = FailureTag(message_tag);
  int there = 0;
  MPI_Status message;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &there, &message), "MPI_Iprobe"));
  if (there == 0) return absl::OkStatus();
  Header header;
  SHARDSTEP_RETURN_IF_ERROR(MpiStatus(
      MPI_Recv(&header, sizeof(Header), MPI_BYTE, message.MPI_SOURCE, tag, comm, MPI_STATUS_IGNORE), "MPI_Recv"));
  return FailureOf(message.MPI_SOURCE, header);
}

}  // namespace shardstep
