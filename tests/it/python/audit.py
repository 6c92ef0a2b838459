"""The audit: what is recorded, what is found, and what becomes of key use without it."""

import base64
import csv
import datetime
import hashlib
import io
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request

import boto3
import botocore.config
import botocore.exceptions
from support import PROGRAM, Server, eventually, main, refused

A_SECOND = datetime.timedelta(seconds=1)


def _strongroom(s, *arguments, fails=None, env={}):
    out = subprocess.run([PROGRAM, *map(str, arguments)], env=s.environment() | env, capture_output=True, text=True)
    if fails is not None:
        assert out.returncode != 0 and fails in out.stdout + out.stderr, (arguments, out.stdout, out.stderr)
    else:
        assert out.returncode == 0, (arguments, out.stdout, out.stderr)
    return out.stdout


def _events(s, *filters):
    return [json.loads(line) for line in _strongroom(s, "audit", "query", "--dir", s.data / "audit", *filters).splitlines()]


def _verify(s, *arguments, directory=None, finds=None):
    """The report; with `finds`, the findings must say just that: (line, sequence, a part of what)."""
    out = subprocess.run([PROGRAM, "audit", "verify", "--json", "--dir", str(directory or s.data / "audit"), *arguments],
                         env=s.environment(), capture_output=True, text=True)
    report = json.loads(out.stdout)
    found = [(f["line"], f["sequence"], f["what"]) for f in report["findings"]]
    if finds is None:
        whole = not report["gaps"] and not report["set_aside"]
        assert out.returncode == (0 if whole else 3) and not found, (out.returncode, report)
    else:
        assert out.returncode == 1, report
        assert len(found) == len(finds), found
        for (line, sequence, what), (wanted_line, wanted_sequence, part) in zip(found, finds):
            assert (line, sequence) == (wanted_line, wanted_sequence) and part in what, (found, finds)
    return report


def _client_of(s, service, key_id, secret, token=None):
    return boto3.session.Session().client(
        service, endpoint_url=s.endpoint, region_name=s.region, aws_access_key_id=key_id, aws_secret_access_key=secret,
        aws_session_token=token, config=botocore.config.Config(retries={"max_attempts": 0}))


def _metric(s, name):
    with urllib.request.urlopen(f"{s.endpoint}/metrics") as answer:
        return int(re.search(rf"(?m)^{name} (\d+)$", answer.read().decode()).group(1))


def _attested(s):
    assert _metric(s, "strongroom_audit_unattested_records") == 0


