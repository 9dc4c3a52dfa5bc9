#include "tests/bench/random_model.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/rng.h"
#include "kernels/nf4.h"
#include "kernels/pool.h"
#include "model/weights.h"

enum { DRAWN_BYTES = 8 << 20, SCALE_BYTES = 1 << 16 };

typedef struct shape {
    const char *name;
    int vocab, hidden, inner, layers, heads, kv_heads, head_dim; // decoder
    int sections[3];
    int vision_hidden, vision_inner, depth, vision_heads, positions, deepstack[3];
    int special; // the id that a picture begins with; the three others follow
    bool tied;
} shape;

/* docs/model.md; tiny is nobody's. */
static const shape shapes[] = {
    { "8b",
      151936,
      4096,
      12288,
      36,
      32,
      8,
      128,
      { 24, 20, 20 },
      1152,
      4304,
      27,
      16,
      2304,
      { 8, 16, 24 },
      151652,
      false },
    { "4b",
      151936,
      2560,
      9728,
      36,
      32,
      8,
      128,
      { 24, 20, 20 },
      1024,
      4096,
      24,
      16,
      2304,
      { 5, 11, 17 },
      151652,
      true },
    { "2b",
      151936,
      2048,
      6144,
      28,
      16,
      8,
      128,
      { 24, 20, 20 },
      1024,
      4096,
      24,
      16,
      2304,
      { 5, 11, 17 },
      151652,
      true },
    { "tiny", 512, 64, 192, 2, 4, 2, 32, { 6, 5, 5 }, 32, 64, 2, 2, 64, { 0, 1, -1 }, 500, false },
};

static void print_config(q3_text *t, const shape *s)
{
    const char *tied = s->tied ? "true" : "false";
    q3_text_printf(t,
                   "{ \"architectures\": [\"Qwen3VLForConditionalGeneration\"], \"model_type\": "
                   "\"qwen3_vl\", \"dtype\": \"bfloat16\",\n"
                   "  \"vision_start_token_id\": %d, \"vision_end_token_id\": %d, \"image_token_id\": %d, "
                   "\"video_token_id\": %d,\n"
                   "  \"tie_word_embeddings\": %s,\n"
                   "  \"text_config\": { \"attention_bias\": false, \"attention_dropout\": 0.0, "
                   "\"head_dim\": %d, \"hidden_act\": \"silu\",\n"
                   "    \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
                   "\"num_attention_heads\": %d,\n"
                   "    \"num_key_value_heads\": %d, \"max_position_embeddings\": 262144, \"model_type\": "
                   "\"qwen3_vl_text\",\n"
                   "    \"rms_norm_eps\": 1e-06, \"initializer_range\": 0.02, \"tie_word_embeddings\": %s, "
                   "\"vocab_size\": %d,\n"
                   "    \"bos_token_id\": 1, \"eos_token_id\": 2, \"rope_theta\": 5000000, \"rope_scaling\": "
                   "{ \"mrope_interleaved\": true,\n"
                   "      \"mrope_section\": [%d, %d, %d], \"rope_type\": \"default\" } },\n",
                   s->special, s->special + 1, s->special + 3, s->special + 4, tied, s->head_dim, s->hidden,
                   s->inner, s->layers, s->heads, s->kv_heads, tied, s->vocab, s->sections[0], s->sections[1],
                   s->sections[2]);
    q3_text_printf(t,
                   "  \"vision_config\": { \"depth\": %d, \"hidden_size\": %d, \"intermediate_size\": %d, "
                   "\"num_heads\": %d,\n"
                   "    \"hidden_act\": \"gelu_pytorch_tanh\", \"in_channels\": 3, \"initializer_range\": "
                   "0.02, \"model_type\": \"qwen3_vl\",\n"
                   "    \"num_position_embeddings\": %d, \"out_hidden_size\": %d, \"patch_size\": 16, "
                   "\"spatial_merge_size\": 2,\n"
                   "    \"temporal_patch_size\": 2, \"deepstack_visual_indexes\": [%d, %d",
                   s->depth, s->vision_hidden, s->vision_inner, s->vision_heads, s->positions, s->hidden,
                   s->deepstack[0], s->deepstack[1]);
    if (s->deepstack[2] >= 0)
        q3_text_printf(t, ", %d", s->deepstack[2]);
    q3_text_printf(t, "] } }\n");
}

static q3_status write_config(const shape *s, const char *dir)
{
    q3_text t = { 0 };
    print_config(&t, s);
    char *path = q3_path_join(dir, "config.json");
    q3_status st = path && !t.failed ? q3_dir_create(dir) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = q3_file_write(path, t.data, t.size);
    q3_free(path);
    q3_text_free(&t);
    return st;
}

/* By the name in front of a colon, behind which a number of layers may stand. */
static bool find_shape(shape *out, const char *name)
{
    size_t n = strcspn(name, ":");
    int layers = name[n] ? atoi(name + n + 1) : 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strlen(shapes[i].name) == n && strncmp(name, shapes[i].name, n) == 0) {
            *out = shapes[i];
            out->layers = layers > 0 ? layers : out->layers;
            return true;
        }
    return false;
}

