/* train/config_list.h - the config, one row per key: X(section, key, TYPE, help).
 *
 * The struct, the reader, the range checks, the defaults, `config keys` and the copy saved with a run come
 * from this table; a new key is one row. Sections and names follow transformers, TRL, PEFT and bitsandbytes.
 * Types:
 *
 *   TEXT(default)  PATH(default)     const char *, NULL when the default is NULL and the key is not set
 *   BOOL(default)                    bool
 *   INT(default, min, max)           int64_t
 *   OPT_INT(min, max)                int64_t, Q3_CONFIG_UNSET when not set
 *   FLOAT(default, min, max)         double
 *   OPT_FLOAT(min, max)              double, Q3_CONFIG_UNSET when not set
 *   ENUM(type, default, words)       type; the words in the order of its values, parted by |
 *   LIST(default)                    q3_config_words: a list of strings
 *   PATTERN(default)                 q3_config_words: a list of strings, or one string
 *
 * Defaults are JSON text (those of TEXT, PATH and ENUM without quotes). Paths are relative to the working
 * directory.
 */
#ifndef Q3_TRAIN_CONFIG_LIST_H
#define Q3_TRAIN_CONFIG_LIST_H

typedef enum q3_config_init { Q3_CONFIG_INIT_PRETRAINED, Q3_CONFIG_INIT_RANDOM } q3_config_init;
typedef enum q3_config_dtype {
    Q3_CONFIG_DTYPE_AUTO,
    Q3_CONFIG_DTYPE_FLOAT32,
    Q3_CONFIG_DTYPE_BFLOAT16
} q3_config_dtype;
typedef enum q3_config_attention { /* the first four as q3_attention_kind */
    Q3_CONFIG_ATTENTION_AUTO,
    Q3_CONFIG_ATTENTION_CUDNN,
    Q3_CONFIG_ATTENTION_FLASH,
    Q3_CONFIG_ATTENTION_REFERENCE,
    Q3_CONFIG_ATTENTION_SDPA,
    Q3_CONFIG_ATTENTION_FLASH_2
} q3_config_attention;
typedef enum q3_config_cache { Q3_CONFIG_CACHE_AUTO, Q3_CONFIG_CACHE_ON, Q3_CONFIG_CACHE_OFF } q3_config_cache;
typedef enum q3_config_quant { Q3_CONFIG_QUANT_NF4, Q3_CONFIG_QUANT_FP4 } q3_config_quant;
typedef enum q3_config_bias { Q3_CONFIG_BIAS_NONE } q3_config_bias;
typedef enum q3_config_overflow {
    Q3_CONFIG_OVERFLOW_ERROR,
    Q3_CONFIG_OVERFLOW_SKIP,
    Q3_CONFIG_OVERFLOW_TRUNCATE
} q3_config_overflow;
typedef enum q3_config_train_on { Q3_CONFIG_TRAIN_ON_ALL, Q3_CONFIG_TRAIN_ON_LAST } q3_config_train_on;
typedef enum q3_config_tune { Q3_CONFIG_TUNE_LORA, Q3_CONFIG_TUNE_FULL } q3_config_tune;
typedef enum q3_config_scheduler {
    Q3_CONFIG_LR_LINEAR,
    Q3_CONFIG_LR_COSINE,
    Q3_CONFIG_LR_COSINE_WITH_MIN_LR,
    Q3_CONFIG_LR_CONSTANT,
    Q3_CONFIG_LR_CONSTANT_WITH_WARMUP
} q3_config_scheduler;
typedef enum q3_config_optim {
    Q3_CONFIG_OPTIM_ADAMW,
    Q3_CONFIG_OPTIM_ADAMW_8BIT,
    Q3_CONFIG_OPTIM_PAGED_ADAMW_8BIT
} q3_config_optim;
typedef enum q3_config_loss { Q3_CONFIG_LOSS_MICRO_MEAN, Q3_CONFIG_LOSS_TOKEN_MEAN } q3_config_loss;
typedef enum q3_config_checkpointing {
    Q3_CONFIG_CHECKPOINTING_AUTO,
    Q3_CONFIG_CHECKPOINTING_NONE,
    Q3_CONFIG_CHECKPOINTING_HALF,
    Q3_CONFIG_CHECKPOINTING_FULL
} q3_config_checkpointing;
typedef enum q3_config_turn { Q3_CONFIG_AT_STEPS, Q3_CONFIG_AT_EPOCH, Q3_CONFIG_AT_NO } q3_config_turn;
typedef enum q3_config_metric {
    Q3_CONFIG_METRIC_EVAL_LOSS,
    Q3_CONFIG_METRIC_ACCURACY, /* of generated answers, this and what follows */
    Q3_CONFIG_METRIC_MACRO_F1,
    Q3_CONFIG_METRIC_FORCED
} q3_config_metric;