def every_use_of_a_key_is_recorded_and_found():
    with Server() as s:
        kms, s3 = s.client("kms"), s.client()
        key = kms.create_key(Description="of the audit")["KeyMetadata"]
        kms.create_alias(AliasName="alias/audited", TargetKeyId=key["KeyId"])
        secret = b"a plaintext that is nobody's business"
        blob = kms.encrypt(KeyId="alias/audited", Plaintext=secret, EncryptionContext={"Dept": "x"})["CiphertextBlob"]
        kms.decrypt(CiphertextBlob=blob, EncryptionContext={"Dept": "x"})
        refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=blob)
        data = kms.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")
        s3.create_bucket(Bucket="vault")
        sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key["Arn"]}
        put = s3.put_object(Bucket="vault", Key="a/b", Body=b"A", **sse)
        got = s3.get_object(Bucket="vault", Key="a/b")
        s3.copy_object(Bucket="vault", Key="c", CopySource="vault/a/b", **sse)
        kms.disable_key(KeyId=key["KeyId"])
        refused("KMS.DisabledException", s3.get_object, Bucket="vault", Key="a/b")

        names = [e["eventName"] for e in _events(s, "--key", key["Arn"])]
        assert names == ["CreateKey", "CreateAlias", "Encrypt", "Decrypt", "Decrypt", "GenerateDataKey",
                         "GenerateDataKey", "Decrypt", "Decrypt", "GenerateDataKey", "DisableKey", "Decrypt"], names
        assert len(_events(s, "--key", key["KeyId"])) == 12
        assert [e["eventName"] for e in _events(s, "--key", "alias/audited")] == ["CreateAlias", "Encrypt"]
        made, = _events(s, "--event", "CreateKey")
        assert made["responseElements"]["keyMetadata"]["keyId"] == key["KeyId"] and not made["readOnly"]
        assert made["userIdentity"]["accessKeyId"] == s.key_id and made["userIdentity"]["type"] == "Root"
        assert made["sourceIPAddress"] == "127.0.0.1" and "Boto3" in made["userAgent"]
        assert made["awsRegion"] == s.region and made["eventType"] == "AwsApiCall" and made["eventVersion"] == "1.08"
        encrypted, = _events(s, "--event", "Encrypt")
        assert encrypted["requestParameters"] == {"keyId": "alias/audited", "encryptionContext": {"Dept": "x"}}
        assert encrypted["additionalEventData"]["keyMaterialId"] == key["CurrentKeyMaterialId"]
        assert encrypted["responseElements"] is None

        on_b = _events(s, "--object", "vault/a/b")
        assert [e["s3Request"]["action"] for e in on_b] == ["s3:PutObject", "s3:GetObject", "s3:PutObject", "s3:GetObject"]
        assert on_b[0]["requestID"] == put["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
        assert on_b[1]["requestID"] == got["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
        assert on_b[0]["requestParameters"]["encryptionContext"] == {"aws:s3:arn": "arn:aws:s3:::vault/a/b"}
        assert on_b[0]["s3Request"]["sourceIPAddress"] == "127.0.0.1" and on_b[0]["sourceIPAddress"] == "AWS Internal"
        assert on_b[3]["errorCode"] == "DisabledException" and key["Arn"] in on_b[3]["errorMessage"]
        # The copy read the one object and wrote the other, for one request.
        copied = [e for e in _events(s, "--object", "vault/*") if e["s3Request"]["resource"].endswith("vault/c")]
        assert [e["eventName"] for e in copied] == ["Decrypt", "GenerateDataKey"]
        assert len({e["requestID"] for e in copied}) == 1

        failed = _events(s, "--outcome", "failure")
        assert [e["errorCode"] for e in failed] == ["InvalidCiphertextException", "DisabledException"]
        assert len(_events(s, "--outcome", "DisabledException")) == 1 and not _events(s, "--outcome", "denied")
        day = made["eventTime"][:10]
        assert len(_events(s, "--since", day)) == len(_events(s)) and not _events(s, "--until", day)
        assert len(_events(s, "--principal", s.key_id, "--limit", "3")) == 3 and not _events(s, "--principal", "nobody")
        table = _strongroom(s, "audit", "query", "--dir", s.data / "audit", "--event", "CreateKey", "--format", "table")
        assert key["KeyId"] in table and len(table.splitlines()) == 1

        everything = b"".join(path.read_bytes() for path in (s.data / "audit").iterdir())
        for value in secret, blob, data["Plaintext"], data["CiphertextBlob"], s.secret.encode():
            assert value not in everything and base64.b64encode(value) not in everything
        _verify(s)


def what_is_denied_and_what_a_rewrap_does_is_recorded():
    with Server() as s:
        kms, s3 = s.client("kms"), s.client()
        one, two = (kms.create_key()["KeyMetadata"] for _ in range(2))
        s3.create_bucket(Bucket="vault")
        for name in "a", "b":
            s3.put_object(Bucket="vault", Key=name, Body=b"A", ServerSideEncryption="aws:kms", SSEKMSKeyId=one["Arn"])
        policy = kms.get_key_policy(KeyId=one["KeyId"])["Policy"]
        closed = json.loads(policy)
        closed["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
                                    "Condition": {"StringLike": {"kms:ViaService": "s3.*"}}})
        kms.put_key_policy(KeyId=one["KeyId"], Policy=json.dumps(closed))
        refused("AccessDenied", s3.get_object, Bucket="vault", Key="a")
        denied, = _events(s, "--outcome", "denied")
        assert denied["eventName"] == "Decrypt" and denied["errorCode"] == "AccessDenied", denied
        assert denied["s3Request"]["resource"] == "arn:aws:s3:::vault/a" and denied["s3Request"]["action"] == "s3:GetObject"
        assert denied["resources"][0]["ARN"] == one["Arn"] and "explicit deny" in denied["errorMessage"]
        nowhere = f"arn:aws:kms:{s.region}:210987654321:alias/none"
        refused("AccessDenied", s3.put_object, Bucket="vault", Key="c", Body=b"A", ServerSideEncryption="aws:kms",
                SSEKMSKeyId=nowhere)
        denied, = _events(s, "--outcome", "denied", "--key", nowhere)
        assert denied["eventName"] == "GenerateDataKey" and denied["s3Request"]["resource"] == "arn:aws:s3:::vault/c", denied
        put, = _events(s, "--event", "PutKeyPolicy")
        assert json.loads(put["requestParameters"]["policy"]) == closed
        kms.put_key_policy(KeyId=one["KeyId"], Policy=policy)
        _strongroom(s, "rewrap", "--from", one["Arn"], "--to", two["Arn"])
        moved = [e for e in _events(s) if e["eventType"] == "AwsServiceEvent"]
        assert sorted((e["eventName"], e["resources"][0]["ARN"] == two["Arn"]) for e in moved) == [
            ("Decrypt", False), ("Decrypt", False), ("Encrypt", True), ("Encrypt", True)], moved
        assert all(e["serviceEventDetails"]["rewrapId"] for e in moved)
        assert len(_events(s, "--object", "vault/b")) == 3
        _verify(s)


def changes_of_identities_and_buckets_are_recorded_and_who_did_what_as_whom_is_found():
    with Server() as s:
        iam, sts, s3 = s.client("iam"), s.client("sts"), s.client()
        iam.create_user(UserName="ann")
        made = iam.create_access_key(UserName="ann")["AccessKey"]
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
                                                          "Principal": {"AWS": iam.get_user(UserName="ann")["User"]["Arn"]}}]}
        role = iam.create_role(RoleName="keeper", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
        iam.attach_role_policy(RoleName="keeper", PolicyArn="arn:aws:iam::aws:policy/StrongroomKeyAdministrator")
        ann = (made["AccessKeyId"], made["SecretAccessKey"])
        session = _client_of(s, "sts", *ann).assume_role(RoleArn=role["Arn"], RoleSessionName="night")["Credentials"]
        as_keeper = _client_of(s, "kms", session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
        key = as_keeper.create_key()["KeyMetadata"]
        used, = _events(s, "--event", "CreateKey")
        identity = used["userIdentity"]
        assert identity["type"] == "AssumedRole" and identity["sessionContext"]["sessionIssuer"]["arn"] == role["Arn"]
        # From the key to the session, from the session to who began it.
        assumed, created = _events(s, "--principal", identity["accessKeyId"])
        assert (assumed["eventName"], created["eventName"]) == ("AssumeRole", "CreateKey")
        assert assumed["userIdentity"]["userName"] == "ann" and assumed["eventSource"] == "sts.amazonaws.com"
        given, = _events(s, "--event", "CreateAccessKey")
        assert given["responseElements"]["accessKey"]["accessKeyId"] == assumed["userIdentity"]["accessKeyId"]
        refused("AccessDenied", _client_of(s, "iam", *ann).create_user, UserName="eve")
        denied, = _events(s, "--outcome", "denied")
        assert denied["eventName"] == "CreateUser" and denied["requestParameters"] == {"userName": "eve"}

        s3.create_bucket(Bucket="vault")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:PutObject",
                                                           "Resource": "arn:aws:s3:::vault/*"}]}
        s3.put_bucket_policy(Bucket="vault", Policy=json.dumps(policy))
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key["Arn"]}}
        s3.put_bucket_encryption(Bucket="vault", ServerSideEncryptionConfiguration={"Rules": [rule]})
        s3.delete_bucket_encryption(Bucket="vault")
        s3.delete_bucket_policy(Bucket="vault")
        refused("AccessDenied", _client_of(s, "s3", *ann).delete_bucket, Bucket="vault")
        s3.delete_bucket(Bucket="vault")
        refused("NoSuchBucket", s3.delete_bucket, Bucket="vault")
        on_buckets = [e for e in _events(s) if e["eventSource"] == "s3.amazonaws.com"]
        assert [(e["eventName"], e.get("errorCode")) for e in on_buckets] == [
            ("CreateBucket", None), ("PutBucketPolicy", None), ("PutBucketEncryption", None),
            ("DeleteBucketEncryption", None), ("DeleteBucketPolicy", None), ("DeleteBucket", "AccessDenied"),
            ("DeleteBucket", None), ("DeleteBucket", "NoSuchBucket")], on_buckets
        assert all(e["requestParameters"]["bucketName"] == "vault" and not e["readOnly"] for e in on_buckets)
        assert all(e["resources"][0]["ARN"] == "arn:aws:s3:::vault" and e["sourceIPAddress"] == "127.0.0.1" for e in on_buckets)
        assert on_buckets[1]["requestParameters"]["bucketPolicy"] == policy
        told, = on_buckets[2]["requestParameters"]["ServerSideEncryptionConfiguration"]["Rule"]
        assert told["ApplyServerSideEncryptionByDefault"] == rule["ApplyServerSideEncryptionByDefault"]
        everything = "".join(path.read_text() for path in (s.data / "audit").iterdir())
        for secret in [made["SecretAccessKey"], session["SecretAccessKey"], session["SessionToken"]]:
            assert secret not in everything
        _verify(s)


