"""The walk, by boto3."""

import hashlib
import json

from support import Server, main, noise, refused


def _bucket(s3, name="kms-encrypted", kms_default=False):
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    if kms_default:
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})


def _read(s3, bucket, key, **rest):
    return s3.get_object(Bucket=bucket, Key=key, **rest)["Body"].read()


def step_1_and_2_buckets_and_their_encryption():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, kms_default=True)
        assert s3.get_bucket_location(Bucket="kms-encrypted")["LocationConstraint"] == "us-west-2"

        def default():
            [rule] = s3.get_bucket_encryption(Bucket="kms-encrypted")["ServerSideEncryptionConfiguration"]["Rules"]
            return rule["ApplyServerSideEncryptionByDefault"]

        assert default() == {"SSEAlgorithm": "aws:kms"}
        s3.delete_bucket_encryption(Bucket="kms-encrypted")
        assert default() == {"SSEAlgorithm": "AES256"}
        put = s3.put_object(Bucket="kms-encrypted", Key="k", Body=b"hello")
        assert put["ServerSideEncryption"] == "AES256"
        assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
        assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["kms-encrypted"]
        refused("BucketNotEmpty", s3.delete_bucket, Bucket="kms-encrypted", status=409)
        s3.delete_object(Bucket="kms-encrypted", Key="k")
        s3.delete_bucket(Bucket="kms-encrypted")
        refused("404", s3.head_bucket, Bucket="kms-encrypted")


def step_3_and_4_the_default_key_is_made_on_first_use():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        _bucket(s3, kms_default=True)
        assert not [a for a in kms.list_aliases()["Aliases"] if "TargetKeyId" in a]
        put = s3.put_object(Bucket="kms-encrypted", Key="a", Body=noise(70_000))
        meta = kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]
        assert meta["KeyManager"] == "AWS" and put["SSEKMSKeyId"] == meta["Arn"]
        assert put["ETag"].strip('"') != hashlib.md5(noise(70_000)).hexdigest()
        head, get = s3.head_object(Bucket="kms-encrypted", Key="a"), s3.get_object(Bucket="kms-encrypted", Key="a")
        for answer in put, head, get:
            assert answer["ServerSideEncryption"] == "aws:kms" and answer["SSEKMSKeyId"] == meta["Arn"]
        assert get["Body"].read() == noise(70_000)
        _bucket(s3, "plain")
        put = s3.put_object(Bucket="plain", Key="a", Body=b"x", ServerSideEncryption="aws:kms")
        assert put["SSEKMSKeyId"] == meta["Arn"]


def step_5_customer_managed_keys_by_every_name():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        _bucket(s3)
        meta = kms.create_key(Description="walk", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]
        kms.create_alias(AliasName="alias/walk", TargetKeyId=meta["KeyId"])
        alias_arn = meta["Arn"].rsplit(":", 1)[0] + ":alias/walk"
        for name in meta["KeyId"], meta["Arn"], "alias/walk", alias_arn:
            put = s3.put_object(Bucket="kms-encrypted", Key="a", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=name)
            assert put["SSEKMSKeyId"] == meta["Arn"]
        from base64 import b64encode
        context = b64encode(json.dumps({"department": "finance"}).encode()).decode()
        put = s3.put_object(Bucket="kms-encrypted", Key="c", Body=b"ctx", ServerSideEncryption="aws:kms",
                            SSEKMSKeyId="alias/walk", SSEKMSEncryptionContext=context)
        assert put["SSEKMSEncryptionContext"] == context
        assert _read(s3, "kms-encrypted", "c") == b"ctx"
        refused("KMS.NotFoundException", s3.put_object, Bucket="kms-encrypted", Key="a", Body=b"x",
                ServerSideEncryption="aws:kms", SSEKMSKeyId="fake-key-id", status=400)


def step_6_rotation_makes_one_more_key_in_the_token():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        _bucket(s3)
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        put = lambda name: s3.put_object(Bucket="kms-encrypted", Key=name, Body=name.encode(),
                                         ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        put("old")
        before = s.token_objects()
        kms.rotate_key_on_demand(KeyId=key)
        assert len(s.token_objects()) == len(before) + 1
        put("new")
        assert _read(s3, "kms-encrypted", "old") == b"old" and _read(s3, "kms-encrypted", "new") == b"new"
        assert [r["RotationType"] for r in kms.list_key_rotations(KeyId=key)["Rotations"]] == ["ON_DEMAND"]
        status = kms.get_key_rotation_status(KeyId=key)
        assert status["KeyRotationEnabled"] is False


def step_7_disabled_and_pending_deletion():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        _bucket(s3)
        key = kms.create_key()["KeyMetadata"]
        put = dict(Bucket="kms-encrypted", Key="a", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=key["KeyId"])
        get = dict(Bucket="kms-encrypted", Key="a")
        s3.put_object(**put)
        kms.disable_key(KeyId=key["KeyId"])
        assert refused("KMS.DisabledException", s3.put_object, **put, status=400) == f"{key['Arn']} is disabled."
        refused("KMS.DisabledException", s3.get_object, **get, status=400)
        assert s3.head_object(**get)["SSEKMSKeyId"] == key["Arn"]
        refused("DisabledException", kms.generate_data_key, KeyId=key["KeyId"], KeySpec="AES_256")
        kms.enable_key(KeyId=key["KeyId"])
        assert _read(s3, "kms-encrypted", "a") == b"x"
        kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
        refused("KMS.KMSInvalidStateException", s3.put_object, **put, status=400)
        refused("KMS.KMSInvalidStateException", s3.get_object, **get, status=400)
        kms.cancel_key_deletion(KeyId=key["KeyId"])
        assert kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "Disabled"
        kms.enable_key(KeyId=key["KeyId"])
        assert _read(s3, "kms-encrypted", "a") == b"x"


def step_8_multipart_and_ranges_across_borders():
    with Server() as s:
        s3 = s.client()
        _bucket(s3, kms_default=True)
        part = 5 << 20
        body = noise(2 * part + 12_345)
        upload = s3.create_multipart_upload(Bucket="kms-encrypted", Key="m")
        assert upload["ServerSideEncryption"] == "aws:kms"
        parts = []
        for n in range(3):
            answer = s3.upload_part(Bucket="kms-encrypted", Key="m", UploadId=upload["UploadId"], PartNumber=n + 1,
                                    Body=body[n * part:(n + 1) * part])
            assert answer["SSEKMSKeyId"] == upload["SSEKMSKeyId"]
            parts.append({"PartNumber": n + 1, "ETag": answer["ETag"]})
        done = s3.complete_multipart_upload(Bucket="kms-encrypted", Key="m", UploadId=upload["UploadId"],
                                            MultipartUpload={"Parts": parts})
        assert done["ETag"].strip('"').endswith("-3") and done["SSEKMSKeyId"] == upload["SSEKMSKeyId"]
        assert _read(s3, "kms-encrypted", "m") == body
        for start, end in [(0, 0), (65_535, 65_536), (part - 1, part), (part - 100_000, 2 * part + 5), (2 * part, len(body) - 1)]:
            assert _read(s3, "kms-encrypted", "m", Range=f"bytes={start}-{end}") == body[start:end + 1]
        assert _read(s3, "kms-encrypted", "m", Range="bytes=-7") == body[-7:]
        assert _read(s3, "kms-encrypted", "m", PartNumber=2) == body[part:2 * part]
        assert s3.head_object(Bucket="kms-encrypted", Key="m", PartNumber=3)["PartsCount"] == 3


main(globals())
