#include "shardstep/comm/tcp/tcp_rendezvous.h"

#include <poll.h>

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/tcp/frame.h"
#include "shardstep/comm/tcp/hub.h"
#include "shardstep/comm/tcp/listening_rendezvous.h"
#include "shardstep/comm/tcp/socket.h"

namespace shardstep {
namespace {

constexpr absl::string_view kCreate = "CreateTcpRendezvous";
// Of what waits for the thread of rank 0 alone, which waits for nobody.
constexpr absl::Duration kHubDeadline = absl::Seconds(5);
constexpr absl::Duration kRetryPause = absl::Milliseconds(50);
constexpr size_t kLongestReasonBytes = 4096;

absl::Status ValidateOptions(const TcpRendezvousOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(ParseAddress(options.address).status());
  if (options.world_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat("world_size: ", options.world_size, " is not positive"));
  }
  if (options.rank < 0 || options.rank >= options.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank: ", options.rank, " is not in 0..", options.world_size - 1, " (world_size)"));
  }
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline: ", absl::FormatDuration(options.deadline), " is not positive"));
  }
  if (!options.rank_names.empty() && static_cast<int>(options.rank_names.size()) != options.world_size) {
    return absl::InvalidArgumentError(absl::StrCat("rank_names: ", options.rank_names.size(), " names, there are ",
                                                   options.world_size, " ranks (world_size)"));
  }
  return absl::OkStatus();
}

int NameOf(const TcpRendezvousOptions& options, int rank) {
  return options.rank_names.empty() ? rank : options.rank_names[static_cast<size_t>(rank)];
}

// What a rank says that cannot come to rank 0, or is not understood there.
absl::Status FirstRankAbsent(const TcpRendezvousOptions& options, absl::string_view why) {
  return absl::DeadlineExceededError(absl::StrCat(kCreate, ": rank ", NameOf(options, 0), " did not arrive within ",
                                                  absl::FormatDuration(options.deadline), " (", options.address, ": ",
                                                  why, ")"));
}

absl::Status SendAll(const Descriptor& socket, absl::string_view bytes, absl::Time end) {
  size_t sent_bytes = 0;
  while (sent_bytes < bytes.size()) {
    const Transfer transfer = Send(socket, bytes.substr(sent_bytes), &sent_bytes);
    if (transfer == Transfer::kClosed) return absl::UnavailableError("the connection to rank 0 closed");
    if (transfer == Transfer::kWouldBlock && !WaitFor(socket, POLLOUT, end)) {
      return absl::DeadlineExceededError("rank 0 takes no more bytes");
    }
  }
  return absl::OkStatus();
}

// A connection to whatever listens at `address`; ranks may start before rank 0 does.
absl::StatusOr<Descriptor> ConnectUntil(const HostAndPort& address, const TcpRendezvousOptions& options,
                                        absl::Time end) {
  while (true) {
    absl::StatusOr<Descriptor> socket = Connect(address, end);
    if (socket.ok()) return socket;
    if (absl::Now() + kRetryPause >= end) {
      return FirstRankAbsent(options, socket.status().message());
    }
    absl::SleepFor(kRetryPause);
  }
}

class TcpRendezvous : public Rendezvous {
 public:
  TcpRendezvous(const TcpRendezvousOptions& options, Descriptor socket, std::unique_ptr<TcpHub> hub)
      : options_(options),
        rank_(options.rank),
        world_size_(options.world_size),
        socket_(std::move(socket)),
        peers_(static_cast<size_t>(options.world_size)),
        hub_(std::move(hub)) {}

  ~TcpRendezvous() override {
    if (hub_ != nullptr && failure_.ok() && own_failure_.ok()) hub_->SetLinger(kHubDeadline);
    if (!is_silent_) Say({.kind = FrameKind::kLeft, .value = kUnavailable, .bytes = "has left"});
    socket_.Close();
  }
  TcpRendezvous(const TcpRendezvous&) = delete;
  TcpRendezvous& operator=(const TcpRendezvous&) = delete;

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  int rank_name(int rank) const override { return NameOf(options_, rank); }
  const TcpHub* hub() const { return hub_.get(); }