static q3_status lay_out(q3_model *out, q3_arena *run, q3_arena *values, const char *name, bool nf4)
{
    const q3_load_options how = { .load_in_4bit = nf4,
                                  .code = Q3_NF4,
                                  .double_quant = true,
                                  .random = true,
                                  .blank = true,
                                  .values = values };
    const char *dir = strcmp(name, "demo") == 0 ? "assets/tiny-base" : name;
    char made[] = "/tmp/random_model.XXXXXX";
    q3_status st = Q3_OK;
    shape s;
    if (find_shape(&s, name)) {
        dir = mkdtemp(made);
        st = dir ? write_config(&s, dir) : q3_fail(Q3_ERR_FAIL, "%s: cannot make the directory", made);
    }
    if (st == Q3_OK)
        st = q3_model_load(out, run, dir, &how);
    if (dir == made)
        q3_dir_remove(dir);
    return st;
}

static void draw(void *arg, int64_t begin, int64_t end, int thread)
{
    const random_values *d = arg;
    const q3_random bits = { 1, Q3_RANDOM_INIT, 0, 0 }, normals = { 2, Q3_RANDOM_INIT, 0, 0 };
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        d->normals[2 * i] = q3_f32_to_bf16((float)(0.02 * q3_random_normal(&normals, (uint64_t)(2 * i))));
        d->normals[2 * i + 1] =
            q3_f32_to_bf16((float)(0.02 * q3_random_normal(&normals, (uint64_t)(2 * i + 1))));
        d->bits[i] = q3_random_u32(&bits, (uint64_t)i);
    }
}

q3_status random_values_create(random_values *out, q3_arena *values)
{
    random_values host = { malloc(DRAWN_BYTES), malloc(DRAWN_BYTES) };
    *out = (random_values){ q3_arena_alloc(values, DRAWN_BYTES), q3_arena_alloc(values, DRAWN_BYTES) };
    q3_status st = host.bits && host.normals && out->bits && out->normals
                       ? Q3_OK
                       : q3_fail(Q3_ERR_MEMORY, "no memory for random values");
    if (st == Q3_OK) {
        q3_parallel(DRAWN_BYTES / 4, 4096, draw, &host);
        q3_device_write(values->cuda, out->bits, host.bits, DRAWN_BYTES);
        q3_device_write(values->cuda, out->normals, host.normals, DRAWN_BYTES);
    }
    free(host.bits);
    free(host.normals);
    return st;
}

/* Copies of `from` [size], the first of them from a place that depends on `turn`. */
static void repeat(q3_cuda *cuda, void *to, size_t bytes, const void *from, size_t size, int turn)
{
    size_t begin =
        (size_t)turn * 4099 * 256 % size; // 4099 is a prime: no two of 256 matrices begin at one place
    for (size_t at = 0; at < bytes;) {
        size_t n = size - begin < bytes - at ? size - begin : bytes - at;
        q3_device_copy(cuda, (char *)to + at, (const char *)from + begin, n);
        at += n;
        begin = 0;
    }
}

void random_fill_bf16(q3_cuda *cuda, const random_values *from, void *to, size_t bytes, int turn)
{
    repeat(cuda, to, bytes, from->normals, DRAWN_BYTES, turn);
}

void random_fill_bits(q3_cuda *cuda, const random_values *from, void *to, size_t bytes, int turn)
{
    repeat(cuda, to, bytes, from->bits, DRAWN_BYTES, turn);
}

/* Scales of about 0.035, so that weights are about N(0, 0.02): the values of the code have a root mean square of 0.57. */
static void fill_scales(q3_arena *values, q3_tensor *t, const random_values *d, const float *constant,
                        int turn)
{
    const int64_t blocks = (q3_numel(t) + t->block - 1) / t->block;
    if (t->absmax) {
        for (int64_t at = 0, n; at < blocks; at += n) {
            n = blocks - at < SCALE_BYTES / 4 ? blocks - at : SCALE_BYTES / 4;
            q3_device_write(values->cuda, (float *)(uintptr_t)t->absmax + at, constant,
                            (size_t)n * sizeof(float));
        }
        return;
    }
    repeat(values->cuda, (void *)(uintptr_t)t->nested.codes, (size_t)blocks, d->bits, DRAWN_BYTES, turn + 1);
    for (int64_t at = 0, n, groups = (blocks + 255) / 256; at < groups; at += n) {
        n = groups - at < SCALE_BYTES / 4 ? groups - at : SCALE_BYTES / 4;
        q3_device_write(values->cuda, (float *)(uintptr_t)t->nested.scale + at, constant,
                        (size_t)n * sizeof(float));
    }
    q3_device_write(values->cuda, (void *)(uintptr_t)t->nested.map, q3_nf4_nested_map(), 256 * sizeof(float));
    t->nested.offset = 0.035f;
}

static q3_status fill(q3_model *m, q3_arena *values)
{
    static float constant[SCALE_BYTES / 4];
    random_values d;
    Q3_TRY(random_values_create(&d, values));
    for (size_t i = 0; i < SCALE_BYTES / 4; i++)
        constant[i] = values->cuda ? 0.005f : 0.035f; // times a nested code in +-1; a scale
    for (int i = 0; i < m->n_params; i++) {
        q3_tensor *t = m->params[i].tensor;
        bool coded = t->dtype == Q3_NF4;
        if (!coded && t->dtype != Q3_BF16)
            continue; // norms and biases have their values
        repeat(values->cuda, t->data, q3_nbytes(t), coded ? (void *)d.bits : (void *)d.normals, DRAWN_BYTES,
               i);
        if (coded)
            fill_scales(values, t, &d, constant, i);
    }
    return q3_device_status(values->cuda);
}

q3_status random_model_open(q3_model *out, q3_arena *run, q3_arena *values, const char *name, bool nf4)
{
    Q3_TRY(lay_out(out, run, values, name, nf4));
    return fill(out, values);
}
