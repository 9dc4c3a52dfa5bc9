# `cmake --install`: the programs, and what the program itself writes about its command line: completion for three
# shells, each where that shell looks, and the manual page.
include(GNUInstallDirs)

set(Q3_WRITTEN)
function(q3_written file folder) # by the program, with the arguments behind
  set(path ${CMAKE_BINARY_DIR}/share/${folder}/${file})
  add_custom_command(OUTPUT ${path} COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/share/${folder}
                     COMMAND qwen3-sft ${ARGN} > ${path} DEPENDS qwen3-sft VERBATIM)
  install(FILES ${path} DESTINATION ${CMAKE_INSTALL_DATADIR}/${folder})
  set(Q3_WRITTEN ${Q3_WRITTEN} ${path} PARENT_SCOPE)
endfunction()
q3_written(qwen3-sft bash-completion/completions completion bash)
q3_written(_qwen3-sft zsh/site-functions completion zsh)
q3_written(qwen3-sft.fish fish/vendor_completions.d completion fish)
q3_written(qwen3-sft.1 man/man1 help --man)
add_custom_target(written ALL DEPENDS ${Q3_WRITTEN})

install(TARGETS qwen3-sft qwen3-collate-check RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/qwen3-sft FILES_MATCHING PATTERN "*-qwen3-vl-*.json")
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
