"""A copy of a stopped server is a backup: what was in it reads again, on the token as it is by then."""

import shutil
import subprocess

from support import PROGRAM, Server, clean_environment, customer_key, main, noise, refused


def a_copy_of_a_stopped_server_reads_again():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/mine", TargetKeyId=key)
        under = {
            "s3": {}, "kms": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/mine"},
            "bucket-key": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key, "BucketKeyEnabled": True},
            "customer": customer_key()}
        bodies = {name: noise(100_000, seed) for seed, name in enumerate(under)}
        for name, how in under.items():
            s3.put_object(Bucket="vault", Key=name, Body=bodies[name], **how)
        upload = {"Bucket": "vault", "Key": "parts",
                  "UploadId": s3.create_multipart_upload(Bucket="vault", Key="parts")["UploadId"]}
        part = s3.upload_part(PartNumber=1, Body=bodies["s3"], **upload)["ETag"]
        sealed = kms.encrypt(KeyId=key, Plaintext=b"small")["CiphertextBlob"]
        s.stop()
        shutil.copytree(s.data, s.dir / "backup")

        s.start()
        s3, kms = s.client(), s.client("kms")
        kms.rotate_key_on_demand(KeyId=key)
        later = kms.create_key()["KeyMetadata"]["KeyId"]
        for name in bodies:
            s3.delete_object(Bucket="vault", Key=name)
        s3.abort_multipart_upload(**upload)
        s3.put_object(Bucket="vault", Key="s3", Body=b"later", ServerSideEncryption="aws:kms", SSEKMSKeyId=later)
        before = s.token_objects()
        s.stop()
        shutil.rmtree(s.data)
        shutil.copytree(s.dir / "backup", s.data)

        s.start()
        s3, kms = s.client(), s.client("kms")
        for name, body in bodies.items():
            how = customer_key() if name == "customer" else {}
            assert s3.get_object(Bucket="vault", Key=name, **how)["Body"].read() == body, name
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
        assert s3.get_object(Bucket="vault", Key="parts")["Body"].read() == bodies["s3"]
        assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"small"
        refused("NotFoundException", kms.describe_key, KeyId=later)
        # The key whose rotation the copy does not know goes on: what it makes reads, and rotates again.
        kms.rotate_key_on_demand(KeyId=key)
        s3.put_object(Bucket="vault", Key="new", Body=b"new", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        assert s3.get_object(Bucket="vault", Key="new")["Body"].read() == b"new"
        # What was made in the token since the copy is nobody's now. It is left alone.
        assert set(before) <= set(s.token_objects()), "no key of the token was destroyed"
        s.stop()
        out = subprocess.run([PROGRAM, "audit", "verify", "--dir", str(s.data / "audit")], env=clean_environment(),
                             capture_output=True, text=True)
        assert out.returncode == 0, out


main(globals())
