#include "shardstep/comm/tcp/tcp_rendezvous.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_split.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/tcp/frame.h"
#include "shardstep/comm/tcp/socket.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "shardstep/tests/comm/rendezvous_contract.h"

namespace shardstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A port that was free a moment ago.
std::string FreeAddress() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t where_bytes = sizeof(where);
  auto* address = reinterpret_cast<sockaddr*>(&where);
  EXPECT_EQ(bind(fd, address, where_bytes), 0);
  EXPECT_EQ(getsockname(fd, address, &where_bytes), 0);
  close(fd);
  return absl::StrCat("127.0.0.1:", ntohs(where.sin_port));
}

TcpRendezvousOptions OptionsFor(const std::string& address, int rank, int world_size) {
  return {.address = address, .rank = rank, .world_size = world_size, .deadline = absl::Minutes(1)};
}

RendezvousBackend Ranks(int world_size) {
  return {.name = absl::StrCat("Ranks", world_size),
          .run = [=](const std::function<void(Rendezvous&, Rendezvous&)>& body) {
            const std::string address = FreeAddress();
            RunRankThreads(world_size, [&](Rendezvous& meeting) {
              auto tested = CreateTcpRendezvous(OptionsFor(address, meeting.rank(), world_size));
              ASSERT_TRUE(tested.ok()) << tested.status();
              body(**tested, meeting);
            });
          }};
}

INSTANTIATE_TEST_SUITE_P(Tcp, RendezvousContract, testing::Values(Ranks(1), Ranks(2), Ranks(3), Ranks(4)),
                         RendezvousName);

// Runs `body` as every rank, each with what its CreateTcpRendezvous gave.
using Created = absl::StatusOr<std::unique_ptr<Rendezvous>>;
void RunRanks(const std::string& address, int world_size, const std::function<void(int rank, Created)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([=] { body(rank, CreateTcpRendezvous(OptionsFor(address, rank, world_size))); });
  }
  for (std::thread& thread : threads) thread.join();
}

// A connection as anybody may make it, to a rank 0 that will listen there.
Descriptor Stranger(const std::string& address) {
  const HostAndPort where = *ParseAddress(address);
  while (true) {
    absl::StatusOr<Descriptor> socket = Connect(where, absl::Now() + absl::Seconds(30));
    if (socket.ok()) return *std::move(socket);
    absl::SleepFor(absl::Milliseconds(5));
  }
}

void SendBytes(const Descriptor& socket, absl::string_view bytes) {
  size_t sent_bytes = 0;
  Send(socket, bytes, &sent_bytes);
  EXPECT_EQ(sent_bytes, bytes.size());
}

// All that comes until the other side closes.
std::string Hear(const Descriptor& socket) {
  std::string bytes;
  while (Receive(socket, &bytes) != Transfer::kClosed) WaitFor(socket, POLLIN, absl::Now() + absl::Seconds(1));
  return bytes;
}

