"""Clients that encrypt before they send, with data keys of this KMS: made by others, used as their manuals say."""

import os

import aws_encryption_sdk
import botocore.exceptions
import botocore.session
from aws_encryption_sdk import exceptions as sdk
from aws_encryption_sdk.identifiers import CommitmentPolicy
from cryptography.exceptions import InvalidTag
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.exceptions import S3EncryptionClientError
from s3_encryption.materials.kms_keyring import KmsKeyring

from support import Server, main, noise

BODY = noise(300_000)


def _fails(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (botocore.exceptions.ClientError, sdk.AWSEncryptionSDKClientError, sdk.SerializationError, InvalidTag,
            S3EncryptionClientError):
        return
    raise AssertionError("it should have failed")


def the_aws_encryption_sdk_does_its_main_job():
    with Server() as s:
        os.environ.update(s.environment())
        kms = s.client("kms")
        key, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        client = aws_encryption_sdk.EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)

        def provider(*keys):
            return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(
                key_ids=list(keys), botocore_session=botocore.session.Session())

        context = {"department": "finance"}
        both, _ = client.encrypt(source=BODY, encryption_context=context, key_provider=provider(key, other))
        assert BODY[:64] not in both
        kms.rotate_key_on_demand(KeyId=key)
        for one in key, other:
            found, header = client.decrypt(source=both, key_provider=provider(one))
            assert found == BODY and header.encryption_context["department"] == "finance"
        kms.disable_key(KeyId=key)
        _fails(client.decrypt, source=both, key_provider=provider(key))
        assert client.decrypt(source=both, key_provider=provider(other))[0] == BODY
        broken = bytearray(both)
        broken[len(broken) // 2] ^= 1
        _fails(client.decrypt, source=bytes(broken), key_provider=provider(other))


def the_s3_encryption_client_does_its_main_job():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        key = kms.create_key()["KeyMetadata"]["Arn"]
        client = S3EncryptionClient(s.client(), S3EncryptionClientConfig(keyring=KmsKeyring(s.client("kms"), key)))
        client.put_object(Bucket="vault", Key="a", Body=BODY)
        kms.rotate_key_on_demand(KeyId=key)
        assert client.get_object(Bucket="vault", Key="a")["Body"].read() == BODY
        # What it stored is not what was given, and belongs to its key.
        stored = s3.get_object(Bucket="vault", Key="a")
        assert len(stored["Metadata"]) > 2 and BODY[:64] not in stored["Body"].read()
        other = kms.create_key()["KeyMetadata"]["Arn"]
        wrong = S3EncryptionClientConfig(keyring=KmsKeyring(s.client("kms"), other))
        _fails(lambda: S3EncryptionClient(s.client(), wrong).get_object(Bucket="vault", Key="a")["Body"].read())
        kms.disable_key(KeyId=key)
        _fails(lambda: client.get_object(Bucket="vault", Key="a")["Body"].read())
        kms.enable_key(KeyId=key)
        assert client.get_object(Bucket="vault", Key="a")["Body"].read() == BODY


main(globals())
