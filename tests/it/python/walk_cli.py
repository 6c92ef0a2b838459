"""The walk, by the AWS CLI."""

import json
import os
import re

from support import Server, eventually, main, noise

KMS_DEFAULT = json.dumps({"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]})


def _bucket(server, name="kms-encrypted"):
    server.aws(f"s3api create-bucket --bucket {name} --region us-west-2 "
               "--create-bucket-configuration LocationConstraint=us-west-2")


def _file(server, name, content):
    path = server.dir / name
    path.write_bytes(content)
    return path


def step_1_and_2_buckets_and_their_encryption():
    with Server() as s:
        _bucket(s)
        assert s.aws("s3api get-bucket-location --bucket kms-encrypted")["LocationConstraint"] == "us-west-2"
        s.aws("s3api create-bucket --bucket elsewhere --create-bucket-configuration LocationConstraint=eu-west-9",
              fails="InvalidLocationConstraint")
        s.aws("s3api put-bucket-encryption --bucket kms-encrypted --server-side-encryption-configuration", KMS_DEFAULT)

        def algorithm():
            rules = s.aws("s3api get-bucket-encryption --bucket kms-encrypted")
            [rule] = rules["ServerSideEncryptionConfiguration"]["Rules"]
            return rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]

        assert algorithm() == "aws:kms"
        s.aws("s3api delete-bucket-encryption --bucket kms-encrypted")
        assert algorithm() == "AES256"
        put = s.aws("s3api put-object --bucket kms-encrypted --key k --body", _file(s, "f", b"x"))
        assert put["ServerSideEncryption"] == "AES256"


def step_3_and_4_the_default_key_is_made_on_first_use():
    with Server() as s:
        _bucket(s)
        s.aws("s3api put-bucket-encryption --bucket kms-encrypted --server-side-encryption-configuration", KMS_DEFAULT)
        before = len(s.token_objects())
        body = _file(s, "body", noise(300_000))
        put = s.aws("s3api put-object --bucket kms-encrypted --key a --body", body)
        assert len(s.token_objects()) > before
        [alias] = [a for a in s.aws("kms list-aliases")["Aliases"] if a["AliasName"] == "alias/aws/s3"]
        arn = s.aws("kms describe-key --key-id alias/aws/s3")["KeyMetadata"]["Arn"]
        assert re.fullmatch(r"arn:aws:kms:us-west-2:\d{12}:key/[0-9a-f-]{36}", arn)
        assert arn.endswith(alias["TargetKeyId"])
        import hashlib
        assert put["ETag"].strip('"') != hashlib.md5(noise(300_000)).hexdigest()
        head = s.aws("s3api head-object --bucket kms-encrypted --key a")
        get = s.aws("s3api get-object --bucket kms-encrypted --key a", s.dir / "back")
        for answer in put, head, get:
            assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", arn), answer
            assert answer["ETag"] == put["ETag"]
        assert (s.dir / "back").read_bytes() == noise(300_000)
        _bucket(s, "plain")
        put = s.aws("s3api put-object --bucket plain --key a --server-side-encryption aws:kms --body", body)
        assert (put["ServerSideEncryption"], put["SSEKMSKeyId"]) == ("aws:kms", arn)


def step_5_customer_managed_keys_by_every_name():
    with Server() as s:
        _bucket(s)
        key = s.aws("kms create-key --description walk")["KeyMetadata"]
        s.aws("kms create-alias --alias-name alias/walk --target-key-id", key["KeyId"])
        body = _file(s, "body", b"by every name")
        account = key["AWSAccountId"]
        names = [key["KeyId"], key["Arn"], "alias/walk", f"arn:aws:kms:us-west-2:{account}:alias/walk"]
        for name in names:
            put = s.aws("s3api put-object --bucket kms-encrypted --key a --server-side-encryption aws:kms --body", body,
                        "--ssekms-key-id", name)
            assert put["SSEKMSKeyId"] == key["Arn"], (name, put)
        context = "eyJkZXBhcnRtZW50IjoiZmluYW5jZSJ9"  # {"department":"finance"}
        put = s.aws("s3api put-object --bucket kms-encrypted --key b --server-side-encryption aws:kms --body", body,
                    "--ssekms-key-id", "alias/walk", "--ssekms-encryption-context", context)
        assert put["SSEKMSEncryptionContext"] == context
        get = s.aws("s3api get-object --bucket kms-encrypted --key b", s.dir / "back")
        assert "SSEKMSEncryptionContext" not in get
        assert (s.dir / "back").read_bytes() == b"by every name"


def step_6_rotation_makes_one_more_key_in_the_token():
    with Server() as s:
        _bucket(s)
        key = s.aws("kms create-key")["KeyMetadata"]["KeyId"]
        body = _file(s, "body", b"old and new")
        put = "s3api put-object --bucket kms-encrypted --server-side-encryption aws:kms --ssekms-key-id"
        arn = s.aws(put, key, "--key", "old", "--body", body)["SSEKMSKeyId"]
        before = s.token_objects()
        assert s.aws("kms rotate-key-on-demand --key-id", key)["KeyId"].endswith(key)
        after = s.token_objects()
        assert len(after) == len(before) + 1 and set(before) < set(after)
        assert s.aws(put, key, "--key", "new", "--body", body)["SSEKMSKeyId"] == arn
        for name in "old", "new":
            s.aws(f"s3api get-object --bucket kms-encrypted --key {name}", s.dir / name)
            assert (s.dir / name).read_bytes() == b"old and new"
        rotations = s.aws("kms list-key-rotations --include-key-material ALL_KEY_MATERIAL --key-id", key)["Rotations"]
        assert len(rotations) == 2
        [current] = [r for r in rotations if r["KeyMaterialState"] == "CURRENT"]
        assert current["RotationType"] == "ON_DEMAND" and current["KeyMaterialId"] in after


def step_7_disabled_and_pending_deletion():
    with Server() as s:
        _bucket(s)
        key = s.aws("kms create-key")["KeyMetadata"]
        body = _file(s, "body", b"state")
        put = ("s3api put-object --bucket kms-encrypted --key a --server-side-encryption aws:kms --ssekms-key-id "
               f"{key['KeyId']} --body")
        get = "s3api get-object --bucket kms-encrypted --key a"
        s.aws(put, body)
        s.aws("kms disable-key --key-id", key["KeyId"])
        s.aws(put, body, fails=f"KMS.DisabledException) when calling the PutObject operation: {key['Arn']} is disabled.")
        s.aws(get, s.dir / "back", fails="KMS.DisabledException")
        s.aws("kms enable-key --key-id", key["KeyId"])
        s.aws(get, s.dir / "back")
        s.aws("kms schedule-key-deletion --pending-window-in-days 7 --key-id", key["KeyId"])
        s.aws(put, body, fails="KMS.KMSInvalidStateException")
        s.aws(get, s.dir / "back", fails=f"{key['Arn']} is pending deletion.")
        s.aws("kms cancel-key-deletion --key-id", key["KeyId"])
        assert s.aws("kms describe-key --key-id", key["KeyId"])["KeyMetadata"]["KeyState"] == "Disabled"
        s.aws("kms enable-key --key-id", key["KeyId"])
        s.aws(get, s.dir / "back")
        assert (s.dir / "back").read_bytes() == b"state"


def step_7_when_the_window_ends_the_backing_keys_are_gone_from_the_token():
    with Server() as s:
        _bucket(s)
        kept, dying = (s.aws("kms create-key")["KeyMetadata"]["KeyId"] for _ in range(2))
        body = _file(s, "body", b"state")
        for key in kept, dying:
            s.aws(f"s3api put-object --bucket kms-encrypted --key {key} --server-side-encryption aws:kms --ssekms-key-id",
                  key, "--body", body)
        s.aws("kms rotate-key-on-demand --key-id", dying)
        rotations = "kms list-key-rotations --include-key-material ALL_KEY_MATERIAL --key-id"
        doomed = {r["KeyMaterialId"] for r in s.aws(rotations, dying)["Rotations"]}
        assert len(doomed) == 2
        s.aws("kms schedule-key-deletion --pending-window-in-days 7 --key-id", dying)
        before = set(s.token_objects())
        assert doomed < before
        s.stop()
        s.start_later(6)
        assert s.aws("kms describe-key --key-id", dying)["KeyMetadata"]["KeyState"] == "PendingDeletion"
        assert set(s.token_objects()) == before
        s.stop()
        s.start_later(8)
        eventually(lambda: s.aws("kms describe-key --key-id", dying, fails="NotFoundException"), 90)
        assert set(s.token_objects()) == before - doomed
        s.aws("s3api get-object --bucket kms-encrypted --key", dying, s.dir / "back", fails="KMS.NotFoundException")
        s.aws("s3api get-object --bucket kms-encrypted --key", kept, s.dir / "back")
        assert (s.dir / "back").read_bytes() == b"state"


def step_8_a_gibibyte_up_and_down_in_little_memory():
    with Server() as s:
        _bucket(s)
        piece, size = noise(1 << 20), 1 << 30
        with open(s.dir / "big", "wb") as f:
            for i in range(size // len(piece)):
                f.write(i.to_bytes(8, "big") + piece[8:])
        s.aws("s3 cp --only-show-errors --sse aws:kms", s.dir / "big", "s3://kms-encrypted/big")
        s.aws("s3 cp --only-show-errors s3://kms-encrypted/big", s.dir / "back")
        with open(s.dir / "big", "rb") as a, open(s.dir / "back", "rb") as b:
            while chunk := a.read(1 << 22):
                assert chunk == b.read(len(chunk))
            assert b.read(1) == b""
        with open(s.dir / "big", "rb") as f:
            part, segment = 8 << 20, 1 << 16
            for start, end in [(0, 1), (segment - 1, segment + 1), (part - 1, part + 1), (part - 70_000, part + 70_000),
                               (3 * part - segment, 5 * part + segment), (size - 1, size)]:
                get = s.aws(f"s3api get-object --bucket kms-encrypted --key big --range bytes={start}-{end - 1}",
                            s.dir / "range")
                f.seek(start)
                assert (s.dir / "range").read_bytes() == f.read(end - start)
                assert get["ContentRange"] == f"bytes {start}-{end - 1}/{size}"
        peak = s.rss_peak_kib() / 1024
        print(f"peak resident memory {peak:.0f} MiB")
        assert peak < 150, peak
        os.remove(s.dir / "big")


main(globals())