def refused_signatures_are_counted_and_recorded_within_bounds():
    with Server() as s:
        stranger = _client_of(s, "kms", "AKIASTRANGERSTRANGER", "x" * 40)
        for _ in range(20):
            refused("UnrecognizedClientException", stranger.list_keys)
        for _ in range(5):
            refused("SignatureDoesNotMatch", _client_of(s, "s3", s.key_id, "x" * 40).list_buckets)
        with urllib.request.urlopen(f"{s.endpoint}/metrics") as answer:
            text = answer.read().decode()
        assert 'strongroom_auth_refused_total{code="InvalidAccessKeyId"} 20' in text, text
        assert 'strongroom_auth_refused_total{code="SignatureDoesNotMatch"} 5' in text, text
        s.stop()
        alone = _events(s, "--event", "AuthenticationRefused")
        assert [e["errorCode"] for e in alone] == ["InvalidAccessKeyId"] * 3 + ["SignatureDoesNotMatch"] * 3, alone
        assert alone[0]["userIdentity"] == {"type": "Unknown", "accessKeyId": "AKIASTRANGERSTRANGER"}
        assert alone[0]["sourceIPAddress"] == "127.0.0.1" and alone[0]["additionalEventData"]["service"] == "kms.amazonaws.com"
        assert alone[3]["userIdentity"]["accessKeyId"] == s.key_id
        rest, = _events(s, "--event", "AuthenticationsRefused")
        assert rest["serviceEventDetails"]["errorCodes"] == {"InvalidAccessKeyId": 17, "SignatureDoesNotMatch": 2}, rest
        tried, = rest["serviceEventDetails"]["accessKeys"]
        assert tried == {"accessKeyId": s.key_id, "count": 2, "firstSourceIPAddress": "127.0.0.1",
                         "lastSourceIPAddress": "127.0.0.1"}, tried
        s.start()
        # Who takes the one for the other has not put the secret into the audit. One with a slash is no credential at all.
        secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00"
        refused("UnrecognizedClientException", _client_of(s, "kms", secret, s.key_id).list_keys)
        slashed = "/".join([secret[:20], secret[20:]])
        refused("IncompleteSignatureException", _client_of(s, "kms", slashed, s.key_id).list_keys)
        s.stop()
        hidden = _events(s, "--event", "AuthenticationRefused", "--outcome", "InvalidAccessKeyId")[-1]
        assert hidden["userIdentity"] == {"type": "Unknown", "accessKeyId": "HIDDEN_DUE_TO_SECURITY_REASONS"}, hidden
        text = "".join(path.read_text() for path in (s.data / "audit").iterdir())
        assert secret[:20] not in text and secret[20:] not in text
        _verify(s)


