"""Who may do what, over the wire: the matrix of tests/vectors/access, with the identities of two accounts.

Once the keys and buckets are of the server's first account and the others' callers of a further one, once the other way
round.
"""

import csv
import json
import pathlib
import subprocess
import sys

import botocore.exceptions

from support import Server, main, refused

VECTORS = pathlib.Path(__file__).parents[2] / "vectors" / "access"
# As the vectors have them, and as the server here has them: its first account, and a further one.
OURS, THEIRS = "123456789012", "210987654321"
FIRST, FURTHER = "000000000000", "111122223333"
# What the vectors put for the ARN of the key and for the name of the bucket that a case is about.
KEY, BUCKET = "@KEY@", "@BUCKET@"
OPEN = ("delegates", "")
# What is told of the key of a ciphertext to whom it is none of.
FOREIGN_CIPHERTEXT = ("The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
                      "or you are not allowed to access.")
OBJECT = b"sealed"


def _cases():
    with open(VECTORS / "cases.csv", newline="") as file:
        return list(csv.DictReader(file))


class _World:
    """Everything that the cases need, made while every door is open; `close` puts the policies in force."""

    def __init__(self, server, cases, ours, theirs):
        self.server, self.cases = server, cases
        self.numbers = {OURS: ours, THEIRS: theirs}
        self.vectors = json.loads((VECTORS / "documents.json").read_text())
        self.requests = self.vectors["requests"]
        self._second_account()
        self.callers = self._callers()
        self.root = self.callers["root"]
        self._keys()
        self._buckets()

    # Identities

    def _second_account(self):
        s = self.server
        further = ("AKIAFURTHER", "further-secret-of-the-test", None)
        s.add_account(FURTHER, *further[:2])
        roots = {FIRST: (s.key_id, s.secret, None), FURTHER: further}
        self.roots = {number: roots[here] for number, here in self.numbers.items()}

    def _document(self, policy, key="", bucket=""):
        text = json.dumps(policy)
        for number, here in self.numbers.items():
            text = text.replace(number, here)
        return text.replace(KEY, key).replace(BUCKET, bucket)

    def _client(self, service, credentials):
        return self.server.client_as(service, *credentials)

    def _callers(self):
        """The clients of each principal, by its name."""
        # Root assumes no role; this one does. Key policies name it too, where they should name none of the callers.
        keepers = {number: self._user(self._client("iam", root), "keeper", [
            {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}])
            for number, root in self.roots.items()}
        roles, callers = set(), {}
        for name, who in self.vectors["principals"].items():
            number = who["account"]
            iam = self._client("iam", self.roots[number])
            own = name.removeprefix("their ")
            if who["kind"] == "root":
                credentials = self.roots[number]
            elif who["kind"] == "user":
                credentials = self._user(iam, own, who["policies"])
                for at, policy in enumerate(who["groups"]):
                    group = f"{own}-{at}"
                    iam.create_group(GroupName=group)
                    iam.put_group_policy(GroupName=group, PolicyName="group", PolicyDocument=self._document(policy))
                    iam.add_user_to_group(GroupName=group, UserName=own)
            else:
                role, session = own.split("/")
                if (number, role) not in roles:
                    self._role(iam, number, role, who["policies"])
                    roles.add((number, role))
                credentials = self._session(keepers[number], number, role, session, who["session_policy"])
            callers[name] = {service: self._client(service, credentials) for service in ("kms", "s3")}
        return callers

    def _user(self, iam, name, policies):
        iam.create_user(UserName=name)
        for at, policy in enumerate(policies):
            iam.put_user_policy(UserName=name, PolicyName=f"own-{at}", PolicyDocument=self._document(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"], None

    def _role(self, iam, number, name, policies):
        trust = {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": number}, "Action": "sts:AssumeRole"}]}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=self._document(trust))
        for at, policy in enumerate(policies):
            iam.put_role_policy(RoleName=name, PolicyName=f"own-{at}", PolicyDocument=self._document(policy))

    def _session(self, keeper, number, role, session, policy):
        cut = {"Policy": self._document(policy)} if policy else {}
        arn = f"arn:aws:iam::{self.numbers[number]}:role/{role}"
        found = self._client("sts", keeper).assume_role(RoleArn=arn, RoleSessionName=session, **cut)["Credentials"]
        return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]

    # Keys, buckets and what is in them: a key for each key policy and grant, for policies cannot be put back once
    # they are closed.

    def _keys(self):
        kms = self.root["kms"]
        pairs = {self._pair(case) for case in self.cases if case["key policy"]} | {OPEN}
        self.keys = {pair: kms.create_key(Description=" ".join(pair))["KeyMetadata"]["Arn"] for pair in sorted(pairs)}
        for (_, grant), arn in self.keys.items():
            if grant:
                kms.create_grant(KeyId=arn, **json.loads(self._document(self.vectors["grants"][grant])))
        self.sealed = {}
        for pair, request in sorted({(self._pair(case), case["request"]) for case in self.cases}):
            if request.startswith("decrypt"):
                self.sealed[pair, request] = kms.encrypt(
                    KeyId=self.keys[pair], Plaintext=OBJECT,
                    EncryptionContext=self.requests[request]["context"])["CiphertextBlob"]
        self.other_key = kms.create_key(Description="another")["KeyMetadata"]["Arn"]

    def _buckets(self):
        s3 = self.root["s3"]
        self.buckets = {}
        for at, name in enumerate(sorted({case["bucket policy"] for case in self.cases} - {""})):
            self.buckets[name] = f"matrix-{at}"
            s3.create_bucket(Bucket=self.buckets[name])
        for bucket, pair in sorted({self._place(case) for case in self.cases if case["request"] == "get"}):
            s3.put_object(Bucket=self.buckets[bucket], Key=self._object(pair), Body=OBJECT,
                          ServerSideEncryption="aws:kms", SSEKMSKeyId=self.keys[pair])

    def _pair(self, case):
        return case["key policy"], case["grant"]

    def _place(self, case):
        return case["bucket policy"], self._pair(case)

    def _object(self, pair):
        return "/".join(filter(None, pair)).replace(" ", "-")

    def close(self):
        """From here on nobody may do more than the policies say."""
        kms, s3 = self.root["kms"], self.root["s3"]
        for (policy, _), arn in self.keys.items():
            kms.put_key_policy(KeyId=arn, PolicyName="default", BypassPolicyLockoutSafetyCheck=True,
                               Policy=self._document(self.vectors["key_policies"][policy]))
        for name, bucket in self.buckets.items():
            policy = self.vectors["bucket_policies"][name]
            if policy:
                s3.put_bucket_policy(Bucket=bucket, Policy=self._document(policy, self.keys[OPEN], bucket))
        return self

    # Cases

    def ask(self, case):
        """Does what a case says. Returns what is answered: `allowed`, or the action that the refusal names."""
        caller, request = self.callers[case["who"]], self.requests[case["request"]]
        try:
            if request["bucket_action"]:
                self._ask_bucket(caller["s3"], case, request)
            else:
                self._ask_key(caller["kms"], case, request)
        except botocore.exceptions.ClientError as error:
            return self._refusal(error, case, request)
        return "allowed"

    def _ask_key(self, kms, case, request):
        pair, context = self._pair(case), request["context"]
        match request["key_action"]:
            case "kms:Decrypt":
                found = kms.decrypt(CiphertextBlob=self.sealed[pair, case["request"]], KeyId=self.keys[pair],
                                    EncryptionContext=context)
                assert found["Plaintext"] == OBJECT, case
            case "kms:GenerateDataKey":
                kms.generate_data_key(KeyId=self.keys[pair], KeySpec="AES_256", EncryptionContext=context)
            case "kms:DescribeKey":
                kms.describe_key(KeyId=self.keys[pair])
            case other:
                raise AssertionError(other)

    def _ask_bucket(self, s3, case, request):
        bucket, pair = self._place(case)
        if request["bucket_action"] == "s3:GetObject":
            assert s3.get_object(Bucket=self.buckets[bucket], Key=self._object(pair))["Body"].read() == OBJECT, case
            return
        headers = {"ServerSideEncryption": request["algorithm"]} if request["algorithm"] else {}
        if request["algorithm"] == "aws:kms":
            headers["SSEKMSKeyId"] = self.other_key if request["other_key"] else self.keys[pair]
        s3.put_object(Bucket=self.buckets[bucket], Key=case["who"].replace(" ", "-"), Body=OBJECT, **headers)

    def _refusal(self, error, case, request):
        """The action that a refusal names. Any other error is no answer to the question, and is shown as it is.

        S3 explains itself within an account only ("Troubleshoot access denied (403 Forbidden) errors in Amazon S3").
        """
        found = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        of_s3 = bool(request["bucket_action"])
        refusal = ("AccessDenied", 403) if of_s3 else ("AccessDeniedException", 400)
        asked = [action for action in (request["bucket_action"], request["key_action"]) if action]
        if of_s3 and case["who"].startswith("their "):
            is_bare = found["Message"] == "Access Denied" and case["expected"] in asked
            named = [case["expected"]] if is_bare else []
        elif found["Message"] == FOREIGN_CIPHERTEXT and case["who"].startswith("their "):
            named = [action for action in asked if action in ("kms:Decrypt", "kms:ReEncryptFrom")]
        else:
            named = [action for action in asked
                     if f"is not authorized to perform: {action} on resource: " in found["Message"]]
            # Which kind of policy denied is told within an account only ("Troubleshoot access denied error messages").
            explained = "because no " in found["Message"] or "with an explicit deny" in found["Message"]
            if explained == case["who"].startswith("their "):
                return f"{status} {found}"
        if (found["Code"], status) != refusal or len(named) != 1:
            return f"{status} {found}"
        return named[0]


def _hold(cases, ours=FIRST, theirs=FURTHER):
    """Every one of these cases must have the answer that was written down."""
    assert len(cases) >= 200, len(cases)
    with Server() as server:
        world = _World(server, cases, ours, theirs).close()
        wrong = [f"{found}, not {','.join(case.values())}" for case in cases
                 if (found := world.ask(case)) != case["expected"]]
    assert not wrong, f"{len(wrong)} of {len(cases)} are wrong:\n" + "\n".join(wrong[:50])


def the_table_is_what_its_generator_writes():
    out = subprocess.run([sys.executable, VECTORS / "generate.py", "--check"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


def a_key_is_open_to_whom_its_policy_and_grants_let_in_and_to_nobody_else():
    _hold([case for case in _cases() if not case["bucket policy"]])


def an_object_is_open_to_whom_its_bucket_and_its_key_let_in_and_to_nobody_else():
    _hold([case for case in _cases() if case["bucket policy"]])


def a_key_of_a_further_account_is_as_open_as_one_of_the_first():
    _hold([case for case in _cases() if not case["bucket policy"]], FURTHER, FIRST)


def an_object_of_a_further_account_is_as_open_as_one_of_the_first():
    _hold([case for case in _cases() if case["bucket policy"]], FURTHER, FIRST)


def each_account_has_its_own_buckets_and_is_named_as_their_owner():
    with Server() as server:
        server.add_account(FURTHER, "AKIAFURTHER", "further-secret-of-the-test")
        ours, theirs = server.client(), server.client_as("s3", "AKIAFURTHER", "further-secret-of-the-test", None)
        ours.create_bucket(Bucket="ours")
        for bucket in "theirs-a", "theirs-b", "unlike":
            theirs.create_bucket(Bucket=bucket)
        refused("BucketAlreadyOwnedByYou", ours.create_bucket, Bucket="ours", status=409)
        refused("BucketAlreadyExists", theirs.create_bucket, Bucket="ours", status=409)

        first = theirs.list_buckets(Prefix="theirs", MaxBuckets=1)
        assert [b["Name"] for b in first["Buckets"]] == ["theirs-a"], first
        rest = theirs.list_buckets(Prefix="theirs", MaxBuckets=1, ContinuationToken=first["ContinuationToken"])
        assert [b["Name"] for b in rest["Buckets"]] == ["theirs-b"] and "ContinuationToken" not in rest, rest
        assert [b["Name"] for b in ours.list_buckets()["Buckets"]] == ["ours"]
        assert theirs.list_buckets(BucketRegion="eu-north-1")["Buckets"] == []
        for wrong in {"MaxBuckets": 10001}, {"ContinuationToken": "?"}:
            refused("InvalidArgument", theirs.list_buckets, **wrong, status=400)

        # Whoever asks and whoever wrote, the owner is that of the bucket.
        owner = theirs.list_buckets()["Owner"]
        assert len(owner["ID"]) == 64, owner
        assert ours.list_buckets()["Owner"]["ID"] != owner["ID"]
        theirs.put_object(Bucket="theirs-a", Key="k", Body=OBJECT)
        upload = {"Bucket": "theirs-a", "Key": "u"}
        upload["UploadId"] = theirs.create_multipart_upload(**upload)["UploadId"]
        policy = {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"CanonicalUser": ours.list_buckets()["Owner"]["ID"]}, "Action": "s3:*",
            "Resource": ["arn:aws:s3:::theirs-a", "arn:aws:s3:::theirs-a/*"]}]}
        refused("AccessDenied", ours.get_object, Bucket="theirs-a", Key="k", status=403)
        theirs.put_bucket_policy(Bucket="theirs-a", Policy=json.dumps(policy))
        assert ours.get_object(Bucket="theirs-a", Key="k")["Body"].read() == OBJECT
        for s3 in ours, theirs:
            found = [s3.list_objects(Bucket="theirs-a")["Contents"][0]["Owner"],
                     s3.list_objects_v2(Bucket="theirs-a", FetchOwner=True)["Contents"][0]["Owner"],
                     s3.list_multipart_uploads(Bucket="theirs-a")["Uploads"][0]["Owner"],
                     s3.list_parts(**upload)["Owner"]]
            assert found == [owner] * 4, found


if __name__ == "__main__":
    main(globals())
