"""Who may do what: principals, key policies, bucket policies and grants, and what AWS's published logic makes of them.

Writes `documents.json`, which has the policies, and `cases.csv`, which has a line for each combination and what must
come of it. The expectations come from the rules below, which know what each party *means* (its facets, stated in words
beside its documents) and never read a policy. So this and the evaluator agree only if both are right.

The rules, from the IAM User Guide ("Policy evaluation logic", "Cross-account policy evaluation logic") and the KMS
Developer Guide ("Key policies", "Grants", "Troubleshooting key access"):

 1. A deny that applies, in whatever policy, is the end.
 2. The identity side of a caller allows what its policies allow and, for a session with a session policy, what that
    allows too. The root user's allows everything.
 3. A bucket of one's own account is open to whom its policy names and to whom the identity side allows; its root always.
 4. A key of one's own account is open to whom its policy or a grant names. If it names the account, it is open to whom
    the identity side allows; if it does not, to nobody else, not even root.
 5. A policy or grant that names the role of a session with a session policy is cut down by that; one that names the
    session itself, or everybody, is not.
 6. A bucket or key of another account is open to whom its policy or a grant names, in person or by account, if the
    identity side allows it too.
 7. To write an object under a KMS key takes s3:PutObject and kms:GenerateDataKey; to read one, s3:GetObject and
    kms:Decrypt. The refusal names the first that is missing.

Run it without arguments to write both files; with `--check`, it says whether they are as it would write them.
"""

import csv
import io
import json
import pathlib
import sys

OURS, THEIRS = "123456789012", "210987654321"
HERE = pathlib.Path(__file__).parent
# Stands in documents for the ARN of the key that a case is about.
KEY = "@KEY@"

DECRYPT, GENERATE, DESCRIBE = "kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey"
GET, PUT = "s3:GetObject", "s3:PutObject"
KMS, S3 = {DECRYPT, GENERATE, DESCRIBE}, {GET, PUT}


def document(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action, **more):
    return {"Effect": "Allow", "Action": action, "Resource": "*"} | more


def deny(action, **more):
    return allow(action, **more) | {"Effect": "Deny"}


def aws(*names):
    return {"Principal": {"AWS": list(names)}}


def account(number):
    return f"arn:aws:iam::{number}:root"


def user(name, number=OURS):
    return f"arn:aws:iam::{number}:user/{name}"


def role(name, number=OURS):
    return f"arn:aws:iam::{number}:role/{name}"


def session(name, number=OURS):
    return f"arn:aws:sts::{number}:assumed-role/{name}"


# Principals. `allows` and `denies` say what the identity policies come to, `cut` what the session policy allows.

EVERYTHING = document(allow(["kms:*", "s3:*"]))


class Who:
    def __init__(self, name, kind, number=OURS, policies=(), groups=(), cut_by=None, allows=(), denies=(), cut=None):
        self.name, self.kind, self.number = name, kind, number
        self.policies, self.groups, self.cut_by = policies, groups, cut_by
        self.allows, self.denies, self.cut = set(allows), set(denies), cut
        # A session is called ROLE/SESSION.
        self.role = name.removeprefix("their ").split("/")[0] if kind == "session" else None
        self.ours = number == OURS

    def identity_side(self, action):
        if self.kind == "root":
            return True
        return action in self.allows and (self.cut is None or action in self.cut)

    def document(self):
        return {"account": self.number, "kind": self.kind, "policies": list(self.policies),
                "groups": list(self.groups), "session_policy": self.cut_by}


