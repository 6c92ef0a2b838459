"""S3 as boto3 speaks it, object by object: what is kept, what is found again, and what is refused."""

import base64
import concurrent.futures
import datetime
import hashlib
import http.client
import json
import urllib.request
import zlib

import botocore

from support import Server, customer_key, eventually, main, noise, refused

PART = 5 << 20
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
KMS = {"ServerSideEncryption": "aws:kms"}


def _client(s, **config):
    s3 = s.client(signature_version="s3v4", **config)
    s3.create_bucket(Bucket="bkt")
    return s3


def _read(s3, key="k", **rest):
    return s3.get_object(Bucket="bkt", Key=key, **rest)["Body"].read()


def _keys(s3):
    return [o["Key"] for o in s3.list_objects_v2(Bucket="bkt").get("Contents", [])]


def _etag(answer):
    return answer["ETag"].strip('"')


def _md5(body):
    return hashlib.md5(body).hexdigest()


class _Headers:
    """Within: requests of this client bear these headers, whatever boto3 thinks of them. `None` takes one away."""

    def __init__(self, s3, **headers):
        self.events, self.headers = s3.meta.events, {name.replace("_", "-"): value for name, value in headers.items()}

    def _change(self, request, **_):
        for name, value in self.headers.items():
            del request.headers[name]
            if value is not None:
                request.headers[name] = value

    def __enter__(self):
        self.events.register("before-sign.s3", self._change)

    def __exit__(self, *_):
        self.events.unregister("before-sign.s3", self._change)


def _table(polynomial):
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (polynomial if n & 1 else 0)
        table.append(n)
    return table


TABLES = {"CRC32C": (_table(0x82F63B78), 4), "CRC64NVME": (_table(0x9A6C9329AC4BC9B5), 8)}


def _digest(algorithm, body):
    """The raw checksum. boto3 knows CRC32C and CRC64NVME only by a library of its own."""
    if algorithm == "CRC32":
        return zlib.crc32(body).to_bytes(4, "big")
    if algorithm.startswith("SHA"):
        return hashlib.new(algorithm, body).digest()
    table, size = TABLES[algorithm]
    mask = (1 << 8 * size) - 1
    crc = mask
    for byte in body:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return (crc ^ mask).to_bytes(size, "big")


def _sum(algorithm, body):
    return base64.b64encode(_digest(algorithm, body)).decode()


def _upload(s3, bodies, key="k", create=(), each=(), complete=(), numbers=None):
    """A whole multipart upload; returns the answers of its three steps."""
    name = dict(Bucket="bkt", Key=key)
    created = s3.create_multipart_upload(**name, **dict(create))
    parts, answers = [], []
    for number, body in zip(numbers or range(1, 10_001), bodies):
        answers.append(s3.upload_part(**name, UploadId=created["UploadId"], PartNumber=number, Body=body, **dict(each)))
        parts.append({"PartNumber": number, "ETag": answers[-1]["ETag"]})
    done = s3.complete_multipart_upload(**name, UploadId=created["UploadId"], MultipartUpload={"Parts": parts}, **dict(complete))
    return created, answers, done


def objects_keep_their_headers_and_metadata():
    with Server() as s:
        s3 = _client(s)
        name = dict(Bucket="bkt", Key="k")
        # Too much metadata, by one byte.
        refused("MetadataTooLarge", s3.put_object, **name, Body=b"x", Metadata={"a": "b" * 2048}, status=400)
        refused("MetadataTooLarge", s3.create_multipart_upload, **name, Metadata={"a": "b" * 2048}, status=400)
        assert _keys(s3) == []
        s3.put_object(**name, Body=b"x", Metadata={"a": "b" * 2047})
        assert s3.head_object(**name)["Metadata"] == {"a": "b" * 2047}

        expires = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
        kept = dict(CacheControl="max-age=60", ContentDisposition='attachment; filename="a b.txt"', ContentEncoding="gzip",
                    ContentLanguage="de-DE, en", ContentType="text/plain; charset=utf-8", Metadata={"a": "b", "long-name": "x, y=z;"})
        other = dict(ContentType="x/y", Metadata={"only": "this"})

        def has(key, expected, body):
            head, get = s3.head_object(Bucket="bkt", Key=key), s3.get_object(Bucket="bkt", Key=key)
            assert get["Body"].read() == body
            for answer in head, get:
                for header in "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage":
                    assert answer.get(header) == expected.get(header), (key, header, answer)
                assert answer["ContentType"] == expected.get("ContentType", "binary/octet-stream")
                assert answer["Metadata"] == expected.get("Metadata", {})
                assert answer["ContentLength"] == len(body) and answer["AcceptRanges"] == "bytes"
                at = answer["LastModified"]
                assert abs((datetime.datetime.now(datetime.timezone.utc) - at).total_seconds()) < 120
                assert answer["ResponseMetadata"]["HTTPHeaders"].get("expires") == (
                    "Tue, 06 May 2031 07:08:09 GMT" if "CacheControl" in expected else None)

        s3.put_object(**name, Body=b"hello", Expires=expires, **kept)
        has("k", kept, b"hello")
        s3.put_object(**name, Body=b"hello", **KMS, Expires=expires, **kept)
        has("k", kept, b"hello")
        overrides = {"ResponseCacheControl": "no-cache", "ResponseContentDisposition": "inline", "ResponseContentEncoding": "identity",
                     "ResponseContentLanguage": "fr", "ResponseContentType": "a/b"}
        for answer in s3.get_object(**name, **overrides), s3.head_object(**name, **overrides):
            for header, value in overrides.items():
                assert answer[header.removeprefix("Response")] == value, (header, answer)
        s3.copy_object(Bucket="bkt", Key="copied", CopySource="bkt/k")
        has("copied", kept, b"hello")
        s3.copy_object(Bucket="bkt", Key="replaced", CopySource="bkt/k", MetadataDirective="REPLACE", **other)
        has("replaced", other, b"hello")
        _upload(s3, [b"parts"], "mpu", dict(Expires=expires, **kept))
        has("mpu", kept, b"parts")
        # Nothing of the old object stays.
        s3.put_object(**name, Body=b"")
        has("k", {}, b"")
        assert _etag(s3.head_object(**name)) == _md5(b"")
        with _Headers(s3, **{"x_amz_meta_MiXed": "Case"}):
            s3.put_object(**name, Body=b"")
        assert s3.head_object(**name)["Metadata"] == {"mixed": "Case"}


def conditions_and_ranges():
    with Server() as s:
        s3 = _client(s)
        body = noise(200_000)
        name = dict(Bucket="bkt", Key="k")
        for kind in {}, KMS:
            etag = s3.put_object(**name, Body=body, **kind)["ETag"]
            at = s3.head_object(**name)["LastModified"]
            before, after = at - datetime.timedelta(hours=1), at + datetime.timedelta(hours=1)
            for call, http412, http304 in (s3.get_object, "PreconditionFailed", "304"), (s3.head_object, "412", "304"):
                refused(http412, call, **name, IfMatch='"none"', status=412)
                refused(http412, call, **name, IfUnmodifiedSince=before, status=412)
                refused(http304, call, **name, IfNoneMatch=etag, status=304)
                refused(http304, call, **name, IfNoneMatch="*", status=304)
                refused(http304, call, **name, IfModifiedSince=at, status=304)
                # ETags win over dates.
                refused(http304, call, **name, IfNoneMatch=etag, IfModifiedSince=before, status=304)
                refused(http412, call, **name, IfMatch='"none"', IfUnmodifiedSince=after, status=412)
                for good in (dict(IfMatch=etag), dict(IfMatch="*"), dict(IfNoneMatch='"none"'), dict(IfModifiedSince=before),
                             dict(IfUnmodifiedSince=at), dict(IfMatch=etag, IfUnmodifiedSince=before),
                             dict(IfNoneMatch='"none"', IfModifiedSince=at)):
                    assert call(**name, **good)["ETag"] == etag
            try:
                s3.get_object(**name, IfNoneMatch=etag)
            except botocore.exceptions.ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag

            size = len(body)
            for outside in f"bytes={size}-", f"bytes={size}-{size}", "bytes=999999-1000000", "bytes=-0":
                refused("InvalidRange", s3.get_object, **name, Range=outside, status=416)
                refused("416", s3.head_object, **name, Range=outside, status=416)
            with_range = lambda **range: s3.get_object(**name, **range)
            try:
                with_range(Range=f"bytes={size}-")
            except botocore.exceptions.ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes */{size}"
            refused("InvalidRequest", with_range, Range="bytes=0-1", PartNumber=1, status=400)
            refused("InvalidPartNumber", with_range, PartNumber=2, status=416)
            refused("InvalidArgument", with_range, PartNumber=10_001, status=400)
            for text, start, end in (("0-0", 0, 1), ("65535-65536", 65_535, 65_537), ("131071-131072", 131_071, 131_073), ("7-", 7, size),
                                     (f"{size - 1}-", size - 1, size), ("-1", size - 1, size), (f"-{size + 5}", 0, size),
                                     (f"100-{size + 100}", 100, size), (f"0-{size - 1}", 0, size), ("65536-131071", 65_536, 131_072)):
                get, head = s3.get_object(**name, Range="bytes=" + text), s3.head_object(**name, Range="bytes=" + text)
                assert get["Body"].read() == body[start:end], text
                for answer in get, head:
                    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206 and answer["ContentLength"] == end - start
                    assert answer["ContentRange"] == f"bytes {start}-{end - 1}/{size}"
            assert _read(s3, PartNumber=1) == body
            # What is no range of bytes is ignored (RFC 9110 14.2), as AWS does.
            for ignored in "lines=1-2", "bytes=2-1", "bytes=a-b":
                answer = s3.get_object(**name, Range=ignored)
                assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and answer["Body"].read() == body
        s3.put_object(**name, Body=b"")
        refused("InvalidRange", s3.get_object, **name, Range="bytes=0-0", status=416)
        assert _read(s3) == b""


