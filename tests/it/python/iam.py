"""Identities: users, groups, roles, managed policies and sessions, by boto3 and the AWS CLI."""

import base64
import datetime
import json
import urllib.error
import urllib.request

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials

from support import Server, eventually, main, refused

ACCOUNT = "000000000000"
READY = "arn:aws:iam::aws:policy/"


def _policy(effect="Allow", action="*"):
    return json.dumps({"Version": "2012-10-17",
                       "Statement": [{"Effect": effect, "Action": action, "Resource": "*"}]})


def _trust(principal, **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole", **more}]})


def _client(s, service, key, secret, token=None, region=None):
    return boto3.session.Session().client(
        service, endpoint_url=s.endpoint, region_name=region or s.region, aws_access_key_id=key,
        aws_secret_access_key=secret, aws_session_token=token,
        config=botocore.config.Config(retries={"max_attempts": 0}, parameter_validation=False,
                                      signature_version="s3v4" if service == "s3" else "v4"))


def _user(s, name, policy=READY + "AdministratorAccess"):
    """A user with an access key: id and secret."""
    iam = s.client("iam")
    iam.create_user(UserName=name)
    if policy:
        iam.attach_user_policy(UserName=name, PolicyArn=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _session(s, caller, role, **more):
    found = _client(s, "sts", *caller).assume_role(
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{role}", RoleSessionName="night", **more)["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


def _names(items, name):
    return [item[name] for item in items]


def users_by_boto3():
    with Server() as s:
        iam = s.client("iam", parameter_validation=False)
        made = iam.create_user(UserName="Bob", Path="/division/")["User"]
        assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/division/Bob" and made["UserId"].startswith("AIDA"), made
        now = datetime.datetime.now(datetime.timezone.utc)
        assert abs((now - made["CreateDate"]).total_seconds()) < 60
        assert iam.get_user(UserName="bob")["User"] == made
        message = refused("EntityAlreadyExists", iam.create_user, UserName="BOB", status=409)
        assert message == "User with name Bob already exists."
        message = refused("NoSuchEntity", iam.get_user, UserName="eve", status=404)
        assert message == "The user with name eve cannot be found."
        refused("ValidationError", iam.create_user, UserName="b b", status=400)
        refused("ValidationError", iam.create_user, UserName="b" * 65, status=400)
        refused("ValidationError", iam.create_user, UserName="b", Path="x", status=400)
        refused("NotImplemented", iam.create_user, UserName="b", Tags=[{"Key": "a", "Value": "b"}], status=501)
        refused("InvalidAction", iam.create_login_profile, UserName="Bob", Password="secret123", status=400)
        iam.create_user(UserName="x" * 64)
        iam.create_user(UserName="alice")
        pages = list(iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": 2}))
        assert len(pages) == 2
        assert [u["UserName"] for p in pages for u in p["Users"]] == ["alice", "Bob", "x" * 64]
        assert _names(iam.list_users(PathPrefix="/div")["Users"], "UserName") == ["Bob"]
        iam.update_user(UserName="bob", NewUserName="Robert", NewPath="/")
        renamed = iam.get_user(UserName="robert")["User"]
        assert renamed["UserId"] == made["UserId"] and renamed["Arn"].endswith(":user/Robert")
        refused("EntityAlreadyExists", iam.update_user, UserName="alice", NewUserName="ROBERT")
        refused("NoSuchEntity", iam.update_user, UserName="bob", NewUserName="x")
        iam.delete_user(UserName="Robert")
        refused("NoSuchEntity", iam.delete_user, UserName="Robert")
        summary = iam.get_account_summary()["SummaryMap"]
        assert summary["Users"] == 2 and summary["UsersQuota"] == 5000
        root = iam.get_user()["User"]
        assert root["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"


def access_keys_by_boto3():
    with Server() as s:
        iam = s.client("iam")
        iam.create_user(UserName="bob")
        one = iam.create_access_key(UserName="bob")["AccessKey"]
        assert one["AccessKeyId"].startswith("AKIA") and len(one["SecretAccessKey"]) == 40
        two = iam.create_access_key(UserName="bob")["AccessKey"]
        message = refused("LimitExceeded", iam.create_access_key, UserName="bob", status=409)
        assert message == "Cannot exceed quota for AccessKeysPerUser: 2"
        listed = iam.list_access_keys(UserName="bob")["AccessKeyMetadata"]
        assert {(k["AccessKeyId"], k["Status"]) for k in listed} == {
            (one["AccessKeyId"], "Active"), (two["AccessKeyId"], "Active")}
        assert "SecretAccessKey" not in listed[0]
        iam.update_access_key(UserName="bob", AccessKeyId=two["AccessKeyId"], Status="Inactive")
        listed = iam.list_access_keys(UserName="bob", MaxItems=1)
        assert listed["IsTruncated"]
        refused("ValidationError", iam.update_access_key, UserName="bob", AccessKeyId=two["AccessKeyId"], Status="x")
        refused("NoSuchEntity", iam.update_access_key, UserName="bob", AccessKeyId="AKIA" + "A" * 16, Status="Active")
        refused("DeleteConflict", iam.delete_user, UserName="bob", status=409)
        for key in one, two:
            iam.delete_access_key(UserName="bob", AccessKeyId=key["AccessKeyId"])
        refused("NoSuchEntity", iam.delete_access_key, UserName="bob", AccessKeyId=one["AccessKeyId"])
        iam.delete_user(UserName="bob")
        refused("NoSuchEntity", iam.create_access_key, UserName="bob")
        refused("UnmodifiableEntity", iam.create_access_key)
        assert _names(iam.list_access_keys()["AccessKeyMetadata"], "AccessKeyId") == [s.key_id]
        # A user is told of its own keys, and may change them.
        own = _client(s, "iam", *_user(s, "ann"))
        mine = own.list_access_keys()["AccessKeyMetadata"]
        assert len(mine) == 1 and mine[0]["UserName"] == "ann"
        second = own.create_access_key()["AccessKey"]
        assert second["UserName"] == "ann"
        own.delete_access_key(AccessKeyId=second["AccessKeyId"])


def groups_by_boto3():
    with Server() as s:
        iam = s.client("iam")
        made = iam.create_group(GroupName="staff", Path="/a/")["Group"]
        assert made["GroupId"].startswith("AGPA") and made["Arn"] == f"arn:aws:iam::{ACCOUNT}:group/a/staff"
        refused("EntityAlreadyExists", iam.create_group, GroupName="Staff")
        for name in "ann", "bob", "carl":
            iam.create_user(UserName=name)
            iam.add_user_to_group(GroupName="staff", UserName=name)
        iam.add_user_to_group(GroupName="staff", UserName="ann")
        refused("NoSuchEntity", iam.add_user_to_group, GroupName="staff", UserName="eve")
        refused("NoSuchEntity", iam.add_user_to_group, GroupName="crew", UserName="ann")
        pages = iam.get_paginator("get_group").paginate(GroupName="staff", PaginationConfig={"PageSize": 2})
        assert [u["UserName"] for p in pages for u in p["Users"]] == ["ann", "bob", "carl"]
        assert _names(iam.list_groups_for_user(UserName="ann")["Groups"], "GroupName") == ["staff"]
        iam.update_group(GroupName="staff", NewGroupName="crew")
        assert _names(iam.list_groups_for_user(UserName="ann")["Groups"], "GroupName") == ["crew"]
        assert _names(iam.list_groups()["Groups"], "GroupName") == ["crew"]
        refused("DeleteConflict", iam.delete_group, GroupName="crew")
        refused("DeleteConflict", iam.delete_user, UserName="ann")
        for name in "ann", "bob", "carl":
            iam.remove_user_from_group(GroupName="crew", UserName=name)
        iam.put_group_policy(GroupName="crew", PolicyName="p", PolicyDocument=_policy())
        refused("DeleteConflict", iam.delete_group, GroupName="crew")
        iam.delete_group_policy(GroupName="crew", PolicyName="p")
        iam.delete_group(GroupName="crew")
        refused("NoSuchEntity", iam.get_group, GroupName="crew")
        iam.delete_user(UserName="ann")


def inline_and_attached_policies_by_boto3():
    with Server() as s:
        iam = s.client("iam")
        iam.create_user(UserName="e")
        iam.create_group(GroupName="e")
        iam.create_role(RoleName="e", AssumeRolePolicyDocument=_trust("*"))
        arn = iam.create_policy(PolicyName="mine", Path="/a/", PolicyDocument=_policy())["Policy"]["Arn"]
        for kind in "user", "group", "role":
            def call(operation, **more):
                return getattr(iam, operation.format(kind))(**{f"{kind.title()}Name": "e"}, **more)
            document = _policy(action=["s3:GetObject"])
            for name in "one", "two":
                call("put_{}_policy", PolicyName=name, PolicyDocument=document)
            found = call("get_{}_policy", PolicyName="one")
            assert found["PolicyDocument"] == json.loads(document) and found["PolicyName"] == "one", found
            assert found[f"{kind.title()}Name"] == "e"
            assert call("list_{}_policies")["PolicyNames"] == ["one", "two"]
            page = call("list_{}_policies", MaxItems=1)
            assert page["PolicyNames"] == ["one"] and page["IsTruncated"]
            assert call("list_{}_policies", Marker=page["Marker"])["PolicyNames"] == ["two"]
            call("delete_{}_policy", PolicyName="two")
            message = refused("NoSuchEntity", lambda **_: call("get_{}_policy", PolicyName="two"))
            assert message == f"The {kind} policy with name two cannot be found."
            refused("NoSuchEntity", lambda **_: call("delete_{}_policy", PolicyName="two"))
            refused("MalformedPolicyDocument", lambda **_: call("put_{}_policy", PolicyName="x", PolicyDocument="{"))
            refused("MalformedPolicyDocument",
                    lambda **_: call("put_{}_policy", PolicyName="x", PolicyDocument=_trust("*")))
            for policy in arn, READY + "StrongroomAuditor":
                call("attach_{}_policy", PolicyArn=policy)
                call("attach_{}_policy", PolicyArn=policy)
            attached = call("list_attached_{}_policies")["AttachedPolicies"]
            assert _names(attached, "PolicyName") == ["StrongroomAuditor", "mine"], attached
            attached = call("list_attached_{}_policies", PathPrefix="/a/")["AttachedPolicies"]
            assert attached == [{"PolicyName": "mine", "PolicyArn": arn}]
            call("detach_{}_policy", PolicyArn=READY + "StrongroomAuditor")
            refused("NoSuchEntity", lambda **_: call("detach_{}_policy", PolicyArn=READY + "StrongroomAuditor"))
            refused("NoSuchEntity", lambda **_: call("attach_{}_policy", PolicyArn=READY + "Nothing"))
        assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 3
        having = iam.list_entities_for_policy(PolicyArn=arn)
        assert [len(having[f"Policy{kind}s"]) for kind in ("User", "Group", "Role")] == [1, 1, 1]
        having = iam.list_entities_for_policy(PolicyArn=arn, EntityFilter="Role")
        assert [len(having[f"Policy{kind}s"]) for kind in ("User", "Group", "Role")] == [0, 0, 1]


def managed_policies_by_boto3():
    with Server() as s:
        iam = s.client("iam")
        made = iam.create_policy(PolicyName="p", PolicyDocument=_policy(), Description="a <b> & c")["Policy"]
        arn = made["Arn"]
        assert made["DefaultVersionId"] == "v1" and made["PolicyId"].startswith("ANPA") and made["IsAttachable"]
        assert iam.get_policy(PolicyArn=arn)["Policy"]["Description"] == "a <b> & c"
        message = refused("EntityAlreadyExists", iam.create_policy, PolicyName="P", Path="/x/", PolicyDocument=_policy())
        assert message == "A policy called p already exists. Duplicate names are not allowed."
        refused("MalformedPolicyDocument", iam.create_policy, PolicyName="q", PolicyDocument="no")
        for number in range(2, 6):
            version = iam.create_policy_version(PolicyArn=arn, PolicyDocument=_policy("Deny"),
                                                SetAsDefault=number == 3)["PolicyVersion"]
            assert version["VersionId"] == f"v{number}" and version["IsDefaultVersion"] == (number == 3)
        message = refused("LimitExceeded", iam.create_policy_version, PolicyArn=arn, PolicyDocument=_policy())
        assert "up to 5 versions" in message
        versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
        assert _names(versions, "VersionId") == ["v5", "v4", "v3", "v2", "v1"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]
        assert found["Document"] == json.loads(_policy()) and not found["IsDefaultVersion"]
        refused("DeleteConflict", iam.delete_policy_version, PolicyArn=arn, VersionId="v3")
        iam.set_default_policy_version(PolicyArn=arn, VersionId="v1")
        refused("NoSuchEntity", iam.set_default_policy_version, PolicyArn=arn, VersionId="v9")
        refused("DeleteConflict", iam.delete_policy, PolicyArn=arn)
        for number in range(2, 6):
            iam.delete_policy_version(PolicyArn=arn, VersionId=f"v{number}")
        iam.create_user(UserName="bob")
        iam.attach_user_policy(UserName="bob", PolicyArn=arn)
        assert _names(iam.list_policies(OnlyAttached=True)["Policies"], "PolicyName") == ["p"]
        refused("DeleteConflict", iam.delete_policy, PolicyArn=arn)
        refused("DeleteConflict", iam.delete_user, UserName="bob")
        iam.detach_user_policy(UserName="bob", PolicyArn=arn)
        iam.delete_policy(PolicyArn=arn)
        message = refused("NoSuchEntity", iam.get_policy, PolicyArn=arn)
        assert message == f"Policy {arn} was not found."
        ready = _names(iam.list_policies(Scope="AWS")["Policies"], "PolicyName")
        for name in "StrongroomKeyAdministrator", "StrongroomKeyUser", "StrongroomAuditor", "AdministratorAccess":
            assert name in ready
            policy = iam.get_policy(PolicyArn=READY + name)["Policy"]
            document = iam.get_policy_version(PolicyArn=READY + name, VersionId=policy["DefaultVersionId"])
            assert document["PolicyVersion"]["Document"]["Version"] == "2012-10-17"
        refused("AccessDenied", iam.delete_policy, PolicyArn=READY + "StrongroomAuditor", status=403)
        assert iam.list_policies(Scope="Local")["Policies"] == []


def roles_by_boto3():
    with Server() as s:
        iam = s.client("iam", parameter_validation=False)
        trust = _trust(ACCOUNT)
        made = iam.create_role(RoleName="writer", Path="/a/", AssumeRolePolicyDocument=trust, Description="d",
                               MaxSessionDuration=7200)["Role"]
        assert made["RoleId"].startswith("AROA") and made["AssumeRolePolicyDocument"] == json.loads(trust)
        got = iam.get_role(RoleName="writer")["Role"]
        assert got["MaxSessionDuration"] == 7200 and got["Description"] == "d" and got["Arn"] == made["Arn"]
        refused("EntityAlreadyExists", iam.create_role, RoleName="WRITER", AssumeRolePolicyDocument=trust)
        refused("MalformedPolicyDocument", iam.create_role, RoleName="x", AssumeRolePolicyDocument=_policy())
        for seconds in 3599, 43201:
            refused("ValidationError", iam.create_role, RoleName="x", AssumeRolePolicyDocument=trust,
                    MaxSessionDuration=seconds)
        iam.update_role(RoleName="writer", Description="e")
        got = iam.get_role(RoleName="writer")["Role"]
        assert (got["MaxSessionDuration"], got["Description"]) == (3600, "e")
        assert iam.update_role_description(RoleName="writer", Description="f")["Role"]["Description"] == "f"
        other = _trust(f"arn:aws:iam::{ACCOUNT}:user/bob")
        refused("MalformedPolicyDocument", iam.update_assume_role_policy, RoleName="writer", PolicyDocument=other)
        iam.create_user(UserName="bob")
        iam.update_assume_role_policy(RoleName="writer", PolicyDocument=other)
        assert iam.get_role(RoleName="writer")["Role"]["AssumeRolePolicyDocument"] == json.loads(other)
        refused("MalformedPolicyDocument", iam.update_assume_role_policy, RoleName="writer", PolicyDocument="{}")
        assert _names(iam.list_roles(PathPrefix="/a/")["Roles"], "RoleName") == ["writer"]
        assert iam.list_roles(PathPrefix="/b/")["Roles"] == []
        iam.put_role_policy(RoleName="writer", PolicyName="p", PolicyDocument=_policy())
        refused("DeleteConflict", iam.delete_role, RoleName="writer")
        iam.delete_role_policy(RoleName="writer", PolicyName="p")
        iam.delete_role(RoleName="writer")
        refused("NoSuchEntity", iam.get_role, RoleName="writer")


def everything_by_the_aws_cli():
    with Server() as s:
        doc, trust = s.dir / "policy.json", s.dir / "trust.json"
        doc.write_text(_policy(action="s3:*"))
        trust.write_text(_trust(f"arn:aws:iam::{ACCOUNT}:user/bob"))
        s.aws("iam create-user --user-name bob --path /x/")
        s.aws("iam update-user --user-name bob --new-path /")
        assert s.aws("iam get-user --user-name bob")["User"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/bob"
        key = s.aws("iam create-access-key --user-name bob")["AccessKey"]
        assert len(s.aws("iam list-access-keys --user-name bob")["AccessKeyMetadata"]) == 1
        s.aws("iam create-group --group-name staff")
        s.aws("iam add-user-to-group --group-name staff --user-name bob")
        s.aws("iam update-group --group-name staff --new-group-name crew")
        assert len(s.aws("iam get-group --group-name crew")["Users"]) == 1
        assert len(s.aws("iam list-groups-for-user --user-name bob")["Groups"]) == 1
        assert len(s.aws("iam list-groups")["Groups"]) == 1
        arn = s.aws(f"iam create-policy --policy-name p --policy-document file://{doc}")["Policy"]["Arn"]
        s.aws(f"iam create-policy-version --policy-arn {arn} --policy-document file://{doc} --set-as-default")
        assert len(s.aws(f"iam list-policy-versions --policy-arn {arn}")["Versions"]) == 2
        s.aws(f"iam set-default-policy-version --policy-arn {arn} --version-id v1")
        s.aws(f"iam delete-policy-version --policy-arn {arn} --version-id v2")
        found = s.aws(f"iam get-policy-version --policy-arn {arn} --version-id v1")
        assert found["PolicyVersion"]["Document"] == json.loads(doc.read_text())
        s.aws(f"iam create-role --role-name writer --assume-role-policy-document file://{trust}")
        s.aws(f"iam update-assume-role-policy --role-name writer --policy-document file://{trust}")
        s.aws("iam update-role --role-name writer --max-session-duration 7200")
        assert s.aws("iam get-role --role-name writer")["Role"]["MaxSessionDuration"] == 7200
        assert len(s.aws("iam list-roles")["Roles"]) == 1
        for kind, name in ("user", "bob"), ("group", "crew"), ("role", "writer"):
            who = f"--{kind}-name {name}"
            s.aws(f"iam put-{kind}-policy {who} --policy-name i --policy-document file://{doc}")
            found = s.aws(f"iam get-{kind}-policy {who} --policy-name i")
            assert found["PolicyDocument"] == json.loads(doc.read_text())
            assert s.aws(f"iam list-{kind}-policies {who}")["PolicyNames"] == ["i"]
            s.aws(f"iam attach-{kind}-policy {who} --policy-arn {arn}")
            assert len(s.aws(f"iam list-attached-{kind}-policies {who}")["AttachedPolicies"]) == 1
        assert len(s.aws(f"iam list-entities-for-policy --policy-arn {arn}")["PolicyUsers"]) == 1
        assert s.aws(f"iam get-policy --policy-arn {arn}")["Policy"]["AttachmentCount"] == 3
        assert len(s.aws("iam list-policies --scope Local")["Policies"]) == 1
        assert s.aws("iam get-account-summary")["SummaryMap"]["Roles"] == 1
        assert s.aws("sts get-caller-identity") == {
            "UserId": ACCOUNT, "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root"}
        s.aws("iam get-user --user-name eve", fails="(NoSuchEntity)")
        s.aws("iam create-user --user-name bob", fails="(EntityAlreadyExists)")
        s.aws("iam delete-user --user-name bob", fails="(DeleteConflict)")
        root = s.key_id, s.secret
        s.key_id, s.secret = key["AccessKeyId"], key["SecretAccessKey"]
        role = f"arn:aws:iam::{ACCOUNT}:role/writer"
        answer = s.aws(f"sts assume-role --role-arn {role} --role-session-name night --policy file://{doc} "
                       f"--policy-arns arn={READY}AmazonS3FullAccess --duration-seconds 7200")
        assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/writer/night"
        assert 0 < answer["PackedPolicySize"] < 100
        s.aws(f"sts assume-role --role-arn {role} --role-session-name night --duration-seconds 7201",
              fails="(ValidationError)")
        s.aws(f"sts assume-role --role-arn {role}x --role-session-name night", fails="(AccessDenied)")
        s.key_id, s.secret = root
        for kind, name in ("user", "bob"), ("group", "crew"), ("role", "writer"):
            who = f"--{kind}-name {name}"
            s.aws(f"iam detach-{kind}-policy {who} --policy-arn {arn}")
            s.aws(f"iam delete-{kind}-policy {who} --policy-name i")
        s.aws(f"iam delete-policy --policy-arn {arn}")
        s.aws("iam remove-user-from-group --group-name crew --user-name bob")
        s.aws(f"iam update-access-key --user-name bob --access-key-id {key['AccessKeyId']} --status Inactive")
        s.aws(f"iam delete-access-key --user-name bob --access-key-id {key['AccessKeyId']}")
        for kind, name in ("user", "bob"), ("group", "crew"), ("role", "writer"):
            s.aws(f"iam delete-{kind} --{kind}-name {name}")


def a_users_key_signs_for_every_service_and_its_end_is_at_once():
    with Server() as s:
        key, secret = _user(s, "bob")
        s3, kms, sts, iam = (_client(s, name, key, secret) for name in ("s3", "kms", "sts", "iam"))
        calls = {
            s3.list_buckets: "InvalidAccessKeyId",
            kms.list_keys: "UnrecognizedClientException",
            sts.get_caller_identity: "InvalidClientTokenId",
            iam.get_user: "InvalidClientTokenId",
        }
        for call in calls:
            call()
        s3.create_bucket(Bucket="bobs", CreateBucketConfiguration={"LocationConstraint": s.region})
        s3.put_object(Bucket="bobs", Key="k", Body=b"x" * 100_000, ServerSideEncryption="aws:kms")
        assert s3.get_object(Bucket="bobs", Key="k")["Body"].read() == b"x" * 100_000
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "bobs", "Key": "k"})
        assert urllib.request.urlopen(url).read() == b"x" * 100_000
        identity = sts.get_caller_identity()
        assert identity["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/bob" and identity["UserId"].startswith("AIDA")
        # A wrong secret is another thing than an unknown key.
        wrong = "x" * 40
        refused("SignatureDoesNotMatch", _client(s, "s3", key, wrong).list_buckets, status=403)
        refused("InvalidSignatureException", _client(s, "kms", key, wrong).list_keys, status=400)
        refused("SignatureDoesNotMatch", _client(s, "sts", key, wrong).get_caller_identity, status=403)
        # A token where none belongs.
        refused("InvalidToken", _client(s, "s3", key, secret, "AAAA").list_buckets, status=400)
        refused("UnrecognizedClientException", _client(s, "kms", key, secret, "AAAA").list_keys)
        refused("InvalidClientTokenId", _client(s, "sts", key, secret, "AAAA").get_caller_identity, status=403)
        root = s.client("iam")
        for status in "Inactive", "Active":
            root.update_access_key(UserName="bob", AccessKeyId=key, Status=status)
            for call, code in calls.items():
                if status == "Inactive":
                    refused(code, call)
                else:
                    call()
        root.delete_access_key(UserName="bob", AccessKeyId=key)
        for call, code in calls.items():
            refused(code, call)
        # IAM is signed for the whole world, and STS may be.
        for service, region in ("iam", "us-east-1"), ("sts", "us-east-1"), ("iam", s.region):
            client = _client(s, service, s.key_id, s.secret, region=region)
            client.list_users() if service == "iam" else client.get_caller_identity()
        refused("SignatureDoesNotMatch", _client(s, "iam", s.key_id, s.secret, region="eu-north-1").list_users)


def a_session_signs_for_every_service_and_dies_with_its_role():
    with Server() as s:
        bob = _user(s, "bob")
        eve = _user(s, "eve")
        iam = s.client("iam")
        iam.create_role(RoleName="writer", AssumeRolePolicyDocument=_trust(f"arn:aws:iam::{ACCOUNT}:user/bob"))
        iam.attach_role_policy(RoleName="writer", PolicyArn=READY + "AdministratorAccess")
        refused("AccessDenied", lambda **_: _session(s, eve, "writer"), status=403)
        refused("AccessDenied", lambda **_: _session(s, (s.key_id, s.secret), "writer"), status=403)
        session = _session(s, bob, "writer", Policy=_policy(action=["s3:*", "kms:*"]))
        s3, kms, sts = (_client(s, name, *session) for name in ("s3", "kms", "sts"))
        s3.create_bucket(Bucket="night", CreateBucketConfiguration={"LocationConstraint": s.region})
        s3.put_object(Bucket="night", Key="k", Body=b"x" * 3_000_000, ServerSideEncryption="aws:kms",
                      ChecksumAlgorithm="CRC32")
        assert len(s3.get_object(Bucket="night", Key="k")["Body"].read()) == 3_000_000
        kms.list_keys()
        arn = sts.get_caller_identity()["Arn"]
        assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/writer/night"
        # Presigned: the token is in the query.
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "night", "Key": "k"})
        assert "X-Amz-Security-Token=" in url and len(urllib.request.urlopen(url).read()) == 3_000_000
        url = s3.generate_presigned_url("put_object", Params={"Bucket": "night", "Key": "new"})
        urllib.request.urlopen(urllib.request.Request(url, b"new", method="PUT"))
        assert s3.get_object(Bucket="night", Key="new")["Body"].read() == b"new"
        url = sts.generate_presigned_url("get_caller_identity", HttpMethod="GET")
        assert b"assumed-role/writer/night" in urllib.request.urlopen(url).read()
        # A token that is not signed, another's, none, and a changed one.
        request = botocore.awsrequest.AWSRequest("GET", f"{s.endpoint}/night/k")
        botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(*session[:2]), "s3", s.region).add_auth(request)
        request.headers["X-Amz-Security-Token"] = session[2]
        assert _status(request) == (403, "AccessDenied")
        other = _session(s, bob, "writer")
        mixed = session[0], session[1], other[2]
        refused("InvalidToken", _client(s, "s3", *mixed).list_buckets, status=400)
        refused("InvalidAccessKeyId", _client(s, "s3", *session[:2]).list_buckets, status=403)
        changed = session[2][:-5] + ("A" if session[2][-5] != "A" else "B") + session[2][-4:]
        refused("InvalidToken", _client(s, "s3", *session[:2], changed).list_buckets)
        iam.detach_role_policy(RoleName="writer", PolicyArn=READY + "AdministratorAccess")
        iam.delete_role(RoleName="writer")
        refused("InvalidToken", s3.list_buckets, status=400)
        refused("UnrecognizedClientException", kms.list_keys)
        refused("InvalidClientTokenId", sts.get_caller_identity, status=403)


def _status(request):
    prepared = request.prepare()
    made = urllib.request.Request(prepared.url, headers=dict(prepared.headers), method=prepared.method)
    try:
        return urllib.request.urlopen(made).status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().split("<Code>")[1].split("</Code>")[0]


def the_ready_policies_keep_duties_apart():
    with Server() as s:
        admin, user, auditor = (_client(s, "kms", *_user(s, name, READY + policy)) for name, policy in (
            ("admin", "StrongroomKeyAdministrator"), ("user", "StrongroomKeyUser"), ("auditor", "StrongroomAuditor")))
        key = admin.create_key()["KeyMetadata"]["KeyId"]
        blob = user.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        assert user.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        for client in admin, auditor:
            refused("AccessDeniedException", client.encrypt, KeyId=key, Plaintext=b"x")
            refused("AccessDeniedException", client.decrypt, CiphertextBlob=blob)
            assert client.describe_key(KeyId=key)["KeyMetadata"]["Enabled"]
            assert client.get_key_policy(KeyId=key)["Policy"]
        for client in user, auditor:
            refused("AccessDeniedException", client.disable_key, KeyId=key)
            refused("AccessDeniedException", client.schedule_key_deletion, KeyId=key)
            refused("AccessDeniedException", client.create_key)
        # Not even by a key policy of its own making.
        everybody = json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}]})
        admin.put_key_policy(KeyId=key, PolicyName="default", Policy=everybody)
        message = refused("AccessDeniedException", admin.decrypt, CiphertextBlob=blob)
        assert "explicit deny in an identity-based policy" in message
        admin.disable_key(KeyId=key)
        # Both together may look, and nothing else.
        s.client("iam").attach_user_policy(UserName="admin", PolicyArn=READY + "StrongroomKeyUser")
        refused("AccessDeniedException", admin.enable_key, KeyId=key)
        admin.describe_key(KeyId=key)


