#include "shardstep/runtime/checkpoint_shard.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "shardstep/runtime/safetensors.h"

namespace shardstep {
namespace {

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

// Hands out verified bytes, and holds one chunk.
class ChunkReader {
 public:
  ChunkReader(const DurableFile* file, const ManifestFile* described, int64_t chunk_bytes)
      : file_(file), described_(described), chunk_bytes_(chunk_bytes) {
    chunk_.resize(static_cast<size_t>(std::min(chunk_bytes, described->size_bytes)));
  }

  absl::Status Copy(const ShardCopy& copy) {
    for (int64_t done = 0; done < copy.bytes;) {
      const int64_t position = copy.begin_byte + done;
      SHARDSTEP_RETURN_IF_ERROR(Load(position / chunk_bytes_));
      const int64_t offset = position % chunk_bytes_;
      const int64_t count = std::min(copy.bytes - done, loaded_bytes_ - offset);
      std::memcpy(copy.destination + done, chunk_.data() + offset, static_cast<size_t>(count));
      done += count;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Load(int64_t index) {
    if (index == loaded_) return absl::OkStatus();
    loaded_ = -1;
    const int64_t begin = index * chunk_bytes_;
    loaded_bytes_ = std::min(chunk_bytes_, described_->size_bytes - begin);
    const absl::Span<char> bytes(chunk_.data(), static_cast<size_t>(loaded_bytes_));
    SHARDSTEP_RETURN_IF_ERROR(file_->Read(begin, bytes));
    if (ChunkHash(bytes) != described_->chunk_hashes[static_cast<size_t>(index)]) {
      return absl::DataLossError(absl::StrCat(file_->path(), ": chunk ", index, " (bytes ", begin, " to ",
                                              begin + loaded_bytes_, "): hash differs"));
    }
    loaded_ = index;
    return absl::OkStatus();
  }

  const DurableFile* file_;
  const ManifestFile* described_;
  const int64_t chunk_bytes_;
  std::vector<char> chunk_;
  int64_t loaded_ = -1;
  int64_t loaded_bytes_ = 0;
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

}  // namespace

std::vector<OwnedRun> OwnedRuns(const ShardLayout& layout, int rank) {
  std::vector<OwnedRun> runs;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    for (const Segment& segment : layout.Segments(b, rank)) {
      runs.push_back({segment.parameter, segment.begin_element, segment.begin_element + segment.elements,
                      layout.state_begin_element(b) + segment.shard_begin_element});
    }
  }
  std::sort(runs.begin(), runs.end(), [](const OwnedRun& a, const OwnedRun& b) {
    return std::tie(a.parameter, a.begin_element) < std::tie(b.parameter, b.begin_element);
  });
  return runs;
}

std::vector<ManifestRange> RangesOf(absl::Span<const OwnedRun> runs, int kinds) {
  std::vector<ManifestRange> ranges;
  for (int kind = 0; kind < kinds; ++kind) {
    for (const OwnedRun& run : runs) {
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

std::vector<Digest> DigestsOf(absl::Span<const OwnedRun> runs, absl::Span<const CheckpointArray> arrays,
                              absl::Span<const int> parameter_numbers) {
  std::vector<Digest> digests(arrays.size());
  for (size_t k = 0; k < arrays.size(); ++k) {
    for (const OwnedRun& run : runs) {
      digests[k] += DigestOf(parameter_numbers[static_cast<size_t>(run.parameter)], run.begin_element,
                             absl::Span<const float>(arrays[k].data + run.state_begin_element,
                                                     static_cast<size_t>(run.end_element - run.begin_element)));
    }
  }
  return digests;
}

absl::StatusOr<ManifestFile> WriteShard(const DurableFile& directory, const Manifest& manifest, int rank,
                                        int world_size, absl::Span<const OwnedRun> runs,
                                        absl::Span<const CheckpointArray> arrays) {
  ManifestFile described;
  described.ranges = RangesOf(runs, static_cast<int>(arrays.size()));
  const std::string header = EncodeSafetensorsHeader(ShardHeader(manifest, rank, world_size, described.ranges));
  described.data_begin_bytes = static_cast<int64_t>(header.size());
  if (described.data_begin_bytes > kSafetensorsLengthBytes + kMaxSafetensorsHeaderBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(directory.path(), "/", ShardFileName(rank, world_size), ": header above 64 MiB"));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(DurableFile file, directory.CreateFile(ShardFileName(rank, world_size)));
  ChunkWriter writer(std::move(file), manifest.chunk_bytes);
  SHARDSTEP_RETURN_IF_ERROR(writer.Append(header));
  for (const CheckpointArray& array : arrays) {
    for (const OwnedRun& run : runs) {
      const int64_t bytes = (run.end_element - run.begin_element) * int64_t{sizeof(float)};
      SHARDSTEP_RETURN_IF_ERROR(writer.Append(
          {reinterpret_cast<const char*>(array.data + run.state_begin_element), static_cast<size_t>(bytes)}));
    }
  }
  SHARDSTEP_RETURN_IF_ERROR(writer.Finish());
  described.size_bytes = writer.size_bytes();
  described.chunk_hashes = writer.TakeHashes();
  return described;
}

absl::Status ReadShard(const DurableFile& directory, const Manifest& manifest, int index,
                       absl::Span<const ShardCopy> copies) {
  const ManifestFile& described = manifest.files[static_cast<size_t>(index)];
  SHARDSTEP_ASSIGN_OR_RETURN(const DurableFile file,
                             directory.OpenFile(ShardFileName(index, static_cast<int64_t>(manifest.files.size()))));
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t size_bytes, file.SizeBytes());
  if (size_bytes != described.size_bytes) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": ", size_bytes, " bytes, the manifest says ", described.size_bytes));
  }
  ChunkReader reader(&file, &described, manifest.chunk_bytes);
  {
    std::string header(static_cast<size_t>(described.data_begin_bytes), '\0');
    SHARDSTEP_RETURN_IF_ERROR(reader.Copy({0, described.data_begin_bytes, header.data()}));
    SHARDSTEP_RETURN_IF_ERROR(Annotate(CheckHeader(header, manifest, index), file.path()));
  }
  for (const ShardCopy& copy : copies) SHARDSTEP_RETURN_IF_ERROR(reader.Copy(copy));
  return absl::OkStatus();
}

}  // namespace shardstep
