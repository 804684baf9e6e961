#include "shardstep/runtime/checkpoint_shard.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "shardstep/runtime/safetensors.h"

namespace shardstep {
namespace {

absl::Span<char> AsBytes(absl::Span<float> values) {
  return absl::MakeSpan(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
}

// What the header of a shard says, and must say when it is read.
SafetensorsHeader ShardHeader(const Manifest& manifest, int rank, int world_size,
                              absl::Span<const ManifestRange> ranges) {
  SafetensorsHeader header;
  header.metadata = {{"format", "shardstep"},
                     {"format_version", absl::StrCat(kCheckpointVersion)},
                     {"step", absl::StrCat(manifest.step)},
                     {"rank", absl::StrCat(rank)},
                     {"world_size", absl::StrCat(world_size)}};
  header.tensors.reserve(ranges.size());
  int64_t end = 0;
  for (const ManifestRange& range : ranges) {
    header.tensors.push_back({.name = ShardKey(manifest, range),
                              .dtype = "F32",
                              .shape = {range.end_element - range.begin_element},
                              .begin_byte = end,
                              .end_byte = end + range.bytes()});
    end += range.bytes();
  }
  return header;
}

// Collects bytes into chunks; each is hashed and written as a whole.
class ChunkWriter {
 public:
  ChunkWriter(DurableFile file, int64_t chunk_bytes)
      : file_(std::move(file)), chunk_bytes_(static_cast<size_t>(chunk_bytes)) {
    chunk_.reserve(chunk_bytes_);
  }

  absl::Status Append(absl::Span<const char> bytes) {
    while (!bytes.empty()) {
      const size_t count = std::min(bytes.size(), chunk_bytes_ - chunk_.size());
      chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
      bytes.remove_prefix(count);
      if (chunk_.size() == chunk_bytes_) SHARDSTEP_RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Finish() {
    if (!chunk_.empty()) SHARDSTEP_RETURN_IF_ERROR(Flush());
    SHARDSTEP_RETURN_IF_ERROR(file_.Sync());
    return file_.Close();
  }

  int64_t size_bytes() const { return size_bytes_; }
  std::vector<uint64_t> TakeHashes() { return std::move(hashes_); }

 private:
  absl::Status Flush() {
    hashes_.push_back(ChunkHash(chunk_));
    size_bytes_ += static_cast<int64_t>(chunk_.size());
    const absl::Status status = file_.Write(chunk_);
    chunk_.clear();
    return status;
  }

  DurableFile file_;
  const size_t chunk_bytes_;  // not the capacity of chunk_, which may be larger
  std::vector<char> chunk_;
  std::vector<uint64_t> hashes_;
  int64_t size_bytes_ = 0;
};

absl::Status CheckHeader(absl::string_view bytes, const Manifest& manifest, int index) {
  const ManifestFile& file = manifest.files[static_cast<size_t>(index)];
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t header_bytes, SafetensorsHeaderBytes(bytes, file.size_bytes));
  if (header_bytes != file.data_begin_bytes) {
    return absl::DataLossError(absl::StrCat("header ends at byte ", header_bytes, ", not ", file.data_begin_bytes));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(
      const SafetensorsHeader header,
      ParseSafetensorsHeader(bytes.substr(kSafetensorsLengthBytes), file.size_bytes - header_bytes));
  const SafetensorsHeader expected = ShardHeader(manifest, index, static_cast<int>(manifest.files.size()), file.ranges);
  if (header.metadata != expected.metadata) {
    return absl::DataLossError("__metadata__: the shard of another rank, step or job");
  }
  for (size_t i = 0; i < std::min(header.tensors.size(), expected.tensors.size()); ++i) {
    if (header.tensors[i] == expected.tensors[i]) continue;
    return absl::DataLossError(absl::StrCat("key \"", header.tensors[i].name, "\" is not \"", expected.tensors[i].name,
                                            "\" as the manifest has it"));
  }
  if (header.tensors.size() == expected.tensors.size()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(header.tensors.size(), " keys, the manifest has ", expected.tensors.size()));
}

// The keys of a shard with `runs`, in the order of its data: runs that continue each other are one range.
std::vector<ManifestRange> RangesOf(absl::Span<const OwnedRun> runs, const Manifest& manifest) {
  std::vector<ManifestRange> ranges;
  for (const StateKind kind : kStateKinds) {
    for (const OwnedRun& run : runs) {
      if (!manifest.parameters[static_cast<size_t>(run.parameter)].Has(kind)) continue;
      ManifestRange* last = ranges.empty() ? nullptr : &ranges.back();
      if (last != nullptr && last->kind == kind && last->parameter == run.parameter &&
          last->end_element == run.begin_element) {
        last->end_element = run.end_element;
      } else {
        ranges.push_back({run.parameter, kind, run.begin_element, run.end_element});
      }
    }
  }
  return ranges;
}

// The digest of what it appends.
absl::StatusOr<Digest> WriteKind(StateKind kind, const Manifest& manifest, absl::Span<const OwnedRun> runs,
                                 const StateAccess& state, ChunkWriter& writer) {
  Digest digest;
  absl::Status status;
  PieceBuffer buffer;
  for (const OwnedRun& run : runs) {
    if (!manifest.parameters[static_cast<size_t>(run.parameter)].Has(kind)) continue;
    ForEachPiece(run, [&](const OwnedRun& piece) {
      if (!status.ok()) return;
      const absl::Span<float> values = buffer.For(piece);
      state.Read(kind, piece.bucket, piece.shard_begin_element, values);
      digest += DigestOf(piece.parameter, piece.begin_element, absl::Span<const float>(values));
      status = state.status();
      if (status.ok()) status = writer.Append(AsBytes(values));
    });
    SHARDSTEP_RETURN_IF_ERROR(status);
  }
  return digest;
}

}  // namespace

std::vector<OwnedRun> OwnedRuns(const ShardLayout& layout, int rank) {
  std::vector<OwnedRun> runs;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    for (const Segment& segment : layout.Segments(b, rank)) {
      runs.push_back({segment.parameter, segment.begin_element, segment.begin_element + segment.elements, b,
                      segment.shard_begin_element});
    }
  }
  std::sort(runs.begin(), runs.end(), [](const OwnedRun& a, const OwnedRun& b) {
    return std::tie(a.parameter, a.begin_element) < std::tie(b.parameter, b.begin_element);
  });
  return runs;
}

void ForEachPiece(const OwnedRun& run, absl::FunctionRef<void(const OwnedRun& piece)> visit) {
  for (int64_t begin = run.begin_element; begin < run.end_element; begin += PieceBuffer::kElements) {
    OwnedRun piece = run;
    piece.begin_element = begin;
    piece.end_element = std::min(begin + PieceBuffer::kElements, run.end_element);
    piece.shard_begin_element += begin - run.begin_element;
    visit(piece);
  }
}

absl::StatusOr<WrittenShard> WriteShard(const DurableFile& directory, const Manifest& manifest, int rank,
                                        int world_size, absl::Span<const OwnedRun> runs, const StateAccess& state) {
  WrittenShard written;
  written.file.ranges = RangesOf(runs, manifest);
  const std::string header = EncodeSafetensorsHeader(ShardHeader(manifest, rank, world_size, written.file.ranges));
  written.file.data_begin_bytes = static_cast<int64_t>(header.size());
  if (written.file.data_begin_bytes > kSafetensorsLengthBytes + kMaxSafetensorsHeaderBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(directory.path(), "/", ShardFileName(rank, world_size), ": header above 64 MiB"));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(DurableFile file, directory.CreateFile(ShardFileName(rank, world_size)));
  ChunkWriter writer(std::move(file), manifest.chunk_bytes);
  SHARDSTEP_RETURN_IF_ERROR(writer.Append(header));
  for (const StateKind kind : kStateKinds) {
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest digest, WriteKind(kind, manifest, runs, state, writer));
    written.digests.push_back(digest);
  }
  SHARDSTEP_RETURN_IF_ERROR(writer.Finish());
  written.file.size_bytes = writer.size_bytes();
  written.file.chunk_hashes = writer.TakeHashes();
  return written;
}

ShardReader::ShardReader(DurableFile file, const ManifestFile* described, int64_t chunk_bytes)
    : file_(std::move(file)), described_(described), chunk_bytes_(chunk_bytes) {
  chunk_.resize(static_cast<size_t>(std::min(chunk_bytes, described->size_bytes)));
}

absl::StatusOr<ShardReader> ShardReader::Open(const DurableFile& directory, const Manifest& manifest, int index) {
  const ManifestFile& described = manifest.files[static_cast<size_t>(index)];
  SHARDSTEP_ASSIGN_OR_RETURN(DurableFile file,
                             directory.OpenFile(ShardFileName(index, static_cast<int64_t>(manifest.files.size()))));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t size_bytes, file.SizeBytes());
  if (size_bytes != described.size_bytes) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": ", size_bytes, " bytes, the manifest says ", described.size_bytes));
  }
  ShardReader reader(std::move(file), &described, manifest.chunk_bytes);
  std::string header(static_cast<size_t>(described.data_begin_bytes), '\0');
  SHARDSTEP_RETURN_IF_ERROR(reader.ReadBytes(0, absl::MakeSpan(header.data(), header.size())));
  SHARDSTEP_RETURN_IF_ERROR(Annotate(CheckHeader(header, manifest, index), reader.file_.path()));
  return reader;
}