  // Not of rank 0: says who it is and hears whether that is right.
  absl::Status Introduce(uint64_t key, absl::Time end);

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override;
  void Fail(const absl::Status& reason) override;

 private:
  static constexpr int kUnavailable = static_cast<int>(absl::StatusCode::kUnavailable);

  struct Peer {
    std::deque<Frame> contributions;  // to this meeting and, of a faster rank, the next one
    absl::Status left;                // why there will be no more
  };

  absl::Status StatusOf(const Frame& frame) const;
  void Say(Frame frame);
  absl::Status FailMeetings(absl::Status failure);
  absl::Status Contribute(absl::string_view what, absl::string_view bytes, absl::Time end);
  absl::StatusOr<bool> Hear();  // one step; false when nothing has come
  bool HearAll();               // all that has come; whether more may follow
  absl::Status Take(Frame frame);
  absl::Status AwaitVerdict(absl::Time end);
  std::vector<int> Absent() const;
  absl::StatusOr<std::vector<std::string>> Finish(absl::string_view what, absl::string_view bytes);

  const TcpRendezvousOptions options_;
  const int rank_;
  const int world_size_;
  Descriptor socket_;  // to the hub
  FrameReader reader_{kLargestFrameBytes};
  std::vector<Peer> peers_;
  uint64_t round_ = 0;             // of the next meeting
  uint64_t completed_rounds_ = 0;  // as rank 0 says
  absl::Status failure_;           // of all meetings from now on
  absl::Status own_failure_;       // that Fail has told the hub, which decides
  bool is_silent_ = false;         // the hub knows that there is nothing more to come
  bool all_are_told_ = false;      // of a failure that ends everybody's meetings
  std::unique_ptr<TcpHub> hub_;
};

absl::Status TcpRendezvous::StatusOf(const Frame& frame) const {
  return AbortedBy(rank_name(frame.rank), static_cast<absl::StatusCode>(frame.value), frame.bytes);
}

void TcpRendezvous::Say(Frame frame) {
  frame.bytes.resize(std::min(frame.bytes.size(), kLongestReasonBytes));
  // It waits for no rank: the hub always reads.
  if (!SendAll(socket_, Encode(frame), absl::Now() + kHubDeadline).ok()) socket_.Close();
  is_silent_ = true;
}

absl::Status TcpRendezvous::FailMeetings(absl::Status failure) {
  if (!is_silent_) {
    Say({.kind = FrameKind::kLeft,
         .value = static_cast<int>(CauseOf(failure)),
         .bytes = absl::StrCat("failed: ", failure.message())});
  }
  failure_ = std::move(failure);
  return failure_;
}

absl::Status TcpRendezvous::Introduce(uint64_t key, absl::Time end) {
  SHARDSTEP_RETURN_IF_ERROR(
      SendAll(socket_, Encode({.kind = FrameKind::kHello, .rank = rank_, .value = world_size_, .round = key}), end));
  const auto wrong = [this](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(kCreate, ": ", options_.address, ": ", why));
  };
  while (true) {
    std::string bytes;
    const Transfer transfer = Receive(socket_, &bytes);
    reader_.Append(bytes);
    absl::StatusOr<absl::optional<Frame>> frame = reader_.Next();
    if (!frame.ok()) return wrong(absl::StrCat("no rank 0 listens there: ", frame.status().message()));
    if (frame->has_value()) {
      if ((*frame)->kind == FrameKind::kWelcome) return absl::OkStatus();
      return wrong(absl::StrCat("rank 0 refuses: ", (*frame)->bytes));
    }
    if (transfer == Transfer::kClosed) return wrong("what listens there closed the connection");
    if (!WaitFor(socket_, POLLIN, end)) {
      return FirstRankAbsent(options_, "what listens there does not answer");
    }
  }
}

