"""Requests that no public client sends: signed by hand, sent by socket. What is refused must have had no effect."""

import base64
import hashlib
import hmac
import http.client
import json
import re
import select
import time
import urllib.parse
import xml.etree.ElementTree
import zlib

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from support import Server, customer_key, main, noise, refused

GIB = 1 << 30
EXTRA_KIB_MAX = 100 << 10
EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = SIGNED + "-TRAILER"


class _Signer:
    """SigV4 by hand, so that every part of it can be wrong."""

    def __init__(self, s, key_id=None, secret=None, region=None, service="s3", age=0):
        self.key_id, self.host = key_id or s.key_id, s.address
        at = time.gmtime(time.time() - age)
        self.timestamp, date = time.strftime("%Y%m%dT%H%M%SZ", at), time.strftime("%Y%m%d", at)
        self.scope = f"{date}/{region or s.region}/{service}/aws4_request"
        key = b"AWS4" + (secret or s.secret).encode()
        for part in self.scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self.key = key

    def _mac(self, algorithm, *parts):
        text = "\n".join([algorithm, self.timestamp, self.scope, *parts])
        return hmac.new(self.key, text.encode(), "sha256").hexdigest()

    def _request(self, method, path, query, headers, payload):
        names = sorted(headers)
        text = [method, path, query, *(f"{n}:{headers[n]}" for n in names), "", ";".join(names), payload]
        return self._mac("AWS4-HMAC-SHA256", hashlib.sha256("\n".join(text).encode()).hexdigest())

    def headers(self, method, target, payload, headers=()):
        """All headers of the request, signed."""
        path, _, query = target.partition("?")
        query = "&".join(sorted(p if "=" in p else p + "=" for p in query.split("&") if p))
        given = {"host": self.host, "x-amz-content-sha256": payload, "x-amz-date": self.timestamp} | dict(headers)
        self.seed = self._request(method, path, query, given, payload)
        names = ";".join(sorted(given))
        return given | {"authorization": f"AWS4-HMAC-SHA256 Credential={self.key_id}/{self.scope},"
                                         f"SignedHeaders={names},Signature={self.seed}"}

    def presigned(self, method, path, expires, headers=()):
        """A presigned target."""
        given = {"host": self.host} | dict(headers)
        query = urllib.parse.urlencode(sorted({
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{self.key_id}/{self.scope}",
            "X-Amz-Date": self.timestamp, "X-Amz-Expires": expires, "X-Amz-SignedHeaders": ";".join(sorted(given)),
        }.items()), safe="~")
        signature = self._request(method, path, query, given, "UNSIGNED-PAYLOAD")
        return f"{path}?{query}&X-Amz-Signature={signature}"

    def chunk(self, content):
        """The signature of the next chunk; `seed` goes on."""
        digest = content if isinstance(content, str) else hashlib.sha256(content).hexdigest()
        self.seed = self._mac("AWS4-HMAC-SHA256-PAYLOAD", self.seed, EMPTY, digest)
        return self.seed

    def trailer(self, text):
        return self._mac("AWS4-HMAC-SHA256-TRAILER", self.seed, hashlib.sha256(text).hexdigest())


class _Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def field(self, name):
        found = xml.etree.ElementTree.fromstring(self.body).find(name)
        return None if found is None else found.text

    def is_refused(self, status, *codes):
        """An error with this status and one of these codes, that bears its request id."""
        code = self.field("Code") if self.body.startswith(b"<") else None
        assert self.status == status and code in codes, (self.status, self.body, status, codes)
        assert self.field("RequestId") == self.headers["x-amz-request-id"], (self.body, self.headers)
        return self

    def is_ok(self):
        assert self.status in (200, 204, 206), (self.status, self.body)
        return self


def _send(s, method, target, headers=(), pieces=b"", length=None):
    """Sends a request in pieces, until the server answers; returns the answer."""
    pieces = [pieces] if isinstance(pieces, bytes) else pieces
    headers = {"host": s.address} | dict(headers)
    if length is None and isinstance(pieces, list):
        length = sum(map(len, pieces))
    connection = http.client.HTTPConnection(s.address, timeout=120)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        for one in value if isinstance(value, list) else [value]:
            connection.putheader(name, one)
    if "content-length" not in headers:
        connection.putheader("content-length", length)
    try:
        connection.endheaders()
        for piece in pieces:
            if len(piece) > 4096 and select.select([connection.sock], [], [], 0)[0]:
                break
            connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    response = connection.getresponse()
    answer = _Answer(response, response.read())
    connection.close()
    return answer


def _signed(s, method, target, headers=(), body=b"", unsigned=(), **signer):
    payload = hashlib.sha256(body).hexdigest()
    return _send(s, method, target, _Signer(s, **signer).headers(method, target, payload, headers) | dict(unsigned), body)


def _put_chunked(s, scheme, headers, frames, target="/bkt/k", length=None):
    """A PUT of an aws-chunked body. `frames` makes its pieces, and gets the signer for it."""
    signer = _Signer(s)
    head = signer.headers("PUT", target, scheme, {"content-encoding": "aws-chunked"} | headers)
    return _send(s, "PUT", target, head, frames(signer), length)


def _unsigned_frames(content, trailer):
    return [b"%x\r\n%s\r\n" % (len(content), content) if content else b"", b"0\r\n", trailer, b"\r\n"]