#define Q3_CONFIG_MANY 9e15 /* no upper bound: beyond it a double no longer tells integers apart */
#define Q3_CONFIG_SEVEN                                                                                      \
    "[\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"]"

// clang-format off
#define Q3_CONFIG_TOP(X) \
    X(about, TEXT(NULL), "a remark: what the file is for and what it needs")

#define Q3_CONFIG_MODEL(X) \
    X(model, path, PATH(NULL), "directory with config.json, safetensors and tokenizer; or org/name on the hub") \
    X(model, init, ENUM(q3_config_init, "pretrained", "pretrained|random"), \
      "random: weights drawn from train.seed, only config.json and the tokenizer are read") \
    X(model, dtype, ENUM(q3_config_dtype, "auto", "auto|float32|bfloat16"), \
      "type of activations; auto: bfloat16 on CUDA, float32 on the CPU, which has nothing else") \
    X(model, attention, \
      ENUM(q3_config_attention, "auto", "auto|cudnn|flash|reference|sdpa|flash_attention_2"), \
      "on CUDA; auto, sdpa and flash_attention_2: cuDNN where it serves, else the program's own flash") \
    X(model, deterministic, BOOL("true"), \
      "two runs have the same bits; false: on CUDA, cuDNN's backward pass may add in any order") \
    X(model, weight_cache, ENUM(q3_config_cache, "auto", "auto|on|off"), \
      "on CUDA: keep frozen weights expanded to bfloat16; same bits, less work, two bytes a parameter") \
    X(model, feature_cache, OPT_INT(0, 1 << 24), \
      "MiB of host memory to keep what a frozen vision tower makes of pictures; not set: 1024, off on CUDA") \
    X(model, device, TEXT("auto"), \
      "cpu, cuda or cuda:N; auto: the first CUDA device if there is one, else the CPU")

#define Q3_CONFIG_QUANTIZATION(X) \
    X(quantization, load_in_4bit, BOOL("true"), \
      "hold the frozen linear layers in 4 bits; false by itself where load_in_8bit is true") \
    X(quantization, load_in_8bit, BOOL("false"), "hold the frozen linear layers in int8, a scale a row") \
    X(quantization, bnb_4bit_quant_type, ENUM(q3_config_quant, "nf4", "nf4|fp4"), "code book of the 4-bit weights") \
    X(quantization, bnb_4bit_use_double_quant, BOOL("true"), "quantize the block scales once more") \
    X(quantization, bnb_4bit_compute_dtype, ENUM(q3_config_dtype, "auto", "auto|float32|bfloat16"), \
      "type the 4-bit weights are expanded to; auto: model.dtype") \
    X(quantization, skip_modules, LIST("[\"model.visual\", \"lm_head\"]"), "modules left in 16 bits")

#define Q3_CONFIG_LORA(X) \
    X(lora, r, INT("16", 1, 4096), "rank of the adapters") \
    X(lora, lora_alpha, INT("32", 1, 1e6), "scale: adapters are multiplied by lora_alpha / r") \
    X(lora, lora_dropout, FLOAT("0.05", 0, 1), "dropout on the input of the adapters, below 1") \
    X(lora, target_modules, PATTERN(Q3_CONFIG_SEVEN), \
      "layers with an adapter: names, one regular expression over full names, or all-linear") \
    X(lora, bias, ENUM(q3_config_bias, "none", "none"), "biases to train beside the adapters") \
    X(lora, use_rslora, BOOL("false"), "scale by lora_alpha / sqrt(r)") \
    X(lora, init_adapter, PATH(NULL), "start from the adapter in this directory, with the layers that it has")