TEST(TcpRendezvousTest, OptionsAreCheckedByName) {
  const auto refused = [](const TcpRendezvousOptions& options) {
    const absl::Status status = CreateTcpRendezvous(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refused(OptionsFor("nowhere", 0, 1)), HasSubstr("address: \"nowhere\" has no port"));
  EXPECT_THAT(refused(OptionsFor("::1:5", 0, 1)), HasSubstr("without brackets"));
  EXPECT_THAT(refused(OptionsFor("[::1]", 0, 1)), HasSubstr("has no port"));
  EXPECT_THAT(refused(OptionsFor(":5", 0, 1)), HasSubstr("has no host"));
  for (const char* port : {"", "0", "65536", "-1", "+5", " 5", "http"}) {
    EXPECT_THAT(refused(OptionsFor(absl::StrCat("host:", port), 0, 1)), HasSubstr("not in 1..65535")) << port;
  }
  EXPECT_THAT(refused(OptionsFor("host:5", 0, 0)), HasSubstr("world_size: 0"));
  EXPECT_THAT(refused(OptionsFor("host:5", 2, 2)), HasSubstr("rank: 2 is not in 0..1"));
  EXPECT_THAT(refused(OptionsFor("host:5", -1, 2)), HasSubstr("rank: -1"));
  TcpRendezvousOptions options = OptionsFor("host:5", 0, 1);
  options.deadline = absl::ZeroDuration();
  EXPECT_THAT(refused(options), HasSubstr("deadline: 0"));
}

TEST(TcpRendezvousTest, NamesAndIPv6AddressesWork) {
  const std::string address = FreeAddress();
  for (const char* host : {"localhost", "[::1]"}) {
    RunRanks(absl::StrCat(host, address.substr(address.rfind(':'))), 2, [](int, const Created& rendezvous) {
      ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
      EXPECT_TRUE((*rendezvous)->AllGatherBytes("meet", "", absl::Minutes(1)).ok());
    });
  }
}

TEST(TcpRendezvousTest, AnAddressInUseIsSaid) {
  const std::string address = FreeAddress();
  const auto listener = Listen(*ParseAddress(address));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const absl::Status status = CreateTcpRendezvous(OptionsFor(address, 0, 2)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(address), HasSubstr("Address already in use")));
}

// R9 at creation: every rank that is there says who is not.
TEST(TcpRendezvousTest, RanksThatNeverArriveAreNamed) {
  const std::string address = FreeAddress();
  const auto create = [&](int rank) {
    TcpRendezvousOptions options = OptionsFor(address, rank, 5);
    options.deadline = absl::Seconds(1);
    const absl::Status status = CreateTcpRendezvous(options).status();
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("CreateTcpRendezvous: ranks 1, 3 did not arrive within"));
  };
  std::thread rank0(create, 0);
  std::thread rank2(create, 2);
  create(4);
  rank0.join();
  rank2.join();
}

TEST(TcpRendezvousTest, ARank0ThatNeverArrivesIsNamed) {
  TcpRendezvousOptions options = OptionsFor(FreeAddress(), 1, 2);
  options.deadline = absl::Milliseconds(200);
  const absl::Status status = CreateTcpRendezvous(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("rank 0 did not arrive within 200ms"), HasSubstr("Connection refused")));
}

TEST(TcpRendezvousTest, WhoeverElseListensThereIsNoRank0) {
  const std::string address = FreeAddress();
  const auto listener = Listen(*ParseAddress(address));
  std::thread server([&] {
    std::string name;
    WaitFor(*listener, POLLIN, absl::InfiniteFuture());
    SendBytes(Accept(*listener, &name), "SSH-2.0-OpenSSH_9.2\r\n");
  });
  const absl::Status status = CreateTcpRendezvous(OptionsFor(address, 1, 2)).status();
  server.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(address), HasSubstr("no rank 0 listens there")));
}

