"""What hangs on which key, and how it goes to another one: UpdateObjectEncryption, key usage, re-wraps."""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from support import PROGRAM, Server, customer_key, eventually, main, noise, refused

# ci/soak asks for more.
OBJECTS = int(os.environ.get("STRONGROOM_REWRAP_OBJECTS", "2000"))
KILLS = int(os.environ.get("STRONGROOM_REWRAP_KILLS", "5"))
# Slow enough that the last kill comes before the end.
RATE = int(os.environ.get("STRONGROOM_REWRAP_RATE", "500"))


def _strongroom(s, *arguments, fails=None):
    out = subprocess.run([PROGRAM, *map(str, arguments)], env=s.environment(), capture_output=True, text=True,
                         timeout=600 + OBJECTS / 20)
    if fails is not None:
        assert out.returncode != 0 and fails in out.stderr, (arguments, out.stdout, out.stderr)
        return out.stderr
    assert out.returncode == 0, (arguments, out.stdout, out.stderr)
    return out.stdout


def _key(s):
    return s.client("kms").create_key()["KeyMetadata"]["Arn"]


def _usage(s, key):
    return json.loads(_strongroom(s, "key", "usage", "--json", key))


def _counts(usage):
    return usage["Objects"], usage["Bytes"], usage["MultipartUploads"]


def _call(s, target, body, by=None):
    """An operation that boto3 does not know; `by`: id and secret of another access key."""
    data = json.dumps(body)
    headers = {"x-amz-target": f"Strongroom.{target}", "content-type": "application/x-amz-json-1.1"}
    request = botocore.awsrequest.AWSRequest("POST", s.endpoint + "/", headers=headers, data=data)
    credentials = botocore.credentials.Credentials(*(by or (s.key_id, s.secret)))
    botocore.auth.SigV4Auth(credentials, "kms", s.region).add_auth(request)
    connection = http.client.HTTPConnection(s.address, timeout=60)
    connection.request("POST", "/", body=data, headers=dict(request.headers))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def _done(s, id):
    def ended():
        status, rewrap = _call(s, "DescribeRewrap", {"RewrapId": id})
        assert status == 200, rewrap
        assert rewrap["State"] not in ("WAITING", "RUNNING"), rewrap
        return rewrap
    return eventually(ended, 120)


def _update(s3, key, arn, **rest):
    return s3.update_object_encryption(Bucket="vault", Key=key, ObjectEncryption={"SSEKMS": {"KMSKeyArn": arn}}, **rest)


def update_object_encryption_changes_the_key_and_nothing_else():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        one, two = _key(s), _key(s)
        context = "eyJwcm9qZWN0IjoieCJ9"
        s3.put_object(Bucket="vault", Key="a", Body=b"A" * 70_000, Metadata={"colour": "green"}, ContentType="text/plain",
                      ChecksumAlgorithm="SHA256")
        s3.put_object(Bucket="vault", Key="ä/b +c", Body=b"B", ServerSideEncryption="aws:kms", SSEKMSKeyId=one,
                      SSEKMSEncryptionContext=context)
        upload = dict(Bucket="vault", Key="m")
        upload["UploadId"] = s3.create_multipart_upload(ServerSideEncryption="aws:kms", SSEKMSKeyId=one, **upload)["UploadId"]
        parts = [{"PartNumber": n, "ETag": s3.upload_part(PartNumber=n, Body=body, **upload)["ETag"]}
                 for n, body in ((1, noise(5 << 20)), (2, b"end"))]
        s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **upload)
        s3.put_object(Bucket="vault", Key="empty", Body=b"")
        blobs = s.blobs()

        def everything(key):
            head = s3.head_object(Bucket="vault", Key=key, ChecksumMode="ENABLED")
            for name in "ResponseMetadata", "ServerSideEncryption", "SSEKMSKeyId":
                head.pop(name, None)
            return head, s3.get_object(Bucket="vault", Key=key)["Body"].read()

        for key in "a", "ä/b +c", "m", "empty":
            before = everything(key)
            time.sleep(1.1)
            for arn in (two, one, two, two):
                answer = _update(s3, key, arn)
                assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
                assert everything(key) == before, key
                head = s3.head_object(Bucket="vault", Key=key)
                assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", arn)
        assert s.blobs() == blobs
        assert s3.get_object(Bucket="vault", Key="m", PartNumber=2)["Body"].read() == b"end"
        # The old key is of no use to them any more, and the new one is.
        kms.disable_key(KeyId=one)
        for key in "a", "ä/b +c", "m", "empty":
            everything(key)
        kms.disable_key(KeyId=two)
        refused("KMS.DisabledException", s3.get_object, Bucket="vault", Key="a")
        refused("KMS.DisabledException", _update, s3, "a", one)
        kms.enable_key(KeyId=two)
        refused("KMS.DisabledException", _update, s3, "a", one)
        everything("a")
        # The newest material of the same key.
        old = _usage(s, two)["KeyMaterials"][0]
        kms.rotate_key_on_demand(KeyId=two)
        _update(s3, "a", two)
        first, second = _usage(s, two)["KeyMaterials"]
        assert (first["Objects"], second["Objects"]) == (old["Objects"] - 1, 1)
        s.stop()
        s.start()
        s3 = s.client()
        assert everything("a")[1] == b"A" * 70_000


