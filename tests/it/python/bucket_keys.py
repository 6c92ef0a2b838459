"""Bucket keys by boto3 and the AWS CLI: who asks for them, what the answers say, what ends them, and what they spare."""

import base64
import concurrent.futures
import http.client
import os
import re
import time

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from fault_module import FaultyServer
from support import Server, customer_key, eventually, main, refused

KMS = {"ServerSideEncryption": "aws:kms"}
HEADER = "x-amz-server-side-encryption-bucket-key-enabled"
MIB = 1 << 20

CLIENTS = 16
# Objects under bucket keys, and without them: ci/soak writes as many of each.
PUTS = int(os.environ.get("STRONGROOM_BUCKET_KEY_PUTS", 10_000))
PUTS_WITHOUT = int(os.environ.get("STRONGROOM_BUCKET_KEY_PUTS_WITHOUT", 500))
# What wraps or unwraps in a token, whatever its scheme.
OPERATIONS = "C_EncryptInit,C_DecryptInit,C_WrapKey,C_UnwrapKey,C_SignInit,C_VerifyInit"


def _said(answer):
    """What an answer says of bucket keys; the header itself must be there or absent."""
    header = answer["ResponseMetadata"]["HTTPHeaders"].get(HEADER)
    assert header == ("true" if answer.get("BucketKeyEnabled") else None), (header, answer)
    return header is not None


def _bucket(s3, name, key=None, bucket_key=None):
    s3.create_bucket(Bucket=name)
    if bucket_key is not None:
        _configure(s3, name, "aws:kms", bucket_key, key)


def _configure(s3, bucket, algorithm, bucket_key, key=None):
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": algorithm} | ({"KMSMasterKeyID": key} if key else {})}
    if bucket_key is not None:
        rule["BucketKeyEnabled"] = bucket_key
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def _rule(s3, bucket):
    [rule] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    return rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"], rule["BucketKeyEnabled"]


def _read(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def the_bucket_decides_unless_the_request_does():
    with Server() as s:
        s3 = s.client()
        key = s.client("kms").create_key()["KeyMetadata"]
        _bucket(s3, "with", key["KeyId"], True)
        _bucket(s3, "without", key["KeyId"], False)
        _bucket(s3, "plain")
        # bucket, what the request says, whether a bucket key is used
        for bucket, request, used in (
                ("with", {}, True),
                ("with", KMS, True),
                ("with", {"BucketKeyEnabled": False}, False),
                ("with", KMS | {"BucketKeyEnabled": False}, False),
                ("with", KMS | {"BucketKeyEnabled": True}, True),
                ("with", {"ServerSideEncryption": "AES256"}, False),
                ("with", customer_key(), False),
                ("without", {}, False),
                ("without", {"BucketKeyEnabled": True}, True),
                ("without", KMS | {"SSEKMSKeyId": key["Arn"], "BucketKeyEnabled": True}, True),
                ("plain", {}, False),
                ("plain", KMS, False),
                ("plain", KMS | {"BucketKeyEnabled": True}, True)):
            put = s3.put_object(Bucket=bucket, Key="k", Body=b"body", **request)
            assert _said(put) == used, (bucket, request)
            read = {k: v for k, v in request.items() if k.startswith("SSECustomer")}
            got = s3.get_object(Bucket=bucket, Key="k", **read)
            head = s3.head_object(Bucket=bucket, Key="k", **read)
            assert got["Body"].read() == b"body"
            assert _said(got) == _said(head) == used, (bucket, request)
            if used:
                assert put["ServerSideEncryption"] == got["ServerSideEncryption"] == "aws:kms"
                assert put["SSEKMSKeyId"] == got["SSEKMSKeyId"] == head["SSEKMSKeyId"]
                # Not the MD5 of the plaintext.
                assert put["ETag"] == got["ETag"] != '"841a2d689ad86bd1611447453c22c6fc"'
        # An object keeps what it was written with.
        s3.put_object(Bucket="with", Key="kept", Body=b"kept")
        _configure(s3, "with", "aws:kms", False, key["KeyId"])
        assert _said(s3.head_object(Bucket="with", Key="kept"))
        assert not _said(s3.put_object(Bucket="with", Key="new", Body=b"new"))
        assert _read(s3, "with", "kept") == b"kept"


def the_configuration_of_a_bucket_is_given_back():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, "vault")
        assert _rule(s3, "vault") == ("AES256", False)
        for algorithm, bucket_key in ("aws:kms", True), ("aws:kms", False), ("AES256", True), ("aws:kms", None):
            _configure(s3, "vault", algorithm, bucket_key)
            assert _rule(s3, "vault") == (algorithm, bool(bucket_key))
        # With SSE-S3 it waits for requests that ask for SSE-KMS, and no other object says so.
        _configure(s3, "vault", "AES256", True)
        assert not _said(s3.put_object(Bucket="vault", Key="k", Body=b"x"))
        assert _said(s3.put_object(Bucket="vault", Key="k", Body=b"x", **KMS))
        s3.delete_bucket_encryption(Bucket="vault")
        assert _rule(s3, "vault") == ("AES256", False)
        # By the AWS CLI.
        rule = '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms"},"BucketKeyEnabled":true}]}'
        s.aws("s3api put-bucket-encryption --bucket vault --server-side-encryption-configuration", rule)
        found = s.aws("s3api get-bucket-encryption --bucket vault")["ServerSideEncryptionConfiguration"]["Rules"]
        assert [rule["BucketKeyEnabled"] for rule in found] == [True]
        assert s.aws("s3api put-object --bucket vault --key cli")["BucketKeyEnabled"] is True
        put = s.aws("s3api put-object --bucket vault --key cli --no-bucket-key-enabled")
        assert "BucketKeyEnabled" not in put
        assert "BucketKeyEnabled" not in s.aws("s3api head-object --bucket vault --key cli")


