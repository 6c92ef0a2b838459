"""A module that misbehaves: nothing acknowledged is lost or wrong, lists go on, and the load is served again at once.

The server's token is behind the fault module (fault_module.py).
"""

import collections
import random
import threading
import time

import botocore.exceptions

from fault_module import FaultyServer
from support import eventually, main, noise

CLIENTS = 16
ON_SECONDS = 2
QUIET_SECONDS = 2
HEALS_WITHIN_SECONDS = 5
# A call that hangs ends here, so that it is over well before the quiet after its fault.
DEADLINE_MS = 1000

# PKCS#11 v2.40, pkcs11t.h
GENERAL_ERROR, FUNCTION_FAILED, DEVICE_MEMORY, DEVICE_REMOVED = 0x5, 0x6, 0x31, 0x32
KEY_HANDLE_INVALID, OBJECT_HANDLE_INVALID, SESSION_COUNT, SESSION_HANDLE_INVALID = 0x60, 0x82, 0xB1, 0xB3
TOKEN_NOT_PRESENT, USER_ALREADY_LOGGED_IN, USER_NOT_LOGGED_IN = 0xE0, 0x100, 0x101
AES_GCM = 0x1087

USES = "C_EncryptInit,C_DecryptInit,C_FindObjectsInit,C_GetAttributeValue,C_GenerateRandom"


class _Load:
    """Clients that put, get, head and list objects encrypted under aws/s3, and what they saw."""

    def __init__(self, server):
        self.server, self.over, self.lock = server, threading.Event(), threading.Lock()
        self.acknowledged = {}
        self.reset()
        server.client().create_bucket(Bucket="vault")
        self.threads = [threading.Thread(target=self._client, args=(n,)) for n in range(CLIENTS)]

    def reset(self):
        with self.lock:
            self.done, self.failed, self.wrong = collections.Counter(), collections.Counter(), []
            self.failed_at, self.slowest = 0.0, 0.0

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _client(self, n):
        s3, chance, i = self.server.client(read_timeout=20, max_pool_connections=1), random.Random(n), 0
        mine = {}
        while not self.over.is_set():
            key, body = f"{n}/{i}", noise(chance.randrange(20_000), n * 1_000_000 + i)
            if self._try("put", lambda: s3.put_object(Bucket="vault", Key=key, Body=body,
                                                      ServerSideEncryption="aws:kms")) is not None:
                mine[key] = body
                with self.lock:
                    self.acknowledged[key] = body
            i += 1
            if mine:
                key = chance.choice(list(mine))
                got = self._try("get", lambda: s3.get_object(Bucket="vault", Key=key)["Body"].read())
                if got is not None and got != mine[key]:
                    self.wrong.append(key)
                head = self._try("head", lambda: s3.head_object(Bucket="vault", Key=key))
                if head is not None and head["ContentLength"] != len(mine[key]):
                    self.wrong.append(key)
            self._try("list", lambda: s3.list_objects_v2(Bucket="vault", Prefix=f"{n}/", MaxKeys=10))

    def _try(self, what, call):
        begun = time.time()
        try:
            answer, error = call(), None
        except botocore.exceptions.ClientError as failure:
            answer, error = None, failure.response["Error"]["Code"]
        except botocore.exceptions.BotoCoreError as failure:
            answer, error = None, type(failure).__name__
        with self.lock:
            self.slowest = max(self.slowest, time.time() - begun)
            if error is None:
                self.done[what] += 1
            else:
                self.failed[what, error] += 1
                self.failed_at = time.time()
        return answer


def _ordeal(name, rules, server, load, errors):
    """One fault under load. `errors`: what a client may be told meanwhile."""
    load.reset()
    places = [server.control.arm(rule) for rule in rules]
    time.sleep(ON_SECONDS)
    struck = sum(server.control.lift(at) for at in places)
    lifted = time.time()
    with load.lock:
        during = collections.Counter(load.done)
    while time.time() < max(lifted, load.failed_at) + QUIET_SECONDS:
        assert time.time() < lifted + HEALS_WITHIN_SECONDS + QUIET_SECONDS, (name, load.failed)
        time.sleep(0.05)
    healed = max(0.0, load.failed_at - lifted)
    with load.lock:
        after = load.done - during
        failed = {f"{what} {error}": n for (what, error), n in sorted(load.failed.items())}
    print(f"{name}: struck {struck}; served during {dict(during)}; failed {failed}; healed in {healed:.2f} s; "
          f"served since {dict(after)}; slowest {load.slowest:.2f} s; wrong {len(load.wrong)}")
    assert struck > 0, f"{name}: the fault never struck"
    assert not load.wrong, (name, load.wrong)
    assert healed < HEALS_WITHIN_SECONDS, (name, healed)
    # Without a key nothing is put or got, but everything is listed and described, and the client is told to try again.
    assert during["list"] > 0 and during["head"] > 0, (name, during)
    assert {what for what, _ in load.failed} <= {"put", "get"}, (name, failed)
    assert {error for _, error in load.failed} <= errors, (name, failed)
    assert after["put"] > 0 and after["get"] > 0, (name, after)