def policies_are_enforced_as_of_now():
    with Server() as s:
        iam = s.client("iam")
        s.client().create_bucket(Bucket="vault")
        s.client().put_object(Bucket="vault", Key="k", Body=b"x")
        bob = _client(s, "s3", *_user(s, "bob", None))
        refused("AccessDenied", bob.get_object, Bucket="vault", Key="k", status=403)
        iam.create_group(GroupName="readers")
        iam.attach_group_policy(GroupName="readers", PolicyArn=READY + "AmazonS3ReadOnlyAccess")
        iam.add_user_to_group(GroupName="readers", UserName="bob")
        assert bob.get_object(Bucket="vault", Key="k")["Body"].read() == b"x"
        refused("AccessDenied", bob.put_object, Bucket="vault", Key="k", Body=b"y", status=403)
        iam.put_user_policy(UserName="bob", PolicyName="no", PolicyDocument=_policy("Deny", "s3:GetObject"))
        refused("AccessDenied", bob.get_object, Bucket="vault", Key="k", status=403)
        iam.delete_user_policy(UserName="bob", PolicyName="no")
        bob.get_object(Bucket="vault", Key="k")
        # A session is cut down to its session policy.
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=_trust(ACCOUNT))
        iam.attach_role_policy(RoleName="r", PolicyArn=READY + "AmazonS3FullAccess")
        ann = _user(s, "ann", None)
        refused("AccessDenied", lambda **_: _session(s, ann, "r"))
        iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=_policy(action="sts:AssumeRole"))
        whole = _client(s, "s3", *_session(s, ann, "r"))
        whole.put_object(Bucket="vault", Key="k", Body=b"z")
        for cut in ({"Policy": _policy(action="s3:GetObject")},
                    {"PolicyArns": [{"arn": READY + "AmazonS3ReadOnlyAccess"}]}):
            part = _client(s, "s3", *_session(s, ann, "r", **cut))
            assert part.get_object(Bucket="vault", Key="k")["Body"].read() == b"z"
            refused("AccessDenied", part.put_object, Bucket="vault", Key="k", Body=b"y", status=403)
        iam.detach_role_policy(RoleName="r", PolicyArn=READY + "AmazonS3FullAccess")
        refused("AccessDenied", whole.get_object, Bucket="vault", Key="k", status=403)
        iam.remove_user_from_group(GroupName="readers", UserName="bob")
        refused("AccessDenied", bob.get_object, Bucket="vault", Key="k", status=403)


