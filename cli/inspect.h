/* cli/inspect.h - the kinds of things that `inspect` looks at, one file inspect_<kind>.c each.
 *
 * What is wrong with the thing itself becomes a problem (cli/facts.h); a status other than Q3_OK is what keeps from
 * looking at all.
 */
#ifndef Q3_CLI_INSPECT_H
#define Q3_CLI_INSPECT_H

#include "cli/facts.h"
#include "core/safetensors.h"

/* A model's directory: its network, its weights against the network, the files that go with it. With `tensors` each
 * tensor. */
q3_status q3_inspect_model(q3_facts *f, const char *dir, bool tensors);

/* A PEFT directory: settings, and its tensors against each other and against the base, where that is a directory here. */
q3_status q3_inspect_adapter(q3_facts *f, const char *dir, bool tensors);

/* checkpoint-N: how far it is, and whether it is whole. */
q3_status q3_inspect_checkpoint(q3_facts *f, const char *dir, bool tensors);

/* The directory of a run: what was trained, how far it came, its checkpoints, its adapter. */
q3_status q3_inspect_run(q3_facts *f, const char *dir, bool tensors);

/* One file of tensors. */
q3_status q3_inspect_file(q3_facts *f, const char *path, bool tensors);

/* For the above: how many tensors there are of each type, and with `tensors` the list of them. `n` of `at(arg, i)`. */
typedef const q3_st_tensor *q3_tensor_at(const void *arg, int64_t index);
void q3_inspect_tensors(q3_facts *f, q3_tensor_at *at, const void *arg, int64_t n, bool tensors);

#endif
