/* cli/commands.h - the commands of the program, one file cmd_<name>.c each.
 *
 * A command declares its options in a table; the parser, the messages about misspelled options and --help
 * come from it. A new command is a file with `const q3_command q3_command_<name>` and one line in
 * Q3_COMMANDS.
 */
#ifndef Q3_CLI_COMMANDS_H
#define Q3_CLI_COMMANDS_H

#include "core/status.h"

typedef struct q3_options q3_options;

typedef enum q3_option_kind {
    Q3_OPTION_FLAG,     /* --overwrite */
    Q3_OPTION_VALUE,    /* --out DIR, --out=DIR */
    Q3_OPTION_OPTIONAL, /* --resume, --resume DIR, --resume=DIR: the value counts when it is no option and no
                           override */
    Q3_OPTION_ASSIGN,   /* -i key=value: the same as --key=value */
} q3_option_kind;

typedef struct q3_option {
    const char *name; /* "output-dir"; accepted as --output_dir too */
    char letter;      /* -q; 0 for none */
    q3_option_kind kind;
    const char *value;   /* what the value is, for help: "DIR", "auto|cpu" */
    const char *words;   /* what it may be, parted by |, where `value` does not tell: for completion */
    const char *initial; /* value when not given; NULL: none */
    const char *bare;    /* value of an OPTIONAL option without one */
    const char *key;     /* config key that the option sets; NULL: none */
    const char *help;
    const char *alias; /* a second name; NULL: none */
    bool repeats;      /* may be given several times: q3_options_nth */
} q3_option;

/* Options that some commands share, under a heading of their own in the help. */
typedef struct q3_option_list {
    const char *heading;
    const q3_option *options;
    int n;
} q3_option_list;

/* Groups of options that several commands share. */
enum {
    Q3_COMMAND_CONFIG = 1, /* --config FILE, --set KEY=VALUE, key.sub=value, ~key.sub, --key.sub value */
    Q3_COMMAND_ENGINE = 2, /* --threads, --cpu-level, --device */
    Q3_COMMAND_HUB = 4,    /* --cache-dir, --offline: a model may be a name of the hub */
    Q3_COMMAND_RANKS = 8,  /* several processes may run it together, under mpirun */
};

enum { Q3_COMMAND_LISTS = 4 };

typedef struct q3_command {
    const char *name;
    const char *summary; /* one line of the program's help */
    const char *usage;   /* what follows the name: "--model DIR --out DIR"; the options may be left out */
    const char *example; /* what follows "qwen3-sft " in an example */
    const q3_option *options;
    int n_options;
    const q3_option_list *lists[Q3_COMMAND_LISTS]; /* up to the first NULL */
    int groups;                                    /* Q3_COMMAND_... */
    int max_words;                                 /* words that are neither options nor overrides */
    q3_status (*run)(const q3_options *o);
} q3_command;

/* X(name): in the order of the program's help. */
#define Q3_COMMANDS(X)                                                                                       \
    X(train)                                                                                                 \
    X(eval)                                                                                                  \
    X(lint)                                                                                                  \
    X(plan)                                                                                                  \
    X(inspect)                                                                                               \
    X(generate)                                                                                              \
    X(chat)                                                                                                  \
    X(rerank)                                                                                                \
    X(serve)                                                                                                 \
    X(tokenize)                                                                                              \
    X(trace)                                                                                                 \
    X(quantize)                                                                                              \
    X(merge)                                                                                                 \
    X(quality)                                                                                               \
    X(bench)                                                                                                 \
    X(download)                                                                                              \
    X(config)                                                                                                \
    X(doctor)                                                                                                \
    X(completion)                                                                                            \
    X(version)                                                                                               \
    X(help)

#define Q3_DECLARE_COMMAND(name) extern const q3_command q3_command_##name;
Q3_COMMANDS(Q3_DECLARE_COMMAND)

/* All commands, in order; main.c. */
extern const q3_command *const q3_commands[];
extern const int q3_n_commands;

/* The command `name`; Q3_ERR_USAGE with the nearest name when there is none. */
q3_status q3_command_find(const q3_command **out, const char *name);

/* The program's own help: what it does and its commands. */
void q3_program_help(void);

#endif