def _put_unsigned(s, content, trailer, announced="x-amz-checksum-crc32", decoded=None, target="/bkt/k"):
    headers = {"x-amz-decoded-content-length": str(len(content) if decoded is None else decoded)}
    if announced:
        headers["x-amz-trailer"] = announced
    return _put_chunked(s, UNSIGNED_TRAILER, headers, lambda _: _unsigned_frames(content, trailer), target)


def _signed_frames(signer, chunks):
    return [b"%x;chunk-signature=%s\r\n%s\r\n" % (len(c), signer.chunk(c).encode(), c) for c in [*chunks, b""]]


def _crc32(content):
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))


def _crc32_trailer(content):
    return b"x-amz-checksum-crc32:%s\r\n" % _crc32(content)


def _keys(s3, bucket="bkt"):
    return [o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def _read(s3, key="k", bucket="bkt"):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def _client(s):
    s3 = s.client(signature_version="s3v4")
    s3.create_bucket(Bucket="bkt")
    return s3


def _target(url):
    return "/" + url.removeprefix("http://").split("/", 1)[1]


def a_presigned_put_with_an_unsigned_copy_source_is_refused():
    with Server() as s:
        s3 = _client(s)
        s3.create_bucket(Bucket="secret")
        s3.put_object(Bucket="secret", Key="k", Body=b"not for you")
        url = _target(s3.generate_presigned_url("put_object", Params={"Bucket": "bkt", "Key": "k"}))
        assert "SignedHeaders=host&" in url + "&", url
        source = {"x-amz-copy-source": "/secret/k"}
        _send(s, "PUT", url, source).is_refused(403, "AccessDenied")
        _send(s, "PUT", url, {"X-AMZ-Copy-Source": "secret/k"}).is_refused(403, "AccessDenied")
        by_hand = _Signer(s).presigned("PUT", "/bkt/k", 600)
        _send(s, "PUT", by_hand, source).is_refused(403, "AccessDenied")
        _signed(s, "PUT", "/bkt/k", unsigned=source).is_refused(403, "AccessDenied")
        upload = s3.create_multipart_upload(Bucket="bkt", Key="k")["UploadId"]
        part = dict(Bucket="bkt", Key="k", UploadId=upload, PartNumber=1)
        url_of_part = _target(s3.generate_presigned_url("upload_part", Params=part))
        _send(s, "PUT", url_of_part, source).is_refused(403, "AccessDenied")
        assert "Parts" not in s3.list_parts(Bucket="bkt", Key="k", UploadId=upload)
        assert _keys(s3) == []
        # Without the header the same URLs are good, and so is a copy source that is signed.
        _send(s, "PUT", url, pieces=b"mine").is_ok()
        assert _read(s3) == b"mine"
        _send(s, "PUT", by_hand, pieces=b"mine again").is_ok()
        assert _read(s3) == b"mine again"
        _send(s, "PUT", _Signer(s).presigned("PUT", "/bkt/k", 600, source), source).is_ok()
        assert _read(s3) == b"not for you"


def an_unsigned_kms_key_header_is_refused():
    with Server() as s:
        s3, kms = _client(s), s.client("kms")
        key = kms.create_key()["KeyMetadata"]["Arn"]
        headers = {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": key}
        [algorithm, key_id] = headers
        url = _Signer(s).presigned("PUT", "/bkt/k", 600)
        half = _Signer(s).presigned("PUT", "/bkt/k", 600, {algorithm: "aws:kms"})
        _send(s, "PUT", url, headers, b"x").is_refused(403, "AccessDenied")
        _send(s, "PUT", half, headers, b"x").is_refused(403, "AccessDenied")
        _signed(s, "PUT", "/bkt/k", body=b"x", unsigned=headers).is_refused(403, "AccessDenied")
        _signed(s, "PUT", "/bkt/k", {algorithm: "aws:kms"}, b"x", {key_id: key}).is_refused(403, "AccessDenied")
        for other in "x-amz-meta-a", "x-amz-acl", "x-amz-checksum-crc32", "x-amz-unheard-of":
            _send(s, "PUT", url, {other: "private"}, b"x").is_refused(403, "AccessDenied")
        # A second value of a header that is signed, and another than the signed one.
        twice = _Signer(s).headers("PUT", "/bkt/k", hashlib.sha256(b"x").hexdigest(), headers)
        _send(s, "PUT", "/bkt/k", twice | {key_id: [key, "alias/other"]}, b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, "PUT", "/bkt/k", twice | {key_id: "alias/other"}, b"x").is_refused(403, "SignatureDoesNotMatch")
        without = {name: value for name, value in twice.items() if name != key_id}
        assert _send(s, "PUT", "/bkt/k", without, b"x").status in (400, 403)
        assert _keys(s3) == []
        answer = _send(s, "PUT", _Signer(s).presigned("PUT", "/bkt/k", 600, headers), headers, b"x").is_ok()
        assert answer.headers[key_id] == key
        assert s3.head_object(Bucket="bkt", Key="k")["SSEKMSKeyId"] == key


def an_anonymous_form_of_a_gibibyte_takes_no_memory():
    with Server() as s:
        s3 = _client(s)
        head = (b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n'
                b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n')
        block = noise(1 << 20)

        def form():
            yield head
            for _ in range(GIB // len(block)):
                yield block
            yield b"\r\n--x--\r\n"

        headers = {"content-type": "multipart/form-data; boundary=x"}
        length = len(head) + GIB + 9
        before = s.rss_peak_kib()
        _send(s, "POST", "/bkt", headers, form(), length).is_refused(403, "AccessDenied")
        chunked = ((b"%x\r\n%s\r\n" % (len(piece), piece)) for piece in form())
        _send(s, "POST", "/bkt", headers | {"transfer-encoding": "chunked", "content-length": []}, chunked).is_refused(403, "AccessDenied")
        # A signed one is not implemented; it takes no memory either.
        signed = _Signer(s).headers("POST", "/bkt", "UNSIGNED-PAYLOAD", headers)
        _send(s, "POST", "/bkt", signed, form(), length).is_refused(501, "NotImplemented")
        assert s.rss_peak_kib() - before < EXTRA_KIB_MAX, (before, s.rss_peak_kib())
        assert _keys(s3) == [] and s.blobs() == []


def a_gibibyte_in_one_chunk_takes_no_memory():
    with Server() as s:
        s3 = _client(s)
        block = noise(1 << 20)
        crc, sha = 0, hashlib.sha256()
        for _ in range(GIB // len(block)):
            crc = zlib.crc32(block, crc)
            sha.update(block)
        crc = base64.b64encode(crc.to_bytes(4, "big"))

        def frames(header, end):
            yield header
            for _ in range(GIB // len(block)):
                yield block
            yield end

        def length(header, end):
            return len(header) + GIB + len(end)

        def is_there(key):
            head = s3.head_object(Bucket="bkt", Key=key, ChecksumMode="ENABLED")
            assert head["ContentLength"] == GIB
            got = s3.get_object(Bucket="bkt", Key=key, Range=f"bytes={GIB - len(block) - 3}-")["Body"].read()
            assert got == block[-3:] + block
            return head

        before = s.rss_peak_kib()
        unsigned = b"40000000\r\n", b"\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % crc
        headers = {"x-amz-decoded-content-length": str(GIB)}
        trailer = {"x-amz-trailer": "x-amz-checksum-crc32"}
        _put_chunked(s, UNSIGNED_TRAILER, headers | trailer, lambda _: frames(*unsigned), "/bkt/unsigned", length(*unsigned)).is_ok()
        assert is_there("unsigned")["ChecksumCRC32"] == crc.decode()

        signer = _Signer(s)
        head = signer.headers("PUT", "/bkt/signed", SIGNED, headers | {"content-encoding": "aws-chunked"})
        first, last = signer.chunk(sha.hexdigest()), signer.chunk(b"")
        signed = b"40000000;chunk-signature=%s\r\n" % first.encode(), b"\r\n0;chunk-signature=%s\r\n\r\n" % last.encode()
        _send(s, "PUT", "/bkt/signed", head, frames(*signed), length(*signed)).is_ok()
        is_there("signed")
        # The same bytes, the first chunk's signature is the last one's: known only after the gibibyte.
        wrong = b"40000000;chunk-signature=%s\r\n" % last.encode(), signed[1]
        _send(s, "PUT", "/bkt/signed", head, frames(*wrong), length(*wrong)).is_refused(403, "SignatureDoesNotMatch")
        _send(s, "PUT", "/bkt/wrong", head, frames(*wrong), length(*wrong)).is_refused(403, "SignatureDoesNotMatch")
        assert s.rss_peak_kib() - before < EXTRA_KIB_MAX, (before, s.rss_peak_kib())
        assert _keys(s3) == ["signed", "unsigned"]
        is_there("signed")


def a_presigned_url_for_30_days_is_refused():
    with Server() as s:
        s3 = _client(s)
        s3.put_object(Bucket="bkt", Key="there", Body=b"x")
        params = {"Bucket": "bkt", "Key": "k"}
        for seconds in 30 * 86400, 7 * 86400 + 1:
            url = _target(s3.generate_presigned_url("put_object", Params=params, ExpiresIn=seconds))
            _send(s, "PUT", url, pieces=b"x").is_refused(400, "AuthorizationQueryParametersError")
            url = _Signer(s).presigned("GET", "/bkt/there", seconds)
            _send(s, "GET", url).is_refused(400, "AuthorizationQueryParametersError")
        for seconds in "-1", "", "1e3", "99999999999999999999", "600 ":
            url = _Signer(s).presigned("PUT", "/bkt/k", seconds)
            _send(s, "PUT", url, pieces=b"x").is_refused(400, "AuthorizationQueryParametersError")
        without = re.sub("&X-Amz-Expires=600", "", _Signer(s).presigned("PUT", "/bkt/k", 600))
        _send(s, "PUT", without, pieces=b"x").is_refused(400, "AuthorizationQueryParametersError")
        _send(s, "PUT", _Signer(s, age=601).presigned("PUT", "/bkt/k", 600), pieces=b"x").is_refused(403, "AccessDenied")
        _send(s, "PUT", _Signer(s, age=-3600).presigned("PUT", "/bkt/k", 600), pieces=b"x").is_refused(403, "AccessDenied")
        longer = _Signer(s, age=601).presigned("PUT", "/bkt/k", 600).replace("X-Amz-Expires=600", "X-Amz-Expires=6000")
        _send(s, "PUT", longer, pieces=b"x").is_refused(403, "SignatureDoesNotMatch")
        assert _keys(s3) == ["there"]
        assert _send(s, "GET", _Signer(s).presigned("GET", "/bkt/there", 7 * 86400)).is_ok().body == b"x"
        _send(s, "PUT", _Signer(s, age=6 * 86400).presigned("PUT", "/bkt/k", 7 * 86400), pieces=b"seven days").is_ok()
        assert _read(s3) == b"seven days"


def a_wrong_trailer_is_refused():
    with Server() as s:
        s3 = _client(s)
        body, other = noise(200_000), noise(200_000, 1)
        right, wrong = _crc32_trailer(body), _crc32_trailer(other)
        s3.put_object(Bucket="bkt", Key="old", Body=b"old")

        def all_are_refused(target):
            _put_unsigned(s, body, wrong, target=target).is_refused(400, "BadDigest")
            for trailer in (b"", b"x-amz-checksum-crc32:\r\n", b"x-amz-checksum-crc32:AAAA\r\n", b"x-amz-checksum-crc32:%%%%\r\n",
                            right + right, right + b"x-amz-meta-a:b\r\n", b"x-amz-checksum-crc32c:AAAAAA==\r\n", b"no colon\r\n",
                            right.replace(b":", b" :")):
                _put_unsigned(s, body, trailer, target=target).is_refused(400, "MalformedTrailerError")
            _put_unsigned(s, body, right, announced=None, target=target).is_refused(400, "MalformedTrailerError")
            _put_unsigned(s, body, b"x-amz-meta-a:b\r\n", announced="x-amz-meta-a", target=target).is_refused(400, "InvalidRequest")
            _put_unsigned(s, body, right + b"x" * 10_000 + b":\r\n", target=target).is_refused(400, "MalformedTrailerError")

        all_are_refused("/bkt/k")
        all_are_refused("/bkt/old")
        upload = s3.create_multipart_upload(Bucket="bkt", Key="k", ChecksumAlgorithm="CRC32")["UploadId"]
        part = f"/bkt/k?partNumber=1&uploadId={upload}"
        all_are_refused(part)
        assert "Parts" not in s3.list_parts(Bucket="bkt", Key="k", UploadId=upload)
        assert _keys(s3) == ["old"] and _read(s3, "old") == b"old"

        # Trailers with a signature: it must be there and right.
        def signed(trailer, signature=None, content=body):
            def frames(signer):
                chunks = _signed_frames(signer, [content])
                chunks[-1] = chunks[-1][:-2]
                mac = signature or signer.trailer(trailer.replace(b"\r\n", b"\n")).encode()
                return [*chunks, trailer, b"x-amz-trailer-signature:%s\r\n\r\n" % mac if mac != b"none" else b"\r\n"]

            headers = {"x-amz-decoded-content-length": str(len(content)), "x-amz-trailer": "x-amz-checksum-crc32"}
            return _put_chunked(s, SIGNED_TRAILER, headers, frames)

        signed(right, b"0" * 64).is_refused(403, "SignatureDoesNotMatch")
        signed(right, b"none").is_refused(400, "MalformedTrailerError")
        signed(wrong).is_refused(400, "BadDigest")
        assert _keys(s3) == ["old"]
        signed(right).is_ok()
        assert _read(s3) == body
        _put_unsigned(s, other, wrong).is_ok()
        assert _read(s3) == other
        assert s3.head_object(Bucket="bkt", Key="k", ChecksumMode="ENABLED")["ChecksumCRC32"] == _crc32(other).decode()
        _put_unsigned(s, body, right, target=part).is_ok()
        assert s3.list_parts(Bucket="bkt", Key="k", UploadId=upload)["Parts"][0]["Size"] == len(body)


def a_wrong_decoded_length_is_refused():
    with Server() as s:
        s3 = _client(s)
        s3.put_object(Bucket="bkt", Key="old", Body=b"old")
        for body in b"abc", noise(200_000):
            for wrong in len(body) + 2, len(body) - 2, 0, 1 << 40, (1 << 63) - 1, (1 << 64) - 1:
                codes = ["IncompleteBody"] + ["EntityTooLarge", "InvalidArgument"] * (wrong >= 1 << 40)
                for target in "/bkt/k", "/bkt/old":
                    _put_unsigned(s, body, _crc32_trailer(body), decoded=wrong, target=target).is_refused(400, *codes)
                    headers = {"x-amz-decoded-content-length": str(wrong)}
                    frames = lambda signer: _signed_frames(signer, [body])
                    _put_chunked(s, SIGNED, headers, frames, target).is_refused(400, *codes)
            for wrong in "-1", "", "3.0", "0x3", str(1 << 64), "three":
                _put_unsigned(s, body, _crc32_trailer(body), decoded=wrong).is_refused(400, "InvalidArgument")
            whole = lambda _: _unsigned_frames(body, _crc32_trailer(body))
            _put_chunked(s, UNSIGNED_TRAILER, {"x-amz-trailer": "x-amz-checksum-crc32"}, whole).is_refused(411, "MissingContentLength")
            # Cut off in the framing, and something behind the end.
            headers = {"x-amz-decoded-content-length": str(len(body)), "x-amz-trailer": "x-amz-checksum-crc32"}
            for end in 1, 2, 3:
                _put_chunked(s, UNSIGNED_TRAILER, headers, lambda _: whole(_)[:end]).is_refused(400, "IncompleteBody", "MalformedTrailerError")
            _put_chunked(s, UNSIGNED_TRAILER, headers, lambda _: whole(_) + [b"more"]).is_refused(400, "IncompleteBody")
            for size in b"", b"x", b"-3", b"11111111111111111", b"+3", b" 3", b"0x3":
                framed = lambda _: [size + b"\r\n", body, b"\r\n0\r\n\r\n"]
                answer = _put_chunked(s, UNSIGNED_TRAILER, headers, framed)
                assert answer.status in (400, 403) and b"<Code>" in answer.body, (size, answer.body)
        assert _keys(s3) == ["old"] and _read(s3, "old") == b"old"
        _put_unsigned(s, b"abc", _crc32_trailer(b"abc")).is_ok()
        assert _read(s3) == b"abc"
        _put_unsigned(s, b"", _crc32_trailer(b"")).is_ok()
        assert _read(s3) == b""


def every_error_has_a_request_id():
    with Server() as s:
        s3, kms = _client(s), s.client("kms")
        s3.put_object(Bucket="bkt", Key="k", Body=b"x")
        md5 = lambda body: {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
        ids = []

        def has_one(answer, *codes):
            assert 400 <= answer.status < 600, (answer.status, answer.body)
            id = answer.headers["x-amz-request-id"]
            assert re.fullmatch("[0-9A-F]{16}", id), id
            assert answer.headers["content-type"] == "application/xml"
            assert answer.field("Code") in codes, (answer.body, codes)
            assert answer.field("RequestId") == id and answer.body.count(b"<RequestId>") == 1, answer.body
            ids.append(id)

        # Authentication.
        has_one(_send(s, "GET", "/bkt/k"), "AccessDenied")
        has_one(_signed(s, "GET", "/bkt/k", secret="wrong"), "SignatureDoesNotMatch")
        has_one(_signed(s, "GET", "/bkt/k", key_id="AKIAUNKNOWN"), "InvalidAccessKeyId")
        has_one(_signed(s, "GET", "/bkt/k", region="eu-central-1"), "AuthorizationHeaderMalformed")
        has_one(_send(s, "GET", "/bkt/%zz?X-Amz-Algorithm=AWS4-HMAC-SHA256"), "InvalidURI", "AuthorizationQueryParametersError")
        # Routing and deserialising by s3s.
        for method, target in ("GET", "/bkt?lifecycle"), ("PUT", "/bkt?versioning"), ("GET", "/bkt/k?acl"), ("PUT", "/bkt/k?tagging"):
            has_one(_signed(s, method, target), "NotImplemented", "MalformedXML", "MissingRequestBodyError")
        has_one(_signed(s, "POST", "/bkt/k"), "NotImplemented", "MethodNotAllowed")
        has_one(_signed(s, "POST", "/"), "NotImplemented", "MethodNotAllowed")
        has_one(_signed(s, "PATCH", "/bkt/k"), "NotImplemented", "MethodNotAllowed")
        has_one(_signed(s, "GET", "/UPPER_case/k"), "InvalidBucketName", "NoSuchBucket")
        has_one(_signed(s, "GET", "/bkt?list-type=2&max-keys=many"), "InvalidArgument", "InvalidRequest")
        has_one(_signed(s, "POST", "/bkt?delete", md5(b"<no"), b"<no"), "MalformedXML")
        has_one(_signed(s, "PUT", "/bkt?encryption", md5(b"junk"), b"junk"), "MalformedXML")
        # What is refused in front of the handlers, and by them.
        has_one(_signed(s, "PUT", "/bkt/k", {"x-amz-tagging": "a=b"}, b"x"), "NotImplemented")
        has_one(_signed(s, "GET", "/bkt/none"), "NoSuchKey")
        has_one(_signed(s, "GET", "/none/k"), "NoSuchBucket")
        has_one(_signed(s, "DELETE", "/bkt"), "BucketNotEmpty")
        has_one(_signed(s, "GET", "/bkt/k", {"range": "bytes=7-9"}), "InvalidRange")
        has_one(_signed(s, "GET", "/bkt/k", {"if-match": '"none"'}), "PreconditionFailed")
        has_one(_signed(s, "PUT", "/bkt/k", md5(b"y"), b"x"), "BadDigest")
        has_one(_put_unsigned(s, b"x", _crc32_trailer(b"y")), "BadDigest")
        # Characters of the request come back escaped.
        has_one(_signed(s, "GET", "/bkt/k?uploadId=%3C%26%3E"), "NoSuchUpload", "InvalidArgument")
        assert len(set(ids)) == len(ids), ids
        # An answer without a body has the header at least; KMS says it in its own way.
        for answer in _signed(s, "HEAD", "/bkt/none"), _send(s, "HEAD", "/bkt/k"), _signed(s, "GET", "/bkt/k"):
            assert re.fullmatch("[0-9A-F]{16}", answer.headers["x-amz-request-id"])
        headers = {"x-amz-target": "TrentService.DescribeKey", "content-type": "application/x-amz-json-1.1"}
        for answer in (_send(s, "POST", "/", headers, b"{}"), _signed(s, "POST", "/", headers, b"{}", service="kms"),
                       _signed(s, "POST", "/", headers | {"x-amz-target": "TrentService.No"}, b"{}", service="kms")):
            assert answer.status == 400 and "__type" in json.loads(answer.body), answer.body
            assert answer.headers["x-amzn-requestid"] == answer.headers["x-amz-request-id"]
        assert _read(s3) == b"x"


def anonymous_sigv2_and_foreign_requests_are_refused():
    with Server() as s:
        s3 = _client(s)
        s3.put_object(Bucket="bkt", Key="old", Body=b"old")
        put = "PUT", "/bkt/k"

        # Nobody at all.
        for method, target in (put, ("GET", "/bkt/old"), ("DELETE", "/bkt/old"), ("GET", "/bkt"), ("GET", "/"), ("PUT", "/new"), ("POST", "/bkt?delete")):
            _send(s, method, target, pieces=b"x" if method == "PUT" else b"").is_refused(403, "AccessDenied")

        # Signature version 2, rightly made.
        credentials = botocore.credentials.Credentials(s.key_id, s.secret)
        for auth in botocore.auth.HmacV1Auth(credentials), botocore.auth.HmacV1QueryAuth(credentials):
            for method, key in ("PUT", "k"), ("GET", "old"), ("DELETE", "old"):
                request = botocore.awsrequest.AWSRequest(method, f"{s.endpoint}/bkt/{key}", data=b"")
                request.context["signing"] = {}
                auth.add_auth(request)
                _send(s, method, _target(request.url), dict(request.headers)).is_refused(400, "InvalidRequest")
        _send(s, *put, {"authorization": f"AWS4-ECDSA-P256-SHA256 Credential={s.key_id}/x"}, b"x").is_refused(400, "InvalidRequest")
        _send(s, *put, {"authorization": f"Bearer {s.secret}"}, b"x").is_refused(400, "InvalidRequest")
        _send(s, *put, {"authorization": "AWS4-HMAC-SHA256 nonsense"}, b"x").is_refused(400, "AuthorizationHeaderMalformed")

        # Somebody else, elsewhere, at another time.
        _signed(s, *put, body=b"x", key_id="AKIDSOMEBODYELSE").is_refused(403, "InvalidAccessKeyId")
        _signed(s, *put, body=b"x", secret=s.secret[:-1]).is_refused(403, "SignatureDoesNotMatch")
        answer = _signed(s, *put, body=b"x", region="eu-west-1").is_refused(400, "AuthorizationHeaderMalformed")
        assert answer.field("Region") == s.region, answer.body
        _signed(s, *put, body=b"x", service="kms").is_refused(400, "AuthorizationHeaderMalformed")
        _signed(s, *put, body=b"x", age=16 * 60).is_refused(403, "RequestTimeTooSkewed")
        _signed(s, *put, body=b"x", age=-16 * 60).is_refused(403, "RequestTimeTooSkewed")
        _signed(s, *put, {"x-amz-security-token": "token"}, b"x").is_refused(400, "InvalidToken")

        # Signed, but for something else.
        digest = hashlib.sha256(b"x").hexdigest()
        head = _Signer(s).headers(*put, digest)
        _send(s, *put, head, b"y").is_refused(400, "XAmzContentSHA256Mismatch")
        _send(s, "PUT", "/bkt/k2", head, b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, "PUT", "/bkt/k?x-id=PutObject", head, b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, "DELETE", "/bkt/k", head, b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, *put, head | {"host": "other.example"}, b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, *put, head | {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, b"y").is_refused(403, "SignatureDoesNotMatch")
        _send(s, *put, {n: v for n, v in head.items() if n != "x-amz-content-sha256"}, b"x").is_refused(400, "InvalidRequest")
        both = _Signer(s).presigned("PUT", "/bkt/k", 600)
        _send(s, "PUT", both, head, b"x").is_refused(400, "InvalidArgument")
        unsigned_host = head["authorization"].replace("SignedHeaders=host;", "SignedHeaders=")
        assert _send(s, *put, head | {"authorization": unsigned_host}, b"x").status == 403

        # KMS takes none of it either.
        headers = {"x-amz-target": "TrentService.CreateKey", "content-type": "application/x-amz-json-1.1"}
        for answer, code in (
                (_send(s, "POST", "/", headers, b"{}"), "MissingAuthenticationTokenException"),
                (_signed(s, "POST", "/", headers, b"{}", service="s3"), "InvalidSignatureException"),
                (_signed(s, "POST", "/", headers, b"{}", service="kms", secret="wrong"), "InvalidSignatureException"),
                (_signed(s, "POST", "/", headers, b"{}", service="kms", age=16 * 60), "InvalidSignatureException"),
                (_signed(s, "POST", "/", headers, b"{}", service="kms", key_id="AKID"), "UnrecognizedClientException")):
            assert answer.status == 400 and json.loads(answer.body)["__type"] == code, (code, answer.body)
        assert s.client("kms").list_keys()["Keys"] == []

        assert _keys(s3) == ["old"] and _read(s3, "old") == b"old"
        assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bkt"]
        _signed(s, *put, body=b"x", age=14 * 60).is_ok()
        _signed(s, *put, body=b"y", age=-14 * 60).is_ok()
        assert _read(s3) == b"y"


def signed_chunks_are_verified():
    with Server() as s:
        s3 = _client(s)
        s3.put_object(Bucket="bkt", Key="old", Body=b"old")
        chunks = [noise(100_000, 1), noise(65_536, 2), noise(7, 3)]
        body = b"".join(chunks)
        headers = {"x-amz-decoded-content-length": str(len(body))}

        def put(change, target="/bkt/k"):
            """The frames, changed after they were signed."""
            return _put_chunked(s, SIGNED, headers, lambda signer: change(_signed_frames(signer, chunks)), target)

        def flip(frames, frame, at):
            changed = bytearray(frames[frame])
            changed[at] ^= 1
            return frames[:frame] + [bytes(changed)] + frames[frame + 1:]

        def swap_signatures(frames):
            find = lambda frame: re.match(rb"[0-9a-f]+;chunk-signature=([0-9a-f]{64})\r\n", frame).group(1)
            a, b = find(frames[0]), find(frames[1])
            return [frames[0].replace(a, b), frames[1].replace(b, a), *frames[2:]]

        signature = len(b"186a0;chunk-signature=")
        for target in "/bkt/k", "/bkt/old":
            for at in -3, signature + 64 + 2, 50_000:
                put(lambda f: flip(f, 0, at), target).is_refused(403, "SignatureDoesNotMatch")
            put(lambda f: flip(f, 1, -3), target).is_refused(403, "SignatureDoesNotMatch")
            put(lambda f: flip(f, 2, -3), target).is_refused(403, "SignatureDoesNotMatch")
            put(swap_signatures, target).is_refused(403, "SignatureDoesNotMatch")
            put(lambda f: [f[1], f[0], *f[2:]], target).is_refused(403, "SignatureDoesNotMatch")
            # The last, empty chunk is signed too.
            put(lambda f: f[:3] + [re.sub(rb"=[0-9a-f]{64}", b"=" + b"0" * 64, f[3])], target).is_refused(403, "SignatureDoesNotMatch")
            put(lambda f: f[:3] + [b"0\r\n\r\n"], target).is_refused(400, "InvalidRequest", "IncompleteBody")
            put(lambda f: f[:3], target).is_refused(400, "IncompleteBody")
            put(lambda f: [re.sub(rb";chunk-signature=[0-9a-f]{64}", b"", x) for x in f], target).is_refused(400, "InvalidRequest")
            # Left out and repeated chunks: with a length that fits, so that the signature alone finds it.
            shorter = {"x-amz-decoded-content-length": str(len(body) - len(chunks[1]))}
            without = lambda signer: (lambda f: [f[0], f[2], f[3]])(_signed_frames(signer, chunks))
            _put_chunked(s, SIGNED, shorter, without, target).is_refused(403, "SignatureDoesNotMatch")
            longer = {"x-amz-decoded-content-length": str(len(body) + len(chunks[1]))}
            again = lambda signer: (lambda f: [f[0], f[1], f[1], f[2], f[3]])(_signed_frames(signer, chunks))
            _put_chunked(s, SIGNED, longer, again, target).is_refused(403, "SignatureDoesNotMatch")
        assert _keys(s3) == ["old"] and _read(s3, "old") == b"old"
        # Chunks of another request with the same key and the same content.
        frames = []
        put(lambda f: frames.extend(f) or f, "/bkt/other").is_ok()
        assert _read(s3, "other") == body
        put(lambda f: frames).is_refused(403, "SignatureDoesNotMatch")
        assert "k" not in _keys(s3)
        answer = put(lambda f: f).is_ok()
        assert answer.headers["etag"] == f'"{hashlib.md5(body).hexdigest()}"'
        got = s3.get_object(Bucket="bkt", Key="k")
        assert got["Body"].read() == body and "ContentEncoding" not in got
        # Content codings that are the object's stay.
        coded = headers | {"content-encoding": "aws-chunked,gzip"}
        _put_chunked(s, SIGNED, coded, lambda signer: _signed_frames(signer, chunks)).is_ok()
        assert s3.head_object(Bucket="bkt", Key="k")["ContentEncoding"] == "gzip"


def presigned_urls_work():
    with Server() as s:
        s3 = _client(s)
        key = "a b+c%2F/ü//x"
        params = {"Bucket": "bkt", "Key": key}
        url = lambda operation, **rest: _target(s3.generate_presigned_url(operation, Params=params | rest))

        # Any change is noticed.
        put = url("put_object")
        for changed in (put.replace("/bkt/a", "/bkt/b"), put + "&x-id=PutObject", re.sub("Expires=3600", "Expires=3601", put),
                        re.sub("Signature=(.)", lambda m: "Signature=" + ("0" if m[1] != "0" else "1"), put)):
            assert changed != put
            _send(s, "PUT", changed, pieces=b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, "POST", put, pieces=b"x").is_refused(403, "SignatureDoesNotMatch")
        _send(s, "PUT", put.replace(s.key_id, "AKIDOTHER"), pieces=b"x").is_refused(403, "InvalidAccessKeyId")
        _send(s, "PUT", put + "&X-Amz-Security-Token=t", pieces=b"x").is_refused(400, "InvalidToken")
        assert _keys(s3) == []

        body = noise(150_000)
        _send(s, "PUT", put, {"content-type": "text/plain"}, body).is_ok()
        answer = _send(s, "GET", url("get_object")).is_ok()
        assert answer.body == body and answer.headers["content-type"] == "text/plain"
        assert _send(s, "GET", url("get_object"), {"range": "bytes=65535-65536"}).body == body[65535:65537]
        answer = _send(s, "HEAD", url("head_object"))
        assert answer.status == 200 and int(answer.headers["content-length"]) == len(body)
        overrides = dict(ResponseContentType="x/y", ResponseCacheControl="no-store",
                         ResponseContentDisposition='attachment; filename="a&b=c d.txt"')
        answer = _send(s, "GET", url("get_object", **overrides)).is_ok()
        assert answer.headers["content-type"] == "x/y" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-disposition"] == overrides["ResponseContentDisposition"]

        # A declared digest is held to, though nobody signed the header.
        _send(s, "PUT", put, {"x-amz-content-sha256": EMPTY}, b"x").is_refused(400, "XAmzContentSHA256Mismatch")
        assert _read(s3, key) == body

        # With headers that are signed: SSE-KMS and metadata.
        target = url("put_object", ServerSideEncryption="aws:kms", Metadata={"a": "b"})
        _send(s, "PUT", target, pieces=b"x").is_refused(403, "AccessDenied", "SignatureDoesNotMatch")
        assert _read(s3, key) == body
        _send(s, "PUT", target, {"x-amz-server-side-encryption": "aws:kms", "x-amz-meta-a": "b"}, b"sealed").is_ok()
        head = s3.head_object(**params)
        assert head["ServerSideEncryption"] == "aws:kms" and head["Metadata"] == {"a": "b"}
        assert _send(s, "GET", url("get_object")).is_ok().body == b"sealed"

        # A part, a list, a deletion.
        upload = s3.create_multipart_upload(**params)["UploadId"]
        etag = _send(s, "PUT", url("upload_part", UploadId=upload, PartNumber=1), pieces=b"part").is_ok().headers["etag"]
        s3.complete_multipart_upload(**params, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        assert _read(s3, key) == b"part"
        listing = _send(s, "GET", _target(s3.generate_presigned_url("list_objects_v2", Params={"Bucket": "bkt", "Prefix": "a b+"}))).is_ok()
        assert b"<KeyCount>1</KeyCount>" in listing.body, listing.body
        assert _send(s, "DELETE", url("delete_object")).status == 204
        refused("NoSuchKey", s3.get_object, **params, status=404)
        _send(s, "GET", url("get_object")).is_refused(404, "NoSuchKey")


def customer_keys_are_not_logged_even_at_debug():
    import base64
    with Server(config='level = "debug"') as s:
        s3 = s.client()
        s3.create_bucket(Bucket="bkt")
        key = customer_key()
        s3.put_object(Bucket="bkt", Key="k", Body=b"x", **key)
        s3.get_object(Bucket="bkt", Key="k", **key)["Body"].read()
        source = {"CopySource" + name: value for name, value in key.items()}
        s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/k", **source)
        log = (s.dir / "log").read_text()
        assert "Sensitive" in log, "the debug log shows whole requests"
        assert base64.b64encode(key["SSECustomerKey"]).decode() not in log
        for secret in s.secret, (s.home / "pin").read_text():
            assert secret not in log


def a_part_or_a_path_in_disguise_is_not_an_object():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key="k", Body=b"whole")
        for method, path in ("PUT", "/bkt/k?uploadId=x"), ("PUT", "/bkt/k?partNumber=1"), ("PUT", "/bkt%2Fk?encryption"), \
                ("DELETE", "/bkt%2Fk?encryption"):
            answer = _signed(s, method, path, body=b"a piece" if method == "PUT" else b"")
            assert answer.status in (400, 403), (method, path, answer.status, answer.body)
            assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"whole"
        for name in "sha512", "xxhash64":
            answer = _signed(s, "PUT", "/bkt/k", body=b"x", headers=[(f"x-amz-checksum-{name}", "AAAA")])
            assert answer.status == 501, (name, answer.status, answer.body)


def a_client_that_dawdles_is_dropped():
    import socket
    import time
    with Server(config="body_timeout_ms = 1000\nheader_timeout_ms = 1000") as s:
        host, port = s.address.split(":")
        began = time.time()
        # A byte now and then is not silence, and must not count as progress for ever.
        slow = socket.create_connection((host, int(port)))
        slow.settimeout(10)
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: 1000\r\n\r\n")
        closed = False
        for _ in range(20):
            try:
                slow.sendall(b"x")
                time.sleep(0.3)
                slow.setblocking(False)
                if slow.recv(4096):
                    closed = True
                    break
            except BlockingIOError:
                pass
            except OSError:
                closed = True
                break
            finally:
                slow.settimeout(10)
        assert closed and time.time() - began < 8
        # Who does not read its answers is dropped, too, and the server goes on.
        deaf = socket.create_connection((host, int(port)))
        deaf.settimeout(10)
        try:
            for _ in range(100_000):
                deaf.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        except OSError:
            pass
        else:
            raise AssertionError("a client that never reads was served ten million answers")
        assert s.client().list_buckets()["Buckets"] == []


main(globals())