def _every_client_has_put(load):
    with load.lock:
        clients = {key.split("/")[0] for key in load.acknowledged}
    assert len(clients) == CLIENTS, clients


def _ordeals(faults, errors=("ServiceUnavailable",)):
    with FaultyServer(f"deadline_ms = {DEADLINE_MS}") as server:
        with _Load(server) as load:
            eventually(lambda: _every_client_has_put(load))
            assert not load.failed, load.failed
            for name, rules in faults.items():
                _ordeal(name, rules, server, load, set(errors))
        s3 = server.client()
        lost = [key for key, body in load.acknowledged.items()
                if s3.get_object(Bucket="vault", Key=key)["Body"].read() != body]
        print(f"{len(load.acknowledged)} acknowledged, {len(lost)} lost")
        assert not lost, lost


def a_token_that_is_lost_costs_no_object_and_heals():
    _ordeals({
        "CKR_DEVICE_REMOVED": [f"any answer {DEVICE_REMOVED}"],
        "CKR_TOKEN_NOT_PRESENT": [f"{USES},C_OpenSession,C_GetTokenInfo answer {TOKEN_NOT_PRESENT}"],
        "CKR_SESSION_HANDLE_INVALID": [f"{USES} answer {SESSION_HANDLE_INVALID}"],
        "CKR_OBJECT_HANDLE_INVALID": [f"C_GetAttributeValue answer {OBJECT_HANDLE_INVALID}",
                                      f"C_EncryptInit,C_DecryptInit answer {KEY_HANDLE_INVALID}"],
        "sessions really closed": ["C_EncryptInit close-sessions x5"],
        "CKR_SESSION_COUNT": [f"C_OpenSession answer {SESSION_COUNT}", "C_EncryptInit close-sessions x1"],
    })


def a_token_that_logs_out_costs_no_object_and_heals():
    _ordeals({
        "CKR_USER_NOT_LOGGED_IN": [f"{USES} answer {USER_NOT_LOGGED_IN}"],
        "really logged out": ["C_EncryptInit,C_DecryptInit log-out x5"],
        "CKR_USER_ALREADY_LOGGED_IN": [f"C_Login answer-after {USER_ALREADY_LOGGED_IN}",
                                       "C_EncryptInit log-out x3"],
        "CKR_USER_ALREADY_LOGGED_IN and no login": [f"C_Login answer {USER_ALREADY_LOGGED_IN}",
                                                    "C_EncryptInit log-out x1"],
    })


def a_token_that_fails_costs_no_object_and_heals():
    _ordeals({
        "CKR_GENERAL_ERROR of C_Encrypt": [f"C_Encrypt answer {GENERAL_ERROR}"],
        "CKR_GENERAL_ERROR of C_Decrypt": [f"C_Decrypt answer {GENERAL_ERROR}"],
        "CKR_GENERAL_ERROR of C_FindObjects": [f"C_FindObjects answer {GENERAL_ERROR}"],
        "CKR_GENERAL_ERROR once": [f"C_Decrypt answer {GENERAL_ERROR} x1"],
        "CKR_FUNCTION_FAILED": [f"C_Encrypt,C_Decrypt,C_OpenSession answer {FUNCTION_FAILED}"],
        "CKR_DEVICE_MEMORY": [f"{USES} answer {DEVICE_MEMORY}"],
        "no CKM_AES_GCM": [f"any no-mechanism {AES_GCM}"],
    })


def a_token_that_answers_wrongly_gives_no_wrong_object():
    _ordeals({
        "a flipped bit of ciphertext": ["C_Encrypt flip 5"],
        "a flipped bit of plaintext": ["C_Decrypt flip 5"],
        "an output of 64 bytes": ["C_Encrypt,C_Decrypt length 64"],
        "an output of 2^64 bytes": [f"C_Encrypt,C_Decrypt length {2**64 - 1}"],
        "C_FindObjects gives another key": ["C_FindObjects swap-keys"],
        "keys renumbered, sessions lost": ["any renumber"],
    }, errors=("ServiceUnavailable", "InternalError"))


def a_token_that_is_slow_or_hangs_costs_no_object_and_heals():
    _ordeals({
        "50 ms a call": ["C_Encrypt,C_Decrypt slow 50"],
        "1500 ms a call": ["C_Encrypt,C_Decrypt slow 1500"],
        "one call hangs": ["C_Encrypt hang-until-lifted x1"],
        "every call hangs": ["C_Encrypt,C_Decrypt hang-until-lifted"],
    })


def a_module_that_crashes_or_hangs_for_ever_costs_its_process_and_no_object():
    _ordeals({
        "every call hangs for ever": ["C_Encrypt,C_Decrypt hang"],
        "one call hangs for ever": ["C_Encrypt hang x1"],
        "one abort": ["C_Encrypt abort x1"],
        "crashes in every call": ["any segfault"],
        "crashes now and then": ["C_Decrypt segfault x20"],
    })


main(globals())