#define Q3_CONFIG_DATA(X) \
    X(data, train, PATH(NULL), "training samples") \
    X(data, eval, PATH(NULL), "evaluation samples; not set: data.eval_split of the training set") \
    X(data, image_key, TEXT("image"), "field of a sample with the picture") \
    X(data, image_template, TEXT(NULL), \
      "path of the picture of a sample without one; {field} stands for that field of the sample") \
    X(data, query_key, TEXT("query"), "field with the question") \
    X(data, query, TEXT(NULL), "question of a sample without one; not set: its field text, else an error") \
    X(data, caption_key, TEXT("caption"), "field with the caption, put behind the question") \
    X(data, target_key, TEXT("target_json"), "field with the answer, used byte for byte") \
    X(data, label_key, TEXT(NULL), "field with the label") \
    X(data, label_names, LIST("[]"), "names of the labels 0, 1 ... (or false, true); []: labels stay as they are") \
    X(data, messages_key, TEXT("messages"), "field with a conversation, in place of question and answer") \
    X(data, images_key, TEXT("images"), "field with the pictures of a conversation; without it data.image_key") \
    X(data, target_template, TEXT(NULL), "answer of a sample without one; {label} stands for its label") \
    X(data, allow_text_only, BOOL("false"), "samples may lack the picture, and are texts then; false: an error") \
    X(data, system_prompt, TEXT(NULL), "system turn of every sample: the text, or @FILE") \
    X(data, min_pixels, OPT_INT(1, 1e9), "smallest picture in pixels; not set: as the model's processor says") \
    X(data, max_pixels, OPT_INT(1, 1e9), "largest picture in pixels; not set: as the model's processor says") \
    X(data, max_side, INT("0", 0, 100000), "shrink to this longest side (and 6 million pixels) first; 0: off") \
    X(data, max_train_samples, OPT_INT(1, Q3_CONFIG_MANY), "use only the first ones") \
    X(data, max_eval_samples, OPT_INT(1, Q3_CONFIG_MANY), "use only the first ones") \
    X(data, eval_split, TEXT(NULL), "split to evaluate; not set: validation, else test, else a slice of train")

#define Q3_CONFIG_COLLATOR(X) \
    X(collator, max_length, INT("2048", 1, 1 << 20), "longest sample in tokens, picture included") \
    X(collator, on_overflow, ENUM(q3_config_overflow, "error", "error|skip|truncate"), \
      "what happens to a longer one; truncate cuts the last answer only") \
    X(collator, train_on, ENUM(q3_config_train_on, "all", "all|last"), \
      "answers of a conversation that are trained: every one, or the last")

#define Q3_CONFIG_TRAIN(X) \
    X(train, tune, ENUM(q3_config_tune, "lora", "lora|full"), "full: every weight; needs load_in_4bit false") \
    X(train, num_train_epochs, FLOAT("3", 0, 1e6), "passes over the data") \
    X(train, max_steps, OPT_INT(1, 1e9), "optimizer steps; when set, num_train_epochs does not count") \
    X(train, per_device_train_batch_size, INT("8", 1, 65536), "samples of a micro-batch") \
    X(train, per_device_eval_batch_size, OPT_INT(1, 65536), "not set: per_device_train_batch_size") \
    X(train, gradient_accumulation_steps, INT("8", 1, 65536), "micro-batches of an optimizer step") \
    X(train, learning_rate, FLOAT("2e-4", 0, 1), "peak learning rate") \
    X(train, lr_scheduler_type, ENUM(q3_config_scheduler, "cosine", \
      "linear|cosine|cosine_with_min_lr|constant|constant_with_warmup"), "course of the learning rate") \
    X(train, min_lr_rate, OPT_FLOAT(0, 1), "last learning rate of cosine_with_min_lr, as a part of the peak") \
    X(train, warmup_ratio, FLOAT("0.05", 0, 1), "part of the steps in which the learning rate rises") \
    X(train, warmup_steps, OPT_INT(0, 1e9), "the same in steps; when set, warmup_ratio does not count") \
    X(train, weight_decay, FLOAT("0", 0, 1e3), "decoupled, on matrices only") \
    X(train, adam_beta1, FLOAT("0.9", 0, 1), "below 1") \
    X(train, adam_beta2, FLOAT("0.999", 0, 1), "below 1") \
    X(train, adam_epsilon, FLOAT("1e-8", 0, 1), "added to the root of the second moment") \
    X(train, max_grad_norm, FLOAT("1.0", 0, 1e9), "clip the gradient's norm; 0: off") \
    X(train, optim, ENUM(q3_config_optim, "adamw", "adamw|adamw_8bit|paged_adamw_8bit"), \
      "8bit: moments in 8 bits; paged is the same where host and device memory are one") \
    X(train, loss_normalization, ENUM(q3_config_loss, "micro_mean", "micro_mean|token_mean"), \
      "mean of micro-batch means, or mean over all answer tokens of the step") \
    X(train, gradient_checkpointing, ENUM(q3_config_checkpointing, "auto", "auto|none|half|full"), \
      "compute layers again in backward to save memory; auto: as far as memory asks for it") \
    X(train, logging_steps, INT("10", 1, 1e9), "steps between two log lines") \
    X(train, dataloader_num_workers, INT("1", 1, 64), "threads that make batches ahead of the steps") \
    X(train, report_to, PATTERN("[\"tensorboard\"]"), \
      "who is shown the log beside metrics.jsonl: tensorboard, mlflow, wandb (by `wandb sync`); or none") \
    X(train, eval_steps, INT("50", 1, 1e9), "steps between two evaluations") \
    X(train, save_steps, INT("50", 1, 1e9), "steps between two checkpoints") \
    X(train, eval_strategy, ENUM(q3_config_turn, "steps", "steps|epoch|no"), "when to evaluate") \
    X(train, save_strategy, ENUM(q3_config_turn, "steps", "steps|epoch|no"), "when to save") \
    X(train, save_total_limit, INT("2", 0, 1e9), "checkpoints to keep; 0: all") \
    X(train, load_best_model_at_end, BOOL("true"), "end with the best evaluated checkpoint, not the last one") \
    X(train, metric_for_best_model, ENUM(q3_config_metric, "eval_loss", \
      "eval_loss|gen_eval/accuracy|gen_eval/macro_f1|gen_eval/forced_accuracy"), \
      "what best means; of answers more is better, and eval.during makes them") \
    X(train, early_stopping_patience, OPT_INT(1, 1e9), \
      "end when so many evaluations in a row were no better than the best; not set: train to the end") \
    X(train, early_stopping_threshold, FLOAT("0", 0, 1e9), "and by more than this they must be better") \
    X(train, shuffle, BOOL("true"), "a new order in every epoch") \
    X(train, seed, INT("42", 0, 9007199254740991.0), "of order, dropout, adapters and random weights") \
    X(train, output_dir, PATH("runs/train"), "directory of the run")