PRINCIPALS = [
    Who("root", "root"),
    Who("bare", "user"),
    Who("open", "user", policies=[EVERYTHING], allows=KMS | S3),
    Who("keys", "user", policies=[document(allow(["kms:Decrypt", "kms:GenerateDataKey"]))], allows={DECRYPT, GENERATE}),
    Who("data", "user", policies=[document(allow("s3:*"))], allows=S3),
    Who("sealer", "user", policies=[EVERYTHING, document(deny("kms:Decrypt"))], allows=KMS | S3, denies={DECRYPT}),
    Who("member", "user", groups=[EVERYTHING], allows=KMS | S3),
    Who("reader", "user", groups=[document(allow(["s3:Get*", "KMS:decrypt"]))], allows={GET, DECRYPT}),
    Who("worker/plain", "session", policies=[EVERYTHING], allows=KMS | S3),
    Who("worker/wide", "session", policies=[EVERYTHING], cut_by=EVERYTHING, allows=KMS | S3, cut=KMS | S3),
    Who("worker/cut", "session", policies=[EVERYTHING], cut_by=document(allow(["s3:*", "kms:GenerateDataKey"])),
        allows=KMS | S3, cut=S3 | {GENERATE}),
    Who("worker/barred", "session", policies=[EVERYTHING], cut_by=document(allow("*"), deny("s3:PutObject")),
        allows=KMS | S3, cut=KMS | S3, denies={PUT}),
    Who("idle/plain", "session"),
    Who("idle/cut", "session", cut_by=document(allow("kms:Decrypt")), cut={DECRYPT}),
    Who("their root", "root", THEIRS),
    Who("their bare", "user", THEIRS),
    Who("their open", "user", THEIRS, policies=[EVERYTHING], allows=KMS | S3),
    Who("their worker/plain", "session", THEIRS, policies=[EVERYTHING], allows=KMS | S3),
    Who("their worker/cut", "session", THEIRS, policies=[EVERYTHING], cut_by=document(allow(["s3:*", "kms:Decrypt"])),
        allows=KMS | S3, cut=S3 | {DECRYPT}),
]

# What a policy or a grant of a resource may say of a request. The order is that of closeness.
SILENT, NAMES_ACCOUNT, NAMES_ROLE, NAMES, DENIES = range(5)


# Requests: what is asked of the key and of the bucket, and what a condition can see of it.

class Request:
    def __init__(self, name, of_bucket=None, of_key=None, context=None, algorithm=None, other_key=False):
        self.name, self.of_bucket, self.of_key = name, of_bucket, of_key
        self.context = context or {}
        self.algorithm, self.other_key = algorithm, other_key
        self.via_s3 = of_bucket is not None

    def document(self):
        return {"bucket_action": self.of_bucket, "key_action": self.of_key, "context": self.context,
                "algorithm": self.algorithm, "other_key": self.other_key}


IT = {"department": "it"}
REQUESTS = {request.name: request for request in [
    Request("decrypt", of_key=DECRYPT),
    Request("decrypt it", of_key=DECRYPT, context=IT),
    Request("decrypt hr", of_key=DECRYPT, context={"department": "hr"}),
    Request("decrypt it and more", of_key=DECRYPT, context=IT | {"project": "x"}),
    Request("generate it", of_key=GENERATE, context=IT),
    Request("describe", of_key=DESCRIBE),
    Request("put under key", of_bucket=PUT, of_key=GENERATE, algorithm="aws:kms"),
    Request("put under another key", of_bucket=PUT, of_key=GENERATE, algorithm="aws:kms", other_key=True),
    Request("put under SSE-S3", of_bucket=PUT, algorithm="AES256"),
    Request("put without a word", of_bucket=PUT),
    Request("get", of_bucket=GET, of_key=DECRYPT),
]}

# Key policies. Each is given with what it says, in words, of a caller and a request.

DELEGATES = allow("kms:*", Sid="Enable IAM User Permissions", **aws(account(OURS)))


def delegates(who, request):
    """Names the owner's account: its root in person."""
    if not who.ours:
        return SILENT
    return NAMES if who.kind == "root" else NAMES_ACCOUNT


def closed(who, request):
    """Names somebody who is not among the callers."""
    return SILENT


def only(*names):
    def says(who, request):
        """Names these users or sessions."""
        return NAMES if who.name in names else SILENT
    return says


def roles(*names):
    def says(who, request):
        """Names these roles of the owner's account."""
        return NAMES_ROLE if who.ours and who.role in names else SILENT
    return says