TEST(TcpRendezvousTest, StrangersAndWrongRanksAreTurnedAwayByNameAndChangeNothing) {
  const std::string address = FreeAddress();
  const auto refused = [&](int rank, int world_size) {
    const absl::Status status = CreateTcpRendezvous(OptionsFor(address, rank, world_size)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    return std::string(status.message());
  };
  std::vector<Descriptor> silent;
  const auto disturb = [&] {
    for (int i = 0; i < 80; ++i) silent.push_back(Stranger(address));
    const Descriptor web = Stranger(address);
    SendBytes(web, "GET / HTTP/1.1\r\n\r\n");
    EXPECT_THAT(Hear(web), HasSubstr("no frame"));
    Stranger(address).Close();

    // A hello that claims to have a long payload, and half a one.
    std::string wire = Encode({.kind = FrameKind::kHello, .rank = 1, .value = 3});
    const uint64_t payload_bytes = uint64_t{1} << 40;
    std::memcpy(wire.data() + wire.size() - sizeof(payload_bytes), &payload_bytes, sizeof(payload_bytes));
    const Descriptor greedy = Stranger(address);
    SendBytes(greedy, wire);
    EXPECT_THAT(Hear(greedy), HasSubstr("a frame of 1099511627776 bytes"));
    silent.push_back(Stranger(address));
    SendBytes(silent.back(), wire.substr(0, 20));
    const Descriptor rude = Stranger(address);
    SendBytes(rude, Encode({.kind = FrameKind::kFailed, .rank = 1, .bytes = "failed: not really"}));
    EXPECT_THAT(Hear(rude), HasSubstr("a frame of 18 bytes"));

    EXPECT_THAT(refused(1, 2), AllOf(HasSubstr("rank 1 has world_size 2"), HasSubstr("rank 0 has 3")));
    EXPECT_THAT(refused(3, 4), HasSubstr("rank 3 has world_size 4"));
  };
  std::thread disturber(disturb);
  RunRanks(address, 3, [&](int rank, const Created& rendezvous) {
    ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
    EXPECT_TRUE((*rendezvous)->AllGatherBytes("before", "", absl::Minutes(1)).ok());
    if (rank == 0) {
      disturber.join();
      EXPECT_THAT(refused(1, 3), HasSubstr("rank 1 has arrived already, from 127.0.0.1 port "));
    }
    const auto all = (*rendezvous)->AllGatherBytes("after", absl::StrCat(rank), absl::Minutes(1));
    ASSERT_TRUE(all.ok()) << all.status();
    EXPECT_THAT(*all, testing::ElementsAre("0", "1", "2"));
  });
  if (disturber.joinable()) disturber.join();
}

// The message that names who is missing tells of those who came in their place.
TEST(TcpRendezvousTest, TheDeadlineTellsWhoWasTurnedAway) {
  TcpRendezvousOptions options = OptionsFor(FreeAddress(), 0, 2);
  options.deadline = absl::Seconds(1);
  std::thread other([&] { EXPECT_FALSE(CreateTcpRendezvous(OptionsFor(options.address, 1, 3)).ok()); });
  const absl::Status status = CreateTcpRendezvous(options).status();
  other.join();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("rank 1 did not arrive"), HasSubstr("turned away: 127.0.0.1"),
                    HasSubstr("rank 1 has world_size 3, rank 0 has 2")));
}

TEST(TcpRendezvousTest, LongMessagesArrive) {
  RunRanks(FreeAddress(), 3, [](int rank, const Created& rendezvous) {
    ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
    const auto bytes_of = [](int r) { return std::string((size_t{8} << 20) + 1, static_cast<char>('a' + r)); };
    const auto all = (*rendezvous)->AllGatherBytes("long", bytes_of(rank), absl::Minutes(1));
    ASSERT_TRUE(all.ok()) << all.status();
    for (int peer = 0; peer < 3; ++peer) EXPECT_TRUE((*all)[static_cast<size_t>(peer)] == bytes_of(peer));
  });
}

TEST(TcpRendezvousTest, LaterMeetingsWithARankThatHasLeftEndAtOnce) {
  for (const int leaving : {0, 1}) {
    RunRanks(FreeAddress(), 3, [leaving](int rank, Created rendezvous) {
      ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
      EXPECT_TRUE((*rendezvous)->AllGatherBytes("last", "", absl::Minutes(1)).ok());
      if (rank == leaving) return rendezvous->reset();
      const absl::Status status = (*rendezvous)->AllGatherBytes("one more", "", absl::Minutes(1)).status();
      EXPECT_EQ(status, AbortedBy(leaving, absl::StatusCode::kUnavailable, "has left"));
    });
  }
}

TEST(TcpRendezvousTest, AnInfiniteDeadlineDoesNotOverflow) {
  RunRanks(FreeAddress(), 2, [](int, const Created& rendezvous) {
    ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
    EXPECT_TRUE((*rendezvous)->AllGatherBytes("forever", "", absl::InfiniteDuration()).ok());
  });
}