def update_object_encryption_has_its_errors():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        arn = _key(s)
        s3.put_object(Bucket="vault", Key="a", Body=b"A")
        s3.put_object(Bucket="vault", Key="c", Body=b"C", **customer_key())

        def says(code, words, key="a", target=arn, status=400, bucket="vault", **sse):
            said = refused(code, s3.update_object_encryption, Bucket=bucket, Key=key, status=status,
                           ObjectEncryption={"SSEKMS": {"KMSKeyArn": target, **sse}})
            assert words in said, said

        says("NoSuchKey", "does not exist", key="gone", status=404)
        says("NoSuchBucket", "does not exist", bucket="nowhere", status=404)
        says("InvalidRequest", "doesn't support source objects with the encryption type DSSE-KMS or SSE-C", key="c")
        malformed = "require a valid Amazon Web Services KMS key Amazon Resource Name (ARN)"
        kms.create_alias(AliasName="alias/here", TargetKeyId=arn)
        account = ":".join(arn.split(":")[:5])
        for bad in arn.split("/")[1], "alias/here-and-now-0123", f"{account}:alias/here", "arn:aws:s3:::vault/0123456789", f"{account}:key/x":
            says("InvalidRequest", malformed, target=bad)
        says("AccessDenied", "must be owned by the same account", target=arn.replace("000000000000", "999999999999"), status=403)
        says("KMS.NotFoundException", "does not exist", target=f"{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab")
        says("KMS.NotFoundException", "Invalid arn eu-west-9", target=arn.replace(s.region, "eu-west-9"))
        s3.update_object_encryption(Bucket="vault", Key="a",
                                    ObjectEncryption={"SSEKMS": {"KMSKeyArn": arn, "BucketKeyEnabled": True}})
        assert s3.head_object(Bucket="vault", Key="a")["BucketKeyEnabled"]
        s3.update_object_encryption(Bucket="vault", Key="a", VersionId="null",
                                    ObjectEncryption={"SSEKMS": {"KMSKeyArn": arn, "BucketKeyEnabled": False}})
        refused("NoSuchVersion", s3.update_object_encryption, Bucket="vault", Key="a", VersionId="3", status=404,
                ObjectEncryption={"SSEKMS": {"KMSKeyArn": arn}})
        refused("AccessDenied", s3.update_object_encryption, Bucket="vault", Key="a", ExpectedBucketOwner="999999999999",
                ObjectEncryption={"SSEKMS": {"KMSKeyArn": arn}}, status=403)
        other = _key(s)
        kms.schedule_key_deletion(KeyId=other)
        says("KMS.KMSInvalidStateException", "is pending deletion.", target=other)

        def raw(document, query="encryption", md5=None, **headers):
            headers = {k.replace("_", "-"): v for k, v in headers.items()} | ({"content-md5": md5} if md5 else {})
            request = botocore.awsrequest.AWSRequest("PUT", f"{s.endpoint}/vault/a?{query}", headers=headers, data=document)
            credentials = botocore.credentials.Credentials(s.key_id, s.secret)
            botocore.auth.S3SigV4Auth(credentials, "s3", s.region).add_auth(request)
            connection = http.client.HTTPConnection(s.address, timeout=60)
            connection.request("PUT", f"/vault/a?{query}", body=document, headers=dict(request.headers))
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, re.findall("<Code>(.*)</Code><Message>(.*)</Message>", text)

        def inside(text, **rest):
            document = f"<ObjectEncryption>{text}</ObjectEncryption>".encode()
            return raw(document, md5=base64.b64encode(hashlib.md5(document).digest()).decode(), **rest)

        fine = f"<SSE-KMS><KMSKeyArn>{arn}</KMSKeyArn></SSE-KMS>"
        assert inside(fine) == (200, [])
        status, ((code, words),) = raw(f"<ObjectEncryption>{fine}</ObjectEncryption>".encode())
        assert (status, code) == (400, "InvalidRequest") and "Content-MD5" in words
        status, ((code, _),) = raw(f"<ObjectEncryption>{fine}</ObjectEncryption>".encode(), md5=base64.b64encode(bytes(16)).decode())
        assert (status, code) == (400, "BadDigest")
        for text, code, words in (
                ("", "InvalidRequest", "require a valid new encryption type"),
                ("<SSE-S3></SSE-S3>", "InvalidRequest", "require a valid new encryption type"),
                ("<DSSE-KMS></DSSE-KMS>", "InvalidRequest", "updating the encryption type to DSSE-KMS or SSE-C"),
                ("<SSE-KMS></SSE-KMS>", "InvalidRequest", "Modify the request to specify a KMS key ARN"),
                (fine.replace("</SSE", "<BucketKeyEnabled>maybe</BucketKeyEnabled></SSE"), "InvalidRequest", "BucketKeyEnabled value"),
                ("<SSE-KMS>", "MalformedXML", "not well-formed")):
            status, ((found, said),) = inside(text)
            assert (status, found) == (400, code), (text, found)
            assert words in said.replace("&apos;", "'"), said
        # A document is never taken for an object's bytes.
        status, ((code, _),) = inside(fine, query="encryption&partNumber=1&uploadId=x")
        assert (status, code) == (501, "NotImplemented")
        status, ((code, _),) = inside(fine, x_amz_server_side_encryption="aws:kms")
        assert (status, code) == (400, "InvalidArgument")
        assert s3.get_object(Bucket="vault", Key="a")["Body"].read() == b"A"