def a_name_that_is_used_again_is_somebody_else():
    eve = f"arn:aws:iam::{ACCOUNT}:user/eve"
    statement = {"Effect": "Allow", "Principal": {"AWS": eve}, "Resource": "*"}
    root = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
    with Server() as s:
        iam, kms, s3 = s.client("iam"), s.client("kms"), s.client()

        def recreate():
            for key in iam.list_access_keys(UserName="eve")["AccessKeyMetadata"]:
                iam.delete_access_key(UserName="eve", AccessKeyId=key["AccessKeyId"])
            iam.delete_user(UserName="eve")
            return _user(s, "eve", None)

        def key_policy(key):
            statements = [root, {**statement, "Action": ["kms:Encrypt", "kms:DescribeKey"]}]
            kms.put_key_policy(KeyId=key, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))

        def bucket_policy():
            own = {**statement, "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::vault"}
            s3.put_bucket_policy(Bucket="vault", Policy=json.dumps({"Version": "2012-10-17", "Statement": [own]}))

        def grant(key):
            return kms.create_grant(KeyId=key, GranteePrincipal=eve, Operations=["Encrypt"], Name="one")["GrantId"]

        key, granted = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
        s3.create_bucket(Bucket="vault")
        # Nobody can be meant who is not there.
        refused("MalformedPolicyDocumentException", key_policy, key)
        refused("MalformedPolicy", bucket_policy)
        refused("InvalidArnException", grant, granted)
        elsewhere = root | {"Principal": {"AWS": "arn:aws:iam::999999999999:root"}}
        refused("MalformedPolicyDocumentException", kms.create_key,
                Policy=json.dumps({"Version": "2012-10-17", "Statement": [root, elsewhere]}))

        first = _user(s, "eve", None)
        key_policy(key), bucket_policy()
        first_grant = grant(granted)
        uses = [lambda caller: _client(s, "kms", *caller).encrypt(KeyId=key, Plaintext=b"x"),
                lambda caller: _client(s, "kms", *caller).encrypt(KeyId=granted, Plaintext=b"x"),
                lambda caller: _client(s, "s3", *caller).list_objects_v2(Bucket="vault")]
        for use in uses:
            use(first)
        # A new name changes nobody.
        iam.update_user(UserName="eve", NewUserName="eva")
        for use in uses:
            use(first)
        iam.update_user(UserName="eva", NewUserName="eve")

        second = recreate()
        for _ in range(2):
            for use, code in zip(uses, ["AccessDeniedException", "AccessDeniedException", "AccessDenied"]):
                refused(code, use, second)
            s.stop()
            s.start()
            iam, kms, s3 = s.client("iam"), s.client("kms"), s.client()
        # What is shown is what was written.
        assert json.loads(kms.get_key_policy(KeyId=key)["Policy"])["Statement"][1]["Principal"] == {"AWS": eve}
        # Until somebody says again who is meant.
        key_policy(key), bucket_policy()
        assert grant(granted) != first_grant
        for use in uses:
            use(second)