absl::Status ShardReader::Read(int64_t begin_byte, const OwnedRun& run, UseValues use) {
  absl::Status status;
  ForEachPiece(run, [&](const OwnedRun& piece) {
    if (!status.ok()) return;
    const absl::Span<float> values = buffer_.For(piece);
    const int64_t offset = (piece.begin_element - run.begin_element) * int64_t{sizeof(float)};
    status = ReadBytes(begin_byte + offset, AsBytes(values));
    if (status.ok()) use(piece, values);
  });
  return status;
}

absl::Status ShardReader::ReadBytes(int64_t begin_byte, absl::Span<char> bytes) {
  while (!bytes.empty()) {
    SHARDSTEP_RETURN_IF_ERROR(LoadChunk(begin_byte / chunk_bytes_));
    const int64_t offset = begin_byte % chunk_bytes_;
    const int64_t count = std::min(static_cast<int64_t>(bytes.size()), loaded_bytes_ - offset);
    std::memcpy(bytes.data(), chunk_.data() + offset, static_cast<size_t>(count));
    bytes.remove_prefix(static_cast<size_t>(count));
    begin_byte += count;
  }
  return absl::OkStatus();
}

absl::Status ShardReader::LoadChunk(int64_t index) {
  if (index == loaded_) return absl::OkStatus();
  loaded_ = -1;
  const int64_t begin = index * chunk_bytes_;
  loaded_bytes_ = std::min(chunk_bytes_, described_->size_bytes - begin);
  const absl::Span<char> bytes(chunk_.data(), static_cast<size_t>(loaded_bytes_));
  SHARDSTEP_RETURN_IF_ERROR(file_.Read(begin, bytes));
  if (ChunkHash(bytes) != described_->chunk_hashes[static_cast<size_t>(index)]) {
    return absl::DataLossError(absl::StrCat(file_.path(), ": chunk ", index, " (bytes ", begin, " to ",
                                            begin + loaded_bytes_, "): hash differs"));
  }
  loaded_ = index;
  return absl::OkStatus();
}

}  // namespace shardstep
