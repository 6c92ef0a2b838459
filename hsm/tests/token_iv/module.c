/* A PKCS#11 module in front of another (FORWARDS_TO) that makes the IV of AES-GCM itself, in the manner of a maker:
 *
 *   APPENDS undefined   it insists on 12 zeros and writes its IV over them (CloudHSM, nShield)
 *   APPENDS = 12 or 16  it insists on no IV and appends its own to the ciphertext (Luna in FIPS mode)
 *
 * The structures are those of PKCS#11 v2.40 on platforms that do not pack them. One thread runs an operation. */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>

typedef unsigned long number;

struct mechanism {
    number kind;
    void *parameter;
    number parameter_bytes;
};

struct gcm {
    unsigned char *iv;
    number iv_bytes, iv_bits;
    unsigned char *aad;
    number aad_bytes, tag_bits;
};

struct functions {
    unsigned char version[2];
    void *function[68];
};

enum {
    ENCRYPT_INIT = 29, /* places in the list */
    ENCRYPT = 30,
    OK = 0,
    GENERAL_ERROR = 5,
    MECHANISM_PARAM_INVALID = 0x71,
    BUFFER_TOO_SMALL = 0x150,
    AES_GCM = 0x1087,
};

static struct functions own, theirs;
static __thread unsigned char iv[16];
static __thread number appended;

typedef number encrypt_init_function(number, struct mechanism *, number);
typedef number encrypt_function(number, unsigned char *, number, unsigned char *, number *);

static number encrypt_init(number session, struct mechanism *mechanism, number key)
{
    encrypt_init_function *forward = (encrypt_init_function *)theirs.function[ENCRYPT_INIT];
    appended = 0;
    if (mechanism->kind != AES_GCM)
        return forward(session, mechanism, key);
    struct gcm *given = mechanism->parameter;
#ifdef APPENDS
    if (given->iv != NULL || given->iv_bytes != 0)
        return MECHANISM_PARAM_INVALID;
    if (getrandom(iv, APPENDS, 0) != APPENDS)
        return GENERAL_ERROR;
    struct gcm used = *given;
    used.iv = iv;
    used.iv_bytes = APPENDS;
    used.iv_bits = 8 * APPENDS;
    struct mechanism forwarded = {AES_GCM, &used, sizeof used};
    appended = APPENDS;
    return forward(session, &forwarded, key);
#else
    static const unsigned char zeros[12];
    if (given->iv == NULL || given->iv_bytes != sizeof zeros || memcmp(given->iv, zeros, sizeof zeros) != 0)
        return MECHANISM_PARAM_INVALID;
    if (getrandom(given->iv, sizeof zeros, 0) != sizeof zeros)
        return GENERAL_ERROR;
    return forward(session, mechanism, key);
#endif
}

static number encrypt(number session, unsigned char *in, number in_bytes, unsigned char *out, number *out_bytes)
{
    encrypt_function *forward = (encrypt_function *)theirs.function[ENCRYPT];
    number room = *out_bytes;
    number rv = forward(session, in, in_bytes, out, out_bytes);
    if (rv != OK || appended == 0)
        return rv;
    if (room < *out_bytes + appended)
        return BUFFER_TOO_SMALL;
    memcpy(out + *out_bytes, iv, appended);
    *out_bytes += appended;
    appended = 0;
    return OK;
}

number C_GetFunctionList(struct functions **list)
{
    void *library = dlopen(FORWARDS_TO, RTLD_NOW);
    number (*get)(struct functions **) = library ? (number (*)(struct functions **))dlsym(library, "C_GetFunctionList") : NULL;
    struct functions *found = NULL;
    if (get == NULL || get(&found) != OK)
        return GENERAL_ERROR;
    theirs = own = *found;
    own.function[ENCRYPT_INIT] = (void *)encrypt_init;
    own.function[ENCRYPT] = (void *)encrypt;
    *list = &own;
    return OK;
}