def _not_at_the_end_of_the_day():
    """A day has its own file; what counts lines wants them in one."""
    left = 86400 - time.time() % 86400
    if left < 60:
        time.sleep(left)


def checkpoints_are_proven_by_the_token_and_tampering_is_found_where_it_is():
    _not_at_the_end_of_the_day()
    with Server() as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        for _ in range(20):
            kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        # A stop makes the last checkpoint, a start the first.
        s.stop()
        s.start()
        eventually(lambda: _attested(s))
        offline = _verify(s)
        assert not offline["checkpoints_checked"] and offline["checkpoints"] >= 2
        online = _verify(s, "--online")
        assert online["checkpoints_checked"]
        assert "NOT checked" in _strongroom(s, "audit", "verify", "--config", s.home / "strongroom.toml")
        noted = offline["head"]
        _verify(s, "--expect-head", noted, "--expect-head", noted.split(":")[1])

        copy = s.dir / "copy"

        def tampered(change, *arguments, finds):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(s.data / "audit", copy)
            path = sorted(copy.iterdir())[0]
            lines = path.read_text().splitlines(keepends=True)
            change(lines)
            path.write_text("".join(lines))
            return _verify(s, *arguments, directory=copy, finds=finds)

        def changed(lines):
            assert key in lines[9]
            lines[9] = lines[9].replace('"errorCode"', "").replace("127.0.0.1", "127.0.0.2")

        tampered(changed, finds=[(10, 10, "was changed")])
        tampered(lambda lines: lines.pop(9), finds=[(10, 11, "record 10 is missing")])
        tampered(lambda lines: lines.insert(9, lines.pop(10)),
                 finds=[(10, 11, "record 10 is missing"), (11, 10, "out of its place")])
        tampered(lambda lines: lines.insert(9, lines[4]), finds=[(10, 5, "inserted")])
        tampered(lambda lines: lines.__setitem__(9, "{}\n"), finds=[(10, 10, "not a record")])

        def cut(lines):
            del lines[12:]

        report = tampered(cut, "--expect-head", noted, finds=[(13, 12, "does not contain")])
        assert report["records"] == 12
        # The metadata know the end as well as an auditor who noted it.
        tampered(cut, "--online", finds=[(13, 12, "does not contain")])

        # Whoever makes the chain anew from somewhere on has no proof of it.
        def anew(lines):
            head = re.match(r'\{"seq":(\d+),"hash":"(\w+)"', lines[7])
            sequence, previous, out = int(head[1]), bytes.fromhex(head[2]), []
            for line in lines[8:]:
                record = line.rstrip("\n")[:-1].split('","record":', 1)[1].replace("127.0.0.1", "127.0.0.2")
                sequence += 1
                found = re.match(r'\{"auditRecord":"Checkpoint".*?"sequence":(\d+),"hash":"(\w+)"', record)
                if found and int(found[1]) > 8:
                    record = record.replace(found[2], hashes[int(found[1])])
                previous = hashlib.sha256(b"strongroom audit v1" + previous + sequence.to_bytes(8, "big")
                                          + record.encode()).digest()
                hashes[sequence] = previous.hex()
                out.append(f'{{"seq":{sequence},"hash":"{previous.hex()}","record":{record}}}\n')
            lines[8:] = out

        hashes = {}
        shutil.rmtree(copy)
        shutil.copytree(s.data / "audit", copy)
        path = sorted(copy.iterdir())[0]
        lines = path.read_text().splitlines(keepends=True)
        anew(lines)
        path.write_text("".join(lines))
        _verify(s, directory=copy)
        out = _strongroom(s, "audit", "verify", "--dir", copy, "--online", fails="did not make the proof")
        assert "does not contain" in out


