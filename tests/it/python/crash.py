"""Pulling the plug: what was acknowledged is there, and nothing else."""

import os
import threading

import botocore.exceptions

from support import Server, eventually, main, noise

# ci/soak asks for more.
ROUNDS = int(os.environ.get("STRONGROOM_CRASH_ROUNDS", "6"))


def _forget_errors(work):
    def run():
        try:
            work()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, ConnectionError):
            pass
    return run


def what_was_acknowledged_survives_kill_9_and_nothing_else_shows():
    with Server() as s:
        s.client().create_bucket(Bucket="vault")
        acknowledged, begun = {}, set()
        for round_number in range(ROUNDS):
            stop = threading.Event()

            def writer(n):
                s3, i = s.client(), 0
                while not stop.is_set():
                    key, body = f"{round_number}/{n}/{i}", noise(700 * (i % 9) ** 3 + n, i)
                    begun.add(key)
                    s3.put_object(Bucket="vault", Key=key, Body=body, ServerSideEncryption="aws:kms")
                    acknowledged[key] = body
                    i += 1

            threads = [threading.Thread(target=_forget_errors(lambda n=n: writer(n))) for n in range(6)]
            for thread in threads:
                thread.start()
            before = len(acknowledged)
            eventually(lambda: _assert(len(acknowledged) >= before + 30))
            s.kill()
            stop.set()
            for thread in threads:
                thread.join()
            s.start()
        s3 = s.client()
        listed = [o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket="vault")
                  for o in page.get("Contents", [])]
        assert set(acknowledged) <= set(listed) <= begun
        for key in listed:
            body = s3.get_object(Bucket="vault", Key=key)["Body"].read()
            assert key not in acknowledged or body == acknowledged[key], key
        # No orphan stays: every file is the blob of an object. What was unfinished went when the server started.
        assert len(s.blobs()) == len(listed), (len(s.blobs()), len(listed))
        print(f"{len(acknowledged)} acknowledged, {len(listed)} there, {len(begun)} begun, {ROUNDS} kills")


def _assert(condition):
    assert condition


def a_killed_multipart_upload_goes_on():
    with Server() as s:
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        part = noise(5 << 20)
        upload = s3.create_multipart_upload(Bucket="vault", Key="m", ServerSideEncryption="aws:kms")["UploadId"]
        rest = dict(Bucket="vault", Key="m", UploadId=upload)
        first = s3.upload_part(PartNumber=1, Body=part, **rest)["ETag"]
        dying = threading.Thread(target=_forget_errors(lambda: s.client().upload_part(PartNumber=2, Body=part * 8, **rest)))
        dying.start()
        eventually(lambda: _assert(len(s.blobs()) > 1))
        s.kill()
        dying.join()
        s.start()
        s3 = s.client()
        assert [p["PartNumber"] for p in s3.list_parts(**rest).get("Parts", [])] in ([1], [1, 2])
        second = s3.upload_part(PartNumber=2, Body=b"the end", **rest)["ETag"]
        parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]
        s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **rest)
        assert s3.get_object(Bucket="vault", Key="m")["Body"].read() == part + b"the end"


main(globals())
