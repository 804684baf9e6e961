#include "shardstep/tools/options_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "shardstep/runtime/options_text.h"
#include "shardstep/runtime/text_errors.h"

namespace shardstep {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::OneofDescriptor;
using ::google::protobuf::TextFormat;

constexpr size_t kMaxFileBytes = 1 << 20;

absl::Status FileError(const std::string& file) {
  return absl::ErrnoToStatus(errno, absl::StrCat("options file ", file));
}

/// The field that one part of a path names, and its index if it has one.
struct PathPart {
  const FieldDescriptor* field;
  std::optional<int> index;
};

absl::StatusOr<PathPart> ResolvePart(absl::string_view part, const Message& message) {
  PathPart result{};
  absl::string_view name = part;
  if (absl::EndsWith(part, "]")) {
    const size_t bracket = part.find('[');
    int index = -1;
    const bool is_number = bracket != absl::string_view::npos &&
                           absl::SimpleAtoi(part.substr(bracket + 1, part.size() - bracket - 2), &index);
    if (!is_number || index < 0) return absl::InvalidArgumentError(absl::StrCat("\"", part, "\" has no good index"));
    name = part.substr(0, bracket);
    result.index = index;
  }
  result.field = message.GetDescriptor()->FindFieldByName(std::string(name));
  if (result.field == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no field \"", name, "\" in ", message.GetDescriptor()->name()));
  }
  if (result.field->is_repeated() != result.index.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", name, "\" ", result.index.has_value() ? "takes no index" : "needs an index"));
  }
  return result;
}

/// One that was written as a oneof; optional fields of proto3 are others.
const OneofDescriptor* FindOneof(absl::string_view name, const Message& message) {
  return message.GetDescriptor()->FindOneofByName(std::string(name));
}

/// The field of `oneof` that stands; nullptr: none.
const FieldDescriptor* Standing(const OneofDescriptor* oneof, const Message& message) {
  return message.GetReflection()->GetOneofFieldDescriptor(message, oneof);
}

absl::Status ChooseField(const OneofDescriptor* oneof, absl::string_view value, Message* message) {
  std::vector<std::string> names;
  for (int i = 0; i < oneof->field_count(); ++i) {
    const FieldDescriptor* field = oneof->field(i);
    names.push_back(field->name());
    if (field->name() != value) continue;
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      return absl::InvalidArgumentError(absl::StrCat("\"", value, "\" needs a value of its own"));
    }
    message->GetReflection()->MutableMessage(message, field);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("must be one of ", absl::StrJoin(names, ", ")));
}

/// Entering a field of a oneof would drop what stands in its place.
absl::Status RefuseOtherField(const FieldDescriptor* field, const Message& message) {
  const OneofDescriptor* oneof = field->containing_oneof();
  const FieldDescriptor* standing = oneof == nullptr ? nullptr : Standing(oneof, message);
  if (standing == nullptr || standing == field) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", field->name(), "\" is not the ", oneof->name(), ", which is ",
                                                 standing->name(), "; ", oneof->name(), "=", field->name(),
                                                 " would change that"));
}

absl::StatusOr<Message*> Descend(const PathPart& part, Message* message) {
  const auto* reflection = message->GetReflection();
  if (part.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    return absl::InvalidArgumentError(absl::StrCat("\"", part.field->name(), "\" has no fields"));
  }
  SHARDSTEP_RETURN_IF_ERROR(RefuseOtherField(part.field, *message));
  if (!part.index.has_value()) return reflection->MutableMessage(message, part.field);
  const int size = reflection->FieldSize(*message, part.field);
  if (*part.index > size) {
    return absl::InvalidArgumentError(absl::StrCat("index ", *part.index, " is more than one past the end, ", size));
  }
  if (*part.index == size) return reflection->AddMessage(message, part.field);
  return reflection->MutableRepeatedMessage(message, part.field, *part.index);
}

absl::Status SetField(const PathPart& part, absl::string_view value, Message* message) {
  if (part.field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return absl::InvalidArgumentError("names a group of fields, not one field");
  }
  if (part.field->is_repeated()) return absl::InvalidArgumentError("only an options file sets a list of values");
  const bool quoted = !value.empty() && (value.front() == '"' || value.front() == '\'');
  if (part.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !quoted) {
    message->GetReflection()->SetString(message, part.field, std::string(value));
    return absl::OkStatus();
  }
  TextErrors errors;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (parser.ParseFieldValueFromString(std::string(value), part.field, message)) return absl::OkStatus();
  return absl::InvalidArgumentError(errors.all().empty() ? "not one value" : errors.all().front().message);
}

absl::Status SetAtPath(absl::string_view path, absl::string_view value, Message* message) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '.');
  for (size_t i = 0; i < parts.size(); ++i) {
    const OneofDescriptor* oneof = FindOneof(parts[i], *message);
    if (oneof != nullptr && i + 1 == parts.size()) return ChooseField(oneof, value, message);
    SHARDSTEP_ASSIGN_OR_RETURN(const PathPart part, ResolvePart(parts[i], *message));
    if (i + 1 == parts.size()) return SetField(part, value, message);
    SHARDSTEP_ASSIGN_OR_RETURN(message, Descend(part, message));
  }
  return absl::OkStatus();
}

/// What `part` names inside of `message`; nullptr: it is not there.
const Message* Inside(const FieldDescriptor& field, absl::string_view part, const Message& message) {
  if (field.message_type() == nullptr) return nullptr;
  const auto* reflection = message.GetReflection();
  if (!field.is_repeated()) {
    return reflection->HasField(message, &field) ? &reflection->GetMessage(message, &field) : nullptr;
  }
  const absl::StatusOr<PathPart> resolved = ResolvePart(part, message);
  if (!resolved.ok() || *resolved->index >= reflection->FieldSize(message, &field)) return nullptr;
  return &reflection->GetRepeatedMessage(message, &field, *resolved->index);
}

}  // namespace

absl::Status ReadOptionsFile(const std::string& file, Message* message) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "re"), std::fclose);
  if (stream == nullptr) return FileError(file);
  std::string text(kMaxFileBytes + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), stream.get()));
  if (std::ferror(stream.get()) != 0) return FileError(file);
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("options file ", file, ": larger than ", kMaxFileBytes, " bytes"));
  }
  return ParseOptionsText(text, file, message);
}

std::string ResolveOneofs(absl::string_view path, const Message& message) {
  std::vector<std::string> parts = absl::StrSplit(path, '.');
  const Message* inside = &message;  // nullptr: past a group that is not there yet
  const google::protobuf::Descriptor* descriptor = message.GetDescriptor();
  for (size_t i = 0; i + 1 < parts.size() && descriptor != nullptr; ++i) {
    if (const OneofDescriptor* oneof = descriptor->FindOneofByName(parts[i]); oneof != nullptr) {
      const FieldDescriptor* standing = inside == nullptr ? nullptr : Standing(oneof, *inside);
      parts[i] = (standing != nullptr ? standing : oneof->field(0))->name();
    }
    const FieldDescriptor* field = descriptor->FindFieldByName(parts[i].substr(0, parts[i].find('[')));
    if (field == nullptr) break;
    inside = inside == nullptr ? nullptr : Inside(*field, parts[i], *inside);
    descriptor = field->message_type();
  }
  return absl::StrJoin(parts, ".");
}

absl::Status SetOption(absl::string_view path, absl::string_view value, Message* message) {
  return Annotate(SetAtPath(path, value, message), absl::StrCat(path, " = ", value));
}

}  // namespace shardstep
