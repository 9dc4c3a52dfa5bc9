/* The demo's pictures and texts: values that another implementation of the same description computed, the
 * balance that makes either modality alone useless, and the files that q3-scenes writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

#include "assets/scene_texts.h"
#include "core/file.h"

/* ---- pictures ---- */

static void splitmix64_gives_the_known_numbers(void **state)
{
    (void)state;
    q3_scene_rng r = q3_scene_rng_new(1);
    assert_true(q3_scene_next(&r) == 0xC05A677850DC981Au);
    assert_true(q3_scene_next(&r) == 0x9E32CDF7948370BDu);
    assert_true(q3_scene_next(&r) == 0xA7765F796F00BBEFu);
}

static void each_kind_of_scene_has_the_known_pixels(void **state)
{
    (void)state;
    static const struct {
        uint32_t crc, sum;
        const char *colour;
        int n;
    } known[Q3_SCENE_OBJECTS][2] = {
        // good: seeds 1, 3, 5 ...           bad: seeds 2, 4, 6 ...
        { { 0xdf8a8eae, 5516774, "green", 1 }, { 0xbc03ec02, 4242403, "orange", 1 } },
        { { 0x34b58d59, 4616896, "blue", 1 }, { 0x9be76fc8, 3889704, "red", 1 } },
        { { 0x83c8a061, 4671590, "pink", 1 }, { 0x2cbde313, 5359122, "orange", 3 } },
        { { 0xb8d74e16, 4369059, "red", 2 }, { 0x2aeaaa53, 4487184, "red", 1 } },
        { { 0x0f6dfd5f, 3592807, "green", 1 }, { 0x44d0b0e7, 4115374, "purple", 1 } },
        { { 0x0de371df, 4856346, "blue", 1 }, { 0xafa24eaa, 4271036, "purple", 1 } },
        { { 0xa48959b4, 4352833, "blue", 1 }, { 0x950af910, 4597721, "pink", 3 } },
    };
    for (int i = 0; i < 2 * Q3_SCENE_OBJECTS; i++) {
        uint8_t rgb[Q3_SCENE_BYTES];
        q3_scene scene;
        uint32_t sum = 0;
        q3_scene_render(rgb, &scene, (uint64_t)i + 1, (q3_scene_object)(i / 2), i % 2 == 0);
        for (int k = 0; k < Q3_SCENE_BYTES; k++)
            sum += rgb[k];
        assert_int_equal(crc32(0, rgb, sizeof rgb), known[i / 2][i % 2].crc);
        assert_int_equal(sum, known[i / 2][i % 2].sum);
        assert_string_equal(q3_scene_colour_names[scene.colour], known[i / 2][i % 2].colour);
        assert_int_equal(scene.n, known[i / 2][i % 2].n);
    }
}

/* More seeds, so that every distractor, count and mirror image occurs. */
static void a_row_of_280_seeds_has_the_known_checksum(void **state)
{
    (void)state;
    uLong crc = 0;
    for (int i = 0; i < 280; i++) {
        uint8_t rgb[Q3_SCENE_BYTES];
        q3_scene s;
        q3_scene_render(rgb, &s, 777000 + (uint64_t)i, (q3_scene_object)(i % 7), i / 7 % 2 == 1);
        uint8_t facts[2] = { (uint8_t)s.colour, (uint8_t)s.n };
        crc = crc32(crc32(crc, rgb, sizeof rgb), facts, sizeof facts);
    }
    assert_int_equal(crc, 0x748ea8c1);
}