def bucket_keys_go_with_what_hangs_on_them():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        one, two = _key(s), _key(s)
        sse = dict(ServerSideEncryption="aws:kms", SSEKMSKeyId=one, BucketKeyEnabled=True, SSEKMSEncryptionContext="eyJuIjoieCJ9")
        for n in range(300):
            s3.put_object(Bucket="vault", Key=f"{n % 3}/{n}", Body=noise(n, n), **sse)
        upload = dict(Bucket="vault", Key="0/m", UploadId=s3.create_multipart_upload(Bucket="vault", Key="0/m", **sse)["UploadId"])
        assert (_usage(s, one)["Objects"], _usage(s, one)["MultipartUploads"]) == (300, 1)
        # By UpdateObjectEncryption, off a bucket key and onto one.
        for wanted in False, True:
            s3.update_object_encryption(Bucket="vault", Key="0/3", ObjectEncryption={"SSEKMS": {"KMSKeyArn": two, "BucketKeyEnabled": wanted}})
            head = s3.head_object(Bucket="vault", Key="0/3")
            assert (head["SSEKMSKeyId"], head.get("BucketKeyEnabled", False)) == (two, wanted)
            assert s3.get_object(Bucket="vault", Key="0/3")["Body"].read() == noise(3, 3)
            assert (_usage(s, one)["Objects"], _usage(s, two)["Objects"]) == (299, 1)
        # The newest material of the same key; a part of it to another key; all of it.
        kms.rotate_key_on_demand(KeyId=one)
        assert "300 data keys re-wrapped" in _strongroom(s, "rewrap", "--from", one, "--to", one)
        assert [m["Objects"] for m in _usage(s, one)["KeyMaterials"]] == [0, 299]
        assert "100 data keys re-wrapped" in _strongroom(s, "rewrap", "--from", one, "--to", two, "--bucket", "vault", "--prefix", "1/")
        said = _strongroom(s, "rewrap", "--from", one, "--to", two)
        assert f"nothing depends on {one} any more" in said and "200 data keys re-wrapped" in said, said
        assert _counts(_usage(s, one)) == (0, 0, 0)
        s.client("kms").disable_key(KeyId=one)
        etag = s3.upload_part(PartNumber=1, Body=b"end", **upload)["ETag"]
        s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **upload)
        s.stop()
        s.start()
        s3 = s.client()
        for n in range(300):
            found = s3.get_object(Bucket="vault", Key=f"{n % 3}/{n}")
            assert (found["SSEKMSKeyId"], found["BucketKeyEnabled"], found["Body"].read()) == (two, True, noise(n, n))
        assert s3.get_object(Bucket="vault", Key="0/m")["Body"].read() == b"end"