def secrets_are_nowhere_on_the_disk():
    with Server() as s:
        key, secret = _user(s, "bob")
        iam = s.client("iam")
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=_trust(f"arn:aws:iam::{ACCOUNT}:user/bob"))
        iam.attach_role_policy(RoleName="r", PolicyArn=READY + "AdministratorAccess")
        session = _session(s, (key, secret), "r")
        _client(s, "s3", *session).list_buckets()
        s.stop()
        wanted = [text.encode() for text in (secret, session[1], session[2])]
        wanted += [base64.b64encode(text) for text in wanted] + [text.hex().encode() for text in wanted]
        files = s.files() + [s.dir / "log"]
        assert any(key.encode() in path.read_bytes() for path in files), "the search itself finds what is there"
        for path in files:
            content = path.read_bytes()
            for text in wanted:
                assert text not in content, path


def without_the_hsm_after_a_restart_users_wait_and_root_works():
    with Server() as s:
        key, secret = _user(s, "bob")
        iam = s.client("iam")
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=_trust(f"arn:aws:iam::{ACCOUNT}:user/bob"))
        iam.attach_role_policy(RoleName="r", PolicyArn=READY + "AdministratorAccess")
        session = _session(s, (key, secret), "r")
        s.client().create_bucket(Bucket="vault")
        s.unplug()
        # What is in memory goes on.
        _client(s, "s3", key, secret).list_buckets()
        s.stop()
        s.start()
        for credentials in (key, secret), session:
            refused("ServiceUnavailable", _client(s, "s3", *credentials).list_buckets, status=503)
            refused("ServiceUnavailableException", _client(s, "kms", *credentials).list_keys, status=503)
            refused("ServiceUnavailable", _client(s, "sts", *credentials).get_caller_identity, status=503)
        refused("InvalidAccessKeyId", _client(s, "s3", "AKIANOBODYNOBODYNOBO", secret).list_buckets, status=403)
        assert _names(s.client().list_buckets()["Buckets"], "Name") == ["vault"]
        assert s.client("sts").get_caller_identity()["Account"] == ACCOUNT
        refused("ServiceUnavailable", s.client("iam").list_users, status=503)
        s.plug_in()
        for credentials in (key, secret), session:
            eventually(lambda: _client(s, "s3", *credentials).list_buckets())


