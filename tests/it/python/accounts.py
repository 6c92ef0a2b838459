"""KMS keys of two accounts: whose they are, and what the other can do with them, with KMS and with S3."""

import csv
import io
import json
import subprocess

from support import PROGRAM, Server, eventually, main, noise, refused

FIRST, SECOND = "000000000000", "111122223333"
CREDENTIALS = "AKIASECOND", "second-secret-of-the-test"
BODY = noise(200_000)
MISSING = "00000000-0000-4000-8000-000000000000"


class _Account:
    """An account's root and a user of it that has no policy yet."""

    def __init__(self, server, number, *credentials):
        self.number, self.credentials = number, credentials
        self.kms, self.s3, self.iam = (server.client_as(service, *credentials) for service in ("kms", "s3", "iam"))
        self.iam.create_user(UserName="anna")
        key = self.iam.create_access_key(UserName="anna")["AccessKey"]
        own = key["AccessKeyId"], key["SecretAccessKey"]
        self.anna_kms, self.anna_s3 = (server.client_as(service, *own) for service in ("kms", "s3"))
        self.root = f"arn:aws:iam::{number}:root"

    def lets_anna(self, *actions):
        self.iam.put_user_policy(UserName="anna", PolicyName="may", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}))

    def forbids_anna(self):
        self.iam.delete_user_policy(UserName="anna", PolicyName="may")

    def key(self):
        return self.kms.create_key()["KeyMetadata"]["Arn"]

    def shares(self, key, *others, action="kms:*"):
        """The key's policy lets these principals in, besides its own account."""
        statements = [{"Effect": "Allow", "Principal": {"AWS": self.root}, "Action": "kms:*", "Resource": "*"}]
        if others:
            statements.append({"Effect": "Allow", "Principal": {"AWS": list(others)}, "Action": action,
                               "Resource": "*"})
        self.kms.put_key_policy(KeyId=key, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))

    def opens(self, bucket, *others):
        self.s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": list(others)}, "Action": "s3:*",
             "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}]}))


def _two(server):
    server.add_account(SECOND, *CREDENTIALS)
    return _Account(server, FIRST, server.key_id, server.secret), _Account(server, SECOND, *CREDENTIALS)


def _id(arn):
    return arn.rsplit("/")[-1]


def _strongroom(s, *arguments, account=None):
    own = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), account.credentials)) if account else {}
    out = subprocess.run([PROGRAM, *map(str, arguments)], env=s.environment() | own, capture_output=True, text=True,
                         timeout=120)
    assert out.returncode == 0, (arguments, out.stdout, out.stderr)
    return out.stdout


def every_account_has_its_own_keys_aliases_and_default_key():
    with Server() as s:
        accounts = first, second = _two(s)
        keys = {account: account.key() for account in accounts}
        for account, key in keys.items():
            assert key.startswith(f"arn:aws:kms:{s.region}:{account.number}:key/"), key
            account.kms.create_alias(AliasName="alias/pay", TargetKeyId=_id(key))
            account.s3.create_bucket(Bucket=f"bucket-{account.number}")
            account.s3.put_object(Bucket=f"bucket-{account.number}", Key="a", Body=BODY,
                                  ServerSideEncryption="aws:kms")
        defaults = set()
        for account, key in keys.items():
            found = account.kms.describe_key(KeyId="alias/pay")["KeyMetadata"]
            assert (found["Arn"], found["AWSAccountId"]) == (key, account.number), found
            default = account.kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]
            assert (default["AWSAccountId"], default["KeyManager"]) == (account.number, "AWS"), default
            defaults.add(default["Arn"])
            sealed = account.s3.head_object(Bucket=f"bucket-{account.number}", Key="a")["SSEKMSKeyId"]
            assert sealed == default["Arn"], sealed
            listed = {one["KeyArn"] for one in account.kms.list_keys()["Keys"]}
            assert listed == {key, default["Arn"]}, listed
            aliases = {one["AliasArn"]: one["TargetKeyId"] for one in account.kms.list_aliases()["Aliases"]}
            stem = f"arn:aws:kms:{s.region}:{account.number}:alias/"
            assert aliases == {f"{stem}pay": _id(key), f"{stem}aws/s3": _id(default["Arn"])}, aliases
        assert len(defaults) == 2
        # Everything of one account ends without the other noticing.
        second.kms.update_alias(AliasName="alias/pay", TargetKeyId=second.key())
        second.kms.delete_alias(AliasName="alias/pay")
        second.kms.schedule_key_deletion(KeyId=_id(keys[second]), PendingWindowInDays=7)
        found = first.kms.describe_key(KeyId="alias/pay")["KeyMetadata"]
        assert (found["Arn"], found["KeyState"]) == (keys[first], "Enabled"), found
        refused("AlreadyExistsException", first.kms.create_alias, AliasName="alias/pay", TargetKeyId=keys[first])
        refused("NotFoundException", second.kms.describe_key, KeyId="alias/pay")
        # The operator's things are of the first account.
        refused("UnsupportedOperationException", second.kms.describe_custom_key_stores)