def policies_decide_who_changes_keys():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        one, two = _key(s), _key(s)
        s3.put_object(Bucket="vault", Key="a", Body=b"A", ServerSideEncryption="aws:kms", SSEKMSKeyId=one)

        def deny(key, *actions):
            root = {"AWS": "arn:aws:iam::000000000000:root"}
            statements = [{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}]
            if actions:
                statements.append({"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": "*"})
            kms.put_key_policy(KeyId=key, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))

        for key, action in ((one, "kms:Decrypt"), (one, "kms:ReEncryptFrom"), (two, "kms:Encrypt"), (two, "kms:GenerateDataKey"),
                            (two, "kms:ReEncryptTo")):
            deny(key, action)
            refused("AccessDenied", _update, s3, "a", two, status=403)
            deny(key)
        for action in "s3:PutObject", "s3:UpdateObjectEncryption":
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "arn:aws:s3:::vault/*"}]}
            s3.put_bucket_policy(Bucket="vault", Policy=json.dumps(policy))
            refused("AccessDenied", _update, s3, "a", two, status=403)
        s3.delete_bucket_policy(Bucket="vault")
        assert s3.head_object(Bucket="vault", Key="a")["SSEKMSKeyId"] == one

        for key, action in ((one, "kms:StartRewrap"), (one, "kms:ReEncryptFrom"), (two, "kms:ReEncryptTo")):
            deny(key, action)
            assert action in _strongroom(s, "rewrap", "--from", one, "--to", two, fails="AccessDeniedException")
            assert action in _strongroom(s, "rewrap", "--dry-run", "--from", one, "--to", two, fails="AccessDeniedException")
            deny(key)
        deny(one, "kms:GetKeyUsage", "kms:DescribeRewrap", "kms:CancelRewrap")
        _strongroom(s, "key", "usage", one, fails="AccessDeniedException")
        out = subprocess.run([PROGRAM, "key", "describe", one], env=s.environment(), capture_output=True, text=True)
        assert out.returncode == 0 and "kms:GetKeyUsage" in out.stderr and "Usage" not in json.loads(out.stdout)
        id = _strongroom(s, "rewrap", "--detach", "--from", one, "--to", two).strip()
        for command in "watch", "cancel":
            _strongroom(s, "rewrap", command, id, fails="AccessDeniedException")
        deny(one)
        assert _done(s, id)["State"] == "COMPLETED"
        assert s3.head_object(Bucket="vault", Key="a")["SSEKMSKeyId"] == two