def delegates_if(condition):
    def says(who, request):
        """Names the owner's account, for some requests."""
        return delegates(who, request) if condition(request) else SILENT
    return says


def delegates_but_denies(condition):
    def says(who, request):
        """Names the owner's account, and denies some of it."""
        return DENIES if condition(who, request) else delegates(who, request)
    return says


def shared(who, request):
    """Names the other account too, for its data."""
    if who.ours:
        return delegates(who, request)
    if request.of_key == DESCRIBE:
        return SILENT
    return NAMES if who.kind == "root" else NAMES_ACCOUNT


def shared_with_users(who, request):
    """Names two users of the other account too."""
    return NAMES if who.name in ("their bare", "their open") else delegates(who, request)


def everybody_of_ours(who, request):
    """Names everybody, of the owner's account, as the policies of AWS managed keys do."""
    return NAMES if who.ours else SILENT


def everybody(who, request):
    return NAMES


def spares_only_open(who, request):
    """Names the owner's account, and denies kms:Decrypt to all whom it does not spare: the root user and `open`."""
    if request.of_key == DECRYPT and who.name not in ("root", "open"):
        return DENIES
    return delegates(who, request)


def condition(operator, key, *values):
    return {"Condition": {operator: {key: list(values)}}}


S3_CALLS = condition("StringEquals", "kms:ViaService", "s3.us-west-2.amazonaws.com")
# Requests come from 127.0.0.1, in the clear.
DIRECT_ONLY = {"decrypt", "decrypt it"}
KEY_POLICIES = {
    "delegates": (delegates, document(DELEGATES)),
    "closed": (closed, document(allow("kms:*", **aws(user("keeper"))))),
    "names bare": (only("bare"), document(allow("kms:*", **aws(user("bare"))))),
    "names roles": (roles("idle", "worker"), document(allow("kms:*", **aws(role("idle"), role("worker"))))),
    "names sessions": (only("idle/cut", "worker/cut"),
                       document(allow("kms:*", **aws(session("idle/cut"), session("worker/cut"))))),
    "denies decrypt": (delegates_but_denies(lambda who, request: request.of_key == DECRYPT),
                       document(DELEGATES, deny("kms:Decrypt", Principal="*"))),
    "denies open and worker": (delegates_but_denies(lambda who, request: who.name == "open" or who.ours and who.role == "worker"),
                               document(DELEGATES, deny("kms:*", **aws(user("open"), role("worker"))))),
    "denies other account": (delegates_but_denies(lambda who, request: not who.ours),
                             document(DELEGATES, allow("kms:*", Principal="*") | {"Effect": "Deny"}
                                      | condition("StringNotEquals", "kms:CallerAccount", OURS))),
    "S3 only": (delegates_if(lambda request: request.via_s3), document(DELEGATES | S3_CALLS)),
    "not S3": (delegates_but_denies(lambda who, request: request.via_s3),
               document(DELEGATES, deny("kms:*", Principal="*") | S3_CALLS)),
    "context it": (delegates_if(lambda request: request.context.get("department") == "it"),
                   document(DELEGATES | condition("StringEquals", "kms:EncryptionContext:Department", "it"))),
    "context of department only": (
        # S3 puts a name of its own into the context.
        delegates_if(lambda request: not request.via_s3 and set(request.context) == {"department"}),
        document(DELEGATES | {"Condition": {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "department"},
                                            "Null": {"kms:EncryptionContextKeys": False}}})),
    "denies without project": (
        delegates_but_denies(lambda who, request: "project" not in request.context),
        document(DELEGATES, deny("kms:*", Principal="*")
                 | condition("Null", "kms:EncryptionContext:project", "true"))),
    "from loopback": (delegates, document(DELEGATES, deny("kms:*", Principal="*")
                                          | condition("NotIpAddress", "aws:SourceIp", "127.0.0.0/8", "::1"))),
    "from elsewhere": (delegates_but_denies(lambda who, request: True),
                       document(DELEGATES, deny("kms:*", Principal="*")
                                | condition("NotIpAddress", "aws:SourceIp", "203.0.113.0/24"))),
    "TLS only": (delegates_but_denies(lambda who, request: True),
                 document(DELEGATES, deny("kms:*", Principal="*")
                          | condition("Bool", "aws:SecureTransport", "false"))),
    "TLS never": (delegates, document(DELEGATES, deny("kms:*", Principal="*")
                                      | condition("Bool", "aws:SecureTransport", True))),
    "only users": (delegates_if(lambda request: False), document(
        DELEGATES | condition("DateLessThan", "aws:CurrentTime", "2020-01-01T00:00:00Z"))),
    "shared": (shared, document(DELEGATES, allow(["kms:Decrypt", "kms:GenerateDataKey*"], **aws(THEIRS)))),
    "shared with users": (shared_with_users, document(
        DELEGATES, allow("kms:*", **aws(user("bare", THEIRS), user("open", THEIRS))))),
    "everybody of ours": (everybody_of_ours, document(
        allow("kms:*", Principal="*") | condition("StringEquals", "kms:CallerAccount", OURS))),
    "everybody": (everybody, document(allow("kms:*", Principal={"AWS": "*"}))),
    "spares only open": (spares_only_open, document(
        DELEGATES, deny("kms:Decrypt", NotPrincipal={"AWS": [account(OURS), user("open")]}))),
}
# What these say depends on the connection, which is S3's and not the caller's when S3 asks.
OF_THE_CONNECTION = {"from loopback", "from elsewhere", "TLS only", "TLS never"}