def rows_that_were_tampered_with_are_refused():
    with Server() as s:
        key, secret = _user(s, "bob")
        s.stop()
        path = s.data / "meta.redb"
        content = path.read_bytes()
        # What is stored for the access key: the row's key, and soon after it MAC, record and wrapped secret.
        at, places = content.find(key.encode()), []
        while at >= 0:
            places.append(at)
            at = content.find(key.encode(), at + 1)
        refusals = 0
        for place in places:
            for offset in 30, 60, 120, 160:
                changed = bytearray(content)
                changed[place + offset] ^= 1
                path.write_bytes(changed)
                try:
                    s.start()
                except AssertionError:
                    # The store itself noticed.
                    refusals += 1
                    s.process.wait()
                    continue
                try:
                    arn = _client(s, "sts", key, secret).get_caller_identity()["Arn"]
                    assert arn == f"arn:aws:iam::{ACCOUNT}:user/bob", arn
                except Exception as error:
                    assert getattr(error, "response", {}).get("Error", {}).get("Code") in (
                        "ServiceFailure", "InvalidClientTokenId"), error
                    refusals += 1
                s.kill()
        assert refusals > 0
        path.write_bytes(content)
        s.start()
        _client(s, "sts", key, secret).get_caller_identity()


def several_accounts_on_one_server():
    with Server() as s:
        s.stop()
        other = s.dir / "other-credentials"
        other.write_text("[default]\naws_access_key_id = AKIAOTHERACCOUNT\naws_secret_access_key = otherothersecret\n")
        config = s.home / "strongroom.toml"
        config.write_text(config.read_text() + f'\n[[accounts]]\nid = "111122223333"\ndisplay_name = "other"\n'
                          f'credentials_file = "{other}"\n')
        s.start()
        theirs = "AKIAOTHERACCOUNT", "otherothersecret"
        identity = _client(s, "sts", *theirs).get_caller_identity()
        assert identity["Arn"] == "arn:aws:iam::111122223333:root"
        iam = _client(s, "iam", *theirs)
        s.client("iam").create_user(UserName="bob")
        refused("NoSuchEntity", iam.get_user, UserName="bob")
        assert iam.create_user(UserName="bob")["User"]["Arn"] == "arn:aws:iam::111122223333:user/bob"
        iam.attach_user_policy(UserName="bob", PolicyArn=READY + "AdministratorAccess")
        key = iam.create_access_key(UserName="bob")["AccessKey"]
        bob = key["AccessKeyId"], key["SecretAccessKey"]
        home = s.client("iam")
        home.create_role(RoleName="guest", AssumeRolePolicyDocument=_trust("arn:aws:iam::111122223333:root"))
        session = _session(s, bob, "guest")
        arn = _client(s, "sts", *session).get_caller_identity()["Arn"]
        assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/guest/night"
        # Without its own account's leave it may not.
        iam.detach_user_policy(UserName="bob", PolicyArn=READY + "AdministratorAccess")
        refused("AccessDenied", lambda **_: _session(s, bob, "guest"))


main(globals())