def key_usage_follows_every_write():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        for bucket in "vault", "cellar":
            s3.create_bucket(Bucket=bucket)
        one, two = _key(s), _key(s)
        sse = lambda arn: dict(ServerSideEncryption="aws:kms", SSEKMSKeyId=arn)

        def expect(first, second=(0, 0, 0)):
            assert (_counts(_usage(s, one)), _counts(_usage(s, two))) == (first, second)

        expect((0, 0, 0))
        s3.put_object(Bucket="vault", Key="a", Body=b"1234567", **sse(one))
        s3.put_object(Bucket="vault", Key="b", Body=b"123", **sse(one))
        expect((2, 10, 0))
        s3.put_object(Bucket="vault", Key="b", Body=b"12345", **sse(one))
        expect((2, 12, 0))
        s3.put_object(Bucket="vault", Key="b", Body=b"12", **sse(two))
        expect((1, 7, 0), (1, 2, 0))
        s3.put_object(Bucket="vault", Key="b", Body=b"12")
        s3.put_object(Bucket="vault", Key="c", Body=b"12", **customer_key())
        expect((1, 7, 0))
        s3.copy_object(Bucket="cellar", Key="a", CopySource="vault/a", **sse(two))
        expect((1, 7, 0), (1, 7, 0))
        # Onto itself with another key; and AWS's rule that something must change.
        s3.copy_object(Bucket="cellar", Key="a", CopySource="cellar/a", **sse(one))
        expect((2, 14, 0))
        refused("InvalidRequest", s3.copy_object, Bucket="cellar", Key="a", CopySource="cellar/a", status=400)
        s3.update_object_encryption(Bucket="cellar", Key="a", ObjectEncryption={"SSEKMS": {"KMSKeyArn": two}})
        expect((1, 7, 0), (1, 7, 0))
        s3.update_object_encryption(Bucket="vault", Key="b", ObjectEncryption={"SSEKMS": {"KMSKeyArn": two}})
        expect((1, 7, 0), (2, 9, 0))
        kms.rotate_key_on_demand(KeyId=two)
        s3.put_object(Bucket="vault", Key="d", Body=b"1", **sse(two))
        usage = _usage(s, two)
        assert [(m["Objects"], m["Bytes"], m["Current"]) for m in usage["KeyMaterials"]] == [(2, 9, False), (1, 1, True)]
        assert [(b["Bucket"], b["Objects"], b["Bytes"]) for b in usage["Buckets"]] == [("cellar", 1, 7), ("vault", 2, 3)]
        uploads = [s3.create_multipart_upload(Bucket="vault", Key=key, **sse(one))["UploadId"] for key in ("m", "n")]
        expect((1, 7, 2), (3, 10, 0))
        s3.abort_multipart_upload(Bucket="vault", Key="n", UploadId=uploads[1])
        etag = s3.upload_part(Bucket="vault", Key="m", UploadId=uploads[0], PartNumber=1, Body=b"123")["ETag"]
        expect((1, 7, 1), (3, 10, 0))
        s3.complete_multipart_upload(Bucket="vault", Key="m", UploadId=uploads[0],
                                     MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        expect((2, 10, 0), (3, 10, 0))
        said = _strongroom(s, "key", "usage", one)
        assert "2 objects (10 bytes) and 0 multipart uploads\n" in said and "(current)" in said and "bucket vault " in said
        described = json.loads(_strongroom(s, "key", "describe", one))
        assert described["Arn"] == one and _counts(described["Usage"]) == (2, 10, 0)
        status, answer = _call(s, "GetKeyUsage", {"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab"})
        assert (status, answer["__type"]) == (400, "NotFoundException")
        s3.delete_objects(Bucket="vault", Delete={"Objects": [{"Key": key} for key in "abcdm"]})
        expect((0, 0, 0), (1, 7, 0))
        s3.delete_object(Bucket="cellar", Key="a")
        expect((0, 0, 0))
        s.stop()
        s.start()
        expect((0, 0, 0))


def a_key_in_use_goes_with_a_warning_or_not_at_all():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key = _key(s)
        s3.put_object(Bucket="vault", Key="a", Body=b"A" * 9, ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        s3.create_multipart_upload(Bucket="vault", Key="m", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        said = _strongroom(s, "key", "schedule-deletion", key)
        assert "PendingDeletion" in said and "1 objects (9 bytes) and 1 multipart uploads depend on it" in said, said
        event, = re.findall('event="kms.key.dependants".*because="kms.key.deletion_scheduled".*', (s.dir / "log").read_text())
        assert "objects=1 bytes=9 uploads=1" in event, event
    with Server(config="refuse_deletion_while_in_use = true") as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key = _key(s)
        upload = s3.create_multipart_upload(Bucket="vault", Key="m", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)["UploadId"]
        s3.put_object(Bucket="vault", Key="a", Body=b"A" * 9, ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        said = refused("KMSInvalidStateException", kms.schedule_key_deletion, KeyId=key)
        assert said == f"{key} is in use: 1 objects of 9 bytes and 1 multipart uploads depend on it.", said
        s3.delete_object(Bucket="vault", Key="a")
        refused("KMSInvalidStateException", kms.schedule_key_deletion, KeyId=key)
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
        s3.abort_multipart_upload(Bucket="vault", Key="m", UploadId=upload)
        kms.schedule_key_deletion(KeyId=key)
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def a_rewrap_moves_what_it_is_told_to_and_says_what_is_left():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        for bucket in "vault", "cellar":
            s3.create_bucket(Bucket=bucket)
        one, two = _key(s), _key(s)
        sse = dict(ServerSideEncryption="aws:kms", SSEKMSKeyId=one)
        for n in range(30):
            s3.put_object(Bucket="vault", Key=f"{'x' if n % 3 else 'y'}/{n}", Body=noise(n, n), **sse,
                          SSEKMSEncryptionContext="eyJuIjoieCJ9")
        s3.put_object(Bucket="cellar", Key="x/c", Body=b"C", **sse)
        upload = dict(Bucket="vault", Key="x/m", UploadId=s3.create_multipart_upload(Bucket="vault", Key="x/m", **sse)["UploadId"])
        part = s3.upload_part(PartNumber=1, Body=noise(5 << 20), **upload)["ETag"]

        # Nothing to leave, and what cannot be.
        assert "nothing to re-wrap" in _strongroom(s, "rewrap", "--from", one, "--to", one, fails="ValidationException")
        _strongroom(s, "rewrap", "--from", one + "@" + "0" * 64, "--to", two, fails="NotFoundException")
        _strongroom(s, "rewrap", "--from", one, "--to", "alias/none", fails="NotFoundException")
        _strongroom(s, "rewrap", "--from", one, "--to", two, "--bucket", "nowhere", fails="NotFoundException")
        _strongroom(s, "rewrap", "--from", one, "--to", two, "--prefix", "x", fails="--bucket")
        _strongroom(s, "rewrap", "--from", one, "--to", two, "--rate", "0", fails="ValidationException")
        kms.disable_key(KeyId=two)
        _strongroom(s, "rewrap", "--from", one, "--to", two, fails="DisabledException")
        kms.enable_key(KeyId=two)
        status, answer = _call(s, "StartRewrap", {"FromKeyId": one, "ToKeyId": two, "Prefix": "x"})
        assert (status, answer["__type"]) == (400, "ValidationException")
        for operation in "DescribeRewrap", "CancelRewrap":
            status, answer = _call(s, operation, {"RewrapId": "1234abcd-12ab-34cd-56ef-1234567890ab"})
            assert (status, answer["__type"]) == (400, "NotFoundException")

        # A prefix of a bucket, planned and done. The upload goes with it, and its client does not notice.
        part_of = ("--from", one, "--to", two, "--bucket", "vault", "--prefix", "x/")
        planned = _strongroom(s, "rewrap", "--dry-run", *part_of)
        assert planned.startswith("would re-wrap 20 objects (") and "and 1 multipart uploads" in planned, planned
        assert _counts(_usage(s, two)) == (0, 0, 0)
        said = _strongroom(s, "rewrap", *part_of)
        assert "21 data keys re-wrapped, 0 skipped, 0 failed" in said and f"nothing depends on {one} in vault/x/ any more" in said, said
        assert (_usage(s, one)["Objects"], _usage(s, two)["Objects"], _usage(s, two)["MultipartUploads"]) == (11, 20, 1)
        head = s3.head_object(Bucket="vault", Key="x/1")
        assert head["SSEKMSKeyId"] == two
        end = s3.upload_part(PartNumber=2, Body=b"end", **upload)
        assert end["SSEKMSKeyId"] == two
        s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}, {"PartNumber": 2, "ETag": end["ETag"]}]}, **upload)
        assert s3.get_object(Bucket="vault", Key="x/m")["Body"].read() == noise(5 << 20) + b"end"

        # One material of a key that was rotated: the common case.
        first = _usage(s, one)["KeyMaterials"][0]["KeyMaterialId"]
        kms.rotate_key_on_demand(KeyId=one)
        s3.put_object(Bucket="cellar", Key="new", Body=b"N", **sse)
        said = _strongroom(s, "rewrap", "--from", f"{one}@{first}", "--to", one)
        assert "11 data keys re-wrapped" in said and f"nothing depends on material {first} of {one} any more" in said, said
        assert [m["Objects"] for m in _usage(s, one)["KeyMaterials"]] == [0, 12]
        status, listed = _call(s, "ListRewraps", {})
        assert status == 200 and [r["State"] for r in listed["Rewraps"]] == ["COMPLETED"] * 2
        assert listed["Rewraps"][1]["FromKeyMaterialId"] == first

        # Slowly, called off in the middle, and begun again.
        id = _strongroom(s, "rewrap", "--detach", "--rate", "4", "--from", two, "--to", one).strip()
        eventually(lambda: _assert(_usage(s, one)["Objects"] > 12))
        assert "CANCELLED" in _strongroom(s, "rewrap", "cancel", id)
        _strongroom(s, "rewrap", "watch", id, fails="called off")
        _strongroom(s, "rewrap", "cancel", id, fails="has ended")
        time.sleep(1.5)
        left = _usage(s, two)["Objects"]
        assert 0 < left < 21
        time.sleep(1.5)
        assert _usage(s, two)["Objects"] == left
        assert f"nothing depends on {two} any more" in _strongroom(s, "rewrap", "--from", two, "--to", one)
        assert _counts(_usage(s, two)) == (0, 0, 0) and _usage(s, one)["Objects"] == 33
        assert _strongroom(s, "rewrap", "list").count("\n") == 4

        # A key that goes away ends it, and says why.
        id = _strongroom(s, "rewrap", "--detach", "--rate", "4", "--from", one, "--to", two).strip()
        eventually(lambda: _assert(_usage(s, two)["Objects"] > 0))
        kms.disable_key(KeyId=two)
        ended = _done(s, id)
        assert (ended["State"], ended["StateReason"]) == ("FAILED", f"{two} is disabled."), ended
        kms.enable_key(KeyId=two)
        for bucket in "vault", "cellar":
            for found in s3.list_objects_v2(Bucket=bucket)["Contents"]:
                body = s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
                assert len(body) == found["Size"]