def conditional_writes():
    with Server() as s:
        s3 = _client(s)
        name = dict(Bucket="bkt", Key="k")
        refused("NoSuchKey", s3.put_object, **name, Body=b"x", IfMatch='"none"', status=404)
        refused("NotImplemented", s3.put_object, **name, Body=b"x", IfNoneMatch='"none"', status=501)
        assert _keys(s3) == [] and s.blobs() == []
        etag = s3.put_object(**name, Body=b"first", IfNoneMatch="*")["ETag"]
        refused("PreconditionFailed", s3.put_object, **name, Body=b"x", IfNoneMatch="*", status=412)
        refused("PreconditionFailed", s3.put_object, **name, Body=b"x", IfMatch='"none"', status=412)
        assert _read(s3) == b"first" and len(s.blobs()) == 1
        second = s3.put_object(**name, Body=b"second", IfMatch=etag)["ETag"]
        refused("PreconditionFailed", s3.put_object, **name, Body=b"x", IfMatch=etag, status=412)
        assert _read(s3) == b"second"

        upload = s3.create_multipart_upload(**name)["UploadId"]
        part = s3.upload_part(**name, UploadId=upload, PartNumber=1, Body=b"third")["ETag"]
        complete = lambda **condition: s3.complete_multipart_upload(
            **name, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]}, **condition)
        refused("PreconditionFailed", complete, IfNoneMatch="*", status=412)
        refused("PreconditionFailed", complete, IfMatch=etag, status=412)
        assert _read(s3) == b"second"
        third = complete(IfMatch=second)["ETag"]
        assert _read(s3) == b"third"

        # A copy onto what is there, if it is wanted only where nothing is: refused, whatever the code.
        s3.put_object(Bucket="bkt", Key="source", Body=b"source")
        for condition in dict(IfNoneMatch="*"), dict(IfMatch=etag):
            try:
                s3.copy_object(**name, CopySource="bkt/source", **condition)
            except botocore.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] in ("PreconditionFailed", "NotImplemented"), error
            else:
                raise AssertionError(f"a copy ignored {condition}")
            assert _read(s3) == b"third"

        refused("PreconditionFailed", s3.delete_object, **name, IfMatch=etag, status=412)
        errors = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "k", "ETag": etag}]})["Errors"]
        assert [e["Code"] for e in errors] == ["PreconditionFailed"], errors
        assert _read(s3) == b"third"
        s3.delete_object(**name, IfMatch=third)
        refused("NoSuchKey", s3.get_object, **name)

        # Of many who want to be first, one is.
        def first(n):
            try:
                s3.put_object(**name, Body=b"%d" % n, IfNoneMatch="*")
                return n
            except botocore.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "OperationAborted"), error

        for _ in range(5):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                [winner] = [n for n in pool.map(first, range(8)) if n is not None]
            assert _read(s3) == b"%d" % winner
            s3.delete_object(**name)


def _listed(keys, prefix="", delimiter="", after=""):
    """What a list must say: entries in order, a common prefix as a pair."""
    found = []
    for key in sorted(keys):
        if not key.startswith(prefix) or key <= after:
            continue
        if delimiter and delimiter in key[len(prefix):]:
            common = prefix + key[len(prefix):].split(delimiter)[0] + delimiter
            if common > after and (common,) not in found:
                found.append((common,))
        else:
            found.append(key)
    return found


def _pages(call, size, step, **rest):
    """All pages of a list, of `size` entries at most; `step` makes the next request's parameters."""
    found, extra = [], {}
    for _ in range(10_000):
        page = call(Bucket="bkt", MaxKeys=size, **(rest | extra))
        entries = [o["Key"] for o in page.get("Contents", [])] + [(p["Prefix"],) for p in page.get("CommonPrefixes", [])]
        assert len(entries) <= size and page["MaxKeys"] == size
        assert page.get("KeyCount", len(entries)) == len(entries)
        found += sorted(entries, key=lambda e: e[0] if isinstance(e, tuple) else e)
        if not page["IsTruncated"]:
            assert not page.get("NextMarker") and not page.get("NextContinuationToken")
            return found
        assert len(entries) == size
        extra = step(page)
    raise AssertionError("a list without an end")


def lists_with_prefix_delimiter_and_pages():
    with Server() as s:
        s3 = _client(s, max_pool_connections=16)
        refused("NoSuchBucket", s3.list_objects_v2, Bucket="none", status=404)
        refused("NoSuchBucket", s3.list_objects, Bucket="none", status=404)
        refused("InvalidArgument", s3.list_objects_v2, Bucket="bkt", ContinuationToken="%%%", status=400)
        refused("InvalidArgument", s3.list_objects_v2, Bucket="bkt", MaxKeys=-1, status=400)
        refused("InvalidArgument", s3.list_objects, Bucket="bkt", EncodingType="base64", status=400)
        assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 0
        keys = ["a", "a/", "a/b", "a/b/c", "a/b/d", "a/c", "a0", "b/", "b//", "b/x/y", "c--d--e", "c--f", "ä/ö", "ä/ü", "z/\U0001f600",
                "z/\uffee", "with space/+plus", "%2F", "~"]
        many = [f"many/{n:05d}" for n in range(2_050)]
        s3.put_object(Bucket="bkt", Key="a", Body=b"content")
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: s3.put_object(Bucket="bkt", Key=key, Body=b""), keys[1:] + many))
        everything = keys + many

        token = lambda page: {"ContinuationToken": page["NextContinuationToken"]}
        marker = lambda page: {"Marker": page.get("NextMarker") or page["Contents"][-1]["Key"]}
        for size in 1000, 999:
            assert _pages(s3.list_objects_v2, size, token) == _listed(everything)
            assert _pages(s3.list_objects, size, marker) == _listed(everything)
        assert len(s3.list_objects_v2(Bucket="bkt", MaxKeys=5000)["Contents"]) == 1000
        for prefix in "", "a", "a/", "a/b", "b/", "c--", "many/", "z/", "ä", "none":
            for delimiter in "/", "--", "b", "":
                if prefix in ("", "many/") and delimiter in ("", "--", "b"):
                    continue
                rest = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
                expected = _listed(everything, prefix, delimiter)
                for size in (1000,) if prefix == "many/" else (1, 2, 3, 1000):
                    assert _pages(s3.list_objects_v2, size, token, **rest) == expected, (rest, size)
                    assert _pages(s3.list_objects, size, marker, **rest) == expected, (rest, size)
        for after in "a", "a/b", "a/b/", "many", "many/01999", "z/\uffee", "~", "\U0010ffff":
            expected = _listed(everything, after=after)
            assert _pages(s3.list_objects_v2, 1000, token, StartAfter=after) == expected, after
            assert _pages(s3.list_objects, 1000, marker, Marker=after) == expected, after
            expected = _listed(everything, "", "/", after)
            page = s3.list_objects_v2(Bucket="bkt", Delimiter="/", StartAfter=after)
            found = [o["Key"] for o in page.get("Contents", [])] + [(p["Prefix"],) for p in page.get("CommonPrefixes", [])]
            # Whether a prefix that the start is within is said again is nobody's promise.
            within = {e for e in found if isinstance(e, tuple) and after.startswith(e[0])}
            assert page["StartAfter"] == after and set(found) - within == set(expected), (after, found, expected)
        assert s3.list_objects_v2(Bucket="bkt", MaxKeys=0)["KeyCount"] == 0
        assert s3.list_objects_v2(Bucket="bkt", MaxKeys=0)["IsTruncated"] is False

        [entry] = s3.list_objects_v2(Bucket="bkt", Prefix="a", MaxKeys=1, FetchOwner=True)["Contents"]
        head = s3.head_object(Bucket="bkt", Key="a")
        assert (entry["Key"], entry["Size"], entry["ETag"], entry["StorageClass"]) == ("a", 7, head["ETag"], "STANDARD")
        assert entry["Owner"]["ID"] and abs((entry["LastModified"] - head["LastModified"]).total_seconds()) < 1
        assert "Owner" not in s3.list_objects_v2(Bucket="bkt", MaxKeys=1)["Contents"][0]

        # As the names are on the wire, with encoding and without: boto3 hides it.
        def raw(**rest):
            url = s3.generate_presigned_url("list_objects_v2", Params={"Bucket": "bkt"} | rest)
            url = url.replace("encoding-type=url&", "") if "EncodingType" not in rest else url
            return urllib.request.urlopen(url).read().decode()

        assert "<Key>with%20space/%2Bplus</Key>" in raw(Prefix="with", EncodingType="url").replace("with+space", "with%20space")
        encoded = raw(Prefix="ä/", Delimiter="ö", EncodingType="url")
        assert "<Prefix>%C3%A4/%C3%B6</Prefix>" in encoded and "<Delimiter>%C3%B6</Delimiter>" in encoded, encoded
        assert "<Key>%252F</Key>" in raw(Prefix="%", EncodingType="url")
        assert "<EncodingType>url</EncodingType>" in encoded