#define Q3_CONFIG_EVAL(X) \
    X(eval, pre, BOOL("true"), "generate answers before training") \
    X(eval, post, BOOL("true"), "generate answers after training") \
    X(eval, during, BOOL("false"), "generate answers at every evaluation of the loss as well") \
    X(eval, max_new_tokens, INT("256", 1, 1 << 20), "longest answer in tokens") \
    X(eval, do_sample, BOOL("false"), "draw tokens; false: always the likeliest") \
    X(eval, temperature, OPT_FLOAT(0, 100), "of sampling, above 0; not set: as generation_config.json says") \
    X(eval, top_p, OPT_FLOAT(0, 1), "of sampling, above 0; not set: as generation_config.json says") \
    X(eval, top_k, OPT_INT(0, 1 << 24), "of sampling, 0: off; not set: as generation_config.json says") \
    X(eval, repetition_penalty, OPT_FLOAT(0, 100), \
      "divides logits of tokens that were there, above 0; not set: as generation_config.json says") \
    X(eval, batch_size, OPT_INT(1, 65536), "not set: as in evaluation of the loss") \
    X(eval, max_samples, OPT_INT(1, Q3_CONFIG_MANY), "answer only the first ones") \
    X(eval, labels, LIST("[\"sarcastic\", \"not_sarcastic\"]"), "the labels, spelled as in the answers")

/* S(name, rows, help): the sections in the order they are written. */
#define Q3_CONFIG_SECTIONS(S) \
    S(model, Q3_CONFIG_MODEL, "the base model") \
    S(quantization, Q3_CONFIG_QUANTIZATION, "4-bit base, as bitsandbytes has it") \
    S(lora, Q3_CONFIG_LORA, "the adapters, as PEFT has them") \
    S(data, Q3_CONFIG_DATA, "samples") \
    S(collator, Q3_CONFIG_COLLATOR, "from samples to batches") \
    S(train, Q3_CONFIG_TRAIN, "training") \
    S(eval, Q3_CONFIG_EVAL, "evaluation by generated answers")
// clang-format on

#define Q3_CONFIG_LIST(X)                                                                                    \
    Q3_CONFIG_MODEL(X)                                                                                       \
    Q3_CONFIG_QUANTIZATION(X)                                                                                \
    Q3_CONFIG_LORA(X) Q3_CONFIG_DATA(X) Q3_CONFIG_COLLATOR(X) Q3_CONFIG_TRAIN(X) Q3_CONFIG_EVAL(X)

#endif