def a_missing_file_is_found():
    with Server("file_mib = 1") as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        # Long contexts fill files quickly.
        context = {f"name{i}": "v" * 500 for i in range(12)}

        def fill():
            for _ in range(60):
                kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
        threads = [threading.Thread(target=fill) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        s.stop()
        files = sorted((s.data / "audit").iterdir())
        assert len(files) >= 3, files
        assert all(path.stat().st_size <= 1 << 20 for path in files)
        s.start()
        report = _verify(s, "--online")
        assert report["files"] >= 3
        (first, second), third = (int(re.search(r"\d+", p.name).group()) for p in files[:2]), int(
            re.search(r"\d+", files[2].name).group())
        assert first == 1
        files[1].rename(s.dir / "away")
        _verify(s, finds=[(1, third, f"records {second} to {third - 1} are missing")])
        files[0].rename(s.dir / "away too")
        _verify(s, finds=[(1, third, f"records 1 to {third - 1} are missing")])
        archived = (s.dir / "away").read_text().splitlines()[-1]
        head = re.match(r'\{"seq":(\d+),"hash":"(\w+)"', archived)
        _verify(s, "--archived", f"{head[1]}:{head[2]}")


def a_killed_server_leaves_a_chain_that_goes_on():
    with Server() as s:
        key = s.client("kms").create_key()["KeyMetadata"]["KeyId"]
        answered = []

        def use():
            kms = s.client("kms")
            try:
                while True:
                    answered.append(kms.generate_data_key(KeyId=key, KeySpec="AES_256")["ResponseMetadata"]["RequestId"])
            except Exception:
                pass

        for round in range(5):
            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            eventually(lambda: _enough(answered, (round + 1) * 100))
            s.kill()
            for thread in threads:
                thread.join()
            if round % 2 == 0:
                # A kill seldom falls between the bytes of a line: this one does.
                last = sorted((s.data / "audit").iterdir())[-1]
                with open(last, "a") as file:
                    file.write('{"seq":99999,"hash":"00')
                assert len(_verify(s)["torn"]) == round // 2 + 1
            s.start()
        eventually(lambda: _attested(s))
        report = _verify(s, "--online")
        assert len(report["torn"]) == 3 and report["files"] in (4, 5)
        recorded = {e["requestID"] for e in _events(s, "--event", "GenerateDataKey")}
        assert len(recorded) >= len(answered) >= 500 and recorded.issuperset(answered), "what was answered is recorded"
        # And what is cut off while the server is down stays missing.
        s.stop()
        last = sorted((s.data / "audit").iterdir())[-1]
        lines = last.read_text().splitlines(keepends=True)
        last.write_text("".join(lines[:-5]))
        s.start()
        assert "audit.file_left" in (s.dir / "log").read_text()
        found = _strongroom(s, "audit", "verify", "--dir", s.data / "audit", fails="records are missing")
        assert re.search(r"records \d+ to \d+ are missing before it", found)


def _enough(answered, count):
    assert len(answered) >= count


def without_its_audit_no_key_is_used_and_it_heals():
    with Server("checkpoint_s = 1") as s:
        kms, s3 = s.client("kms"), s.client()
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        s3.create_bucket(Bucket="vault")
        sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
        s3.put_object(Bucket="vault", Key="a", Body=b"A", **sse)
        eventually(lambda: _attested(s))
        # A file where the directory was: nothing can be written there, whoever tries.
        (s.data / "audit").rename(s.dir / "away")
        (s.data / "audit").write_text("")
        message = refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="a", status=503)
        assert "audit record" in message
        refused("ServiceUnavailable", s3.put_object, Bucket="vault", Key="b", Body=b"B", status=503, **sse)
        message = refused("KMSInternalException", kms.generate_data_key, KeyId=key, KeySpec="AES_256", status=500)
        assert "audit record" in message
        keys = len(s.token_objects())
        refused("KMSInternalException", kms.create_key)
        assert len(s.token_objects()) == keys
        # What needs no key goes on.
        assert s3.list_objects_v2(Bucket="vault")["KeyCount"] == 1
        assert s3.head_object(Bucket="vault", Key="a")["ContentLength"] == 1
        assert _metric(s, "strongroom_audit_failing") == 1
        assert "audit.failing" in (s.dir / "log").read_text()
        (s.data / "audit").unlink()
        (s.dir / "away").rename(s.data / "audit")
        eventually(lambda: s3.get_object(Bucket="vault", Key="a")["Body"].read())
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        report = _verify(s, "--online")
        assert len(report["gaps"]) == 1 and report["files"] in (1, 2), report
        assert _metric(s, "strongroom_audit_failing") == 0