def strange_keys_come_back():
    with Server() as s:
        s3 = _client(s)
        for too_long in "k" * 1025, "ü" * 513:
            name = dict(Bucket="bkt", Key=too_long)
            refused("KeyTooLongError", s3.put_object, **name, Body=b"x", status=400)
            refused("KeyTooLongError", s3.create_multipart_upload, **name, status=400)
        assert _keys(s3) == []
        writable = ["ünï/çødé", "日本語", "\U0001f600", "a b", " lead", "trail ", "a+b", "a%b", "a%2Fb", "a%252Fb", "%", "a/b", "a//b", "a///b",
                    "//", "/", "/a", "//a", "a/", "a/.", "a/..", "..", ".", "../a", "a/../b", "./a", "a/./b", "?q=1", "a&b", "#", ";", "'\"<>&",
                    "\\", "a\\b", "\tb", "a\nb", "a\rb", "e\u0301", "é", "\u202e", "\ufeffa", "k" * 1024, "ü" * 512, "*", "~", "a=b", "@:!$()", "null",
                    "uploads", "k?versionId=null"]
        control = ["\x01", "a\x1fb", "\x7f", "\x80", "a\x0bb"]
        for number, key in enumerate(writable + control):
            s3.put_object(Bucket="bkt", Key=key, Body=b"%d" % number, Metadata={"n": str(number)})
        for number, key in enumerate(writable + control):
            assert _read(s3, key) == b"%d" % number, key
            assert s3.head_object(Bucket="bkt", Key=key)["Metadata"] == {"n": str(number)}, key
        assert _keys(s3) == sorted(writable + control)
        for key in "a/b/c", "A/b", "a b ", "k" * 1023, "e", "b":
            refused("NoSuchKey", s3.get_object, Bucket="bkt", Key=key)
        # By copy, by URL, as an upload, with KMS (whose context names the key), and away.
        for key in writable + control:
            body = _read(s3, key)
            s3.copy_object(Bucket="bkt", Key="copied", CopySource={"Bucket": "bkt", "Key": key})
            assert _read(s3, "copied") == body, key
            url = s3.generate_presigned_url("get_object", Params={"Bucket": "bkt", "Key": key})
            if not any(dots in ("/" + key).split("/") for dots in (".", "..")):
                assert urllib.request.urlopen(url).read() == body, key
            s3.copy_object(Bucket="bkt", Key=key, CopySource="bkt/copied", **KMS)
            assert _read(s3, key) == body, key
        s3.delete_object(Bucket="bkt", Key="copied")
        for key in "a/../b", "日本語", "/a", "a\rb":
            upload = s3.create_multipart_upload(Bucket="bkt", Key=key)
            assert upload["Key"] == key, upload
            assert [u["Key"] for u in s3.list_multipart_uploads(Bucket="bkt")["Uploads"]] == [key]
            part = s3.upload_part(Bucket="bkt", Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"mpu")["ETag"]
            s3.complete_multipart_upload(Bucket="bkt", Key=key, UploadId=upload["UploadId"],
                                         MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
            assert _read(s3, key) == b"mpu"
        answer = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": key} for key in writable]})
        assert sorted(d["Key"] for d in answer["Deleted"]) == sorted(writable), answer
        assert _keys(s3) == sorted(control)
        for key in control:
            s3.delete_object(Bucket="bkt", Key=key)
        assert _keys(s3) == []


def copies_share_the_sealed_bytes():
    with Server(config="garbage_grace_s = 0\nmaintenance_s = 1") as s:
        s3 = _client(s)
        s3.create_bucket(Bucket="other")
        body, big = noise(200_000), noise(PART + 70_000, 1)
        copy = lambda key, source, **rest: s3.copy_object(Bucket="bkt", Key=key, CopySource=source, **rest)
        refused("NoSuchKey", copy, "c", "bkt/none", status=404)
        refused("NoSuchBucket", copy, "c", "none/k", status=404)
        first = s3.put_object(Bucket="bkt", Key="k", Body=body)
        refused("NoSuchBucket", s3.copy_object, Bucket="none", Key="c", CopySource="bkt/k", status=404)
        refused("InvalidRequest", copy, "k", "bkt/k", status=400)
        refused("NoSuchVersion", copy, "c", "bkt/k?versionId=3", status=404)
        at = s3.head_object(Bucket="bkt", Key="k")["LastModified"]
        for condition in (dict(CopySourceIfMatch='"none"'), dict(CopySourceIfNoneMatch=first["ETag"]), dict(CopySourceIfModifiedSince=at),
                          dict(CopySourceIfUnmodifiedSince=datetime.datetime(2020, 1, 1))):
            refused("PreconditionFailed", copy, "c", "bkt/k", **condition, status=412)
        assert _keys(s3) == ["k"]

        _upload(s3, [big[:PART], big[PART:]], "m", KMS)
        sealed = {path: path.read_bytes() for path in s.blobs()}
        assert len(sealed) == 3
        assert copy("c", "bkt/k", CopySourceIfMatch=first["ETag"])["CopyObjectResult"]["ETag"] == first["ETag"]
        copy("kms", "/bkt/k", **KMS)
        copy("kms2", "bkt/kms", **KMS)
        copy("customer", "bkt/k", **customer_key())
        copy("k", "bkt/k", MetadataDirective="REPLACE", Metadata={"new": "yes"})
        copy("m2", "bkt/m")
        s3.copy_object(Bucket="other", Key="k", CopySource="bkt/k")
        assert {path: path.read_bytes() for path in s.blobs()} == sealed
        assert s3.head_object(Bucket="bkt", Key="k")["Metadata"] == {"new": "yes"}
        assert "-" not in _etag(s3.head_object(Bucket="bkt", Key="m2"))

        # The source goes, the copies stay; with the last of them go the bytes.
        for key in "k", "kms", "m":
            s3.delete_object(Bucket="bkt", Key=key)
        s.stop()
        s.start()
        s3 = s.client(signature_version="s3v4")
        assert {path: path.read_bytes() for path in s.blobs()} == sealed
        for key in "c", "kms2":
            assert _read(s3, key) == body
        assert _read(s3, "customer", **customer_key()) == body
        assert s3.get_object(Bucket="other", Key="k")["Body"].read() == body
        assert _read(s3, "m2") == big and _read(s3, "m2", Range=f"bytes={PART - 1}-{PART}") == big[PART - 1:PART + 1]
        for key in "c", "kms2", "customer", "m2":
            s3.delete_object(Bucket="bkt", Key=key)

        def count(expected):
            assert len(s.blobs()) == expected, s.blobs()

        eventually(lambda: count(1))
        assert s3.get_object(Bucket="other", Key="k")["Body"].read() == body
        s3.put_object(Bucket="other", Key="k", Body=b"new")
        s3.delete_object(Bucket="other", Key="k")
        eventually(lambda: count(0))


def copies_between_kinds_of_encryption():
    with Server() as s:
        s3, kms = _client(s), s.client("kms")
        one, two = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        body = noise(150_000)
        etags = [_etag(s3.put_object(Bucket="bkt", Key="k", Body=body))]
        assert etags == [_md5(body)]
        source = {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": customer_key()["SSECustomerKey"]}
        other = {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": customer_key(2)["SSECustomerKey"]}
        context = base64.b64encode(json.dumps({"a": "b"}).encode()).decode()

        def step(read, kind, expected, **rest):
            """Copies in place, and looks at it from all sides."""
            answer = s3.copy_object(Bucket="bkt", Key="k", CopySource="bkt/k", **kind, **rest)
            assert {name: answer.get(name) for name in expected} == expected, answer
            got = s3.get_object(Bucket="bkt", Key="k", **read)
            assert got["Body"].read() == body
            assert _etag(got) == _etag(answer["CopyObjectResult"])
            for name in "ServerSideEncryption", "SSEKMSKeyId", "SSECustomerAlgorithm":
                assert got.get(name) == answer.get(name), (name, got)
            assert len(s.blobs()) == 1
            etags.append(_etag(got))

        step({}, KMS | {"SSEKMSKeyId": one}, KMS | {"SSEKMSKeyId": one})
        step({}, KMS | {"SSEKMSKeyId": two, "SSEKMSEncryptionContext": context},
             KMS | {"SSEKMSKeyId": two, "SSEKMSEncryptionContext": context})
        # The context is not copied; the key is named anew by each copy.
        answer = s3.copy_object(Bucket="bkt", Key="plain", CopySource="bkt/k")
        assert answer["ServerSideEncryption"] == "AES256" and "SSEKMSEncryptionContext" not in answer
        assert _etag(answer["CopyObjectResult"]) == _md5(body)
        s3.delete_object(Bucket="bkt", Key="plain")
        step(customer_key(), customer_key(), {"SSECustomerAlgorithm": "AES256"})
        refused("InvalidRequest", s3.copy_object, Bucket="bkt", Key="c", CopySource="bkt/k", status=400)
        refused("AccessDenied", s3.copy_object, Bucket="bkt", Key="c", CopySource="bkt/k", **other, status=403)
        refused("InvalidRequest", s3.get_object, Bucket="bkt", Key="k", status=400)
        assert _keys(s3) == ["k"]
        step(customer_key(2), customer_key(2), {"SSECustomerAlgorithm": "AES256"}, **source)
        step({}, KMS, KMS, **other)
        step({}, KMS, KMS)
        assert len(set(etags)) == len(etags), etags
        step({}, {"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "AES256"})
        assert etags[-1] == etags[0] == _md5(body)
        # A key that cannot be used stops a copy from and to it; what is there stays.
        s3.copy_object(Bucket="bkt", Key="one", CopySource="bkt/k", **KMS, SSEKMSKeyId=one)
        kms.disable_key(KeyId=one)
        refused("KMS.DisabledException", s3.copy_object, Bucket="bkt", Key="c", CopySource="bkt/one", status=400)
        refused("KMS.DisabledException", s3.copy_object, Bucket="bkt", Key="k", CopySource="bkt/k", **KMS, SSEKMSKeyId=one, status=400)
        assert _keys(s3) == ["k", "one"] and _read(s3) == body
        # The default of the target's bucket holds for a copy that says nothing.
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": two}}
        s3.put_bucket_encryption(Bucket="bkt", ServerSideEncryptionConfiguration={"Rules": [rule]})
        assert s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/k")["SSEKMSKeyId"] == two
        assert _read(s3, "c") == body
        assert s3.head_object(Bucket="bkt", Key="k")["ServerSideEncryption"] == "AES256"


def customer_keys():
    with Server() as s:
        s3 = _client(s)
        key, other = customer_key(), customer_key(2)
        name = dict(Bucket="bkt", Key="k")
        body = noise(150_000)
        fingerprint = base64.b64encode(hashlib.md5(key["SSECustomerKey"]).digest()).decode()
        # Where a fingerprint is given, and where a multipart upload is completed, boto3 encodes nothing.
        encoded = key | {"SSECustomerKey": base64.b64encode(key["SSECustomerKey"]).decode()}

        # Nothing is written by a request that is wrong.
        messages = set()
        messages.add(refused("InvalidArgument", s3.put_object, **name, Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 31, status=400))
        messages.add(refused("InvalidArgument", s3.put_object, **name, Body=b"x", **encoded, SSECustomerKeyMD5="AAAAAAAAAAAAAAAAAAAAAA==", status=400))
        messages.add(refused("InvalidArgument", s3.put_object, **name, Body=b"x", **key, **KMS, status=400))
        assert len(messages) == 3, messages
        refused("InvalidArgument", s3.put_object, **name, Body=b"x", **key, ServerSideEncryption="AES256", status=400)
        refused("InvalidEncryptionAlgorithmError", s3.put_object, **name, Body=b"x", **(key | {"SSECustomerAlgorithm": "AES128"}), status=400)
        for missing in "algorithm", "key", "key_MD5":
            with _Headers(s3, **{f"x_amz_server_side_encryption_customer_{missing}": None}):
                refused("InvalidArgument", s3.put_object, **name, Body=b"x", **key, status=400)
        assert _keys(s3) == [] and s.blobs() == []

        put = s3.put_object(**name, Body=body, **key)
        assert put["SSECustomerAlgorithm"] == "AES256" and put["SSECustomerKeyMD5"] == fingerprint
        assert "ServerSideEncryption" not in put and _etag(put) != _md5(body)

        message = refused("InvalidRequest", s3.get_object, **name, status=400)
        assert message == ("The object was stored using a form of Server Side Encryption. "
                           "The correct parameters must be provided to retrieve the object."), message
        message = refused("AccessDenied", s3.get_object, **name, **other, status=403)
        assert "must provide the correct secret key." in message, message
        refused("InvalidEncryptionAlgorithmError", s3.get_object, **name, **(key | {"SSECustomerAlgorithm": "AES128"}), status=400)
        refused("400", s3.head_object, **name, status=400)
        refused("403", s3.head_object, **name, **other, status=403)
        refused("400", s3.head_object, **name, **(key | {"SSECustomerAlgorithm": "AES128"}), status=400)
        refused("InvalidArgument", s3.get_object, **name, **encoded, SSECustomerKeyMD5="AAAAAAAAAAAAAAAAAAAAAA==", status=400)
        s3.put_object(Bucket="bkt", Key="plain", Body=b"x")
        refused("InvalidRequest", s3.get_object, Bucket="bkt", Key="plain", **key, status=400)
        refused("400", s3.head_object, Bucket="bkt", Key="plain", **key, status=400)
        s3.delete_object(Bucket="bkt", Key="plain")

        get, head = s3.get_object(**name, **key), s3.head_object(**name, **key)
        for answer in get, head:
            assert answer["SSECustomerAlgorithm"] == "AES256" and answer["SSECustomerKeyMD5"] == fingerprint
            assert "ServerSideEncryption" not in answer and answer["ETag"] == put["ETag"]
        assert get["Body"].read() == body
        assert _read(s3, **key, Range="bytes=65535-65536") == body[65_535:65_537]

        # Multipart: every part with the key that began it.
        upload = s3.create_multipart_upload(**name, **key)
        assert upload["SSECustomerKeyMD5"] == fingerprint
        part = dict(**name, UploadId=upload["UploadId"], PartNumber=1)
        without = refused("InvalidRequest", s3.upload_part, **part, Body=b"x", status=400)
        assert without.startswith("The multipart upload initiate requested encryption."), without
        refused("InvalidRequest", s3.upload_part_copy, **part, CopySource="bkt/k", CopySourceSSECustomerAlgorithm="AES256",
                CopySourceSSECustomerKey=key["SSECustomerKey"], status=400)
        wrong = refused("InvalidRequest", s3.upload_part, **part, Body=b"x", **other, status=400)
        assert wrong != without, wrong
        assert "Parts" not in s3.list_parts(**name, UploadId=upload["UploadId"])
        big = noise(PART, 2)
        parts = []
        for number, piece in enumerate([big, b"tail"], 1):
            answer = s3.upload_part(**part | {"PartNumber": number}, Body=piece, **key)
            assert answer["SSECustomerKeyMD5"] == fingerprint
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        complete = dict(**name, UploadId=upload["UploadId"], MultipartUpload={"Parts": parts})
        s3.complete_multipart_upload(**complete, **encoded, SSECustomerKeyMD5=fingerprint)
        refused("InvalidRequest", s3.get_object, **name, status=400)
        refused("AccessDenied", s3.get_object, **name, **other, status=403)
        assert _read(s3, **key) == big + b"tail"
        plain = s3.create_multipart_upload(**name)["UploadId"]
        refused("InvalidRequest", s3.upload_part, **name, UploadId=plain, PartNumber=1, Body=b"x", **key, status=400)

        # Copy, from one customer to another.
        source = {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": key["SSECustomerKey"]}
        wrong = source | {"CopySourceSSECustomerKey": other["SSECustomerKey"]}
        copy = dict(Bucket="bkt", Key="copy", CopySource="bkt/k")
        refused("InvalidRequest", s3.copy_object, **copy, **other, status=400)
        refused("AccessDenied", s3.copy_object, **copy, **wrong, **other, status=403)
        assert _keys(s3) == ["k"]
        s3.copy_object(**copy, **source, **other)
        refused("AccessDenied", s3.get_object, Bucket="bkt", Key="copy", **key, status=403)
        assert _read(s3, "copy", **other) == big + b"tail" and _read(s3, **key) == big + b"tail"

        # Without the fingerprint a read is refused as one with the wrong key is (recorded).
        with _Headers(s3, x_amz_server_side_encryption_customer_key_MD5=None):
            refused("AccessDenied", s3.get_object, **name, **key, status=403)


def checksums_of_every_algorithm():
    assert _sum("CRC32C", b"123456789") == base64.b64encode(0xE3069283.to_bytes(4, "big")).decode()
    assert _sum("CRC64NVME", b"123456789") == base64.b64encode(0xAE8B14860A799888.to_bytes(8, "big")).decode()
    with Server() as s:
        s3 = _client(s, request_checksum_calculation="when_required", response_checksum_validation="when_required")
        name = dict(Bucket="bkt", Key="k")
        body = noise(150_000)
        field = lambda algorithm: f"Checksum{algorithm}"
        for algorithm in ALGORITHMS:
            wrong = _sum(algorithm, body[1:])
            refused("BadDigest", s3.put_object, **name, Body=body, **{field(algorithm): wrong}, status=400)
            refused("InvalidRequest", s3.put_object, **name, Body=body, **{field(algorithm): wrong[4:]}, status=400)
            refused("InvalidRequest", s3.put_object, **name, Body=body, **{field(algorithm): "%" * len(wrong)}, status=400)
            with _Headers(s3, x_amz_sdk_checksum_algorithm=algorithm):
                refused("InvalidRequest", s3.put_object, **name, Body=body, status=400)
        refused("BadDigest", s3.put_object, **name, Body=body, ContentMD5=base64.b64encode(bytes(16)).decode(), status=400)
        refused("InvalidDigest", s3.put_object, **name, Body=body, ContentMD5="AAAA", status=400)
        right = {field(a): _sum(a, body) for a in ("CRC32", "SHA256")}
        refused("InvalidRequest", s3.put_object, **name, Body=body, **right, status=400)
        with _Headers(s3, x_amz_sdk_checksum_algorithm="CRC32"):
            refused("InvalidRequest", s3.put_object, **name, Body=body, ChecksumSHA256=right["ChecksumSHA256"], status=400)
        with _Headers(s3, x_amz_sdk_checksum_algorithm="MD4"):
            refused("InvalidRequest", s3.put_object, **name, Body=body, status=400)
        assert _keys(s3) == [] and s.blobs() == []

        def only(answer, algorithm, value):
            assert {a: answer.get(field(a)) for a in ALGORITHMS if answer.get(field(a))} == {algorithm: value}, (algorithm, answer)
            assert answer["ChecksumType"] == "FULL_OBJECT"

        for kind, read in ({}, {}), (KMS, {}), (customer_key(), customer_key()):
            for algorithm in ALGORITHMS:
                value = _sum(algorithm, body)
                only(s3.put_object(**name, Body=body, **{field(algorithm): value}, **kind), algorithm, value)
                got = s3.get_object(**name, ChecksumMode="ENABLED", **read)
                assert got["Body"].read() == body
                only(got, algorithm, value)
                only(s3.head_object(**name, ChecksumMode="ENABLED", **read), algorithm, value)
                for silent in (s3.head_object(**name, **read), s3.get_object(**name, **read),
                               s3.get_object(**name, ChecksumMode="ENABLED", Range="bytes=0-9", **read)):
                    assert not any(silent.get(field(a)) for a in ALGORITHMS), silent
        [entry] = s3.list_objects_v2(Bucket="bkt")["Contents"]
        assert entry["ChecksumAlgorithm"] == ["SHA256"] and entry["ChecksumType"] == "FULL_OBJECT"
        # Who says nothing gets AWS's default; a copy keeps the algorithm or takes the one that is asked for.
        s3.put_object(**name, Body=body, ContentMD5=base64.b64encode(hashlib.md5(body).digest()).decode())
        only(s3.head_object(**name, ChecksumMode="ENABLED"), "CRC64NVME", _sum("CRC64NVME", body))
        result = s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/k")["CopyObjectResult"]
        only(result, "CRC64NVME", _sum("CRC64NVME", body))
        for algorithm in ALGORITHMS:
            result = s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/k", ChecksumAlgorithm=algorithm)["CopyObjectResult"]
            only(result, algorithm, _sum(algorithm, body))
            only(s3.head_object(Bucket="bkt", Key="c", ChecksumMode="ENABLED"), algorithm, _sum(algorithm, body))
        s3.put_object(**name, Body=b"")
        only(s3.head_object(**name, ChecksumMode="ENABLED"), "CRC64NVME", _sum("CRC64NVME", b""))
        # What boto3 computes and validates by itself.
        eager = s.client(signature_version="s3v4")
        for algorithm in "CRC32", "SHA1", "SHA256":
            eager.put_object(**name, Body=body, ChecksumAlgorithm=algorithm)
            assert _read(eager, ChecksumMode="ENABLED") == body


def multipart_rules():
    with Server(config="garbage_grace_s = 0\nmaintenance_s = 1") as s:
        s3 = _client(s)
        name = dict(Bucket="bkt", Key="k")
        s3.put_object(**name, Body=b"old")
        refused("NoSuchBucket", s3.create_multipart_upload, Bucket="none", Key="k", status=404)
        upload = dict(**name, UploadId=s3.create_multipart_upload(**name)["UploadId"])
        put = lambda number, body, **rest: s3.upload_part(**upload | rest, PartNumber=number, Body=body)
        complete = lambda *parts, **rest: s3.complete_multipart_upload(
            **upload | rest, MultipartUpload={"Parts": [{"PartNumber": n, "ETag": e} for n, e in parts]})
        for number in 0, -1, 10_001:
            refused("InvalidArgument", put, number, b"x", status=400)
        unknown = "0" * len(upload["UploadId"])
        for strange in dict(UploadId=unknown), dict(UploadId="no-such-upload"), dict(Key="other"):
            refused("NoSuchUpload", put, 1, b"x", **strange, status=404)
            refused("NoSuchUpload", complete, (1, '"%s"' % _md5(b"x")), **strange, status=404)
            refused("NoSuchUpload", s3.list_parts, **upload | strange, status=404)
            refused("NoSuchUpload", s3.abort_multipart_upload, **upload | strange, status=404)
        a, b, tail = noise(PART), noise(PART + 1, 1), b"tail"
        replaced = put(2, b"replaced later")["ETag"]
        small, first, second, last = (put(n, body)["ETag"] for n, body in ((1, b"small"), (2, a), (5, b), (10_000, tail)))
        assert first == f'"{_md5(a)}"'
        refused("EntityTooSmall", complete, (1, small), (2, first), status=400)
        refused("InvalidPartOrder", complete, (5, second), (2, first), status=400)
        refused("InvalidPartOrder", complete, (2, first), (2, first), status=400)
        refused("InvalidPart", complete, (2, replaced), (5, second), status=400)
        refused("InvalidPart", complete, (2, first), (3, second), status=400)
        refused("InvalidPart", complete, (2, second), status=400)
        refused("InvalidRequest", complete, (2, first), (10_000, last), MpuObjectSize=PART, status=400)
        assert s3.head_object(**name)["ContentLength"] == 3 and _read(s3) == b"old"

        listed = s3.list_parts(**upload)
        assert [(p["PartNumber"], p["ETag"], p["Size"]) for p in listed["Parts"]] == [
            (1, small, 5), (2, first, PART), (5, second, PART + 1), (10_000, last, 4)]
        page = s3.list_parts(**upload, MaxParts=2, PartNumberMarker=1)
        assert [p["PartNumber"] for p in page["Parts"]] == [2, 5] and page["IsTruncated"] and page["NextPartNumberMarker"] == 5
        page = s3.list_parts(**upload, MaxParts=2, PartNumberMarker=5)
        assert [p["PartNumber"] for p in page["Parts"]] == [10_000] and not page["IsTruncated"]
        refused("InvalidArgument", s3.list_parts, **upload, MaxParts=-1, status=400)

        done = complete((2, first), (5, second), (10_000, last), MpuObjectSize=2 * PART + 1 + len(tail))
        digests = b"".join(hashlib.md5(body).digest() for body in (a, b, tail))
        assert _etag(done) == f"{_md5(digests)}-3" and done["Key"] == "k"
        assert _read(s3) == a + b + tail
        # Parts keep their numbers.
        assert _read(s3, PartNumber=2) == a and _read(s3, PartNumber=10_000) == tail
        assert s3.head_object(**name, PartNumber=5)["PartsCount"] == 3
        for number in 1, 3:
            refused("InvalidPartNumber", s3.get_object, **name, PartNumber=number, status=416)
        refused("NoSuchUpload", put, 1, b"x", status=404)
        assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")

        def three_blobs():
            assert len(s.blobs()) == 3, s.blobs()

        eventually(three_blobs)
        # Uploads in the list, in pages; then all aborted.
        ids = [(key, s3.create_multipart_upload(Bucket="bkt", Key=key)["UploadId"]) for key in ("x/1", "x/2", "y", "y", "y")]
        found, marker = [], {}
        for _ in range(10):
            page = s3.list_multipart_uploads(Bucket="bkt", MaxUploads=2, **marker)
            found += [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])]
            if not page["IsTruncated"]:
                break
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        assert sorted(found) == sorted(ids) and [k for k, _ in found] == sorted(k for k, _ in ids), (found, ids)
        page = s3.list_multipart_uploads(Bucket="bkt", Delimiter="/")
        assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["x/"] and len(page["Uploads"]) == 3
        assert len(s3.list_multipart_uploads(Bucket="bkt", Prefix="x/")["Uploads"]) == 2
        refused("InvalidArgument", s3.list_multipart_uploads, Bucket="bkt", KeyMarker="x", UploadIdMarker="%%", status=400)
        for key, id in ids:
            s3.abort_multipart_upload(Bucket="bkt", Key=key, UploadId=id)
            refused("NoSuchUpload", s3.abort_multipart_upload, Bucket="bkt", Key=key, UploadId=id, status=404)
        assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")
        assert _keys(s3) == ["k"]


def multipart_checksums():
    with Server() as s:
        s3 = _client(s, request_checksum_calculation="when_required", response_checksum_validation="when_required")
        name = dict(Bucket="bkt", Key="k")
        bodies = [noise(PART), b"tail of it"]
        refused("InvalidRequest", s3.create_multipart_upload, **name, ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT", status=400)
        refused("InvalidRequest", s3.create_multipart_upload, **name, ChecksumAlgorithm="SHA1", ChecksumType="FULL_OBJECT", status=400)
        refused("InvalidRequest", s3.create_multipart_upload, **name, ChecksumAlgorithm="CRC64NVME", ChecksumType="COMPOSITE", status=400)
        refused("InvalidRequest", s3.create_multipart_upload, **name, ChecksumAlgorithm="MD4", status=400)
        kinds = [(a, "FULL_OBJECT") for a in ALGORITHMS[:3]] + [(a, "COMPOSITE") for a in ALGORITHMS if a != "CRC64NVME"]
        for (algorithm, kind), sse in zip(kinds, [{}, KMS] * 4):
            field = f"Checksum{algorithm}"
            if kind == "COMPOSITE":
                raw = b"".join(_digest(algorithm, body) for body in bodies)
                expected, bad = f"{_sum(algorithm, raw)}-2", f"{_sum(algorithm, b'bad')}-2"
            else:
                expected, bad = _sum(algorithm, b"".join(bodies)), _sum(algorithm, b"bad")
            created = s3.create_multipart_upload(**name, ChecksumAlgorithm=algorithm, ChecksumType=kind, **sse)
            assert (created["ChecksumAlgorithm"], created["ChecksumType"]) == (algorithm, kind)
            upload = dict(**name, UploadId=created["UploadId"])
            refused("BadDigest", s3.upload_part, **upload, PartNumber=1, Body=b"x", **{field: _sum(algorithm, b"y")}, status=400)
            another = next(a for a in ("CRC32", "SHA256") if a != algorithm)
            refused("InvalidRequest", s3.upload_part, **upload, PartNumber=1, Body=b"x", **{f"Checksum{another}": _sum(another, b"x")}, status=400)
            assert "Parts" not in s3.list_parts(**upload)
            parts = []
            for number, body in enumerate(bodies, 1):
                value = _sum(algorithm, body)
                answer = s3.upload_part(**upload, PartNumber=number, Body=body, **{field: value})
                assert answer[field] == value
                parts.append({"PartNumber": number, "ETag": answer["ETag"], field: value})
            complete = lambda parts, **rest: s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **rest)
            wrong = [parts[0], parts[1] | {field: _sum(algorithm, b"bad")}]
            refused("InvalidPart", complete, wrong, status=400)
            refused("BadDigest", complete, parts, **{field: bad}, status=400)
            refused("InvalidRequest", complete, parts, **{f"Checksum{another}": _sum(another, b"x")}, status=400)
            refused("InvalidRequest", complete, parts, ChecksumType="COMPOSITE" if kind == "FULL_OBJECT" else "FULL_OBJECT", status=400)
            assert _keys(s3) == []
            done = complete(parts, ChecksumType=kind, **{field: expected})
            assert done[field] == expected and done["ChecksumType"] == kind, done
            head = s3.head_object(**name, ChecksumMode="ENABLED")
            assert head[field] == expected and head["ChecksumType"] == kind, head
            got = s3.get_object(**name, ChecksumMode="ENABLED")
            assert got["Body"].read() == b"".join(bodies) and got[field] == expected
            # A copy is one piece: its checksum is that of the whole.
            result = s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/k")["CopyObjectResult"]
            assert result[field] == _sum(algorithm, b"".join(bodies)) and result["ChecksumType"] == "FULL_OBJECT", result
            for key in "k", "c":
                s3.delete_object(Bucket="bkt", Key=key)
        # Who says nothing has the default, full: no part needs a checksum of its own.
        _, _, done = _upload(s3, bodies)
        assert done["ChecksumCRC64NVME"] == _sum("CRC64NVME", b"".join(bodies)) and done["ChecksumType"] == "FULL_OBJECT"


def part_copies():
    with Server() as s:
        s3 = _client(s)
        key = customer_key()
        body = noise(PART + 200_000)
        first = s3.put_object(Bucket="bkt", Key="s3", Body=body)["ETag"]
        s3.put_object(Bucket="bkt", Key="kms", Body=body, **KMS)
        s3.put_object(Bucket="bkt", Key="customer", Body=body, **key)
        source_key = {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": key["SSECustomerKey"]}
        name = dict(Bucket="bkt", Key="k")
        for kind, read in ({}, {}), (KMS, {}), (key, key):
            created = s3.create_multipart_upload(**name, **kind)
            upload = dict(**name, UploadId=created["UploadId"], **read)
            copy = lambda number, source, **rest: s3.upload_part_copy(**upload, PartNumber=number, CopySource=f"bkt/{source}", **rest)
            refused("NoSuchKey", copy, 1, "none", status=404)
            refused("NoSuchUpload", s3.upload_part_copy, **upload | {"UploadId": "0" * 32}, PartNumber=1, CopySource="bkt/s3", status=404)
            refused("InvalidRequest", copy, 1, "customer", status=400)
            refused("PreconditionFailed", copy, 1, "s3", CopySourceIfMatch='"none"', status=412)
            refused("PreconditionFailed", copy, 1, "s3", CopySourceIfNoneMatch=first, status=412)
            for bad in f"bytes=0-{len(body)}", "bytes=5-", "bytes=-5", "bytes=5-4", "0-5", f"bytes={len(body)}-{len(body) + 1}":
                refused("InvalidArgument", copy, 1, "s3", CopySourceRange=bad, status=400)
            for number in 0, 10_001:
                refused("InvalidArgument", copy, number, "s3", status=400)
            assert "Parts" not in s3.list_parts(**name, UploadId=created["UploadId"])
            parts, expected = [], b""
            for number, (source, start, end) in enumerate([("s3", 0, len(body)), ("kms", 65_535, 65_535 + PART), ("customer", 1, 1 + PART),
                                                           ("s3", PART - 1, PART + 1)], 1):
                rest = source_key if source == "customer" else {}
                if (start, end) != (0, len(body)):
                    rest = rest | {"CopySourceRange": f"bytes={start}-{end - 1}"}
                answer = copy(number, source, **rest)
                assert answer.get("ServerSideEncryption") == (None if kind is key else kind.get("ServerSideEncryption", "AES256"))
                assert answer.get("SSEKMSKeyId") == created.get("SSEKMSKeyId")
                if not kind:
                    assert _etag(answer["CopyPartResult"]) == _md5(body[start:end])
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
                expected += body[start:end]
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            assert _read(s3, **read) == expected
            assert _read(s3, PartNumber=4, **read) == body[PART - 1:PART + 1]
        # The sources may go: a part is a copy of its own.
        s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": key} for key in ("s3", "kms", "customer")]})
        assert _read(s3, **key) == expected


def deletes_free_the_bytes():
    with Server(config="garbage_grace_s = 0\nmaintenance_s = 1") as s:
        s3 = _client(s)
        name = dict(Bucket="bkt", Key="k")

        def blobs(expected):
            def there():
                assert len(s.blobs()) == expected, s.blobs()

            eventually(there)

        # What was refused leaves nothing.
        refused("BadDigest", s3.put_object, **name, Body=noise(300_000), ContentMD5=base64.b64encode(bytes(16)).decode())
        refused("NoSuchKey", s3.put_object, **name, Body=b"x", IfMatch='"none"')
        blobs(0)
        refused("NoSuchBucket", s3.delete_object, Bucket="none", Key="k", status=404)
        assert s3.delete_object(Bucket="bkt", Key="never")["ResponseMetadata"]["HTTPStatusCode"] == 204
        many = {"Objects": [{"Key": str(n)} for n in range(1001)]}
        refused("MalformedXML", s3.delete_objects, Bucket="bkt", Delete=many, status=400)
        refused("MalformedXML", s3.delete_objects, Bucket="bkt", Delete={"Objects": []}, status=400)
        refused("NoSuchBucket", s3.delete_objects, Bucket="none", Delete={"Objects": [{"Key": "k"}]}, status=404)

        for kind in {}, KMS, customer_key():
            s3.put_object(**name, Body=noise(100_000), **kind)
            blobs(1)
            before = s.blobs()
            s3.put_object(**name, Body=noise(100_000), **kind)
            blobs(1)
            assert s.blobs() != before
            s3.delete_object(**name)
            refused("NoSuchKey", s3.get_object, **name, status=404)
            refused("404", s3.head_object, **name, status=404)
            blobs(0)
        upload = s3.create_multipart_upload(**name)["UploadId"]
        for body in b"one", b"again":
            s3.upload_part(**name, UploadId=upload, PartNumber=1, Body=body)
        s3.upload_part(**name, UploadId=upload, PartNumber=2, Body=b"two")
        blobs(2)
        s3.abort_multipart_upload(**name, UploadId=upload)
        blobs(0)
        _upload(s3, [noise(PART), b"tail"])
        blobs(2)
        s3.delete_object(**name)
        blobs(0)
        keys = [f"{n:02d}" for n in range(20)]
        for key in keys:
            s3.put_object(Bucket="bkt", Key=key, Body=key.encode())
        answer = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": k} for k in keys[:10] + ["never"]]})
        assert [d["Key"] for d in answer["Deleted"]] == keys[:10] + ["never"] and "Errors" not in answer
        answer = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": k} for k in keys[10:]], "Quiet": True})
        assert "Deleted" not in answer and "Errors" not in answer
        assert _keys(s3) == []
        blobs(0)
        s3.delete_bucket(Bucket="bkt")


IMPLEMENTED = set("""AbortMultipartUpload CompleteMultipartUpload CopyObject CreateBucket CreateMultipartUpload
DeleteBucket DeleteBucketEncryption DeleteBucketPolicy DeleteObject DeleteObjects GetBucketEncryption
GetBucketLocation GetBucketPolicy GetObject HeadBucket HeadObject ListBuckets ListMultipartUploads ListObjects
ListObjectsV2 ListParts PutBucketEncryption PutBucketPolicy PutObject UpdateObjectEncryption UploadPart UploadPartCopy""".split())
# For endpoints of another kind.
ELSEWHERE = {"CreateSession", "ListDirectoryBuckets", "WriteGetObjectResponse"}


def _value(shape, name=""):
    """The least that a parameter of this shape can be."""
    if name == "Bucket":
        return "bkt"
    if name == "Key":
        return "k"
    if shape.type_name == "structure":
        members = shape.required_members or list(shape.members)[:1]
        return {member: _value(shape.members[member], member) for member in members}
    if shape.type_name == "list":
        return [_value(shape.member)]
    if shape.type_name == "map":
        return {"a": "b"}
    if shape.type_name == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else "text"
    return {"boolean": True, "blob": b"body", "timestamp": datetime.datetime(2030, 1, 1)}.get(shape.type_name, 1)


def what_is_not_implemented_says_so():
    with Server() as s:
        s3 = _client(s, parameter_validation=False)
        body = noise(70_000)
        etag = s3.put_object(Bucket="bkt", Key="k", Body=body)["ETag"]
        name = dict(Bucket="bkt", Key="k")

        def nothing_happened(what):
            assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bkt"], what
            assert _keys(s3) == ["k"] and s3.head_object(**name)["ETag"] == etag and _read(s3) == body, what

        wrong = []
        model = s3.meta.service_model
        for operation in model.operation_names:
            if operation in IMPLEMENTED | ELSEWHERE:
                continue
            shape = model.operation_model(operation).input_shape
            # All of the body, so that nothing is missing but the implementation.
            parameters = _value(shape) if shape.required_members else {}
            if payload := shape.serialization.get("payload"):
                parameters.setdefault(payload, _value(shape.members[payload], payload))
            method = getattr(s3, next(m for m, o in s3.meta.method_to_api_mapping.items() if o == operation))
            try:
                refused("NotImplemented", method, **parameters, status=501)
            except AssertionError as error:
                wrong.append((operation, str(error)[:200]))
            try:
                nothing_happened(operation)
            except AssertionError:
                wrong.append((operation, "HAD AN EFFECT"))
                s3.delete_object(**name)
                for other in s3.list_buckets()["Buckets"]:
                    s3.delete_bucket(Bucket=other["Name"]) if other["Name"] != "bkt" else None
                etag = s3.put_object(**name, Body=body)["ETag"]

        # Parameters of what is there.
        put = lambda **rest: s3.put_object(**name, Body=b"x", **rest)
        create = lambda **rest: s3.create_multipart_upload(**name, **rest)
        copy = lambda **rest: s3.copy_object(**name, CopySource="bkt/k", MetadataDirective="REPLACE", **rest)
        for parameters in (dict(Tagging="a=b"), dict(ACL="public-read"), dict(GrantRead="id=1"), dict(WebsiteRedirectLocation="/x"),
                           dict(ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=datetime.datetime(2040, 1, 1)),
                           dict(ObjectLockLegalHoldStatus="ON"), dict(ServerSideEncryption="aws:kms:dsse")):
            for call in put, create, copy:
                refused("NotImplemented", call, **parameters, status=501)
        for call in put, create, copy:
            refused("InvalidStorageClass", call, StorageClass="GLACIER", status=400)
        refused("NotImplemented", put, WriteOffsetBytes=5, status=501)
        refused("NotImplemented", copy, TaggingDirective="REPLACE", Tagging="a=b", status=501)
        refused("NotImplemented", s3.delete_object, **name, MFA="1 2", status=501)
        refused("NotImplemented", s3.delete_object, **name, IfMatchSize=1, status=501)
        refused("NotImplemented", s3.delete_object, **name, IfMatchLastModifiedTime=datetime.datetime(2030, 1, 1), status=501)
        refused("NotImplemented", s3.delete_object, **name, BypassGovernanceRetention=True, status=501)
        new = lambda **rest: s3.create_bucket(Bucket="new", **rest)
        refused("NotImplemented", new, ACL="public-read", status=501)
        refused("NotImplemented", new, ObjectLockEnabledForBucket=True, status=501)
        refused("NotImplemented", new, ObjectOwnership="ObjectWriter", status=501)
        refused("NotImplemented", new, CreateBucketConfiguration={"Bucket": {"Type": "Directory"}}, status=501)
        encrypt = lambda **rule: s3.put_bucket_encryption(Bucket="bkt", ServerSideEncryptionConfiguration={"Rules": [rule]})
        by_default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        refused("NotImplemented", encrypt, ApplyServerSideEncryptionByDefault={"SSEAlgorithm": "aws:kms:dsse"}, status=501)
        nothing_happened("parameters")
        [rule] = s3.get_bucket_encryption(Bucket="bkt")["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
        # Blocked kinds of encryption are not stored: so they may not be accepted either.
        try:
            encrypt(**by_default, BlockedEncryptionTypes={"EncryptionType": ["SSE-C"]})
        except botocore.exceptions.ClientError:
            pass
        else:
            wrong.append(("PutBucketEncryption", "BlockedEncryptionTypes was accepted and ignored"))
        assert not wrong, "\n".join(map(str, wrong))


def bad_requests_have_their_codes():
    with Server() as s:
        s3 = _client(s, parameter_validation=False)
        name = dict(Bucket="bkt", Key="k")
        body = dict(Body=b"x")
        # No such bucket, no such key.
        gone = dict(Bucket="none")
        for call, rest in ((s3.get_object, dict(Key="k")), (s3.put_object, dict(Key="k") | body), (s3.delete_object, dict(Key="k")),
                           (s3.list_objects_v2, {}), (s3.list_objects, {}), (s3.get_bucket_location, {}), (s3.get_bucket_encryption, {}),
                           (s3.delete_bucket, {}), (s3.delete_bucket_encryption, {}), (s3.list_multipart_uploads, {}),
                           (s3.create_multipart_upload, dict(Key="k")), (s3.copy_object, dict(Key="k", CopySource="bkt/k"))):
            if call == s3.copy_object:
                s3.put_object(**name, **body)
            refused("NoSuchBucket", call, **gone, **rest, status=404)
        s3.delete_object(**name)
        refused("404", s3.head_bucket, **gone, status=404)
        refused("404", s3.head_object, **gone, Key="k", status=404)
        refused("NoSuchKey", s3.get_object, **name, status=404)
        refused("404", s3.head_object, **name, status=404)

        # Buckets.
        for bad in "ab", "UPPER", "a..b", "a_b", "-ab", "ab-", "192.168.1.1", "a" * 64, ".ab":
            refused("InvalidBucketName", s3.create_bucket, Bucket=bad, status=400)
        refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="bkt", status=409)
        where = lambda region: s3.create_bucket(Bucket="new", CreateBucketConfiguration={"LocationConstraint": region})
        refused("InvalidLocationConstraint", where, "eu-central-1", status=400)
        refused("InvalidLocationConstraint", where, "nowhere", status=400)
        s3.put_object(**name, **body)
        refused("BucketNotEmpty", s3.delete_bucket, Bucket="bkt", status=409)
        rules = lambda *rules: s3.put_bucket_encryption(Bucket="bkt", ServerSideEncryptionConfiguration={"Rules": list(rules)})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        refused("MalformedXML", rules, status=400)
        refused("MalformedXML", rules, rule, rule, status=400)
        refused("MalformedXML", rules, {"BucketKeyEnabled": False}, status=400)
        refused("MalformedXML", rules, {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "ROT13"}}, status=400)
        refused("InvalidArgument", rules, {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256", "KMSMasterKeyID": "k"}}, status=400)
        default = lambda key: rules({"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}})
        default("k" * 2048)
        refused("InvalidArgument", default, "k" * 2049, status=400)
        rules(rule)

        # Owners and versions.
        for call, rest in (s3.get_object, {}), (s3.put_object, body), (s3.delete_object, {}):
            refused("AccessDenied", call, **name, **rest, ExpectedBucketOwner="999999999999", status=403)
        refused("AccessDenied", s3.copy_object, **name | {"Key": "c"}, CopySource="bkt/k", ExpectedSourceBucketOwner="999999999999", status=403)
        refused("NoSuchVersion", s3.get_object, **name, VersionId="3HL4kqtJvjVBH40Nrjfkd", status=404)
        refused("NoSuchVersion", s3.delete_object, **name, VersionId="3HL4kqtJvjVBH40Nrjfkd", status=404)
        errors = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "k", "VersionId": "3HL4"}]})["Errors"]
        assert [e["Code"] for e in errors] == ["NoSuchVersion"]

        # Documents.
        def document(operation, text, **rest):
            """The call with another document than boto3 wrote."""
            def change(request, **_):
                request.data = text
                request.headers["content-md5"] = base64.b64encode(hashlib.md5(text).digest()).decode()
                for header in [h for h in request.headers if h.startswith("x-amz-checksum") or h.startswith("x-amz-sdk")]:
                    del request.headers[header]

            s3.meta.events.register("before-sign.s3", change)
            try:
                return operation(**rest)
            finally:
                s3.meta.events.unregister("before-sign.s3", change)

        upload = s3.create_multipart_upload(**name)["UploadId"]
        calls = ((s3.delete_objects, dict(Bucket="bkt", Delete={"Objects": [{"Key": "k"}]})),
                 (s3.put_bucket_encryption, dict(Bucket="bkt", ServerSideEncryptionConfiguration={"Rules": [rule]})),
                 (s3.complete_multipart_upload, dict(**name, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "e"}]})),
                 (s3.create_bucket, dict(Bucket="new", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})))
        bomb = b'<!DOCTYPE a [<!ENTITY b "k">]><Delete><Object><Key>&b;</Key></Object></Delete>'
        for call, rest in calls:
            for text in b"<", b"no xml", b"<Wrong/>", b"<Delete><Object>", b"\xff\xfe", bomb:
                refused("MalformedXML", document, call, text, **rest, status=400)
        assert _keys(s3) == ["k"] and _read(s3) == b"x"
        assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bkt"]
        with _Headers(s3, content_md5=base64.b64encode(bytes(16)).decode()):
            refused("BadDigest", s3.delete_objects, Bucket="bkt", Delete={"Objects": [{"Key": "k"}]}, status=400)
        assert _keys(s3) == ["k"]
        s3.abort_multipart_upload(**name, UploadId=upload)

        # A refusal that did not wait for the body leaves a connection that goes on, or says that it does not.
        connection = http.client.HTTPConnection(s.address)
        url = s3.generate_presigned_url("put_object", Params={"Bucket": "none", "Key": "k"}).removeprefix(s.endpoint)
        for size in [1] * 20 + [300_000] * 20:
            connection.request("PUT", url, bytes(size))
            response = connection.getresponse()
            assert response.status == 404 and b"NoSuchBucket" in response.read()
        connection.close()

        # The other served region, and the way out.
        s3.create_bucket(Bucket="east", CreateBucketConfiguration={"LocationConstraint": "us-east-1"})
        assert s3.get_bucket_location(Bucket="east")["LocationConstraint"] is None
        assert s3.head_bucket(Bucket="east")["BucketRegion"] == "us-east-1"
        s3.delete_bucket(Bucket="east")
        assert s3.get_object(**name, VersionId="null", ExpectedBucketOwner="000000000000")["Body"].read() == b"x"
        s3.delete_object(**name)
        s3.delete_bucket(Bucket="bkt")