def a_copy_has_what_its_target_says():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, "with", None, True)
        _bucket(s3, "without", None, False)
        s3.put_object(Bucket="with", Key="one", Body=b"one")
        s3.put_object(Bucket="without", Key="one", Body=b"one")
        copies = 0
        for source in "with", "without":
            for target in "with", "without":
                for request in {}, {"BucketKeyEnabled": True}, {"BucketKeyEnabled": False}:
                    used = request.get("BucketKeyEnabled", target == "with")
                    name, copies = f"copy-{copies}", copies + 1
                    copy = s3.copy_object(Bucket=target, Key=name, CopySource=f"{source}/one", **request)
                    assert _said(copy) == used == _said(s3.head_object(Bucket=target, Key=name)), (source, target, request)
                    assert _read(s3, target, name) == b"one"
        # In place, from one to the other and back.
        for used in False, True, True:
            copy = s3.copy_object(Bucket="with", Key="one", CopySource="with/one", BucketKeyEnabled=used, **KMS)
            assert _said(copy) == used == _said(s3.get_object(Bucket="with", Key="one"))
        # To SSE-S3, which says nothing of it.
        copy = s3.copy_object(Bucket="with", Key="s3", CopySource="with/one", ServerSideEncryption="AES256")
        assert not _said(copy) and _read(s3, "with", "s3") == b"one"


def an_upload_says_so_in_every_answer():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, "vault", None, False)
        s3.put_object(Bucket="vault", Key="source", Body=b"s" * 5 * MIB)
        for request in {"BucketKeyEnabled": True}, {}:
            name = dict(Bucket="vault", Key="large")
            used = bool(request)
            begun = s3.create_multipart_upload(**name, **KMS, **request)
            upload = name | {"UploadId": begun["UploadId"]}
            copied = s3.upload_part_copy(**upload, PartNumber=1, CopySource="vault/source")
            part = s3.upload_part(**upload, PartNumber=2, Body=b"p" * 100)
            parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}, {"PartNumber": 2, "ETag": part["ETag"]}]
            done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            got, head = s3.get_object(**name), s3.head_object(**name)
            answers = [begun, copied, part, done, got, head]
            assert [_said(answer) for answer in answers] == [used] * len(answers)
            assert got["Body"].read() == b"s" * 5 * MIB + b"p" * 100
        # A restart in the middle.
        begun = s3.create_multipart_upload(**name, **KMS, BucketKeyEnabled=True)
        upload = name | {"UploadId": begun["UploadId"]}
        one = s3.upload_part(**upload, PartNumber=1, Body=b"1" * 5 * MIB)
        s.stop()
        s.start()
        s3 = s.client()
        two = s3.upload_part(**upload, PartNumber=2, Body=b"2")
        parts = [{"PartNumber": n + 1, "ETag": part["ETag"]} for n, part in enumerate([one, two])]
        assert _said(s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}))
        assert _read(s3, "vault", "large") == b"1" * 5 * MIB + b"2"