def a_key_of_another_account_takes_both_policies_and_its_arn():
    with Server() as s:
        accounts = _two(s)
        for ours, theirs in accounts, accounts[::-1]:
            key, stem = ours.key(), f"arn:aws:kms:{s.region}:{ours.number}:"
            alias = f"alias/shared-{ours.number}"
            ours.kms.create_alias(AliasName=alias, TargetKeyId=key)
            anna = theirs.anna_kms

            def denied():
                refused("AccessDeniedException", anna.encrypt, KeyId=key, Plaintext=b"x")

            denied()                                        # neither
            theirs.lets_anna("kms:*")
            denied()                                        # the caller's own policy alone
            ours.shares(key, theirs.root)
            theirs.forbids_anna()
            denied()                                        # the key's policy alone
            theirs.lets_anna("kms:*")
            for name in key, f"{stem}{alias}":         # both
                sealed = anna.encrypt(KeyId=name, Plaintext=b"x", EncryptionContext={"a": "b"})
                assert sealed["KeyId"] == key, sealed
                for reader in anna, ours.kms:
                    read = reader.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"a": "b"})
                    assert (read["Plaintext"], read["KeyId"]) == (b"x", key), read
            for name in _id(key), alias:
                refused("NotFoundException", anna.encrypt, KeyId=name, Plaintext=b"x")
            generated = anna.generate_data_key(KeyId=key, KeySpec="AES_256")
            own = theirs.key()
            moved = anna.re_encrypt(CiphertextBlob=generated["CiphertextBlob"], DestinationKeyId=own)
            assert (moved["SourceKeyId"], moved["KeyId"]) == (key, own), moved
            assert anna.describe_key(KeyId=key)["KeyMetadata"]["AWSAccountId"] == ours.number
            anna.get_key_rotation_status(KeyId=key)

            # What AWS keeps to the owner's account, whatever policies say.
            for operation, request in (
                    (anna.schedule_key_deletion, {}), (anna.disable_key, {}), (anna.enable_key_rotation, {}),
                    (anna.get_key_policy, {}), (anna.list_resource_tags, {}), (anna.rotate_key_on_demand, {}),
                    (anna.put_key_policy, {"Policy": "{}"}), (anna.update_key_description, {"Description": "x"}),
                    (anna.tag_resource, {"Tags": [{"TagKey": "a", "TagValue": "b"}]}), (anna.list_aliases, {})):
                refused("AccessDeniedException", operation, KeyId=key, **request)
            refused("AccessDeniedException", anna.create_alias, AliasName="alias/mine", TargetKeyId=key)

            # A grant instead of the key's policy.
            ours.shares(key)
            denied()
            grant = ours.kms.create_grant(KeyId=key, GranteePrincipal=theirs.root, RetiringPrincipal=theirs.root,
                                          Operations=["Encrypt", "DescribeKey"])
            anna.encrypt(KeyId=key, Plaintext=b"x")
            refused("AccessDeniedException", anna.generate_data_key, KeyId=key, KeySpec="AES_256")
            [found] = theirs.kms.list_retirable_grants(RetiringPrincipal=theirs.root)["Grants"]
            assert (found["KeyId"], found["GrantId"]) == (key, grant["GrantId"]), found
            theirs.kms.retire_grant(GrantToken=grant["GrantToken"])

            # A key that is not there, one that is closed and an alias of it look alike.
            told = set()
            for name in key, f"{stem}key/{MISSING}", f"{stem}{alias}", f"{stem}alias/missing":
                told.add(refused("AccessDeniedException", anna.describe_key, KeyId=name).replace(name, "NAME"))
            assert len(told) == 1, told
            theirs.forbids_anna()


