"""What an adversary with the disk can read and change: nothing unnoticed."""

import http.client
import random
import re

import botocore.exceptions

from support import Server, customer_key, main, noise, refused

SECRET = b"the quick brown fox keeps its secrets in a strongroom. " * 40


def _get(s3, key):
    """The bytes; or a clean refusal, or a broken connection, as None. Never wrong bytes."""
    try:
        return s3.get_object(Bucket="vault", Key=key)["Body"].read()
    except (botocore.exceptions.ClientError, botocore.exceptions.HTTPClientError,
            botocore.exceptions.IncompleteReadError, http.client.IncompleteRead) as error:
        if isinstance(error, botocore.exceptions.ClientError):
            assert error.response["Error"]["Code"] == "InternalError", error
        return None


def nothing_on_disk_is_plaintext_or_a_data_key():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key = kms.create_key()["KeyMetadata"]
        s3.put_object(Bucket="vault", Key="s3", Body=SECRET, Metadata={"visible": "metadata-is-in-clear"})
        s3.put_object(Bucket="vault", Key="kms", Body=SECRET, ServerSideEncryption="aws:kms", SSEKMSKeyId=key["KeyId"])
        s3.put_object(Bucket="vault", Key="ssec", Body=SECRET, **customer_key())
        upload = s3.create_multipart_upload(Bucket="vault", Key="mpu", ServerSideEncryption="aws:kms")["UploadId"]
        s3.upload_part(Bucket="vault", Key="mpu", UploadId=upload, PartNumber=1, Body=SECRET)
        plain = kms.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")["Plaintext"]
        everything = {path: path.read_bytes() for path in s.files()}
        assert any(b"metadata-is-in-clear" in content for content in everything.values()), "the search itself works"
        # The stored CiphertextBlob: version, key id, backing version 1, direct form; then what the token made, whose
        # length depends on its scheme.
        head = b"\x01" + bytes.fromhex(key["KeyId"].replace("-", "")) + b"\0\0\0\1\1"
        arn = {"aws:s3:arn": "arn:aws:s3:::vault/kms"}
        data_keys = set()
        for content in everything.values():
            for found in re.finditer(re.escape(head), content):
                for length in range(50, 400):
                    blob = content[found.start():found.start() + len(head) + length]
                    try:
                        data_keys.add(kms.decrypt(CiphertextBlob=blob, EncryptionContext=arn)["Plaintext"])
                        break
                    except botocore.exceptions.ClientError:
                        pass
        assert data_keys, "the object's data key was found through its wrap"
        customer = customer_key()["SSECustomerKey"]
        needles = [SECRET[:32], SECRET[-32:], SECRET[20:36], customer, plain, *data_keys]
        needles += [needle.hex().encode() for needle in needles]
        for path, content in everything.items():
            for needle in needles:
                assert needle not in content, path


def one_changed_bit_anywhere_in_a_blob_is_found():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        body = noise(150_000)
        s3.put_object(Bucket="vault", Key="k", Body=body, ServerSideEncryption="aws:kms")
        [blob] = s.blobs()
        sealed = blob.read_bytes()
        borders = [0, 3, 4, 35, 36, 67, 68, 68 + 65_536, 68 + 65_552, len(sealed) - 17, len(sealed) - 16, len(sealed) - 1]
        chosen = random.Random(1)
        for at in borders + [chosen.randrange(len(sealed)) for _ in range(60)]:
            changed = bytearray(sealed)
            changed[at] ^= 1 << chosen.randrange(8)
            blob.write_bytes(changed)
            assert _get(s3, "k") is None, at
        blob.write_bytes(sealed)
        assert _get(s3, "k") == body


def a_blob_that_is_cut_extended_or_swapped_is_found():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        for name in "one", "two":
            s3.put_object(Bucket="vault", Key=name, Body=noise(131_072, name == "one"), ServerSideEncryption="aws:kms")
        first, second = s.blobs()
        a, b = first.read_bytes(), second.read_bytes()
        for cut in 0, 10, 68, 68 + 16, 68 + 65_552, len(a) - 1:
            first.write_bytes(a[:cut])
            assert None in (_get(s3, "one"), _get(s3, "two")), cut
        for extension in b"x", a[68:68 + 65_552]:
            first.write_bytes(a + extension)
            assert None in (_get(s3, "one"), _get(s3, "two"))
        first.write_bytes(b)
        second.write_bytes(a)
        assert (_get(s3, "one"), _get(s3, "two")) == (None, None)
        # Segments exchanged within one blob, and between two.
        first.write_bytes(a[:68] + a[68 + 65_552:] + a[68:68 + 65_552])
        second.write_bytes(b[:68 + 65_552] + a[68 + 65_552:])
        assert (_get(s3, "one"), _get(s3, "two")) == (None, None)
        first.unlink()
        second.write_bytes(b)
        got = {_get(s3, "one"), _get(s3, "two")}
        assert len(got) == 2 and None in got


def metadata_of_an_earlier_state_opens_nothing_wrongly():
    # Wraps and rows exchanged between objects are in tests/it/records.rs, where no page checksum is in the way.
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        s3.put_object(Bucket="vault", Key="k", Body=b"first", ServerSideEncryption="aws:kms")
        s.stop()
        old = (s.data / "meta.redb").read_bytes()
        s.start()
        s3 = s.client()
        s3.put_object(Bucket="vault", Key="k", Body=b"second", ServerSideEncryption="aws:kms")
        s.stop()
        new = (s.data / "meta.redb").read_bytes()
        (s.data / "meta.redb").write_bytes(old)
        s.start()
        assert _get(s.client(), "k") in (b"first", None)
        s.stop()
        (s.data / "meta.redb").write_bytes(new)
        s.start()
        assert _get(s.client(), "k") == b"second"


def damage_behind_the_first_segments_breaks_the_connection():
    with Server() as s:
        s3 = s.client(signature_version="s3v4")
        s3.create_bucket(Bucket="vault")
        body = noise(4 << 20)
        s3.put_object(Bucket="vault", Key="k", Body=body, ServerSideEncryption="aws:kms")
        [blob] = s.blobs()
        sealed = bytearray(blob.read_bytes())
        sealed[-1] ^= 1
        blob.write_bytes(sealed)
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "vault", "Key": "k"})
        host, path = url.removeprefix("http://").split("/", 1)
        connection = http.client.HTTPConnection(host)
        connection.request("GET", "/" + path)
        response = connection.getresponse()
        assert response.status == 200 and int(response.headers["Content-Length"]) == len(body)
        try:
            response.read()
        except (http.client.IncompleteRead, ConnectionError) as error:
            if isinstance(error, http.client.IncompleteRead):
                assert body.startswith(error.partial) and len(error.partial) < len(body)
        else:
            raise AssertionError("a damaged object was served whole")


main(globals())