def encryption_headers_have_their_codes():
    with Server() as s:
        s3, kms = _client(s, parameter_validation=False), s.client("kms")
        key = kms.create_key()["KeyMetadata"]["Arn"]
        disabled, pending = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        kms.disable_key(KeyId=disabled)
        kms.schedule_key_deletion(KeyId=pending, PendingWindowInDays=7)
        name = dict(Bucket="bkt", Key="k")
        s3.put_object(Bucket="bkt", Key="source", Body=b"source")
        calls = (lambda **rest: s3.put_object(**name, Body=b"x", **rest),
                 lambda **rest: s3.create_multipart_upload(**name, **rest),
                 lambda **rest: s3.copy_object(**name, CopySource="bkt/source", **rest))
        context = lambda value: base64.b64encode(json.dumps(value).encode()).decode()
        use = lambda key_id: KMS | {"SSEKMSKeyId": key_id}
        with_context = lambda text: use(key) | {"SSEKMSEncryptionContext": text}
        uuid = "12345678-1234-1234-1234-123456789012"

        def all_refuse(code, parameters, status=400, message=""):
            for call in calls:
                found = refused(code, call, **parameters, status=status)
                assert message in found, (parameters, found)

        for algorithm in "AES128", "aes256", "aws:KMS", "":
            with _Headers(s3, x_amz_server_side_encryption=algorithm):
                all_refuse("InvalidArgument", {})
        all_refuse("NotImplemented", {"ServerSideEncryption": "aws:kms:dsse"}, 501)
        all_refuse("InvalidArgument", {"SSEKMSKeyId": key})
        all_refuse("InvalidArgument", {"ServerSideEncryption": "AES256", "SSEKMSKeyId": key})
        all_refuse("InvalidArgument", {"ServerSideEncryption": "AES256", "SSEKMSEncryptionContext": context({"a": "b"})})
        all_refuse("InvalidArgument", {"SSEKMSEncryptionContext": context({"a": "b"})})
        for text in "%%%", "e30", base64.b64encode(b"{").decode(), context([]), context("a"), context({"a": 1}), context({"a": {"b": "c"}}), context(None):
            all_refuse("InvalidArgument", with_context(text))
        with _Headers(s3, x_amz_server_side_encryption_context=base64.b64encode(b'{"a":"\xff"}').decode()):
            all_refuse("InvalidArgument", use(key))
        for arn in "arn:aws:s3:::bkt/other", "arn:aws:s3:::bkt", "":
            all_refuse("InvalidArgument", with_context(context({"aws:s3:arn": arn})))

        all_refuse("KMS.NotFoundException", use("fake-key-id"), message="Invalid keyId 'fake-key-id'")
        all_refuse("KMS.NotFoundException", use(uuid), message="does not exist")
        all_refuse("KMS.NotFoundException", use(key.rsplit("/", 1)[0] + "/" + uuid), message="does not exist")
        all_refuse("KMS.NotFoundException", use(key.replace(":us-west-2:", ":eu-central-1:")), message="Invalid arn")
        all_refuse("KMS.NotFoundException", use("alias/none"))
        all_refuse("KMS.DisabledException", use(disabled), message=f"{disabled} is disabled.")
        all_refuse("KMS.KMSInvalidStateException", use(pending), message=f"{pending} is pending deletion.")
        # Another account's key: nothing is said of whether it is there.
        foreign = key.replace(":000000000000:", ":999999999999:")
        for call in calls:
            try:
                call(**use(foreign))
            except botocore.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] in ("AccessDenied", "KMS.NotFoundException"), error
            else:
                raise AssertionError("a foreign key was used")
        assert _keys(s3) == ["source"] and len(s.blobs()) == 1
        assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")

        # A bucket's default is looked at when it is used, not when it is set.
        def default(**by_default):
            s3.put_bucket_encryption(Bucket="bkt", ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"} | by_default}]})

        default(KMSMasterKeyID="fake-key-id")
        all_refuse("KMS.NotFoundException", {})
        all_refuse("InvalidArgument", {"SSEKMSKeyId": key})
        default(KMSMasterKeyID=disabled)
        all_refuse("KMS.DisabledException", {})
        assert _keys(s3) == ["source"] and "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")
        assert calls[0](ServerSideEncryption="AES256")["ServerSideEncryption"] == "AES256"
        assert calls[0](**use(key))["SSEKMSKeyId"] == key
        default(KMSMasterKeyID=key)
        for call in calls:
            assert call()["SSEKMSKeyId"] == key

        # Reads take no such headers, of any object.
        for source in "source", "k":
            for headers in (dict(x_amz_server_side_encryption="AES256"), dict(x_amz_server_side_encryption="aws:kms"),
                            dict(x_amz_server_side_encryption_aws_kms_key_id=key), dict(x_amz_server_side_encryption_context=context({"a": "b"}))):
                with _Headers(s3, **headers):
                    refused("InvalidArgument", s3.get_object, Bucket="bkt", Key=source, status=400)
                    refused("400", s3.head_object, Bucket="bkt", Key=source, status=400)
        refused("InvalidRequest", s3.get_object, **name, **customer_key(), status=400)

        # What is right is right, and the context is echoed by the writes alone.
        good = context({"aws:s3:arn": "arn:aws:s3:::bkt/k", "a": "ü"})
        for call in calls:
            assert call(**with_context(good))["SSEKMSEncryptionContext"] == good
        for answer in s3.get_object(**name), s3.head_object(**name):
            assert answer["SSEKMSKeyId"] == key
            assert "x-amz-server-side-encryption-context" not in answer["ResponseMetadata"]["HTTPHeaders"]
        assert _read(s3) == b"source"