def a_buckets_policy_is_its_accounts_alone():
    with Server() as s:
        first, second = _two(s)
        for ours, theirs in (first, second), (second, first):
            bucket = f"vault-{ours.number}"
            ours.s3.create_bucket(Bucket=bucket)
            ours.opens(bucket, theirs.root)
            before = ours.s3.get_bucket_policy(Bucket=bucket)["Policy"]
            takeover = json.dumps({"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}"}]})

            def tries(error, client):
                refused(error, client.put_bucket_policy, Bucket=bucket, Policy=takeover)
                refused(error, client.put_bucket_policy, Bucket=bucket, Policy=takeover,
                        ConfirmRemoveSelfBucketAccess=True)
                refused(error, client.get_bucket_policy, Bucket=bucket)
                refused(error, client.delete_bucket_policy, Bucket=bucket)

            tries("AccessDenied", theirs.anna_s3)               # her own account does not let her
            theirs.lets_anna("s3:*")
            tries("MethodNotAllowed", theirs.anna_s3)
            tries("MethodNotAllowed", theirs.s3)
            theirs.anna_s3.put_object(Bucket=bucket, Key="a", Body=BODY)
            assert ours.s3.get_bucket_policy(Bucket=bucket)["Policy"] == before
            ours.s3.delete_bucket_policy(Bucket=bucket)
            tries("AccessDenied", theirs.s3)
            theirs.forbids_anna()


