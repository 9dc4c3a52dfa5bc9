#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "serve/fetch_image.h"
#include "tests/support/http.h"
#include "tests/support/run.h"

#define PICTURE "tests/golden/formats/images/rgb-96x64.png"

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return q3_address_public((struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return q3_address_public((struct sockaddr *)&v6);
}

static void special_addresses_are_not_public(void **state)
{
    (void)state;
    static const char *const special[] = {
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001::1",
        "fc00::1",
    };
    static const char *const open[] = {
        "8.8.8.8",     "172.15.0.1",     "172.32.0.1",           "100.128.0.1",
        "192.167.0.1", "2606:4700::1",   "2a00:1450:4001::200e", "::ffff:8.8.8.8",
        "11.0.0.0",    "2002:808:808::", "126.255.255.255"
    };
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (is_public(special[i]))
            fail_msg("%s is taken for public", special[i]);
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        if (!is_public(open[i]))
            fail_msg("%s is taken for special", open[i]);
}

/* ---- other servers ---- */

static char redirect[200]; // where the listener sends its clients; "": it gives the picture
static int listener_port;

static void answer(void *arg, const char *request, size_t n, q3_text *reply)
{
    (void)arg;
    (void)request;
    (void)n;
    char *bytes;
    size_t size;
    if (*redirect) {
        q3_text_printf(reply, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", redirect);
        return;
    }
    assert_int_equal(q3_file_read(&bytes, &size, PICTURE, 1 << 20), Q3_OK);
    q3_text_printf(reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size);
    q3_text_append(reply, bytes, size);
    q3_free(bytes);
}

/* The listener's own port counts as public, so that something can be fetched at all. */
static bool judge(const struct sockaddr *a)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
    return (a->sa_family == AF_INET && ntohs(v4->sin_port) == listener_port) || q3_address_public(a);
}

static const char *own_url(void)
{
    static char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/picture.png", listener_port);
    return url;
}

static void expect_refusal(const char *url, const char *address)
{
    char sentence[400];
    q3_image img;
    const q3_picture_policy policy = { .remote = true };
    assert_int_equal(q3_picture_load(&img, &policy, url, "image"), Q3_ERR_DATA);
    snprintf(sentence, sizeof sentence, "image: %s leads to %s, which is no address of the public internet",
             url, address);
    assert_string_equal(q3_error(), sentence);
}

static void private_addresses_are_not_asked(void **state)
{
    (void)state;
    expect_refusal(own_url(), "127.0.0.1");
    expect_refusal("http://10.0.0.1/x", "10.0.0.1");
    expect_refusal("http://169.254.169.254/latest/meta-data/", "169.254.169.254");
    expect_refusal("http://[::1]:81/x", "::1");
    expect_refusal("http://[fd00::5]/x", "fd00::5");
    expect_refusal("http://2130706433/x", "127.0.0.1");
    expect_refusal("http://0x7f.1/x", "127.0.0.1");
}

static void a_redirect_to_a_private_address_is_not_followed(void **state)
{
    (void)state;
    q3_image img;
    char sentence[400];
    static const char *const targets[] = { "http://10.0.0.1/x", "http://127.0.0.1:1/x", "http://[::1]/x" };
    static const char *const addresses[] = { "10.0.0.1", "127.0.0.1", "::1" };
    const q3_picture_policy policy = { .remote = true, .limits.judge = judge };
    for (int i = 0; i < 3; i++) {
        snprintf(redirect, sizeof redirect, "%s", targets[i]);
        assert_int_equal(q3_picture_load(&img, &policy, own_url(), "image"), Q3_ERR_DATA);
        snprintf(sentence, sizeof sentence,
                 "image: %s leads to %s, which is no address of the public internet", own_url(),
                 addresses[i]);
        assert_string_equal(q3_error(), sentence);
    }
    snprintf(redirect, sizeof redirect, "file:///etc/passwd");
    assert_int_equal(q3_picture_load(&img, &policy, own_url(), "image"), Q3_ERR_NETWORK);
    *redirect = 0;
}

static void a_picture_of_another_server_is_fetched(void **state)
{
    (void)state;
    q3_image img;
    q3_picture_policy policy = { .remote = true, .limits.judge = judge };
    assert_int_equal(q3_picture_load(&img, &policy, own_url(), "image"), Q3_OK);
    assert_int_equal(img.width, 96);
    assert_int_equal(img.height, 64);
    q3_image_free(&img);
    policy.limits.max_bytes = 100;
    assert_int_equal(q3_picture_load(&img, &policy, own_url(), "image"), Q3_ERR_LIMIT);
    policy.remote = false;
    assert_int_equal(q3_picture_load(&img, &policy, own_url(), "image"), Q3_ERR_DATA);
    assert_string_equal(q3_error(),
                        "image: pictures of other servers are off (the server can be started with "
                        "--allow-remote-images); send a data: URL");
}

/* ---- files ---- */

static void files_below_the_directory_are_pictures(void **state)
{
    (void)state;
    q3_image img;
    char real[4096], url[5000];
    const q3_picture_policy policy = { .media_dir = "tests/golden/formats/images" };
    assert_int_equal(q3_picture_load(&img, &policy, "file://rgb-96x64.png", "image"), Q3_OK);
    q3_image_free(&img);
    assert_int_equal(q3_picture_load(&img, &policy, "file://rgb%2d96x64.png", "image"), Q3_OK);
    q3_image_free(&img);
    assert_non_null(realpath(PICTURE, real));
    snprintf(url, sizeof url, "file://%s", real);
    assert_int_equal(q3_picture_load(&img, &policy, url, "image"), Q3_OK);
    q3_image_free(&img);
}

static void paths_out_of_the_directory_are_refused(void **state)
{
    (void)state;
    q3_image img;
    char dir[300], link[400], sibling[400];
    snprintf(dir, sizeof dir, "%s", q3_run_path("media"));
    snprintf(sibling, sizeof sibling, "%s", q3_run_path("media-else"));
    snprintf(link, sizeof link, "%s/link.png", dir);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_int_equal(q3_dir_create(sibling), Q3_OK);
    unlink(link);
    char real[4096];
    assert_non_null(realpath(PICTURE, real));
    assert_int_equal(symlink(real, link), 0);
    strcat(sibling, "/x.png");
    assert_int_equal(q3_file_copy(sibling, PICTURE), Q3_OK);
    static const char *const urls[] = {
        "file://../media-else/x.png",     "file:///etc/passwd", "file://link.png",
        "file://%2e%2e/media-else/x.png", "file://missing.png", "file://."
    };
    const q3_picture_policy policy = { .media_dir = dir };
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        assert_int_equal(q3_picture_load(&img, &policy, urls[i], "image"), Q3_ERR_DATA);
        if (!strstr(q3_error(), "is no file below the media directory"))
            fail_msg("%s: %s", urls[i], q3_error());
    }
    const q3_picture_policy none = { 0 };
    assert_int_equal(q3_picture_load(&img, &none, urls[4], "image"), Q3_ERR_DATA);
    assert_string_equal(q3_error(),
                        "image: file:// URLs are off; the server can be started with --media-path DIR");
}