def an_orderly_stop_waits_for_calls_whose_clients_have_gone():
    with Server() as s:
        kms = s.client("kms", read_timeout=0.2)
        for _ in range(3):
            try:
                kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="RSA_4096")
            except botocore.exceptions.ReadTimeoutError:
                pass
        s.stop()
        made = _events(s, "--event", "CreateKey", "--outcome", "success")
        chain = "".join(path.read_text() for path in sorted((s.data / "audit").iterdir()))
        assert not made or chain.rindex('"eventName":"CreateKey"') < chain.rindex('"auditRecord":"Stop"')
        s.start()
        there = {key["KeyArn"] for key in s.client("kms").list_keys()["Keys"]}
        assert {event["responseElements"]["keyMetadata"]["arn"] for event in made} == there, (made, there)


def without_its_audit_key_use_goes_on_if_the_configuration_says_so():
    with Server('on_failure = "continue"') as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        # The first checkpoint comes when the HSM has made its key: it is not to be among what is lost here.
        eventually(lambda: _is(True, _verify(s)["checkpoints"] > 0))
        (s.data / "audit").rename(s.dir / "away")
        (s.data / "audit").write_text("")
        for _ in range(3):
            kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        (s.data / "audit").unlink()
        (s.dir / "away").rename(s.data / "audit")
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        report = _verify(s)
        assert len(report["gaps"]) == 1 and ": 3 records could not be written" in report["gaps"][0], report
        out = subprocess.run([PROGRAM, "audit", "verify", "--dir", s.data / "audit"], capture_output=True, text=True)
        assert out.returncode == 3 and "NOT all that happened" in out.stdout and "is wrong" not in out.stdout, out


def records_go_on_without_the_token_and_are_attested_later():
    with Server("checkpoint_s = 1") as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        eventually(lambda: _attested(s))
        s.unplug()
        eventually(lambda: refused("KeyUnavailableException", kms.generate_data_key, KeyId=key, KeySpec="AES_256"))
        kms.list_keys()
        eventually(lambda: _is(1, _metric(s, "strongroom_audit_checkpoint_failing")))
        assert _metric(s, "strongroom_audit_unattested_records") > 0
        _verify(s)
        s.plug_in()
        eventually(lambda: _attested(s), 60)
        _is(0, _metric(s, "strongroom_audit_checkpoint_failing"))
        _verify(s, "--online")
        outage, = _events(s, "--outcome", "KeyUnavailableException", "--limit", "1")
        assert outage["requestParameters"]["keyId"] == key


def _is(wanted, found):
    assert found == wanted, found