def what_does_not_go_together_is_refused():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, "vault")
        name = dict(Bucket="vault", Key="k")
        # Bucket keys are of SSE-KMS: nobody would do it for another kind of encryption.
        for request in {}, {"ServerSideEncryption": "AES256"}, customer_key():
            for call, rest in (s3.put_object, {"Body": b"x"}), (s3.create_multipart_upload, {}):
                refused("InvalidArgument", call, **name, **rest, **request, BucketKeyEnabled=True, status=400)
                call(**name, **rest, **request, BucketKeyEnabled=False)
        s3.put_object(**name, Body=b"x", **KMS, BucketKeyEnabled=True)

        def with_header(operation, value):
            def change(params, **_):
                params["headers"][HEADER] = value
            client = s.client()
            client.meta.events.register(f"before-call.s3.{operation}", change)
            return client

        for value in "yes", "1", "":
            refused("InvalidArgument", with_header("PutObject", value).put_object, **name, Body=b"x", **KMS, status=400)
        refused("InvalidArgument", with_header("GetObject", "true").get_object, **name, status=400)
        refused("400", with_header("HeadObject", "true").head_object, **name, status=400)
        upload = s3.create_multipart_upload(**name, **KMS)["UploadId"]
        part = dict(UploadId=upload, PartNumber=1, Body=b"x")
        refused("InvalidArgument", with_header("UploadPart", "true").upload_part, **name, **part, status=400)
        # The context names the bucket, and a caller may name it as well.
        context = lambda arn: {"SSEKMSEncryptionContext": base64.b64encode(b'{"aws:s3:arn": "%s"}' % arn).decode()}
        put = lambda arn, used: s3.put_object(**name, Body=b"x", **KMS, **context(arn), BucketKeyEnabled=used)
        put(b"arn:aws:s3:::vault", True)
        assert _read(s3, "vault", "k") == b"x"
        put(b"arn:aws:s3:::vault/k", False)
        refused("InvalidArgument", put, b"arn:aws:s3:::vault/k", True, status=400)
        refused("InvalidArgument", put, b"arn:aws:s3:::vault", False, status=400)
        team = {"SSEKMSEncryptionContext": base64.b64encode(b'{"team": "a"}').decode()}
        answer = s3.put_object(**name, Body=b"team", **KMS, **team, BucketKeyEnabled=True)
        assert answer["SSEKMSEncryptionContext"] == team["SSEKMSEncryptionContext"]
        assert _read(s3, "vault", "k") == b"team"


def a_key_that_is_disabled_or_dying_is_of_no_use_at_once():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        key = kms.create_key()["KeyMetadata"]
        _bucket(s3, "vault", key["Arn"], True)
        put = lambda: s3.put_object(Bucket="vault", Key="new", Body=b"new")
        get = lambda: s3.get_object(Bucket="vault", Key="k")
        s3.put_object(Bucket="vault", Key="k", Body=b"x")
        get()
        assert _held(s) == 1
        upload = s3.create_multipart_upload(Bucket="vault", Key="large")["UploadId"]
        part = lambda: s3.upload_part(Bucket="vault", Key="large", UploadId=upload, PartNumber=1, Body=b"x")
        for _ in range(2):
            kms.disable_key(KeyId=key["KeyId"])
            for call in put, get, part:
                message = refused("KMS.DisabledException", call, status=400)
                assert message == f"{key['Arn']} is disabled.", message
            assert _held(s) == 0
            # What needs no key goes on.
            assert _said(s3.head_object(Bucket="vault", Key="k"))
            kms.enable_key(KeyId=key["KeyId"])
            for call in put, get, part:
                call()
        policy = kms.get_key_policy(KeyId=key["KeyId"], PolicyName="default")["Policy"]
        assert _held(s) > 0
        kms.put_key_policy(KeyId=key["KeyId"], PolicyName="default", Policy=policy)
        assert _held(s) == 0
        get()
        kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
        for call in put, get, part:
            message = refused("KMS.KMSInvalidStateException", call, status=400)
            assert message == f"{key['Arn']} is pending deletion.", message
        s3.abort_multipart_upload(Bucket="vault", Key="large", UploadId=upload)
        kms.cancel_key_deletion(KeyId=key["KeyId"])
        refused("KMS.DisabledException", get, status=400)
        kms.enable_key(KeyId=key["KeyId"])
        assert _read(s3, "vault", "k") == b"x"


def after_a_restart_and_a_rotation_everything_reads():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        _bucket(s3, "vault", key, True)
        _bucket(s3, "plain")
        written = {}
        for round in range(3):
            for bucket in "vault", "plain":
                body = f"{bucket} {round}".encode()
                s3.put_object(Bucket=bucket, Key=f"{round}", Body=body)
                written[bucket, f"{round}"] = body
            kms.rotate_key_on_demand(KeyId=key)
            if round == 1:
                s.stop()
                s.start()
                s3, kms = s.client(), s.client("kms")
            for (bucket, name), body in written.items():
                assert _read(s3, bucket, name) == body
        # Nothing is left of them.
        for bucket, name in written:
            s3.delete_object(Bucket=bucket, Key=name)
        for bucket in "vault", "plain":
            s3.delete_bucket(Bucket=bucket)