def _assert(condition):
    assert condition


def a_rewrap_may_what_whoever_began_it_may_by_now():
    """The one is denied by an object's encryption context, the other loses its user on the way."""
    def put(s3, name, key):
        s3.put_object(Bucket="vault", Key=name, Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)

    with Server() as s:
        s3, kms, iam = s.client(), s.client("kms"), s.client("iam")
        s3.create_bucket(Bucket="vault")
        old, new = _key(s), _key(s)
        for name in ("secret/a", "secret/b", "open/a", "open/b"):
            put(s3, name, old)
        policy = json.loads(kms.get_key_policy(KeyId=old)["Policy"])
        policy["Statement"].append({
            "Effect": "Deny", "Principal": "*", "Action": "kms:ReEncryptFrom", "Resource": "*",
            "Condition": {"StringLike": {"kms:EncryptionContext:aws:s3:arn": "arn:aws:s3:::vault/secret/*"}}})
        kms.put_key_policy(KeyId=old, Policy=json.dumps(policy))
        status, rewrap = _call(s, "StartRewrap", {"FromKeyId": old, "ToKeyId": new})
        assert status == 200, rewrap
        ended = _done(s, rewrap["RewrapId"])
        assert (ended["State"], ended["Rewrapped"], ended["Failed"]) == ("COMPLETED", 2, 2), ended
        assert _counts(_usage(s, old))[0] == 2 and _counts(_usage(s, new))[0] == 2
        assert s3.head_object(Bucket="vault", Key="secret/a")["SSEKMSKeyId"] == old

        iam.create_user(UserName="eve")
        grant = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="eve", PolicyName="p", PolicyDocument=json.dumps(grant))
        made = iam.create_access_key(UserName="eve")["AccessKey"]
        eve = made["AccessKeyId"], made["SecretAccessKey"]
        for number in range(30):
            put(s3, f"many/{number}", new)
        last = _key(s)

        def begin():
            ask = {"FromKeyId": new, "ToKeyId": last, "ObjectsPerSecond": 1}
            status, rewrap = _call(s, "StartRewrap", ask, eve)
            assert status == 200, rewrap
            eventually(lambda: _assert(_counts(_usage(s, last))[0] > 0))
            return rewrap["RewrapId"]

        # Without the right it moves nothing any more, and says so.
        first = begin()
        iam.delete_user_policy(UserName="eve", PolicyName="p")
        ended = _done(s, first)
        assert ended["Failed"] > 0 and ended["Remaining"]["Objects"] > 20, ended
        # Without its user it ends at once.
        iam.put_user_policy(UserName="eve", PolicyName="p", PolicyDocument=json.dumps(grant))
        before = _counts(_usage(s, last))[0]
        ask = {"FromKeyId": new, "ToKeyId": last, "ObjectsPerSecond": 1}
        status, rewrap = _call(s, "StartRewrap", ask, eve)
        assert status == 200, rewrap
        eventually(lambda: _assert(_counts(_usage(s, last))[0] > before))
        iam.delete_user_policy(UserName="eve", PolicyName="p")
        iam.delete_access_key(UserName="eve", AccessKeyId=eve[0])
        iam.delete_user(UserName="eve")
        ended = _done(s, rewrap["RewrapId"])
        assert ended["State"] == "FAILED" and "eve" in ended["StateReason"], ended
        assert ended["Remaining"]["Objects"] > 15, ended