def a_range_of_another_object_is_not_served():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="bkt")
        old = s3.put_object(Bucket="bkt", Key="k", Body=b"old bytes", ServerSideEncryption="aws:kms")["ETag"]
        new = s3.put_object(Bucket="bkt", Key="k", Body=b"new bytes", ServerSideEncryption="aws:kms")["ETag"]

        def resumed(condition):
            def add(request, **_):
                request.headers.add_header("If-Range", condition)
            s3.meta.events.register("before-sign.s3.GetObject", add)
            answer = s3.get_object(Bucket="bkt", Key="k", Range="bytes=4-")
            s3.meta.events.unregister("before-sign.s3.GetObject", add)
            return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()

        assert resumed(new) == (206, b"bytes")
        assert resumed(old) == (200, b"new bytes")
        assert resumed("Mon, 01 Jan 2001 00:00:00 GMT") == (200, b"new bytes")


def many_copies_of_one_object_come_and_go_at_once():
    from concurrent.futures import ThreadPoolExecutor
    with Server(config="garbage_grace_s = 0\nmaintenance_s = 1") as s:
        s3 = s.client(max_pool_connections=32)
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key="0", Body=b"shared", ServerSideEncryption="aws:kms")
        names = [str(n) for n in range(1, 65)]
        copy = lambda name: s3.copy_object(Bucket="bkt", Key=name, CopySource="bkt/0", ServerSideEncryption="aws:kms")
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(copy, names))
        assert len(s.blobs()) == 1
        assert all(s3.get_object(Bucket="bkt", Key=n)["Body"].read() == b"shared" for n in names)
        answer = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": n} for n in ["0", *names]]})
        assert not answer.get("Errors") and len(answer["Deleted"]) == 65, answer.get("Errors")

        def gone():
            assert not s.blobs()
        eventually(gone)


main(globals())