def in_an_outage_a_bucket_key_serves_until_its_time_is_over():
    with Server(config="bucket_key_seconds = 4") as s:
        s3 = s.client()
        _bucket(s3, "vault", None, True)
        _bucket(s3, "other")
        for name, request in ("kms", {}), ("s3", {"ServerSideEncryption": "AES256"}), ("alone", {"BucketKeyEnabled": False}):
            s3.put_object(Bucket="vault", Key=name, Body=b"x", **request)
        began = time.time()
        s.unplug()
        # The token's absence is noticed with the first call that needs it.
        refused_alone = lambda: refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="alone", status=503)
        eventually(refused_alone)
        if time.time() - began < 3:
            for name, request in ("kms", {}), ("s3", {"ServerSideEncryption": "AES256"}):
                assert _read(s3, "vault", name) == b"x"
                s3.put_object(Bucket="vault", Key=name, Body=b"x", **request)
                assert time.time() - began < 4, "too slow to tell"
            # Each bucket has its own.
            refused("ServiceUnavailable", s3.put_object, Bucket="other", Key="k", Body=b"x", status=503)
        time.sleep(max(0, began + 4.5 - time.time()))
        assert _held(s) == 0
        for name, request in ("kms", {}), ("s3", {"ServerSideEncryption": "AES256"}):
            refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key=name, status=503)
            refused("ServiceUnavailable", s3.put_object, Bucket="vault", Key=name, Body=b"x", status=503, **request)
        s.plug_in()
        eventually(lambda: _read(s3, "vault", "kms"))
        eventually(lambda: _read(s3, "vault", "s3"))


def _metric(s, name):
    connection = http.client.HTTPConnection(s.address)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    assert f"# TYPE {name} " in text
    return int(re.search(rf"(?m)^{name} (\d+)$", text).group(1))


def _held(s):
    return _metric(s, "strongroom_bucket_keys")


class _Writer:
    """Puts and gets small objects on one connection, as fast as Python signs them."""

    def __init__(self, server):
        credentials = botocore.credentials.Credentials(server.key_id, server.secret)
        self.auth = botocore.auth.S3SigV4Auth(credentials, "s3", server.region)
        self.connection = http.client.HTTPConnection(server.address)
        self.endpoint = server.endpoint

    def send(self, method, path, body=b"", headers=None):
        request = botocore.awsrequest.AWSRequest(method, self.endpoint + path, dict(headers or {}), body)
        self.auth.add_auth(request)
        self.connection.request(method, path, body, dict(request.headers))
        response = self.connection.getresponse()
        answer = response.read()
        assert response.status == 200, (response.status, answer)
        return answer


def _load(server, method, bucket, count, headers=None):
    def one(n):
        writer = _Writer(server)
        for i in range(n, count, CLIENTS):
            path, body = f"/{bucket}/{i}", b"%d" % i
            if method == "PUT":
                writer.send("PUT", path, body, headers)
            else:
                assert writer.send("GET", path) == body

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(one, n) for n in range(CLIENTS)]:
            done.result()


def a_load_takes_a_hundredth_of_the_calls_of_the_token():
    with FaultyServer() as s:
        s3 = s.client()
        kms = {"x-amz-server-side-encryption": "aws:kms"}
        with_key = kms | {HEADER: "true"}
        for bucket in "with", "without", "plain":
            s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket="without", Key="warm", Body=b"", **KMS)
        operations = s.control.arm(f"{OPERATIONS} count")
        calls = s.control.arm("any count")
        found = {}

        def counted(name, method, bucket, count, headers=None):
            before, began = (s.control.struck(operations), s.control.struck(calls)), time.time()
            _load(s, method, bucket, count, headers)
            seconds = time.time() - began
            found[name] = (s.control.struck(operations) - before[0]) / count
            print(f"{name}: {count} in {seconds:.1f} s; at the token {s.control.struck(operations) - before[0]} operations, "
                  f"{s.control.struck(calls) - before[1]} calls")

        counted("PUT without", "PUT", "without", PUTS_WITHOUT, kms)
        counted("GET without", "GET", "without", PUTS_WITHOUT)
        counted("PUT with", "PUT", "with", PUTS, with_key)
        counted("GET with", "GET", "with", PUTS_WITHOUT)
        counted("PUT SSE-S3", "PUT", "plain", PUTS_WITHOUT)
        counted("GET SSE-S3", "GET", "plain", PUTS_WITHOUT)
        # The token is really behind the counter.
        assert found["PUT without"] >= 1 and found["GET without"] >= 1, found
        assert found["PUT with"] <= found["PUT without"] / 100, found
        for name in "GET with", "PUT SSE-S3", "GET SSE-S3":
            assert found[name] <= 0.1, found
        assert _metric(s, "strongroom_bucket_key_misses_total") <= PUTS / 100
        assert _metric(s, "strongroom_bucket_key_hits_total") >= PUTS


main(globals())