// Ranks as processes. What they find they say by their exit code.

constexpr char kRankVariable[] = "TCP_RENDEZVOUS_TEST_RANK";
enum RankResult { kAsExpected = 0, kNotCreated = 3, kNotMet = 4, kNotShared = 5, kOtherError = 6 };

// Adds up over shared memory.
int ShareMemory(Rendezvous& rendezvous) {
  auto communicator = CreateShmCommunicator(rendezvous, {});
  if (!communicator.ok()) return kNotShared;
  SmallReduction reduction;
  reduction.sums[0] = rendezvous.rank() + 1;
  InlineStream stream;
  const absl::Status reduced = (*communicator)->AllReduceSmall(&reduction, stream);
  if (!reduced.ok() || !stream.status().ok()) return kNotShared;
  return reduction.sums[0] == 6 ? kAsExpected : kNotShared;
}

// Waits for a meeting at which rank 2 will be missing, as it dies.
int MeetTheDying(Rendezvous& rendezvous) {
  if (rendezvous.rank() == 2) raise(SIGKILL);
  const absl::Status status = rendezvous.AllGatherBytes("save", "", absl::Minutes(1)).status();
  const absl::Status expected =
      AbortedBy(2, absl::StatusCode::kUnavailable, "failed: its connection closed: it ended or was killed");
  return status == expected ? kAsExpected : kOtherError;
}

int RankMain(int rank, const std::string& address, bool shares) {
  auto rendezvous = CreateTcpRendezvous(OptionsFor(address, rank, 3));
  if (!rendezvous.ok()) return kNotCreated;
  if (!(*rendezvous)->AllGatherBytes("meet", "", absl::Minutes(1)).ok()) return kNotMet;
  return shares ? ShareMemory(**rendezvous) : MeetTheDying(**rendezvous);
}

// This program again, as three ranks; their wait statuses.
std::vector<int> RunProcesses(const char* job) {
  const std::string address = FreeAddress();
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    const std::string environment = absl::StrCat(kRankVariable, "=", rank, ",", job, ",", address);
    const std::array<const char*, 2> arguments = {"tcp_rendezvous_test", nullptr};
    const std::array<const char*, 2> variables = {environment.c_str(), nullptr};
    const pid_t pid = fork();
    if (pid == 0) {
      execve("/proc/self/exe", const_cast<char* const*>(arguments.data()), const_cast<char* const*>(variables.data()));
      _exit(127);
    }
    ranks.push_back(pid);
  }
  std::vector<int> statuses(ranks.size(), -1);
  for (size_t rank = 0; rank < ranks.size(); ++rank) waitpid(ranks[rank], &statuses[rank], 0);
  return statuses;
}

TEST(TcpRendezvousProcessesTest, CarryASharedMemoryCommunicator) {
  for (const int status : RunProcesses("share")) {
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), kAsExpected);
  }
}

// R1: a rank that is killed is named by the others long before their deadline.
TEST(TcpRendezvousProcessesTest, ARankThatDiesIsNamed) {
  const std::vector<int> statuses = RunProcesses("die");
  for (const int rank : {0, 1}) {
    EXPECT_TRUE(WIFEXITED(statuses[static_cast<size_t>(rank)]));
    EXPECT_EQ(WEXITSTATUS(statuses[static_cast<size_t>(rank)]), kAsExpected) << "rank " << rank;
  }
  EXPECT_TRUE(WIFSIGNALED(statuses[2]));
}

}  // namespace

int ChildMain(const std::string& description) {
  const std::vector<std::string> parts = absl::StrSplit(description, absl::MaxSplits(',', 2));
  int rank = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &rank)) return 64;
  return RankMain(rank, parts[2], parts[1] == "share");
}

}  // namespace shardstep

int main(int argc, char** argv) {
  if (const char* rank = std::getenv(shardstep::kRankVariable)) return shardstep::ChildMain(rank);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
