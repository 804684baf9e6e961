#ifndef SHARDSTEP_RUNTIME_TEXT_ERRORS_H_
#define SHARDSTEP_RUNTIME_TEXT_ERRORS_H_

#include <google/protobuf/io/tokenizer.h>

#include <string>
#include <vector>

namespace shardstep {

/// Keeps what protobuf's text parser would print.
class TextErrors : public google::protobuf::io::ErrorCollector {
 public:
  struct Error {
    int line;    // from 0; -1: about the whole
    int column;  // from 0
    std::string message;
  };

  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    errors_.push_back({line, column, message});
  }
  void AddWarning(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    AddError(line, column, message);
  }
  const std::vector<Error>& all() const { return errors_; }

 private:
  std::vector<Error> errors_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_TEXT_ERRORS_H_
