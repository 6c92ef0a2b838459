"""Pulling the HSM: the server degrades, says so, and heals."""

import http.client
import json

from support import Server, eventually, main, refused


def _ready(s):
    connection = http.client.HTTPConnection(s.address)
    connection.request("GET", "/readyz")
    return json.loads(connection.getresponse().read())


def _degrades(s, s3):
    """What works without a token works, and what does not says so."""
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="vault")["Contents"]] == ["kms", "s3"]
    assert s3.head_object(Bucket="vault", Key="kms")["ServerSideEncryption"] == "aws:kms"
    assert s3.head_object(Bucket="vault", Key="s3")["ContentLength"] == 3
    for key in "kms", "s3":
        message = refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key=key, status=503)
        assert "hardware security module" in message
    refused("ServiceUnavailable", s3.put_object, Bucket="vault", Key="new", Body=b"x", status=503)
    refused("ServiceUnavailable", s3.put_object, Bucket="vault", Key="new", Body=b"x", ServerSideEncryption="aws:kms",
            status=503)
    refused("404", s3.head_object, Bucket="vault", Key="new")


def _heals(s, s3):
    for key, body in ("kms", b"KMS"), ("s3", b"SS3"):
        eventually(lambda: _equal(s3.get_object(Bucket="vault", Key=key)["Body"].read(), body))
    eventually(lambda: s3.put_object(Bucket="vault", Key="new", Body=b"x", ServerSideEncryption="aws:kms"))
    eventually(lambda: _equal(_ready(s)["status"], "ready"))


def _equal(a, b):
    assert a == b, (a, b)


def _fill(s):
    s3 = s.client()
    s3.create_bucket(Bucket="vault")
    s3.put_object(Bucket="vault", Key="kms", Body=b"KMS", ServerSideEncryption="aws:kms")
    s3.put_object(Bucket="vault", Key="s3", Body=b"SS3")
    return s3


def without_its_token_the_server_starts_lists_and_heads_and_heals():
    with Server() as s:
        _fill(s)
        s.stop()
        s.unplug()
        s.start()
        s3 = s.client()
        _degrades(s, s3)
        assert _ready(s)["status"] == "degraded"
        s.plug_in()
        _heals(s, s3)


def a_token_that_goes_and_comes_back_is_noticed_without_a_restart():
    # A bucket key in memory would serve SSE-S3 objects for a while: bucket_keys.py sees to that.
    with Server(config="bucket_key_seconds = 0") as s:
        s3 = _fill(s)
        for _ in range(2):
            s.unplug()
            eventually(lambda: refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="kms", status=503))
            _degrades(s, s3)
            eventually(lambda: _equal(_ready(s)["status"], "degraded"))
            s.plug_in()
            _heals(s, s3)
            s3.delete_object(Bucket="vault", Key="new")


main(globals())
