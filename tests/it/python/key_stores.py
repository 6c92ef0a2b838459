"""Several tokens: custom key stores, moves between them, and an outage of one that is no outage of the other."""

import http.client
import re
import shutil
import subprocess
import threading
import time

from support import Server, clean_environment, eventually, main, module, refused, PROGRAM


def _second_token(s):
    """A second token in the same SoftHSM, as the token group `payroll`."""
    pin = (s.home / "pin").read_text()
    out = subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "payroll", "--so-pin", pin, "--pin", pin],
                         env=clean_environment() | {"SOFTHSM2_CONF": str(s.home / "softhsm2.conf")},
                         capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    s.stop()
    with open(s.home / "strongroom.toml", "a") as file:
        file.write(f"""
[groups.payroll]
uri = "pkcs11:token=payroll?module-path={module()}&pin-source=file:{s.home}/pin"
[groups.payroll.env]
SOFTHSM2_CONF = "{s.home}/softhsm2.conf"
""")
    s.start()


def _cluster_id(s):
    out = subprocess.run([PROGRAM, "hsm", "list", "--config", str(s.home / "strongroom.toml")],
                         env=clean_environment(), capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return next(line.split()[1] for line in out.stdout.splitlines() if line.startswith("payroll "))


def a_key_lives_in_its_custom_key_store_by_the_aws_cli():
    with Server() as s:
        _second_token(s)
        cluster = _cluster_id(s)
        store = s.aws("kms create-custom-key-store --custom-key-store-name Payroll --cloud-hsm-cluster-id",
                      cluster)["CustomKeyStoreId"]
        shown, = s.aws("kms describe-custom-key-stores")["CustomKeyStores"]
        assert (shown["ConnectionState"], shown["CloudHsmClusterId"]) == ("DISCONNECTED", cluster)
        create = f"kms create-key --origin AWS_CLOUDHSM --custom-key-store-id {store}"
        s.aws(create, fails="CustomKeyStoreInvalidStateException")
        s.aws("kms connect-custom-key-store --custom-key-store-id", store)
        shown, = s.aws("kms describe-custom-key-stores --custom-key-store-name Payroll")["CustomKeyStores"]
        assert shown["ConnectionState"] == "CONNECTED"
        before = s.token_objects(), s.token_objects("payroll")
        key = s.aws(create)["KeyMetadata"]
        assert (key["CustomKeyStoreId"], key["CloudHsmClusterId"], key["Origin"]) == (store, cluster, "AWS_CLOUDHSM")
        assert s.token_objects() == before[0] and len(s.token_objects("payroll")) == len(before[1]) + 1

        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        put = s3.put_object(Bucket="vault", Key="a", Body=b"A", ServerSideEncryption="aws:kms", SSEKMSKeyId=key["KeyId"])
        assert put["SSEKMSKeyId"] == key["Arn"]
        s.aws("kms delete-custom-key-store --custom-key-store-id", store, fails="CustomKeyStoreInvalidStateException")
        s.aws("kms disconnect-custom-key-store --custom-key-store-id", store)
        s.aws("kms delete-custom-key-store --custom-key-store-id", store, fails="CustomKeyStoreHasCMKsException")
        assert s.aws("kms describe-key --key-id", key["KeyId"])["KeyMetadata"]["KeyState"] == "Unavailable"
        refused("KMS.KMSInvalidStateException", s3.get_object, Bucket="vault", Key="a")
        s.aws("kms update-custom-key-store --new-custom-key-store-name Wages --custom-key-store-id", store)
        s.aws("kms connect-custom-key-store --custom-key-store-id", store)
        assert s3.get_object(Bucket="vault", Key="a")["Body"].read() == b"A"
        s.stop()
        s.start()
        assert s.client().get_object(Bucket="vault", Key="a")["Body"].read() == b"A"


def a_key_moves_between_tokens_and_old_objects_read():
    with Server() as s:
        _second_token(s)

        def strongroom(*arguments):
            out = subprocess.run([PROGRAM, *arguments], env=s.environment(), capture_output=True, text=True)
            assert out.returncode == 0, out.stderr
            return out.stdout

        store = strongroom("key-store", "create", "Payroll", "--group", "payroll").strip()
        strongroom("key-store", "connect", store)
        assert "CONNECTED" in strongroom("key-store", "list")
        s3, kms = s.client(), s.client("kms")
        s3.create_bucket(Bucket="vault")
        key = kms.create_key()["KeyMetadata"]["Arn"]
        sse = {"Bucket": "vault", "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
        s3.put_object(Key="before", Body=b"before", **sse)
        assert len(strongroom("key", "move", key, "--key-store", store).splitlines()) == 2
        moved = kms.describe_key(KeyId=key)["KeyMetadata"]
        assert (moved["Arn"], moved["CustomKeyStoreId"]) == (key, store)
        s3.put_object(Key="after", Body=b"after", **sse)
        assert len(s.token_objects("payroll")) == 1
        for name in "before", "after":
            assert s3.get_object(Bucket="vault", Key=name)["Body"].read() == name.encode()
        strongroom("key", "move", key)
        assert "CustomKeyStoreId" not in kms.describe_key(KeyId=key)["KeyMetadata"]
        for name in "before", "after":
            assert s3.get_object(Bucket="vault", Key=name)["Body"].read() == name.encode()


def _away(s, s3):
    refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="inside", status=503)


def an_outage_of_one_token_is_none_of_the_other():
    with Server() as s:
        _second_token(s)
        s3, kms = s.client(), s.client("kms")
        store = kms.create_custom_key_store(CustomKeyStoreName="P", CloudHsmClusterId=_cluster_id(s))["CustomKeyStoreId"]
        kms.connect_custom_key_store(CustomKeyStoreId=store)
        inside = kms.create_key(CustomKeyStoreId=store, Origin="AWS_CLOUDHSM")["KeyMetadata"]["Arn"]
        s3.create_bucket(Bucket="vault")
        s3.put_object(Bucket="vault", Key="inside", Body=b"I", ServerSideEncryption="aws:kms", SSEKMSKeyId=inside)
        s3.put_object(Bucket="vault", Key="outside", Body=b"O", ServerSideEncryption="aws:kms")
        payroll = next(path for path in s.tokens.iterdir() if b"payroll" in (path / "token.object").read_bytes())
        payroll.rename(s.home / "payroll.away")
        eventually(lambda: _away(s, s3))
        for _ in range(10):
            assert s3.get_object(Bucket="vault", Key="outside")["Body"].read() == b"O"
        s3.put_object(Bucket="vault", Key="more", Body=b"M", ServerSideEncryption="aws:kms")
        (s.home / "payroll.away").rename(payroll)
        eventually(lambda: s3.get_object(Bucket="vault", Key="inside")["Body"].read())


class _Cloner(threading.Thread):
    """What a maker's cloning does: an object that is new in one token appears in the other."""

    def __init__(self, one, two):
        super().__init__()
        self.dirs, self.over = (one, two), threading.Event()
        self.known = {path.name for path in one.glob("*.object")}
        self.start()

    def run(self):
        while not self.over.wait(0.05):
            for here, there in self.dirs, self.dirs[::-1]:
                for path in here.glob("*.object"):
                    if path.name not in self.known and there.exists():
                        time.sleep(0.1)  # until it is written
                        temporary = there.parent / (path.name + ".part")
                        shutil.copyfile(path, temporary)
                        temporary.rename(there / path.name)
                        # SoftHSM looks at its directory when this number has changed.
                        generation = there / "generation"
                        number = int.from_bytes(generation.read_bytes(), "big") + 1
                        generation.write_bytes(number.to_bytes(8, "big"))
                        self.known.add(path.name)


def _calls(s):
    connection = http.client.HTTPConnection(s.address)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return [int(n) for n in re.findall(r'(?m)^strongroom_hsm_calls_total{group="default",token="\d"} (\d+)$', text)]


def _both_work(s, s3):
    before = _calls(s)
    for _ in range(8):
        assert s3.get_object(Bucket="vault", Key="k")["Body"].read() == b"K"
    after = _calls(s)
    assert all(now - then >= 4 for now, then in zip(after, before)), (before, after)


def a_group_of_cloned_tokens_outlives_each_of_them():
    with Server() as s:
        s.stop()
        clones = s.home / "clones"
        shutil.copytree(s.tokens, clones)
        conf = s.home / "clone.conf"
        conf.write_text((s.home / "softhsm2.conf").read_text().replace(str(s.tokens), str(clones)))
        config = s.home / "strongroom.toml"
        uri = re.search(r'(?m)^uri = .*$', config.read_text()).group()
        config.write_text(config.read_text().replace("clones = []\n", "").replace(
            "[hsm.env]\n", f'[[hsm.clones]]\n{uri}\nenv = {{ SOFTHSM2_CONF = "{conf}" }}\n\n[hsm.env]\n'))
        one, = (path for path in s.tokens.iterdir() if path.is_dir())
        cloner = _Cloner(one, clones / one.name)
        try:
            s.start()
            s3, kms = s.client(), s.client("kms")
            s3.create_bucket(Bucket="vault")
            sse = {"Bucket": "vault", "ServerSideEncryption": "aws:kms"}
            s3.put_object(Key="k", Body=b"K", **sse)
            key = kms.create_key()["KeyMetadata"]["KeyId"]
            _both_work(s, s3)
            for taken in clones, s.tokens:
                away = taken.with_suffix(".away")
                taken.rename(away)
                for n in range(10):
                    s3.put_object(Key=f"{taken.name}/{n}", Body=b"N", SSEKMSKeyId=key, **sse)
                    assert s3.get_object(Bucket="vault", Key="k")["Body"].read() == b"K"
                # A key that would be in one token only is not made.
                refused("KeyUnavailableException", kms.create_key)
                away.rename(taken)
                eventually(lambda: _both_work(s, s3))
            eventually(lambda: kms.create_key()["KeyMetadata"]["KeyId"])
            for taken in clones, s.tokens:
                for n in range(10):
                    assert s3.get_object(Bucket="vault", Key=f"{taken.name}/{n}")["Body"].read() == b"N"
        finally:
            cloner.over.set()
            cloner.join()


main(globals())