absl::StatusOr<std::vector<std::string>> TcpRendezvous::AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                                       absl::Duration deadline) {
  SHARDSTEP_RETURN_IF_ERROR(failure_);
  const absl::Time end = absl::Now() + deadline;
  if (!own_failure_.ok()) return AwaitVerdict(end);
  SHARDSTEP_RETURN_IF_ERROR(Contribute(what, bytes, end));
  while (completed_rounds_ < round_) {
    const absl::StatusOr<bool> heard = Hear();
    SHARDSTEP_RETURN_IF_ERROR(failure_);
    if (heard.ok() && *heard) continue;
    std::vector<int> absent = Absent();
    for (const int rank : absent) {
      const Peer& peer = peers_[static_cast<size_t>(rank)];
      if (!peer.left.ok()) return FailMeetings(peer.left);
    }
    if (!heard.ok()) {
      // What rank 0 said last says more than that it closed the connection; it may have come to this meeting before.
      return FailMeetings(peers_[0].left.ok() ? heard.status() : peers_[0].left);
    }
    if (!WaitFor(socket_, POLLIN, end)) {
      if (absent.empty()) absent.push_back(0);  // all but its word that all are there
      for (int& rank : absent) rank = rank_name(rank);
      std::sort(absent.begin(), absent.end());
      return FailMeetings(absl::DeadlineExceededError(
          absl::StrCat(what, ": ", RankList(absent), " did not arrive within ", absl::FormatDuration(deadline))));
    }
  }
  return Finish(what, bytes);
}

absl::Status TcpRendezvous::Contribute(absl::string_view what, absl::string_view bytes, absl::Time end) {
  if (what.size() + bytes.size() > kLargestFrameBytes) {
    return FailMeetings(
        absl::InvalidArgumentError(absl::StrCat(what, ": ", bytes.size(), " bytes are more than one meeting takes")));
  }
  const Frame frame{.kind = FrameKind::kContribution,
                    .rank = rank_,
                    .round = round_++,
                    .what = std::string(what),
                    .bytes = std::string(bytes)};
  const absl::Status sent = SendAll(socket_, Encode(frame), end);
  if (absl::IsDeadlineExceeded(sent)) {
    is_silent_ = true;  // in the middle of a frame: all that the hub can still learn is that this connection closed
    socket_.Close();
    return FailMeetings(Annotate(sent, what));
  }
  return absl::OkStatus();  // why a connection closed is what Hear finds last on it
}

absl::StatusOr<bool> TcpRendezvous::Hear() {
  SHARDSTEP_ASSIGN_OR_RETURN(absl::optional<Frame> frame, reader_.Next());
  if (frame.has_value()) {
    SHARDSTEP_RETURN_IF_ERROR(Take(*std::move(frame)));
    return true;
  }
  std::string bytes;
  const Transfer transfer = Receive(socket_, &bytes);
  reader_.Append(bytes);
  if (transfer != Transfer::kClosed) return transfer == Transfer::kSome;
  return AbortedBy(rank_name(0), absl::StatusCode::kUnavailable,
                   "failed: its connection closed: it ended or was killed");
}

bool TcpRendezvous::HearAll() {
  absl::StatusOr<bool> heard = true;
  while (heard.ok() && *heard) heard = Hear();
  return heard.ok();
}

absl::Status TcpRendezvous::Take(Frame frame) {
  if (frame.rank < 0 || frame.rank >= world_size_) {
    return absl::InternalError(absl::StrCat("rendezvous: rank 0 passed on a frame of rank ", frame.rank));
  }
  Peer& peer = peers_[static_cast<size_t>(frame.rank)];
  if (frame.kind == FrameKind::kFailed) {
    if (failure_.ok()) failure_ = StatusOf(frame);
    is_silent_ = true;
    all_are_told_ = true;
  } else if (frame.kind == FrameKind::kLeft) {
    peer.left = StatusOf(frame);
  } else if (frame.kind == FrameKind::kComplete) {
    completed_rounds_ = frame.round + 1;
  } else if (frame.kind == FrameKind::kContribution) {
    peer.contributions.push_back(std::move(frame));
  }
  return absl::OkStatus();
}

absl::Status TcpRendezvous::AwaitVerdict(absl::Time end) {
  end = std::min(end, absl::Now() + kHubDeadline);
  while (HearAll() && failure_.ok() && WaitFor(socket_, POLLIN, end)) {
  }
  if (failure_.ok()) failure_ = own_failure_;
  return failure_;
}