def objects_go_across_accounts_under_a_key_of_either():
    with Server() as s:
        first, second = _two(s)
        for ours, theirs in (first, second), (second, first):
            bucket, key = f"vault-{ours.number}", ours.key()
            ours.s3.create_bucket(Bucket=bucket)
            ours.opens(bucket, theirs.root)
            anna = theirs.anna_s3
            theirs.lets_anna("s3:*", "kms:*")
            where = {"Bucket": bucket, "Body": BODY, "ServerSideEncryption": "aws:kms"}

            def reads(reader, name, under):
                found = reader.get_object(Bucket=bucket, Key=name)
                assert (found["Body"].read(), found["SSEKMSKeyId"]) == (BODY, under), found

            # Under the key of the bucket's owner: by its policy and the writer's.
            for bucket_key in False, True:
                ours.shares(key)
                name = f"a-{bucket_key}"
                refused("AccessDenied", anna.put_object, Key=name, SSEKMSKeyId=key, BucketKeyEnabled=bucket_key, **where)
                ours.shares(key, theirs.root)
                anna.put_object(Key=name, SSEKMSKeyId=key, BucketKeyEnabled=bucket_key, **where)
                for reader in anna, ours.s3:
                    reads(reader, name, key)
                theirs.lets_anna("s3:*")
                refused("AccessDenied", anna.get_object, Bucket=bucket, Key=name)
                theirs.lets_anna("s3:*", "kms:*")
            refused("KMS.NotFoundException", anna.put_object, Key="x", SSEKMSKeyId=_id(key), **where)

            # The bucket's default by ARN is the owner's key; a bare name is the requester's.
            def default(key, bucket_key=True):
                ours.s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [{
                    "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"} | (
                        {"KMSMasterKeyID": key} if key else {}), "BucketKeyEnabled": bucket_key}]})

            default(key)
            anna.put_object(Bucket=bucket, Key="b", Body=BODY)
            reads(ours.s3, "b", key)
            own, alias = theirs.key(), f"alias/{bucket}"
            theirs.kms.create_alias(AliasName=alias, TargetKeyId=own)
            ours.kms.create_alias(AliasName=alias, TargetKeyId=key)
            default(alias)
            anna.put_object(Bucket=bucket, Key="c", Body=BODY)
            ours.s3.put_object(Bucket=bucket, Key="d", Body=BODY)
            reads(ours.s3, "d", key)
            reads(anna, "c", own)
            refused("AccessDenied", ours.s3.get_object, Bucket=bucket, Key="c")
            theirs.shares(own, ours.root)
            reads(ours.s3, "c", own)
            default(None)
            anna.put_object(Bucket=bucket, Key="e", Body=BODY)
            reads(anna, "e", theirs.kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]["Arn"])
            refused("AccessDenied", ours.s3.get_object, Bucket=bucket, Key="e")

            # Multipart, and a copy from the one key to the other.
            part = noise(5 * 1024 * 1024)
            upload = anna.create_multipart_upload(Bucket=bucket, Key="f", ServerSideEncryption="aws:kms",
                                                  SSEKMSKeyId=key)["UploadId"]
            etag = anna.upload_part(Bucket=bucket, Key="f", UploadId=upload, PartNumber=1, Body=part)["ETag"]
            anna.complete_multipart_upload(Bucket=bucket, Key="f", UploadId=upload, MultipartUpload={
                "Parts": [{"ETag": etag, "PartNumber": 1}]})
            assert ours.s3.get_object(Bucket=bucket, Key="f")["Body"].read() == part
            anna.copy_object(Bucket=bucket, Key="g", CopySource=f"{bucket}/b", ServerSideEncryption="aws:kms",
                             SSEKMSKeyId=own)
            reads(anna, "g", own)

            # The owner of the key changes it for the object, but only to one of the bucket's account.
            def change(to, client=ours.s3):
                return client.update_object_encryption(Bucket=bucket, Key="g",
                                                       ObjectEncryption={"SSEKMS": {"KMSKeyArn": to}})
            refused("AccessDenied", change, own)
            change(key)
            reads(ours.s3, "g", key)
            theirs.forbids_anna()


def a_rewrap_takes_objects_to_a_key_of_another_account():
    with Server() as s:
        first, second = _two(s)
        for ours, theirs in (first, second), (second, first):
            bucket, one, two = f"vault-{ours.number}", ours.key(), theirs.key()
            ours.s3.create_bucket(Bucket=bucket)
            for at in range(4):
                ours.s3.put_object(Bucket=bucket, Key=str(at), Body=BODY, ServerSideEncryption="aws:kms",
                                   SSEKMSKeyId=one, BucketKeyEnabled=at % 2 == 0)
            used = json.loads(_strongroom(s, "key", "usage", "--json", _id(one), account=ours))
            assert (used["KeyId"], used["Objects"]) == (one, 4), used
            rewrap = ["rewrap", "--from", one, "--to", two]
            out = subprocess.run([PROGRAM, *rewrap], capture_output=True, text=True, env=s.environment() | dict(
                zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ours.credentials)))
            assert out.returncode != 0 and "AccessDenied" in out.stderr, out.stderr
            theirs.shares(two, ours.root)
            assert "re-wrapped" in _strongroom(s, *rewrap, account=ours)
            for at in range(4):
                found = ours.s3.get_object(Bucket=bucket, Key=str(at))
                assert (found["Body"].read(), found["SSEKMSKeyId"]) == (BODY, two), found
            assert json.loads(_strongroom(s, "key", "usage", "--json", one, account=ours))["Objects"] == 0
            used = json.loads(_strongroom(s, "key", "usage", "--json", two, account=theirs))
            shown = [] if theirs is second else [bucket]        # the operator sees whose buckets they are
            assert (used["Objects"], [one["Bucket"] for one in used["Buckets"]]) == (4, shown), used
            assert used["OtherBuckets"]["Objects"] == 4 - 4 * len(shown), used
            listed = _strongroom(s, "rewrap", "list", account=ours)
            assert one in listed and two in listed, listed
            assert (one in _strongroom(s, "rewrap", "list", account=theirs)) == (theirs is first)