static void data_urls_must_hold_pictures(void **state)
{
    (void)state;
    q3_image img;
    const q3_picture_policy policy = { 0 };
    static const char *const urls[] = {
        "data:text/plain;base64,aGk=", "data:image/png,abc", "data:image/png;base64,@@@@",
        "data:image/png;base64,aGk=",  "ftp://x/y",          "abc"
    };
    static const char *const sentences[] = {
        "image: the data: URL holds text/plain; pictures are image/...",
        "image: a data: URL must read data:image/...;base64,...",
        NULL,
        NULL,
        "image: \"ftp://x/y\" is no URL of a picture; send data:image/...;base64,...",
        "image: \"abc\" is no URL of a picture; send data:image/...;base64,...",
    };
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        assert_int_equal(q3_picture_load(&img, &policy, urls[i], "image"), Q3_ERR_DATA);
        if (sentences[i])
            assert_string_equal(q3_error(), sentences[i]);
    }
}

static int start(void **state)
{
    q3_listener *l = q3_listener_start(answer, NULL);
    listener_port = q3_listener_port(l);
    *state = l;
    return 0;
}

static int stop(void **state)
{
    q3_listener_stop(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(special_addresses_are_not_public),
        cmocka_unit_test(private_addresses_are_not_asked),
        cmocka_unit_test(a_redirect_to_a_private_address_is_not_followed),
        cmocka_unit_test(a_picture_of_another_server_is_fetched),
        cmocka_unit_test(files_below_the_directory_are_pictures),
        cmocka_unit_test(paths_out_of_the_directory_are_refused),
        cmocka_unit_test(data_urls_must_hold_pictures),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
