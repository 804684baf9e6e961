#include "shardstep/tests/nccl/fake_nccl_call.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/bf16.h"

namespace shardstep {
namespace {

struct Range {
  const std::byte* begin = nullptr;
  int64_t bytes = 0;
};

bool Overlap(const Range& a, const Range& b) {
  return a.bytes > 0 && b.bytes > 0 && a.begin < b.begin + b.bytes && b.begin < a.begin + a.bytes;
}

Range Read(const FakeNcclCall& call, int world_size) {
  const bool of_all = call.kind == FakeNcclCall::kAllToAll || call.kind == FakeNcclCall::kReduceScatterSum;
  return {call.from, call.from == nullptr ? 0 : call.bytes() * (of_all ? world_size : 1)};
}

Range Written(const FakeNcclCall& call, int world_size) {
  const bool of_all = call.kind == FakeNcclCall::kAllToAll || call.kind == FakeNcclCall::kAllGather;
  return {call.to, call.to == nullptr ? 0 : call.bytes() * (of_all ? world_size : 1)};
}

const char* NameOf(FakeNcclCall::Kind kind) {
  constexpr const char* kNames[] = {"Send",         "Recv",        "AllToAll", "AllGather", "ReduceScatterSum",
                                    "AllReduceSum", "AllReduceMin"};
  return kNames[kind];
}

const char* NameOf(FakeNcclCall::Type type) {
  constexpr const char* kNames[] = {"bf16", "fp16", "fp32", "int64", "uint64"};
  return kNames[type];
}

template <typename T, typename Add>
void ReduceScatter(absl::Span<const FakeNcclCall* const> ranks, const Add& add) {
  const size_t size = ranks.size();
  for (size_t owner = 0; owner < size; ++owner) {
    for (int64_t i = 0; i < ranks[owner]->count; ++i) {
      const auto element = [&](size_t rank) {
        T value;
        std::memcpy(&value,
                    ranks[rank % size]->from +
                        (static_cast<int64_t>(owner) * ranks[owner]->count + i) * static_cast<int64_t>(sizeof(T)),
                    sizeof(T));
        return value;
      };
      T sum = element(owner + 1);
      for (size_t hop = 2; hop <= size; ++hop) sum = add(sum, element(owner + hop));
      std::memcpy(ranks[owner]->to + i * static_cast<int64_t>(sizeof(T)), &sum, sizeof(T));
    }
  }
}

template <typename T, typename Merge>
void AllReduce(absl::Span<const FakeNcclCall* const> ranks, const Merge& merge) {
  std::vector<T> result(static_cast<size_t>(ranks[0]->count));
  std::memcpy(result.data(), ranks[0]->from, static_cast<size_t>(ranks[0]->bytes()));
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    for (size_t i = 0; i < result.size(); ++i) {
      T value;
      std::memcpy(&value, ranks[rank]->from + i * sizeof(T), sizeof(T));
      result[i] = merge(result[i], value);
    }
  }
  for (const FakeNcclCall* const call : ranks) {
    std::memcpy(call->to, result.data(), static_cast<size_t>(call->bytes()));
  }
}

// Parts of `bytes`: part `taken` of what rank `sender` brings becomes part `given` of what `receiver` gets.
void CopyPart(const FakeNcclCall& sender, int64_t taken, const FakeNcclCall& receiver, int64_t given) {
  const int64_t bytes = sender.bytes();
  std::memmove(receiver.to + given * bytes, sender.from + taken * bytes, static_cast<size_t>(bytes));
}

}  // namespace

FakeNcclCall::Type FakeNcclCall::TypeOf(DType dtype) {
  return dtype == DType::kBf16 ? kBf16 : dtype == DType::kFp32 ? kFp32 : kFp16;
}

FakeNcclCall FakeNcclCall::Collective(Kind kind, const void* from, void* to, int64_t count, Type type) {
  return {.kind = kind,
          .from = static_cast<const std::byte*>(from),
          .to = static_cast<std::byte*>(to),
          .count = count,
          .type = type};
}

int64_t FakeNcclCall::bytes() const { return count * (type == kFp32 ? 4 : type < kFp32 ? 2 : 8); }

std::string FakeNcclCall::Text() const {
  const std::string peer_text =
      is_message() ? absl::StrCat(kind == kSend ? "to" : "from", " rank ", peer, ", ") : std::string();
  return absl::StrCat(NameOf(kind), "(", peer_text, count, " ", NameOf(type), ")");
}

std::vector<MemoryAccess> FakeNcclCall::Accesses(int, int world_size) const {
  std::vector<MemoryAccess> accesses;
  const Range read = Read(*this, world_size);
  const Range written = Written(*this, world_size);
  if (read.bytes > 0) accesses.push_back({read.begin, read.bytes, /*write=*/false});
  if (written.bytes > 0) accesses.push_back({written.begin, written.bytes, /*write=*/true});
  return accesses;
}

std::string FakeNcclCall::Misplaced(int rank, int world_size) const {
  if (from == nullptr && to == nullptr) return count == 0 ? "" : "no address";
  const Range read = Read(*this, world_size);
  const Range written = Written(*this, world_size);
  if (!Overlap(read, written)) return "";
  const bool in_place = (kind == kAllGather && from == to + rank * bytes()) ||
                        (kind == kReduceScatterSum && to == from + rank * bytes()) ||
                        ((kind == kAllReduceSum || kind == kAllReduceMin) && from == to);
  return in_place ? "" : "overlaps, but is not in place as NCCL understands it";
}

bool Agree(const FakeNcclCall& a, const FakeNcclCall& b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type;
}

void RunCollective(absl::Span<const FakeNcclCall* const> ranks) {
  const auto size = static_cast<int64_t>(ranks.size());
  switch (ranks[0]->kind) {
    case FakeNcclCall::kAllToAll:
      for (int64_t from = 0; from < size; ++from) {
        for (int64_t to = 0; to < size; ++to) CopyPart(*ranks[from], to, *ranks[to], from);
      }
      break;
    case FakeNcclCall::kAllGather:
      for (int64_t from = 0; from < size; ++from) {
        for (int64_t to = 0; to < size; ++to) CopyPart(*ranks[from], 0, *ranks[to], from);
      }
      break;
    case FakeNcclCall::kReduceScatterSum:
      if (ranks[0]->type == FakeNcclCall::kBf16) {
        ReduceScatter<Bf16>(ranks, [](Bf16 a, Bf16 b) { return ToBf16(ToFloat(a) + ToFloat(b)); });
      } else {
        ReduceScatter<float>(ranks, [](float a, float b) { return a + b; });
      }
      break;
    case FakeNcclCall::kAllReduceSum:
      AllReduce<uint64_t>(ranks, [](uint64_t a, uint64_t b) { return a + b; });
      break;
    case FakeNcclCall::kAllReduceMin:
      AllReduce<uint64_t>(ranks, [](uint64_t a, uint64_t b) { return std::min(a, b); });
      break;
    case FakeNcclCall::kSend:
    case FakeNcclCall::kRecv:
      break;
  }
}

}  // namespace shardstep