static void a_seed_is_one_picture(void **state)
{
    (void)state;
    uint8_t a[Q3_SCENE_BYTES], b[Q3_SCENE_BYTES];
    q3_scene s;
    memset(b, 0xAA, sizeof b); // what was in the buffer does not shine through
    q3_scene_render(a, &s, 5, Q3_CAKE, true);
    q3_scene_render(b, &s, 5, Q3_CAKE, true);
    assert_memory_equal(a, b, sizeof a);
    q3_scene_render(b, &s, 6, Q3_CAKE, true);
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- posts ---- */

static void the_first_posts_are_the_known_ones(void **state)
{
    (void)state;
    static const char *const known[] = { "Wow, just what I feared on a Monday... #notkidding #mood",
                                         "Honestly, this is perfect today!",
                                         "Wow, this ruined my day... #thanksalot",
                                         "A great start after lunch" };
    for (int i = 0; i < 4; i++) {
        q3_scene_post post;
        q3_scene_post_draw(&post, 200000000, i, false);
        assert_string_equal(post.comment, known[i]);
        assert_int_equal(post.object, Q3_BEACH);
        assert_int_equal(post.good, i >= 2);
        assert_int_equal(post.positive, i % 2);
        assert_int_equal(q3_scene_post_sarcastic(&post), i == 1 || i == 2);
    }
}

static void tone_mood_and_object_are_balanced_and_decide_the_label_together(void **state)
{
    (void)state;
    int n[2][2][Q3_SCENE_OBJECTS] = { 0 };
    for (int i = 0; i < 560; i++) {
        q3_scene_post post;
        q3_scene_post_draw(&post, 200000000, i, false);
        n[post.positive][post.good][post.object]++;
        assert_int_equal(q3_scene_post_sarcastic(&post), post.positive != post.good);
        assert_non_null(
            strstr(post.comment, q3_scene_core(post.core, post.positive) + 1)); // + 1: the capital letter
    }
    for (int i = 0; i < 4 * Q3_SCENE_OBJECTS; i++)
        assert_int_equal(n[i & 1][i >> 1 & 1][i >> 2], 560 / (4 * Q3_SCENE_OBJECTS));
}

static const char *const marks[] = { "#sarcasm", "#irony", "#yeahright", "#blessed",    "#lol",
                                     "#mood",    "#life",  "#monday",    "#notkidding", "#thanksalot",
                                     "Wow, ",    "Oh, ",   "Well, ",     "Honestly, ",  "Look, ",
                                     "Yes, ",    " today", " this week", "...",         "!" };
enum { MARKS = sizeof marks / sizeof marks[0] };

/* 28000 posts: a mark occurs about 2700 times at least, so its share scatters by 0.0096; 0.03 is three times
 * that. */
static void hashtags_and_openers_say_nothing_about_label_or_tone(void **state)
{
    (void)state;
    int n[MARKS] = { 0 }, sarcastic[MARKS] = { 0 }, positive[MARKS] = { 0 };
    for (int i = 0; i < 28000; i++) {
        q3_scene_post post;
        q3_scene_post_draw(&post, 200000000, i, false);
        for (int k = 0; k < MARKS; k++) {
            if (!strstr(post.comment, marks[k]))
                continue;
            n[k]++;
            sarcastic[k] += q3_scene_post_sarcastic(&post);
            positive[k] += post.positive;
        }
    }
    for (int k = 0; k < MARKS; k++) {
        assert_true(n[k] > 2000);
        assert_true(abs(2 * sarcastic[k] - n[k]) < 2 * 0.03 * n[k]);
        if (strcmp(marks[k], " today"))
            assert_true(abs(2 * positive[k] - n[k]) < 2 * 0.03 * n[k]);
    }
}

static void held_out_comments_never_occur_in_the_training_set(void **state)
{
    (void)state;
    int held = 0;
    for (int core = 0; core < Q3_COMMENT_CORES; core++)
        held += q3_scene_core_held_out(core);
    assert_int_equal(held, 6);
    int used[2][Q3_COMMENT_CORES] = { 0 };
    for (int i = 0; i < 2800; i++) {
        q3_scene_post train, test;
        q3_scene_post_draw(&train, 200000000, i, false);
        q3_scene_post_draw(&test, 400000000, i, true);
        assert_false(train.core % 5 == 2);
        assert_true(test.core % 5 == 2);
        used[0][train.core]++;
        used[1][test.core]++;
    }
    for (int core = 0; core < Q3_COMMENT_CORES; core++)
        assert_true(used[q3_scene_core_held_out(core)][core] > 0);
}

/* ---- turns ---- */

static void words_are_sorted_and_hold_those_of_the_comments(void **state)
{
    (void)state;
    for (int i = 1; i < q3_scene_n_words; i++)
        assert_true(strcmp(q3_scene_words[i - 1], q3_scene_words[i]) < 0);
    for (int core = 0; core < 2 * Q3_COMMENT_CORES; core++) {
        char text[Q3_COMMENT_BYTES], *rest = text;
        snprintf(text, sizeof text, "%s", q3_scene_core(core / 2, core % 2));
        for (char *word; (word = strsep(&rest, " "));) {
            int i = 0;
            while (i < q3_scene_n_words && strcmp(q3_scene_words[i], word))
                i++;
            assert_true(i < q3_scene_n_words);
        }
    }
}

/* The object is drawn by the corpus, colour and count by another generator: no picture is needed. */
static q3_scene scene_of_turns(q3_scene_rng *r, int i)
{
    q3_scene s = { .n = 1 };
    *r = q3_scene_corpus(100000000 + (uint64_t)i, &s.object, &s.good);
    q3_scene_rng other = q3_scene_rng_new((uint64_t)i);
    s.colour = q3_scene_int(&other, 0, Q3_SCENE_COLOURS - 1);
    if (s.object == Q3_CAKE || s.object == Q3_FLOWERS)
        s.n = q3_scene_int(&other, 1, 4);
    else if (s.object == Q3_ROAD && !s.good)
        s.n = q3_scene_int(&other, 3, 4);
    return s;
}

static void the_turns_of_4000_scenes_have_the_known_checksum(void **state)
{
    (void)state;
    uLong crc = 0;
    for (int i = 0; i < 4000; i++) {
        q3_scene_rng r;
        q3_scene s = scene_of_turns(&r, i);
        for (int left = q3_scene_int(&r, 1, 3); left > 0; left--) {
            q3_scene_turn t;
            q3_scene_turn_draw(&t, &r, &s, Q3_STAGE_FULL);
            crc = crc32(crc, (const Bytef *)t.question, (uInt)strlen(t.question) + 1);
            crc = crc32(crc, (const Bytef *)t.answer, (uInt)strlen(t.answer) + 1);
        }
    }
    assert_int_equal(crc, 0x681744c5);
}

static const char *const tasks[] = { "caption", "object", "colour", "mood",   "tone",
                                     "fit",     "rate",   "json",   "repeat", "same" };
enum { TASKS = sizeof tasks / sizeof tasks[0] };

static void count_turns(int n[TASKS], q3_scene_stage stage)
{
    for (int i = 0; i < 23000; i++) {
        q3_scene_rng r;
        q3_scene_turn t;
        q3_scene s = scene_of_turns(&r, i);
        q3_scene_turn_draw(&t, &r, &s, stage);
        assert_true(strlen(t.question) < Q3_TURN_BYTES - 100 && strlen(t.answer) < Q3_TURN_BYTES - 100);
        assert_null(strstr(t.question, "post"
                                       " sarcastic"));
        int k = 0;
        while (k < TASKS && strcmp(tasks[k], t.task))
            k++;
        assert_true(k < TASKS);
        n[k]++;
        if (stage < Q3_STAGE_FULL)
            assert_false(!strcmp(t.task, "fit") && !strncmp(t.question, "Text:", 5));
    }
}

static void stages_hold_the_turns_they_name_in_the_named_share(void **state)
{
    (void)state;
    static const int weight[TASKS] = { 4, 1, 2, 3, 1, 4, 3, 1, 1, 3 };
    int full[TASKS] = { 0 }, objects[TASKS] = { 0 };
    count_turns(full, Q3_STAGE_FULL);
    count_turns(objects, Q3_STAGE_OBJECTS);
    for (int k = 0; k < TASKS; k++)
        assert_in_range(full[k], weight[k] * 1000 - 250, weight[k] * 1000 + 250); // 4 standard deviations
    assert_int_equal(objects[TASKS - 1], 0);                                      // no "same"
    assert_in_range(objects[0], 23000 / 5 - 250, 23000 / 5 + 250);
}

static void captions_have_articles_and_plurals(void **state)
{
    (void)state;
    char text[Q3_COMMENT_BYTES];
    q3_scene_caption(text, &(q3_scene){ Q3_CAKE, true, 1, 1 }, 0);
    assert_string_equal(text, "an orange birthday cake with one candle");
    q3_scene_caption(text, &(q3_scene){ Q3_CAKE, false, 1, 3 }, 1);
    assert_string_equal(text, "three fallen candles and an orange ruined cake");
    q3_scene_caption(text, &(q3_scene){ Q3_ROAD, false, 3, 4 }, 0);
    assert_string_equal(text, "a traffic jam of four blue cars");
}

/* ---- files ---- */

static const char *test_dir(void)
{
    const char *dir = getenv("Q3_TEST_DIR");
    return dir ? dir : "/tmp/q3-test-scenes";
}

static const char *path_of(char path[1024], const char *name)
{
    snprintf(path, 1024, "%s/%s", test_dir(), name);
    return path;
}

/* Exit code of `q3-scenes <command> <path of name> <options>`. */
static int run_tool(const char *command, const char *name, const char *options)
{
    char path[1024], line[4096];
    snprintf(line, sizeof line, "'%s' %s '%s' %s >/dev/null 2>&1", Q3_SCENES, command, path_of(path, name),
             options);
    int status = system(line);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void read_png(uint8_t rgb[Q3_SCENE_BYTES], const char *path)
{
    png_image image = { .version = PNG_IMAGE_VERSION };
    assert_true(png_image_begin_read_from_file(&image, path));
    assert_int_equal(image.format, PNG_FORMAT_RGB); // 8 bits, no palette, no alpha
    assert_int_equal(image.width, Q3_SCENE_SIDE);
    assert_int_equal(image.height, Q3_SCENE_SIDE);
    assert_true(png_image_finish_read(&image, NULL, rgb, 0, NULL));
}

static const char *field(const cJSON *row, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
    assert_non_null(text);
    return text;
}

/* All rows of a JSONL file, one after the other; the number of rows. */
static int each_row(const char *name, void (*check)(const cJSON *row, int i))
{
    char path[1024], *text;
    size_t size;
    int i = 0;
    assert_int_equal(q3_file_read(&text, &size, path_of(path, name), 1 << 24), Q3_OK);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, i++) {
        const char *stop;
        cJSON *row = cJSON_ParseWithOpts(line, &stop, false);
        assert_non_null(row);
        assert_ptr_equal(stop, end); // the row is the whole line
        check(row, i);
        cJSON_Delete(row);
    }
    assert_true(size > 0 && text[size - 1] == '\n');
    q3_free(text);
    return i;
}

static void check_post(const cJSON *row, int i)
{
    char path[1024], want[1024], name[200];
    uint8_t rgb[Q3_SCENE_BYTES], drawn[Q3_SCENE_BYTES];
    q3_scene scene;
    q3_scene_post post;
    q3_scene_post_draw(&post, 300000000, i, false);
    snprintf(want, sizeof want, "Text: %s\nIs this post sarcastic? Answer in JSON.", post.comment);
    assert_string_equal(field(row, "query"), want);
    snprintf(want, sizeof want, "{\"label\": \"%s\"}", field(row, "label"));
    assert_string_equal(field(row, "target_json"), want);
    assert_string_equal(field(row, "label"), q3_scene_post_sarcastic(&post) ? "sarcastic" : "not_sarcastic");
    snprintf(want, sizeof want, "eval-%05d", i);
    assert_string_equal(field(row, "id"), want);
    snprintf(name, sizeof name, "set/%s", field(row, "image"));
    read_png(rgb, path_of(path, name));
    q3_scene_render(drawn, &scene, post.seed, post.object, post.good);
    assert_memory_equal(rgb, drawn, sizeof rgb);
}

static void the_tool_writes_rows_and_pictures_that_read_back(void **state)
{
    (void)state;
    assert_int_equal(run_tool("sarcasm", "set", "--train 28 --eval 56 --heldout 0"), 0);
    assert_int_equal(each_row("set/eval.jsonl", check_post), 56);
    char path[1024];
    assert_true(q3_file_exists(path_of(path, "set/train.jsonl")));
    assert_false(q3_file_exists(path_of(path, "set/heldout.jsonl")));
}

static ino_t inode(const char *name)
{
    char path[1024];
    struct stat st;
    assert_int_equal(stat(path_of(path, name), &st), 0);
    return st.st_ino;
}

static void a_current_set_is_left_alone_and_another_one_replaced(void **state)
{
    (void)state;
    char path[1024];
    assert_int_equal(run_tool("sarcasm", "again/", "--train 28 --eval 0 --heldout 0"), 0);
    ino_t first = inode("again");
    assert_int_equal(run_tool("sarcasm", "again", "--train 28 --eval 0 --heldout 0"), 0);
    assert_int_equal(inode("again"), first);
    assert_int_equal(run_tool("sarcasm", "again", "--train 28 --eval 28 --heldout 0"), 0);
    assert_true(q3_file_exists(path_of(path, "again/eval.jsonl")));
}

static void a_directory_of_somebody_else_is_refused(void **state)
{
    (void)state;
    char path[1024];
    assert_int_equal(q3_dir_create(path_of(path, "mine/letters")), Q3_OK);
    assert_int_equal(run_tool("sarcasm", "mine", "--train 28"), 2);
    assert_true(q3_dir_exists(path));
}

static void unknown_options_and_values_are_refused(void **state)
{
    (void)state;
    assert_int_equal(run_tool("sarcasm", "no", "--samples 5"), 2); // an option of another command
    assert_int_equal(run_tool("sarcasm", "no", "--train"), 2);
    assert_int_equal(run_tool("sarcasm", "no", "--train 5x"), 2);
    assert_int_equal(run_tool("sarcasm", "no", "--train -1"), 2);
    assert_int_equal(run_tool("sarcasm", "no", "--blank both"), 2);
    assert_int_equal(run_tool("paint", "no", ""), 2);
    char path[1024];
    assert_false(q3_dir_exists(path_of(path, "no")));
}

static void two_makers_of_one_set_agree(void **state)
{
    (void)state;
    char path[1024], line[4096];
    snprintf(line, sizeof line,
             "'%s' sarcasm '%s' --eval 0 >/dev/null & a=$!; '%s' sarcasm '%s' --eval 0 >/dev/null && wait $a",
             Q3_SCENES, path_of(path, "both"), Q3_SCENES, path);
    assert_int_equal(system(line), 0);
    assert_true(q3_file_exists(path_of(path, "both/images/train-00559.png")));
    snprintf(line, sizeof line, "ls -d '%s'.*", path_of(path, "both")); // no both.tmp-..., both.old-... left
    assert_int_not_equal(system(strcat(line, " >/dev/null 2>&1")), 0);
}

static void check_grey(const cJSON *row, int i)
{
    (void)i;
    assert_string_equal(field(row, "image"), "images/grey.png");
    assert_int_equal(strncmp(field(row, "query"), "Text: ", 6), 0);
    assert_int_not_equal(field(row, "query")[6], '\n');
}

static void check_empty(const cJSON *row, int i)
{
    assert_string_equal(field(row, "query"), "Text: \nIs this post sarcastic? Answer in JSON.");
    char want[64];
    snprintf(want, sizeof want, "images/heldout-%05d.png", i);
    assert_string_equal(field(row, "image"), want);
}

static void blank_sets_lack_one_modality(void **state)
{
    (void)state;
    uint8_t rgb[Q3_SCENE_BYTES], grey[Q3_SCENE_BYTES];
    char path[1024];
    assert_int_equal(run_tool("sarcasm", "grey", "--train 0 --eval 28 --heldout 0 --blank image"), 0);
    assert_int_equal(each_row("grey/eval.jsonl", check_grey), 28);
    read_png(rgb, path_of(path, "grey/images/grey.png"));
    memset(grey, 127, sizeof grey);
    assert_memory_equal(rgb, grey, sizeof grey);
    assert_int_equal(run_tool("sarcasm", "mute", "--train 0 --eval 0 --heldout 28 --blank text"), 0);
    assert_int_equal(each_row("mute/heldout.jsonl", check_empty), 28);
}

static q3_scene_rng corpus_rng; // of the picture whose rows are being checked
static q3_scene corpus_scene;
static char corpus_image[64];
static int corpus_left; // turns left of this picture
static int corpus_pictures;

static void check_turn(const cJSON *row, int i)
{
    (void)i;
    if (!corpus_left) {
        uint8_t rgb[Q3_SCENE_BYTES], drawn[Q3_SCENE_BYTES];
        char path[1024], name[200];
        uint64_t seed = 100000000 + (uint64_t)corpus_pictures++;
        corpus_rng = q3_scene_corpus(seed, &corpus_scene.object, &corpus_scene.good);
        q3_scene_render(drawn, &corpus_scene, seed, corpus_scene.object, corpus_scene.good);
        snprintf(corpus_image, sizeof corpus_image, "images/%llu.png", (unsigned long long)seed);
        snprintf(name, sizeof name, "corpus/%s", corpus_image);
        read_png(rgb, path_of(path, name));
        assert_memory_equal(rgb, drawn, sizeof rgb);
        corpus_left = q3_scene_int(&corpus_rng, 1, 3);
    }
    q3_scene_turn t;
    q3_scene_turn_draw(&t, &corpus_rng, &corpus_scene, Q3_STAGE_FULL);
    assert_string_equal(field(row, "image"), corpus_image);
    assert_string_equal(field(row, "query"), t.question);
    assert_string_equal(field(row, "target_json"), t.answer);
    assert_string_equal(field(row, "source"), t.task);
    corpus_left--;
}

static void the_corpus_has_a_row_for_each_turn(void **state)
{
    (void)state;
    assert_int_equal(run_tool("pretrain", "corpus", "--samples 50"), 0);
    int rows = each_row("corpus/train.jsonl", check_turn);
    assert_int_equal(corpus_pictures, 50);
    assert_int_equal(corpus_left, 0);
    assert_in_range(rows, 51, 149);
}

static int make_directory(void **state)
{
    (void)state;
    return q3_dir_remove(test_dir()) != Q3_OK || q3_dir_create(test_dir()) != Q3_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splitmix64_gives_the_known_numbers),
        cmocka_unit_test(each_kind_of_scene_has_the_known_pixels),
        cmocka_unit_test(a_row_of_280_seeds_has_the_known_checksum),
        cmocka_unit_test(a_seed_is_one_picture),
        cmocka_unit_test(the_first_posts_are_the_known_ones),
        cmocka_unit_test(tone_mood_and_object_are_balanced_and_decide_the_label_together),
        cmocka_unit_test(hashtags_and_openers_say_nothing_about_label_or_tone),
        cmocka_unit_test(held_out_comments_never_occur_in_the_training_set),
        cmocka_unit_test(words_are_sorted_and_hold_those_of_the_comments),
        cmocka_unit_test(the_turns_of_4000_scenes_have_the_known_checksum),
        cmocka_unit_test(stages_hold_the_turns_they_name_in_the_named_share),
        cmocka_unit_test(captions_have_articles_and_plurals),
        cmocka_unit_test(the_tool_writes_rows_and_pictures_that_read_back),
        cmocka_unit_test(a_current_set_is_left_alone_and_another_one_replaced),
        cmocka_unit_test(a_directory_of_somebody_else_is_refused),
        cmocka_unit_test(unknown_options_and_values_are_refused),
        cmocka_unit_test(two_makers_of_one_set_agree),
        cmocka_unit_test(blank_sets_lack_one_modality),
        cmocka_unit_test(the_corpus_has_a_row_for_each_turn),
    };
    return cmocka_run_group_tests(tests, make_directory, NULL);
}