def an_auditor_sees_every_key_and_what_the_token_says_of_it():
    with Server("checkpoint_s = 1") as s:
        kms = s.client("kms")
        key = kms.create_key()["KeyMetadata"]
        kms.create_alias(AliasName="alias/seen", TargetKeyId=key["KeyId"])
        kms.rotate_key_on_demand(KeyId=key["KeyId"])
        kms.enable_key_rotation(KeyId=key["KeyId"], RotationPeriodInDays=90)
        eventually(lambda: _attested(s))
        found = json.loads(_strongroom(s, "audit", "keys", "--format", "json"))["Keys"]
        names = [entry["Name"] for entry in found]
        assert names == [key["Arn"], "internal/audit", "internal/metadata-mac"], names
        one, two = found[0]["Versions"]
        assert one["KeyMaterialId"] == key["CurrentKeyMaterialId"]
        assert (one["Cause"], two["Cause"], one["Current"], two["Current"]) == ("CREATION", "ON_DEMAND", False, True)
        assert found[0]["RotationPeriodInDays"] == 90 and found[0]["Aliases"] == ["alias/seen"]
        in_token = {version["KeyMaterialId"] for entry in found for version in entry["Versions"]}
        assert in_token == {identity.lower() for identity in s.token_objects()}, "the token holds no other"
        for entry in found:
            for version in entry["Versions"]:
                assert version["Opens"] and version["Scheme"] == "aes-gcm" and version["TokenGroup"] == "default"
                object, = version["Objects"]
                told = object["Attributes"]
                assert (told["SENSITIVE"], told["NEVER_EXTRACTABLE"], told["LOCAL"]) == ("true", "true", "true"), told
                assert told["usage"] == "ENCRYPT+DECRYPT"
        rows = list(csv.DictReader(io.StringIO(_strongroom(s, "audit", "keys", "--format", "csv"))))
        assert len(rows) == 4 and rows[0]["aliases"] == "alias/seen" and rows[1]["SENSITIVE"] == "true"
        assert rows[1]["rotation_age_days"] == "0" and rows[1]["current"] == "true"
        table = _strongroom(s, "audit", "keys")
        assert len(table.splitlines()) == 4 and key["KeyId"] in table and "NEVER_EXTRACTABLE=true" in table
        asked, = _events(s, "--event", "KeyInventory", "--limit", "1")
        assert asked["eventSource"] == "strongroom" and asked["readOnly"]
        # Keys that do not wrap, or have no material yet, are told like all others.
        kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")
        kms.create_key(Origin="EXTERNAL")
        found = json.loads(_strongroom(s, "audit", "keys", "--format", "json"))["Keys"]
        schemes = [[version["Scheme"] for version in entry["Versions"]] for entry in found]
        assert sorted(schemes) == [[], ["MAC"], ["aes-gcm"], ["aes-gcm"], ["aes-gcm", "aes-gcm"]], schemes
        assert all(version["Opens"] for entry in found for version in entry["Versions"]), found