def keys_that_were_there_before_read_on_and_the_auditor_sees_all():
    with Server() as s:
        kms, s3 = s.client("kms"), s.client()
        key = kms.create_key()["KeyMetadata"]["Arn"]
        kms.create_alias(AliasName="alias/old", TargetKeyId=key)
        blob = kms.encrypt(KeyId="alias/old", Plaintext=b"x")["CiphertextBlob"]
        s3.create_bucket(Bucket="vault")
        s3.put_object(Bucket="vault", Key="a", Body=BODY, ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/old")
        first, second = _two(s)
        assert first.kms.decrypt(CiphertextBlob=blob)["KeyId"] == key
        assert first.kms.describe_key(KeyId="alias/old")["KeyMetadata"]["Arn"] == key
        assert first.s3.get_object(Bucket="vault", Key="a")["Body"].read() == BODY

        other = second.key()
        second.kms.encrypt(KeyId=other, Plaintext=b"x")
        second.shares(other, first.root)
        first.kms.encrypt(KeyId=other, Plaintext=b"x")
        refused("AccessDeniedException", second.kms.encrypt, KeyId=key, Plaintext=b"x")
        rows = list(csv.DictReader(io.StringIO(_strongroom(s, "audit", "keys", "--format", "csv"))))
        accounts = {row["key"]: row["account"] for row in rows}
        assert (accounts[key], accounts[other]) == (FIRST, SECOND), accounts
        assert {row["account"] for row in rows if row["key"].startswith("internal/")} == {""}, rows

        def told():
            events = [json.loads(line) for line in _strongroom(
                s, "audit", "query", "--dir", s.data / "audit", "--event", "Encrypt").splitlines()]
            found = [(event["userIdentity"]["accountId"], event["recipientAccountId"],
                      event["resources"][0]["accountId"], event.get("errorCode")) for event in events]
            assert found == [(FIRST, FIRST, FIRST, None), (SECOND, SECOND, SECOND, None), (FIRST, SECOND, SECOND, None),
                             (SECOND, FIRST, FIRST, "AccessDenied")], found
        eventually(told, 5)


def signatures_and_key_pairs_take_both_policies_too():
    with Server() as s:
        ours, theirs = _two(s)
        signing = ours.kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
        wrapping = ours.key()
        anna, how = theirs.anna_kms, {"KeyId": signing, "SigningAlgorithm": "RSASSA_PSS_SHA_256", "Message": b"x"}
        signature = ours.kms.sign(**how)["Signature"]

        def denied():
            refused("AccessDeniedException", anna.sign, **how)
            refused("AccessDeniedException", anna.verify, Signature=signature, **how)
            refused("AccessDeniedException", anna.get_public_key, KeyId=signing)
            refused("AccessDeniedException", anna.generate_data_key_pair, KeyId=wrapping, KeyPairSpec="ECC_NIST_P256")

        denied()                                            # neither
        theirs.lets_anna("kms:*")
        denied()                                            # the caller's own policy alone
        for key in signing, wrapping:
            ours.shares(key, theirs.root)
        theirs.forbids_anna()
        denied()                                            # the key's policy alone
        theirs.lets_anna("kms:*")
        assert anna.verify(Signature=signature, **how)["SignatureValid"]
        assert ours.kms.verify(Signature=anna.sign(**how)["Signature"], **how)["KeyId"] == signing
        mine = anna.get_public_key(KeyId=signing)
        assert (mine["KeyId"], mine["PublicKey"]) == (signing, ours.kms.get_public_key(KeyId=signing)["PublicKey"])
        pair = anna.generate_data_key_pair(KeyId=wrapping, KeyPairSpec="ECC_NIST_P256")
        assert pair["KeyId"] == wrapping, pair
        opened = ours.kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])["Plaintext"]
        assert opened == pair["PrivateKeyPlaintext"]


if __name__ == "__main__":
    main(globals())