std::vector<int> TcpRendezvous::Absent() const {
  std::vector<int> absent;
  for (int rank = 0; rank < world_size_; ++rank) {
    if (rank != rank_ && peers_[static_cast<size_t>(rank)].contributions.empty()) absent.push_back(rank);
  }
  return absent;
}

absl::StatusOr<std::vector<std::string>> TcpRendezvous::Finish(absl::string_view what, absl::string_view bytes) {
  std::vector<std::string> tags(peers_.size(), std::string(what));
  std::vector<std::string> all(peers_.size(), std::string(bytes));
  for (size_t rank = 0; rank < peers_.size(); ++rank) {
    if (static_cast<int>(rank) == rank_) continue;
    if (peers_[rank].contributions.empty() || peers_[rank].contributions.front().round + 1 != round_) {
      return FailMeetings(
          absl::InternalError(absl::StrCat("rendezvous: nothing of rank ", rank, " is there for round ", round_ - 1)));
    }
    Frame& frame = peers_[rank].contributions.front();
    tags[rank] = std::move(frame.what);
    all[rank] = std::move(frame.bytes);
    peers_[rank].contributions.pop_front();
  }
  for (size_t rank = 1; rank < tags.size(); ++rank) {
    if (tags[rank] == tags[0]) continue;
    return FailMeetings(
        absl::FailedPreconditionError(absl::StrCat("rendezvous: rank ", rank_name(0), " is at \"", tags[0], "\", rank ",
                                                   rank_name(static_cast<int>(rank)), " at \"", tags[rank], "\"")));
  }
  return all;
}

void TcpRendezvous::Fail(const absl::Status& reason) {
  if (!all_are_told_) HearAll();
  if (all_are_told_) return;
  all_are_told_ = true;
  own_failure_ = AbortedBy(rank_name(rank_), CauseOf(reason), absl::StrCat("failed: ", reason.message()));
  Say({.kind = FrameKind::kFailed,
       .value = static_cast<int>(CauseOf(reason)),
       .bytes = absl::StrCat("failed: ", reason.message())});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rendezvous>> CreateTcpRendezvous(const TcpRendezvousOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  Descriptor listener;
  if (options.rank == 0) {
    SHARDSTEP_ASSIGN_OR_RETURN(const HostAndPort address, ParseAddress(options.address));
    absl::StatusOr<Descriptor> listening = Listen(address);
    if (!listening.ok()) return Annotate(listening.status(), absl::StrCat(kCreate, ": ", options.address));
    listener = *std::move(listening);
  }
  return CreateListeningRendezvous(options, /*key=*/0, std::move(listener));
}

absl::StatusOr<std::unique_ptr<Rendezvous>> CreateListeningRendezvous(const TcpRendezvousOptions& options, uint64_t key,
                                                                      Descriptor listener) {
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  SHARDSTEP_ASSIGN_OR_RETURN(const HostAndPort address, ParseAddress(options.address));
  const absl::Time end = absl::Now() + options.deadline;
  std::unique_ptr<TcpRendezvous> rendezvous;
  if (options.rank == 0) {
    SHARDSTEP_ASSIGN_OR_RETURN(auto ends, SocketPair());
    auto hub = std::make_unique<TcpHub>(options.world_size, key, std::move(listener), std::move(ends.second));
    rendezvous = std::make_unique<TcpRendezvous>(options, std::move(ends.first), std::move(hub));
  } else {
    SHARDSTEP_ASSIGN_OR_RETURN(Descriptor socket, ConnectUntil(address, options, end));
    rendezvous = std::make_unique<TcpRendezvous>(options, std::move(socket), nullptr);
    SHARDSTEP_RETURN_IF_ERROR(rendezvous->Introduce(key, end));
  }
  const absl::Status met = rendezvous->AllGatherBytes(kCreate, "", end - absl::Now()).status();
  if (met.ok()) return rendezvous;
  const std::string refusal = rendezvous->hub() == nullptr ? "" : rendezvous->hub()->LastRefusal();
  if (refusal.empty()) return met;
  return WithCause(absl::Status(met.code(), absl::StrCat(met.message(), "; turned away: ", refusal)), CauseOf(met));
}

}  // namespace shardstep
