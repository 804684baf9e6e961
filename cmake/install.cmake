# Headers, libraries, programs and the CMake package, with the targets Shardstep::job, Shardstep::shardstep,
# Shardstep::mpi, and for GPUs Shardstep::nccl and Shardstep::staged.
include(CMakePackageConfigHelpers)
include(cmake/headers.cmake)

set(libraries
  shardstep_proto shardstep_vocabulary shardstep_comm shardstep_nccl shardstep_staged shardstep_optimizer
  shardstep_options shardstep_checkpoint shardstep_runtime shardstep_job)
set(headers ${SHARDSTEP_HEADERS})
if(SHARDSTEP_WITH_MPI)
  list(APPEND libraries shardstep_mpi)
  list(APPEND headers ${SHARDSTEP_MPI_HEADERS})
  set_target_properties(shardstep_mpi PROPERTIES EXPORT_NAME mpi)
endif()
set_target_properties(shardstep_runtime PROPERTIES EXPORT_NAME shardstep)
set_target_properties(shardstep_job PROPERTIES EXPORT_NAME job)
set_target_properties(shardstep_nccl PROPERTIES EXPORT_NAME nccl)
set_target_properties(shardstep_staged PROPERTIES EXPORT_NAME staged)

foreach(header IN LISTS headers)
  cmake_path(GET header PARENT_PATH room)
  install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/shardstep/${room})
endforeach()
foreach(message IN LISTS SHARDSTEP_MESSAGES)
  install(FILES ${SHARDSTEP_GENERATED_DIR}/shardstep/proto/${message}.pb.h proto/${message}.proto
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/shardstep/proto)
endforeach()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Shardstep)
install(TARGETS ${libraries} EXPORT ShardstepTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT ShardstepTargets NAMESPACE Shardstep:: DESTINATION ${package_dir})
configure_package_config_file(cmake/ShardstepConfig.cmake.in ${PROJECT_BINARY_DIR}/ShardstepConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ShardstepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ShardstepConfig.cmake ${PROJECT_BINARY_DIR}/ShardstepConfigVersion.cmake
  DESTINATION ${package_dir})

# For C, and whoever calls C: libshardstep.so, which knows nothing of the package above, and shardstep.pc, which finds
# itself wherever all is moved to.
install(TARGETS shardstep_c LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
set(pkgconfig_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH SHARDSTEP_PC_PREFIX ${pkgconfig_dir} ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH SHARDSTEP_PC_INCLUDEDIR ${pkgconfig_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/shardstep.pc.in ${PROJECT_BINARY_DIR}/shardstep.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/shardstep.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(SHARDSTEP_CUDA)
  # Nothing links it: a program loads it when it is asked for a GPU.
  install(TARGETS shardstep_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
if(TARGET shardstep_train)
  install(TARGETS shardstep_train RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
