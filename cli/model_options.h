/* cli/model_options.h - the options that commands share which answer with a model: which one and how it is held
 * (q3_model_list), and how answers are chosen (q3_sampling_list).
 *
 * How answers are chosen is settled in layers, each over the one before: the library's default, the model's
 * generation_config.json, --profile, --preset, an option. -v shows the effective values and where each comes from.
 */
#ifndef Q3_CLI_MODEL_OPTIONS_H
#define Q3_CLI_MODEL_OPTIONS_H

#include "cli/options.h"
#include "infer/session.h"

extern const q3_option_list q3_model_list, q3_sampling_list;

enum { Q3_ADAPTERS_MAX = 16, Q3_ADAPTER_NAME = 64, Q3_STOPS_MAX = 32 };

/* Options of q3_model_list as a session wants them. Strings are borrowed from the command line and from here. */
typedef struct q3_model_settings {
    q3_session_options session;
    q3_session_adapter adapters[Q3_ADAPTERS_MAX];
    char names[Q3_ADAPTERS_MAX][Q3_ADAPTER_NAME]; /* of the adapters */
} q3_model_settings;

/* --model, or "." when the program is started in a directory of a model or an adapter. Errors: Q3_ERR_USAGE. */
q3_status q3_model_place(const char **out, const q3_options *o);

/* Errors: Q3_ERR_USAGE. Starts threads and instruction set as q3_options_start does. */
q3_status q3_model_settings_read(q3_model_settings *out, const q3_options *o);

/* Opens the session and puts the options about prompts on it: --thinking, --allow-special-tokens, --no-chat-template where
 * the command has it. */
q3_status q3_model_settings_open(q3_session *out, const q3_model_settings *m, const q3_options *o);

/* The adapter that answers without being asked: the first, -1 where there is none or it is merged. */
int q3_session_first_adapter(const q3_session *s);

typedef enum q3_number { /* what has a number and an origin */
                         Q3_NUMBER_MAX_NEW_TOKENS,
                         Q3_NUMBER_TEMPERATURE,
                         Q3_NUMBER_TOP_K,
                         Q3_NUMBER_TOP_P,
                         Q3_NUMBER_MIN_P,
                         Q3_NUMBER_REPETITION_PENALTY,
                         Q3_NUMBER_PRESENCE_PENALTY,
                         Q3_NUMBER_FREQUENCY_PENALTY,
                         Q3_NUMBERS
} q3_number;

typedef struct q3_sampling_settings {
    q3_sampling sampling;
    int64_t max_new_tokens;
    const char *stops[Q3_STOPS_MAX]; /* [n_stops]: of the options and of the model */
    int n_stops;
    int logprobs; /* -1: none */
    int lookup;   /* tokens guessed at a time; 0: off */
    int beams;    /* 1: off */
    bool strip;   /* white space around the answer goes away (profile cog) */
    double numbers[Q3_NUMBERS];
    const char *origins[Q3_NUMBERS]; /* "default", "generation_config.json", "--top-k" ... */
    const char *mode_origin;         /* of sampling.do_sample */
} q3_sampling_settings;

/* What can be said without a model: Q3_ERR_USAGE for values out of range. */
q3_status q3_sampling_settings_check(const q3_options *o);

/* The effective settings over a model's own; tells the seed where one is drawn. */
q3_status q3_sampling_settings_read(q3_sampling_settings *out, const q3_options *o,
                                    const q3_generation_config *model);

#endif