def an_auditor_needs_no_more_than_the_ready_policy():
    with Server("checkpoint_s = 1") as s:
        iam, kms = s.client("iam"), s.client("kms")
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        ready = "arn:aws:iam::aws:policy/StrongroomAuditor"
        user = iam.create_user(UserName="ann")["User"]["Arn"]
        iam.attach_user_policy(UserName="ann", PolicyArn=ready)
        made = iam.create_access_key(UserName="ann")["AccessKey"]
        by_hand = {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
        iam.create_user(UserName="bob")
        bob = iam.create_access_key(UserName="bob")["AccessKey"]
        trust = {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": user.replace("ann", "bob")}}]}
        role = iam.create_role(RoleName="auditor", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        iam.attach_role_policy(RoleName="auditor", PolicyArn=ready)
        sts = _client_of(s, "sts", bob["AccessKeyId"], bob["SecretAccessKey"])
        session = sts.assume_role(RoleArn=role, RoleSessionName="monday")["Credentials"]
        in_session = {"AWS_ACCESS_KEY_ID": session["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
                      "AWS_SESSION_TOKEN": session["SessionToken"]}
        # The same by profiles of a file, in which the first one is somebody else's.
        file = s.dir / "people"
        file.write_text(f"[bob]\naws_access_key_id = {bob['AccessKeyId']}\naws_secret_access_key = {bob['SecretAccessKey']}\n"
                        f"[default]\naws_access_key_id = {made['AccessKeyId']}\n"
                        f"aws_secret_access_key = {made['SecretAccessKey']}\n"
                        f"[monday]\naws_access_key_id = {session['AccessKeyId']}\n"
                        f"aws_secret_access_key = {session['SecretAccessKey']}\n"
                        f"aws_session_token = {session['SessionToken']}\n")
        by_file = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
        eventually(lambda: _attested(s))
        for env in by_hand, in_session, by_file, by_file | {"AWS_PROFILE": "monday"}:
            assert key in _strongroom(s, "audit", "keys", env=env)
            verified = _strongroom(s, "audit", "verify", "--online", "--dir", s.data / "audit", env=env)
            assert "checked by the HSM" in verified and "Nothing is wrong." in verified
            assert "LastUsage" in _strongroom(s, "key", "describe", key, env=env)
            assert "0 objects" in _strongroom(s, "key", "usage", key, env=env)
            _strongroom(s, "rewrap", "list", env=env)
            _strongroom(s, "key", "rotate", key, env=env, fails="AccessDeniedException")
        _strongroom(s, "audit", "keys", env=by_file | {"AWS_PROFILE": "bob"}, fails="AccessDeniedException")
        _strongroom(s, "audit", "keys", env=by_file | {"AWS_PROFILE": "eve"}, fails="no profile [eve]")
        without = {name: value for name, value in in_session.items() if name != "AWS_SESSION_TOKEN"}
        _strongroom(s, "audit", "keys", env=without, fails="UnrecognizedClientException")


def the_last_use_of_a_key_and_what_hangs_on_it_are_told_everywhere():
    with Server() as s:
        s3, kms = s.client(), s.client("kms")
        used, unused = (kms.create_key()["KeyMetadata"] for _ in range(2))
        s3.create_bucket(Bucket="vault")
        sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": used["Arn"]}
        s3.put_object(Bucket="vault", Key="a", Body=b"A" * 9, **sse)
        s3.create_multipart_upload(Bucket="vault", Key="m", **sse)
        data = kms.encrypt(KeyId=used["KeyId"], Plaintext=b"x")
        refused("InvalidCiphertextException", kms.decrypt, KeyId=used["KeyId"], CiphertextBlob=data["CiphertextBlob"],
                EncryptionContext={"another": "one"})
        kms.describe_key(KeyId=used["KeyId"])

        # The last use that succeeded, and the record of just that.
        event, = _events(s, "--event", "Encrypt")
        told = kms.get_key_last_usage(KeyId=used["Arn"])
        last = told["KeyLastUsage"]
        assert last["Operation"] == "Encrypt" and told["KeyId"] == used["KeyId"], told
        assert last["KmsRequestId"] == event["requestID"] == data["ResponseMetadata"]["RequestId"], (last, event)
        assert last["CloudTrailEventId"] == event["eventID"], (last, event)
        assert abs((last["Timestamp"] - datetime.datetime.fromisoformat(event["eventTime"])).total_seconds()) < 5
        assert told["KeyCreationDate"] <= last["Timestamp"] and told["TrackingStartDate"] <= last["Timestamp"], told
        told = kms.get_key_last_usage(KeyId=unused["KeyId"])
        assert told["KeyLastUsage"] == {} and told["TrackingStartDate"] >= told["KeyCreationDate"] - A_SECOND, told
        refused("NotFoundException", kms.get_key_last_usage, KeyId=unused["KeyId"][:-8] + "00000000")

        described = json.loads(_strongroom(s, "key", "describe", used["KeyId"]))
        assert described["LastUsage"]["KeyLastUsage"]["Operation"] == "Encrypt", described
        assert (described["Usage"]["Objects"], described["Usage"]["Bytes"]) == (1, 9), described
        described = json.loads(_strongroom(s, "key", "describe", unused["KeyId"]))
        assert described["LastUsage"]["KeyLastUsage"] == {} and described["Usage"]["Objects"] == 0, described

        rows = csv.DictReader(io.StringIO(_strongroom(s, "audit", "keys", "--format", "csv")))
        rows = {row["key"]: row for row in rows}
        names = ["last_used", "last_operation", "objects", "bytes", "multipart_uploads"]
        today = event["eventTime"][:10]
        assert [rows[used["Arn"]][name] for name in names] == [today, "Encrypt", "1", "9", "1"], rows
        assert [rows[unused["Arn"]][name] for name in names] == [f"not since {today}", "", "0", "0", "0"], rows
        assert [rows["internal/audit"][name] for name in names] == [""] * 5, rows

        said = _strongroom(s, "key", "schedule-deletion", used["KeyId"])
        assert f"last used {today} for Encrypt" in said and "1 objects (9 bytes) and 1 multipart uploads" in said, said
        said = _strongroom(s, "key", "schedule-deletion", unused["KeyId"])
        assert f"not used since {today}" in said and "0 objects (0 bytes)" in said, said
        first, second = (e["additionalEventData"] for e in _events(s, "--event", "ScheduleKeyDeletion"))
        assert first["dependants"] == {"objects": 1, "bytes": 9, "multipartUploads": 1}, first
        assert first["lastUsage"]["operation"] == "Encrypt", first
        assert first["lastUsage"]["cloudTrailEventId"] == event["eventID"], first
        assert second["dependants"] == {"objects": 0, "bytes": 0, "multipartUploads": 0}, second
        assert second["lastUsage"].keys() == {"noneSince"}, second
        _verify(s)


main(globals())