# Bucket policies, of a bucket of the owner's account.


def no_policy(who, request):
    return SILENT


def names_all(who, request):
    return NAMES


def denies_if(unwanted):
    def says(who, request):
        """Denies some requests, and allows nothing."""
        return DENIES if unwanted(who, request) else SILENT
    return says


def names_account_of(number):
    def says(who, request):
        """Names one account."""
        if who.number != number:
            return SILENT
        return NAMES if who.kind == "root" else NAMES_ACCOUNT
    return says


def is_put(request):
    return request.of_bucket == PUT


ALGORITHM, KEY_ID = "s3:x-amz-server-side-encryption", "s3:x-amz-server-side-encryption-aws-kms-key-id"
DATA = ["s3:GetObject", "s3:PutObject"]
BUCKET_POLICIES = {
    "none": (no_policy, None),
    "allows bare": (only("bare"), document(allow(DATA, **aws(user("bare"))))),
    "allows everybody": (names_all, document(allow(DATA, Principal="*"))),
    "allows own account": (names_account_of(OURS), document(allow(DATA, **aws(account(OURS))))),
    "allows other account": (names_account_of(THEIRS), document(allow(DATA, **aws(account(THEIRS))))),
    "allows their users": (only("their bare", "their open"),
                           document(allow(DATA, **aws(user("bare", THEIRS), user("open", THEIRS))))),
    "allows role idle": (roles("idle"), document(allow(DATA, **aws(role("idle"))))),
    "allows session idle": (only("idle/cut"), document(allow(DATA, **aws(session("idle/cut"))))),
    "denies unless KMS": (denies_if(lambda who, request: is_put(request) and request.algorithm != "aws:kms"),
                          document(deny("s3:PutObject", Principal="*") | condition("StringNotEquals", ALGORITHM, "aws:kms"))),
    "denies without a word": (denies_if(lambda who, request: is_put(request) and request.algorithm is None),
                              document(deny("s3:PutObject", Principal="*") | condition("Null", ALGORITHM, "true"))),
    # No key named at all is another key too, and IfExists changes nothing of that: "the request is still denied even if
    # the tag is missing" (IAM User Guide, "...IfExists condition operators").
    "denies other keys": (
        denies_if(lambda who, request: is_put(request) and (request.algorithm != "aws:kms" or request.other_key)),
        document(deny("s3:PutObject", Principal="*") | condition("StringNotEquals", KEY_ID, KEY))),
    "denies other keys if exists": (
        denies_if(lambda who, request: is_put(request) and (request.algorithm != "aws:kms" or request.other_key)),
        document(deny("s3:PutObject", Principal="*") | condition("StringNotEqualsIfExists", KEY_ID, KEY))),
    "denies other keys if named": (
        denies_if(lambda who, request: is_put(request) and request.other_key),
        document(deny("s3:PutObject", Principal="*") | {"Condition": {
            "StringNotEquals": {KEY_ID: KEY}, "Null": {KEY_ID: "false"}}})),
    "denies open and worker": (denies_if(lambda who, request: who.name == "open" or who.ours and who.role == "worker"),
                               document(deny("s3:*", **aws(user("open"), role("worker"))))),
    "denies everybody": (denies_if(lambda who, request: True), document(deny("s3:*Object", Principal="*"))),
}