def a_rewrap_waits_for_its_token():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        one, two = _key(s), _key(s)
        for n in range(40):
            s3.put_object(Bucket="vault", Key=str(n), Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=one)
        id = _strongroom(s, "rewrap", "--detach", "--rate", "10", "--from", one, "--to", two).strip()
        eventually(lambda: _assert(_usage(s, two)["Objects"] > 0))
        s.unplug()
        time.sleep(2)
        s.plug_in()
        ended = _done(s, id)
        assert (ended["State"], ended["Rewrapped"], ended["Failed"]) == ("COMPLETED", 40, 0), ended
        assert _counts(_usage(s, one)) == (0, 0, 0)


def writers_do_not_notice_a_rewrap():
    """What is written, copied and deleted while its key is changed is what it should be, and so is the index."""
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        one, two = _key(s), _key(s)
        sse = dict(ServerSideEncryption="aws:kms", SSEKMSKeyId=one)
        for n in range(200):
            s3.put_object(Bucket="vault", Key=str(n), Body=b"%d" % n, **sse)
        stop, wrong = threading.Event(), []

        def writer(seed):
            s3, dice, mine = s.client(), random.Random(seed), {}
            while not stop.is_set():
                key = str(dice.randrange(50) * 4 + seed)
                body = b"%d" % dice.randrange(1000)
                match dice.randrange(4):
                    case 0:
                        s3.delete_object(Bucket="vault", Key=key)
                        mine[key] = None
                    case 1 if mine.get(key):
                        s3.copy_object(Bucket="vault", Key=key, CopySource=f"vault/{key}", **sse)
                    case _:
                        s3.put_object(Bucket="vault", Key=key, Body=body, **sse)
                        mine[key] = body
                if mine.get(key) and s3.get_object(Bucket="vault", Key=key)["Body"].read() != mine[key]:
                    wrong.append(key)
            return mine

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(writer, seed) for seed in range(4)]
            for _ in range(3):
                for there, back in ((one, two), (two, one)):
                    subprocess.run([PROGRAM, "rewrap", "--from", there, "--to", back], env=s.environment(), timeout=600,
                                   capture_output=True)
            stop.set()
            ours = {}
            for each in writers:
                ours |= each.result()
        assert not wrong
        _strongroom(s, "rewrap", "--from", one, "--to", two)
        listed = {o["Key"]: o["Size"] for o in s3.list_objects_v2(Bucket="vault").get("Contents", [])}
        assert _counts(_usage(s, two)) == (len(listed), sum(listed.values()), 0)
        assert _counts(_usage(s, one)) == (0, 0, 0)
        for key in map(str, range(200)):
            expected = ours.get(key, b"%d" % int(key))
            assert (expected is not None) == (key in listed), key
            if expected is not None:
                assert s3.get_object(Bucket="vault", Key=key)["Body"].read() == expected


