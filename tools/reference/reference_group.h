#ifndef SHARDSTEP_TOOLS_REFERENCE_REFERENCE_GROUP_H_
#define SHARDSTEP_TOOLS_REFERENCE_REFERENCE_GROUP_H_

#include "shardstep/optimizer/update_rule.h"
#include "shardstep/tools/reference/reference_step.h"

namespace shardstep {

/// A parameter group in the reference's words.
shardstep_reference::Group ReferenceGroup(const GroupOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_REFERENCE_REFERENCE_GROUP_H_