# Grants: to whom, for which operations, with which context.


class Grant:
    def __init__(self, grantee, names, operations, equals=None, subset=None):
        self.grantee, self.names, self.operations = grantee, names, operations
        self.equals, self.subset = equals, subset

    def says(self, who, request):
        context = request.context | ({"aws:s3:arn": ""} if request.via_s3 else {})
        if request.of_key.removeprefix("kms:") not in self.operations:
            return SILENT
        if self.equals is not None and context != self.equals:
            return SILENT
        if self.subset is not None and not self.subset.items() <= context.items():
            return SILENT
        return self.names(who, request)

    def document(self):
        constraints = {}
        if self.equals is not None:
            constraints["EncryptionContextEquals"] = self.equals
        if self.subset is not None:
            constraints["EncryptionContextSubset"] = self.subset
        return {"GranteePrincipal": self.grantee, "Operations": self.operations, "Constraints": constraints}


GRANTS = {
    "bare decrypts": Grant(user("bare"), only("bare"), ["Decrypt"]),
    "bare does all": Grant(user("bare"), only("bare"), ["Decrypt", "GenerateDataKey", "DescribeKey"]),
    "bare decrypts it": Grant(user("bare"), only("bare"), ["Decrypt"], equals=IT),
    "bare decrypts it and more": Grant(user("bare"), only("bare"), ["Decrypt"], subset=IT),
    "role idle decrypts": Grant(role("idle"), roles("idle"), ["Decrypt", "GenerateDataKey"]),
    "role worker decrypts": Grant(role("worker"), roles("worker"), ["Decrypt"]),
    "session idle decrypts": Grant(session("idle/plain"), only("idle/plain"), ["Decrypt"]),
    "their open decrypts": Grant(user("open", THEIRS), only("their open"), ["Decrypt", "GenerateDataKey"]),
}

# The rules.

ALLOWED = "allowed"


def of_key(who, policy, grant, request):
    """Rules 1, 2, 4, 5 and 6: whether the key is open, and why or why not."""
    says = KEY_POLICIES[policy][0](who, request)
    if says == DENIES:
        return False, "the key policy denies"
    if request.of_key in who.denies:
        return False, "a policy of the caller denies"
    granted = GRANTS[grant].says(who, request) if grant else SILENT
    says, by = (granted, "a grant") if granted > says else (says, "the key policy")
    if says == SILENT:
        return False, "the key is closed"
    if who.ours and says == NAMES:
        return True, f"{by} names the caller"
    if who.ours and says == NAMES_ROLE:
        if who.cut is None or request.of_key in who.cut:
            return True, f"{by} names the role"
        return False, f"{by} names the role and the session is cut down"
    allows = who.identity_side(request.of_key)
    return allows, f"{by} leaves it to the caller's account which {'allows' if allows else 'does not'}"


