# The CUDA backend, in one of two ways (Q3_CUDA_KIND): nvcc, for real devices, or emulate: the same .cu files compiled by
# the host's C++ compiler and run on the CPU by tests/cuda_emu, which needs no toolkit.
if(Q3_CUDA_KIND STREQUAL "nvcc")
  include(CheckLanguage)
  check_language(CUDA) # finds the compiler, which is asked before the language is enabled
  if(Q3_CUDA_ARCHITECTURES STREQUAL "all") # Blackwell since 12.8; the last one also as PTX, for what is yet to come
    include(CheckLanguage)
    check_language(CUDA) # names the compiler, which enable_language does too late
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known)
    set(architectures 80-real 86-real 89-real 90-real)
    foreach(later 100 120)
      if(known MATCHES "compute_${later}")
        list(APPEND architectures ${later}-real)
        set(last ${later})
      endif()
    endforeach()
    if(NOT last)
      set(last 90)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES ${architectures} ${last}-virtual)
  else()
    set(CMAKE_CUDA_ARCHITECTURES ${Q3_CUDA_ARCHITECTURES})
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_STANDARD 14)
  # what ptxas says of each kernel lies beside its object: tests/gpu/check_registers.sh reads it
  set(CMAKE_CUDA_COMPILER_LAUNCHER sh ${CMAKE_SOURCE_DIR}/cmake/keep_ptxas.sh)
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
    message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is here and 12.4 is needed; with -DQ3_CUDA=off the program is "
                        "built without CUDA")
  endif()
elseif(Q3_CUDA_KIND STREQUAL "emulate")
  set(CMAKE_CXX_STANDARD 14)
  set(CMAKE_CXX_EXTENSIONS ON) # hexadecimal floats, as nvcc has them
  set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g")
  enable_language(CXX)
elseif(NOT Q3_CUDA_KIND STREQUAL "off")
  message(FATAL_ERROR "Q3_CUDA is \"${Q3_CUDA_KIND}\"; it must be auto, nvcc, emulate or off")
endif()

function(q3_add_cuda library)
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.cu)
  target_compile_definitions(${library} PUBLIC Q3_CUDA=1)
  target_link_libraries(${library} PUBLIC ${CMAKE_DL_LIBS})
  if(Q3_CUDA_KIND STREQUAL "nvcc")
    string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
    set_source_files_properties(${CMAKE_SOURCE_DIR}/kernels/cuda_about.c PROPERTIES COMPILE_DEFINITIONS
      "Q3_NVCC=\"${CMAKE_CUDA_COMPILER_VERSION}\";Q3_CUDA_ARCHITECTURES=\"${architectures}\"")
    add_library(q3_kernels OBJECT ${kernels})
    target_include_directories(q3_kernels PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_options(q3_kernels PRIVATE -O3 -Xptxas=-v)
    target_include_directories(${library} SYSTEM PUBLIC ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
    target_sources(${library} PRIVATE $<TARGET_OBJECTS:q3_kernels>)
    return()
  endif()
  set(emulator ${CMAKE_SOURCE_DIR}/tests/cuda_emu)
  file(GLOB emulated CONFIGURE_DEPENDS ${emulator}/cu*_emu.cpp)
  list(FILTER emulated EXCLUDE REGEX "cublaslt")
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)
  add_library(q3_kernels OBJECT ${kernels} ${emulated})
  target_include_directories(q3_kernels BEFORE PRIVATE ${emulator}/include ${CMAKE_SOURCE_DIR})
  target_compile_options(q3_kernels PRIVATE -x c++ -ffp-contract=off) # __fmul_rn and its like are not joined
  target_compile_definitions(q3_kernels PRIVATE Q3_CUDA_EMULATED=1)
  target_include_directories(${library} BEFORE PUBLIC ${emulator}/include)
  target_compile_definitions(${library} PUBLIC Q3_CUDA_EMULATED=1)
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:q3_kernels>)
  target_link_libraries(${library} PUBLIC stdc++)
  target_link_options(${library} PUBLIC -rdynamic) # the stand-ins of libraries ask the emulator about pointers
  if(EXISTS ${emulator}/cublaslt_emu.cpp) # found at run time, as the real one is
    add_library(cublasLt_emu SHARED ${emulator}/cublaslt_emu.cpp)
    target_include_directories(cublasLt_emu BEFORE PRIVATE ${emulator}/include ${CMAKE_SOURCE_DIR})
    target_compile_options(cublasLt_emu PRIVATE -O3)
    set_target_properties(cublasLt_emu PROPERTIES OUTPUT_NAME cublasLt SUFFIX .so.13
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/libraries)
    add_dependencies(${library} cublasLt_emu)
    target_link_options(${library} INTERFACE -rdynamic) # it asks the program for the emulated device
  endif()
  add_library(nccl_emu SHARED ${emulator}/nccl_emu.cpp)
  target_include_directories(nccl_emu PRIVATE ${CMAKE_SOURCE_DIR})
  set_target_properties(nccl_emu PROPERTIES OUTPUT_NAME nccl SUFFIX .so.2
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/libraries)
  add_dependencies(${library} nccl_emu)
endfunction()