def a_rewrap_survives_kill_9_and_leaves_nothing_behind():
    """OBJECTS small objects, KILLS kills at random moments; then the key of old is destroyed for them all the same."""
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key, other = _key(s), _key(s)

        def put(n):
            clients[n % 8].put_object(Bucket="vault", Key=f"{n % 100}/{n}", Body=noise(n % 300, n), ServerSideEncryption="aws:kms",
                                      SSEKMSKeyId=key)

        def put_all():
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(put, range(OBJECTS)))

        clients = [s.client() for _ in range(8)]
        put_all()
        upload = s3.create_multipart_upload(Bucket="vault", Key="m", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)["UploadId"]
        old = _usage(s, key)["KeyMaterials"][0]["KeyMaterialId"]
        kms.rotate_key_on_demand(KeyId=key)
        dice = random.Random(OBJECTS)
        id = _strongroom(s, "rewrap", "--detach", "--rate", RATE, "--from", f"{key}@{old}", "--to", key).strip()
        kills = 0
        while kills < KILLS:
            # Between two kills the server has time to do something, and all of them together not to finish.
            time.sleep(dice.uniform(0.1, 0.8) * OBJECTS / RATE / KILLS)
            status, rewrap = _call(s, "DescribeRewrap", {"RewrapId": id})
            assert status == 200 and rewrap["State"] in ("WAITING", "RUNNING"), rewrap
            s.kill()
            kills += 1
            s.start()
        ended = _done_in(s, id, 120 + 20 * OBJECTS / RATE)
        assert (ended["State"], ended["Failed"], _counts(ended["Remaining"])) == ("COMPLETED", 0, (0, 0, 0)), ended
        first, second = _usage(s, key)["KeyMaterials"]
        assert (_counts(first), second["Objects"], second["MultipartUploads"]) == ((0, 0, 0), OBJECTS, 1)

        # On to another key, at full speed; then the first one is of no use any more, and nobody misses it.
        began = time.time()
        said = _strongroom(s, "rewrap", "--from", key, "--to", other)
        seconds = time.time() - began
        assert f"nothing depends on {key} any more" in said, said
        s.client("kms").schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        clients[:] = [s.client() for _ in range(8)]

        def get(n):
            return clients[n % 8].get_object(Bucket="vault", Key=f"{n % 100}/{n}")["Body"].read() == noise(n % 300, n)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(get, range(OBJECTS)))
        rest = dict(Bucket="vault", Key="m", UploadId=upload)
        s3 = s.client()
        etag = s3.upload_part(PartNumber=1, Body=b"late", **rest)["ETag"]
        s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **rest)
        assert s3.get_object(Bucket="vault", Key="m")["Body"].read() == b"late"
        print(f"{OBJECTS} objects, {kills} kills, {ended['Skipped']} skipped; at full speed {OBJECTS / seconds:.0f} objects/s")


def _done_in(s, id, seconds):
    deadline = time.time() + seconds
    while True:
        status, rewrap = _call(s, "DescribeRewrap", {"RewrapId": id})
        assert status == 200, rewrap
        if rewrap["State"] not in ("WAITING", "RUNNING"):
            return rewrap
        assert time.time() < deadline, rewrap
        time.sleep(0.5)


main(globals())