def of_bucket(who, policy, request):
    """Rules 1, 2, 3, 5 and 6: whether the bucket is open, and why or why not."""
    says = BUCKET_POLICIES[policy][0](who, request)
    if says == DENIES:
        return False, "the bucket policy denies"
    if request.of_bucket in who.denies:
        return False, "a policy of the caller denies"
    if not who.ours and says == SILENT:
        return False, "the bucket is closed"
    if who.ours and who.kind == "root":
        return True, "the bucket is its account's"
    if who.ours and says == NAMES:
        return True, "the bucket policy names the caller"
    if who.ours and says == NAMES_ROLE and (who.cut is None or request.of_bucket in who.cut):
        return True, "the bucket policy names the role"
    allows = who.identity_side(request.of_bucket)
    return allows, f"the caller's account {'allows' if allows else 'does not allow'} the bucket"


def expected(who, key, bucket, grant, request):
    """Rule 7."""
    because = None
    if request.of_bucket:
        allows, because = of_bucket(who, bucket, request)
        if not allows:
            return request.of_bucket, because
    if request.of_key:
        allows, because = of_key(who, key, grant, request)
        if not allows:
            return request.of_key, because
    return ALLOWED, because


def combinations():
    """Each axis against all principals, and where axes meet, those whom it could make a difference to."""
    of_context = ["context it", "context of department only", "denies without project"]
    for who in PRINCIPALS:
        for key in KEY_POLICIES:
            yield who, key, None, None, "decrypt it"
        for key in of_context:
            yield who, key, None, None, "decrypt"
        for key in ["delegates", "shared", "names bare"]:
            for request in ["generate it", "describe"]:
                yield who, key, None, None, request
        for bucket in BUCKET_POLICIES:
            for request in ["put under key", "put without a word", "get"]:
                yield who, "delegates" if REQUESTS[request].of_key else None, bucket, None, request
    some = [who for who in PRINCIPALS if who.name in (
        "root", "bare", "open", "idle/plain", "idle/cut", "worker/cut", "their open", "their worker/cut")]
    for who in some:
        for key in of_context:
            for request in ["decrypt hr", "decrypt it and more"]:
                yield who, key, None, None, request
        for bucket in ["denies unless KMS", "denies without a word", "denies other keys", "denies other keys if named"]:
            yield who, None, bucket, None, "put under SSE-S3"
            yield who, "delegates", bucket, None, "put under another key"
        for key in KEY_POLICIES.keys() - OF_THE_CONNECTION - {"delegates"}:
            for request in ["put under key", "get"]:
                yield who, key, "allows everybody", None, request
        for grant in GRANTS:
            for request in ["decrypt", "decrypt it", "decrypt it and more", "generate it"]:
                yield who, "closed", None, grant, request
            for key in ["delegates", "denies decrypt", "denies open and worker"]:
                yield who, key, None, grant, "decrypt it"
            yield who, "closed", "allows everybody", grant, "get"


def files():
    rows = []
    for who, key, bucket, grant, request in combinations():
        outcome, because = expected(who, key, bucket, grant, REQUESTS[request])
        rows.append([who.name, key or "", bucket or "", grant or "", request, outcome, because])
    rows.sort()
    assert len(rows) == len({tuple(row[:5]) for row in rows}), "a combination stands twice"
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["who", "key policy", "bucket policy", "grant", "request", "expected", "because"])
    writer.writerows(rows)
    documents = {
        "principals": {who.name: who.document() for who in PRINCIPALS},
        "key_policies": {name: policy for name, (_, policy) in KEY_POLICIES.items()},
        "bucket_policies": {name: policy for name, (_, policy) in BUCKET_POLICIES.items()},
        "grants": {name: grant.document() for name, grant in GRANTS.items()},
        "requests": {name: request.document() for name, request in REQUESTS.items()},
    }
    return {"cases.csv": table.getvalue(), "documents.json": json.dumps(documents, indent=1) + "\n"}


if __name__ == "__main__":
    stale = []
    for name, text in files().items():
        if "--check" not in sys.argv:
            (HERE / name).write_text(text)
        elif not (HERE / name).exists() or (HERE / name).read_text() != text:
            stale.append(name)
    sys.exit(f"generate.py would write another {' and '.join(stale)}" if stale else 0)
