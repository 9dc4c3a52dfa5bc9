/* tests/support/run.h - trainings by the program, and what they leave, compared.
 *
 * A run is small: the model, data and settings of tests/golden/training, with overrides. Files below
 * Q3_TEST_DIR.
 */
#ifndef Q3_TESTS_SUPPORT_RUN_H
#define Q3_TESTS_SUPPORT_RUN_H

#include "core/json.h"
#include "tests/support/process.h"

#define Q3_RUN_CONFIG "tests/golden/training/config.json"

/* "Q3_TEST_DIR/<name>" with what was there removed; lives until the end of the program. */
const char *q3_run_path(const char *name);

/* A process that trains Q3_RUN_CONFIG with one thread, in float32 on the device that Q3_TEST_DEVICE names or on the CPU;
 * `overrides` ends with NULL. */
q3_process q3_run_start(const char *program, const char *const *overrides);

/* Runs it to its end; anything else than exit code `want` fails the test and shows stderr. */
void q3_run_expect(q3_process *p, int want);

/* "dir/name", borrowed from a few rotating buffers. */
const char *q3_run_file(const char *dir, const char *name);

/* The whole file with a NUL behind it (heap); it must be there. */
char *q3_run_read(const char *dir, const char *name, size_t *size);
void q3_run_write(const char *dir, const char *name, const char *text);

void q3_run_assert_same_file(const char *dir_a, const char *dir_b, const char *name);

/* metrics.jsonl, what depends on time apart (runtimes, samples, steps and tokens per second, waits, memory). */
void q3_run_assert_same_metrics(const char *dir_a, const char *dir_b);

/* The state in dir/checkpoint-<step>/trainer_state.json, times and the directory's own name apart. */
void q3_run_assert_same_state(const char *dir_a, const char *dir_b, int64_t step);

/* The newest checkpoint, the finished adapter and all that is said about them: equal. `model` is the weights'
 * file: "adapter_model.safetensors" or "model/model.safetensors". */
void q3_run_assert_same(const char *dir_a, const char *dir_b, const char *model);

#endif
